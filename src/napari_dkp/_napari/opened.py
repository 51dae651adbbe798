"""Results on the disk as layers, of which only the planes are read that are looked at."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dkp import io
from napari_dkp._napari.layers import METADATA_KEY, kernel_contrast
from napari_dkp.layout import Layout, is_coloured
from napari_dkp.report import Report, summary

if TYPE_CHECKING:
    import dask.array as da

LazyLayerData = tuple[Any, dict[str, Any], str]

# Between an image and its kernel, in restored pixels.
_GAP = 4


def opened(image: Path, kernel: Path, settings: Path) -> list[LazyLayerData]:
    """Return a restored image and its kernel, right of it, as layer data tuples.

    Parameters
    ----------
    image, kernel, settings : files as of `io.Outputs`.

    Raises
    ------
    ValueError, OSError
        If one of them cannot be read.
    """
    picture, psf = io.open(image), io.open(kernel)
    made_with, _ = io.read_settings(settings)
    record = io.read_record(settings)
    name = io.stem(image)
    axes = picture.axes[:-1] if _is_rgb(picture) else picture.axes
    order = [psf.axes.index(axis) for axis in axes if axis in psf.axes]
    kernels = io.LazyArray.of(psf.image).arranged(order)
    kernel_axes = "".join(psf.axes[position] for position in order)
    one_kernel = _middle(kernels, kernel_axes)[0]
    factors = made_with.spatial_scales
    beside = _placed(picture, kernel_axes, factors)
    width = picture.image.shape[axes.index("X")]
    along = kernel_axes.index("X")
    beside["translate"][along] += (width + _GAP) * beside["scale"][along]
    values, limits = _drawn(picture)
    facts = _facts(record, one_kernel)
    size = "×".join(dict.fromkeys(map(str, factors.values())))
    return [
        (
            values,
            {
                "name": f"{name} [DKP ×{size}]",
                "rgb": _is_rgb(picture),
                "contrast_limits": limits,
                "metadata": {METADATA_KEY: {**facts, "role": "image"}},
                **_placed(picture, axes, factors),
            },
            "image",
        ),
        (
            in_planes(kernels, kernel_axes),
            {
                "name": f"{name} [DKP kernel]",
                "rgb": False,
                "contrast_limits": kernel_contrast(one_kernel),
                "colormap": "inferno",
                "interpolation2d": "nearest",
                "metadata": {METADATA_KEY: {**facts, "role": "kernel"}},
                **beside,
            },
            "image",
        ),
    ]


def _facts(record: dict[str, Any], kernel: np.ndarray) -> dict[str, Any]:
    """Return what a result layer remembers, see `layers.provenance`."""
    figures = record["reports"]
    reports = [None if each is None else Report.from_figures(each) for each in figures]
    same = ("settings", "seed", "device", "seconds", "steps", "choice", "notes")
    return {
        **{name: record[name] for name in same},
        "version": record["napari_dkp"],
        "stop": record["stop"].upper(),
        "report": summary(reports),
        "figures": figures,
        "source": io.stem(Path(record["source"])),
        "region": None,
        "plane": None,
        "ranges": None,
        "kernel": kernel if record["known_kernel"] else None,
        "residuals": (),
    }


def _is_rgb(picture: io.Picture) -> bool:
    return is_coloured(picture.axes) and picture.image.shape[-1] == 3


def _placed(picture: io.Picture, axes: str, factors: Mapping[str, int]) -> dict[str, Any]:
    """Return the options that place a layer as a picture's pixels lie, along some of its axes.

    TIFF does not tell where a grid begins: its frame is then that of the source.
    """
    size = picture.pixel_size
    sizes = dict(size.sizes)
    if size.sizes:
        origin = {axis: (1 - s) / 2 * size.sizes.get(axis, 1.0) for axis, s in factors.items()}
    else:
        # In pixels of the source, over which the layer then lies.
        sizes = {axis: 1 / s for axis, s in factors.items()}
        origin = {axis: (1 / s - 1) / 2 for axis, s in factors.items()}
    origin |= size.origin
    units = dict.fromkeys(size.sizes, size.unit)
    if size.interval is not None:
        sizes["T"], units["T"] = size.interval, "s"
    return {
        "scale": [sizes.get(axis, 1.0) for axis in axes],
        "translate": [origin.get(axis, 0.0) for axis in axes],
        "units": [units.get(axis, "pixel") for axis in axes],
        "axis_labels": [axis.lower() for axis in axes],
    }


def _drawn(picture: io.Picture) -> tuple["da.Array", list[float] | None]:
    """Return pixels as napari draws them, and their contrast: colours lie between 0 and 1."""
    values = in_planes(io.LazyArray.of(picture.image), picture.axes)
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


def in_planes(image: io.LazyArray, axes: str) -> "da.Array":
    """Return an array that napari reads by planes."""
    import dask.array as da

    looped = Layout(axes, image.shape).looped
    chunks = [1 if axis in looped else -1 for axis in axes]
    meta = np.empty((0,) * image.ndim, image.dtype)
    array: da.Array = da.from_array(image, chunks=chunks, name=False, meta=meta)
    return array
