"""Files to read: TIFF (OME, ImageJ, plain), OME-Zarr, and the picture formats of Pillow."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_dkp.io.lazy import LazyArray
from napari_dkp.io.ome_zarr import ZARR_ENDINGS, is_zarr, open_zarr
from napari_dkp.io.picture import Picture, PixelSize, readable, with_our_axes
from napari_dkp.io.tiff import open_tiff
from napari_dkp.io.tiff_target import TIFF_ENDINGS

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
ENDINGS = (*TIFF_ENDINGS, *ZARR_ENDINGS, *PICTURE_ENDINGS)


def is_image(path: Path) -> bool:
    """Tell from its name and kind alone whether `open` may read something."""
    name = path.name.lower()
    if path.is_dir():
        return name.endswith(ZARR_ENDINGS) or is_zarr(path)
    return name.endswith((*TIFF_ENDINGS, *PICTURE_ENDINGS))


def stem(path: Path) -> str:
    """Return the name of an image without what tells its format."""
    name = path.name
    ending = next((e for e in ENDINGS if name.lower().endswith(e)), path.suffix)
    return name[: len(name) - len(ending)] or name


def open(path: str | os.PathLike[str]) -> Picture:
    """Open the first image of a file, of which pixels are read as they are indexed.

    Of a TIFF that are the pages, or tiles, that are touched, of OME-Zarr the chunks; PNG, JPEG and
    BMP are read at once. Of an image with several resolutions it is the finest.

    Parameters
    ----------
    path : TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, zarr array, PNG, JPEG or BMP.

    Returns
    -------
    Picture, its image a `LazyArray`. Errors of data that are cut off or damaged may come when they
    are indexed, with the types named below.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no such file, or it may not be read.
    ValueError
        If the file holds no image, or axes that cannot be told apart.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"input: there is no file '{path}'")
    if path.is_dir():
        if not is_zarr(path):
            raise ValueError(f"input: '{path}' is a folder; expected an image file or OME-Zarr")
        load = open_zarr
    else:
        load = _open_picture if path.suffix.lower() in PICTURE_ENDINGS else open_tiff
    with readable(path.name):
        picture = load(path)
    return with_our_axes(picture)


def read(path: str | os.PathLike[str]) -> Picture:
    """Read the first image of a file into memory; parameters and errors as of `open`."""
    picture = open(path)
    return replace(picture, image=np.asarray(picture.image))


def read_kernel(path: str | os.PathLike[str], spatial: str = "YX") -> np.ndarray:
    """Read a point spread function: one plane, shape (K, K), or one volume.

    The file of a stack has a kernel for each of its planes; it is read where all are the same.

    Parameters
    ----------
    path : as of `read`.
    spatial : letters of the axes that it has.

    Raises
    ------
    ValueError
        If the file holds several kernels, or one of other axes; also as of `read`.
    """
    picture = open(path)
    image = LazyArray.of(picture.image)
    what = "one plane" if len(spatial) == 2 else "one volume"
    got = f"got axes {picture.axes} of shape {image.shape}"
    if not set(spatial) <= set(picture.axes):
        raise ValueError(f"kernel: expected {what} in '{picture.name}'; {got}")
    looped = [axis for axis in picture.axes if axis not in spatial]
    kernels = image.arranged([picture.axes.index(axis) for axis in (*looped, *spatial)])
    planes = np.ndindex(kernels.shape[: len(looped)])
    first = np.asarray(kernels[next(planes)])
    for index in planes:
        if not np.array_equal(kernels[index], first):
            raise ValueError(
                f"kernel: expected {what}, or several that are the same, in '{picture.name}'; "
                f"{got}, of which number {', '.join(map(str, index))} along {', '.join(looped)} "
                "is another one than the first. Save the one you mean as its own file"
            )
    return first


def _open_picture(path: Path) -> Picture:
    from PIL import Image

    with Image.open(path) as opened:
        picture: Image.Image = opened
        if opened.mode not in ("L", "RGB", "F") and not opened.mode.startswith("I"):
            # palettes and bilevel pictures have no grey levels to restore, alpha is no channel
            picture = opened.convert("L" if opened.mode in ("1", "LA") else "RGB")
        image = np.asarray(picture)
    axes = "YXC" if image.ndim == 3 else "YX"
    return Picture(LazyArray.of(image), axes, PixelSize({}), path.name)
