"""Results on the disk as layers, of which only the planes are read that are looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dkp import io
from napari_dkp._napari.layers import METADATA_KEY
from napari_dkp.layout import Layout, is_coloured

if TYPE_CHECKING:
    import dask.array as da

LazyLayerData = tuple[Any, dict[str, Any], str]

# Between an image and its kernel, in restored pixels.
_GAP = 4


def opened(image: Path, kernel: Path) -> list[LazyLayerData]:
    """Return a restored image and its kernel, right of it, as layer data tuples.

    Parameters
    ----------
    image, kernel : files as of `io.Outputs`.

    Raises
    ------
    ValueError, OSError
        If one of them cannot be read.
    """
    picture, psf = io.open(image), io.open(kernel)
    name = io.stem(image)
    axes = picture.axes[:-1] if _is_rgb(picture) else picture.axes
    order = [psf.axes.index(axis) for axis in axes if axis in psf.axes]
    kernels = io.LazyArray.of(psf.image).arranged(order)
    kernel_axes = "".join(psf.axes[position] for position in order)
    width = picture.image.shape[axes.index("X")]
    placed = _placed(picture, axes)
    beside = _placed(picture, kernel_axes)
    step = beside["scale"][kernel_axes.index("X")]
    beside["translate"][kernel_axes.index("X")] += (width + _GAP) * step
    values, limits = _drawn(picture)
    peak = float(np.nanmax(_middle(kernels, kernel_axes)))
    return [
        (
            values,
            {"name": name, "rgb": _is_rgb(picture), "contrast_limits": limits, **placed},
            "image",
        ),
        (
            _planes(kernels, kernel_axes),
            {
                "name": f"{name} [DKP kernel]",
                "rgb": False,
                "contrast_limits": [0.0, max(peak, 1e-12)],
                "colormap": "inferno",
                "interpolation2d": "nearest",
                "metadata": {METADATA_KEY: {"role": "kernel"}},
                **beside,
            },
            "image",
        ),
    ]


def _is_rgb(picture: io.Picture) -> bool:
    return is_coloured(picture.axes) and picture.image.shape[-1] == 3


def _placed(picture: io.Picture, axes: str) -> dict[str, Any]:
    """Return the options that place a layer as a picture's pixels lie, along some of its axes."""
    size = picture.pixel_size
    sizes = dict(size.sizes)
    units = dict.fromkeys(size.sizes, size.unit)
    if size.interval is not None:
        sizes["T"], units["T"] = size.interval, "s"
    return {
        "scale": [sizes.get(axis, 1.0) for axis in axes],
        "translate": [size.origin.get(axis, 0.0) for axis in axes],
        "units": [units.get(axis, "pixel") for axis in axes],
        "axis_labels": [axis.lower() for axis in axes],
    }


def _drawn(picture: io.Picture) -> tuple["da.Array", list[float] | None]:
    """Return pixels as napari draws them, and their contrast: colours lie between 0 and 1."""
    values = _planes(io.LazyArray.of(picture.image), picture.axes)
    middle = _middle(io.LazyArray.of(picture.image), picture.axes)
    known = middle[np.isfinite(middle)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if not _is_rgb(picture):
        return values, [low, high if high > low else low + 1]
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= 1.2 * top), high)
    return (values / np.float32(top)).clip(0, 1), None


def _middle(image: io.LazyArray, axes: str) -> np.ndarray:
    layout = Layout(axes, image.shape)
    return np.asarray(layout.read(image, layout.middle))


def _planes(image: io.LazyArray, axes: str) -> "da.Array":
    """Return an array that napari reads, and keeps, by planes."""
    import dask.array as da

    looped = Layout(axes, image.shape).looped
    chunks = [1 if axis in looped else -1 for axis in axes]
    meta = np.empty((0,) * image.ndim, image.dtype)
    array: da.Array = da.from_array(image, chunks=chunks, name=False, meta=meta)
    return array
