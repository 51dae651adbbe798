"""OME-Zarr, versions 0.1 to 0.5, and plain zarr arrays, read chunk by chunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dkp.io.lazy import LazyArray, Region
from napari_dkp.io.picture import Picture, PixelSize, known_size, readable
from napari_dkp.layout import guess_axes
from napari_dkp.ome import METRES

if TYPE_CHECKING:
    import zarr

ZARR_ENDINGS = (".ome.zarr", ".zarr")

LENGTHS = {
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "µm": "micrometer",
    "nm": "nanometer",
    "pm": "picometer",
    "Å": "angstrom",
}
"""Units of length to the names that OME-Zarr gives them."""

OURS = "napari_dkp"
"""Our own attribute: OME-Zarr has no axis for the colours of one picture."""

_TIMES = {
    "second": 1.0,
    "millisecond": 1e-3,
    "microsecond": 1e-6,
    "nanosecond": 1e-9,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
}
_MARKS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr group or array."""
    return any((path / mark).is_file() for mark in _MARKS)


def load_zarr() -> Any:
    """Return the package, which is optional.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise ValueError(
            "zarr: OME-Zarr needs the extra 'distributed'. "
            "Install it with: pip install napari-dkp[distributed]"
        ) from None
    return zarr


def open_zarr(path: Path) -> Picture:
    """Return the first image of a zarr folder, at the finest of its levels.

    Raises
    ------
    ValueError
        If it is a plate or a well of many images, or a group without an image.
    """
    node = load_zarr().open(path, mode="r")
    if hasattr(node, "shape"):
        return Picture(_lazy(node, path), _plain_axes(node), PixelSize({}), path.name)
    attributes = _ome(node)
    others = 0
    if "bioformats2raw.layout" in attributes:
        others = sum(name.isdigit() for name in node.group_keys()) - 1
        node = node["0"]
        attributes = _ome(node)
    for kind in ("plate", "well"):
        if kind in attributes:
            raise ValueError(
                f"it is a {kind} of many images; name one of them, such as "
                f"{path.name}/{_first_image(attributes[kind])}"
            )
    if not attributes.get("multiscales"):
        raise ValueError("it is a zarr group without 'multiscales', so no image of OME-Zarr")
    image = attributes["multiscales"][0]
    levels = {level["path"]: level for level in image["datasets"]}
    arrays = {name: node[name] for name in levels}
    finest = max(arrays, key=lambda name: arrays[name].size)
    array = arrays[finest]
    axes = _axes(image, array.ndim)
    letters = "".join(str(axis["name"]).upper() for axis in axes)
    if len(letters) != array.ndim:
        raise ValueError(f"its axes {[axis['name'] for axis in axes]} are not those of an image")
    if dict(node.attrs).get(OURS, {}).get("colours"):
        letters = letters.replace("C", "S")
    told = attributes.get("omero", {}).get("channels", ())
    channels = tuple(str(channel.get("label", "")) for channel in told)
    return Picture(
        _lazy(array, path),
        letters,
        _scale(axes, levels[finest], image),
        path.name,
        others,
        channels if any(channels) else (),
    )


def _ome(node: "zarr.Group") -> Mapping[str, Any]:
    """Return the metadata of OME: one attribute since version 0.5, all of them before."""
    attributes = dict(node.attrs)
    within = attributes.get("ome")
    return within if isinstance(within, Mapping) else attributes


def _first_image(place: Mapping[str, Any]) -> str:
    wells, images = place.get("wells"), place.get("images")
    if wells:
        return f"{wells[0]['path']}/0"
    return str(images[0]["path"]) if images else "0"


def _axes(image: Mapping[str, Any], ndim: int) -> list[Mapping[str, Any]]:
    """Return name and unit of each axis; they had no units before 0.4, no names before 0.3."""
    axes = image.get("axes", "tczyx"[-ndim:])
    return [axis if isinstance(axis, Mapping) else {"name": axis} for axis in axes]


def _scale(
    axes: Sequence[Mapping[str, Any]], level: Mapping[str, Any], image: Mapping[str, Any]
) -> PixelSize:
    """Apply the transformations of the level, then those that all levels share."""
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    for step in (
        *level.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if step["type"] == "scale":
            scale, shift = scale * step["scale"], shift * step["scale"]
        elif step["type"] == "translation":
            shift = shift + step["translation"]
    letters = [str(axis["name"]).upper() for axis in axes]
    names = {name: unit for unit, name in LENGTHS.items()}
    units = {
        letter: names.get(str(axis.get("unit")))
        for letter, axis in zip(letters, axes, strict=True)
        if letter in "ZYX"
    }
    unit = units.get("X")
    interval = None
    if "T" in letters:
        t = letters.index("T")
        seconds = _TIMES.get(str(axes[t].get("unit")))
        interval = seconds and float(scale[t]) * seconds
    if unit is None:
        return known_size({}, "pixel", interval=interval)
    factors = {
        letter: METRES[given] / METRES[unit] for letter, given in units.items() if given is not None
    }
    sizes = {axis: float(scale[letters.index(axis)]) * f for axis, f in factors.items()}
    origin = {axis: float(shift[letters.index(axis)]) * f for axis, f in factors.items()}
    return known_size(sizes, unit, {axis: v for axis, v in origin.items() if v}, interval)


def _plain_axes(array: "zarr.Array[Any]") -> str:
    """Return the axes as they are named, else as their number and lengths suggest."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if isinstance(names, Sequence) and len(names) == array.ndim:
        letters = "".join(str(name).upper() for name in names)
        if len(letters) == array.ndim and {"Y", "X"} <= set(letters) <= set("TCZYX"):
            return letters
    return guess_axes(array.shape)


def _lazy(array: "zarr.Array[Any]", path: Path) -> LazyArray:
    return LazyArray(array.shape, np.dtype(array.dtype), _Chunks(array, path.name))


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Reads the chunks that a region touches."""

    array: "zarr.Array[Any]"
    name: str

    def __call__(self, region: Region) -> np.ndarray:
        with readable(self.name):
            return np.asarray(self.array[region])
