"""Pixel sizes in TIFF files: from OME-XML, from ImageJ, from the resolution tags."""

from collections.abc import Mapping
from typing import Any

import tifffile

from napari_dkp.io.picture import PixelSize, known_size
from napari_dkp.ome import METRES, unit_name

SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}


def ome_pixel_size(xml: str) -> PixelSize:
    """Return what OME-XML says of its first image."""
    images = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    first = images[0] if isinstance(images, list) else images
    pixels: Mapping[str, Any] = first.get("Pixels", {})
    found = {
        axis: (
            float(pixels[f"PhysicalSize{axis}"]),
            unit_name(pixels.get(f"PhysicalSize{axis}Unit", "µm")),
        )
        for axis in "ZYX"
        if f"PhysicalSize{axis}" in pixels
    }
    time = SECONDS.get(pixels.get("TimeIncrementUnit", "s"))
    interval = time and _number(pixels.get("TimeIncrement")) * time
    unit = found.get("X", next(iter(found.values()), (1.0, "pixel")))[1]
    sizes = {
        axis: size * METRES[given] / METRES[unit]
        if given != unit and {given, unit} <= METRES.keys()
        else size
        for axis, (size, given) in found.items()
    }
    return known_size(sizes, unit, interval=interval)


def tag_pixel_size(page: Any, imagej: Mapping[str, Any]) -> PixelSize:
    """Return what the resolution tags say, which mean pixels per unit.

    Without a word from ImageJ only centimetres are believed: dots per inch are for printing.
    """
    interval = _number(imagej.get("finterval"))
    if imagej:
        unit, length = unit_name(str(imagej.get("unit", "pixel"))), 1.0
    elif page.resolutionunit == tifffile.RESUNIT.CENTIMETER:
        unit, length = "µm", 1e4
    else:
        return PixelSize({})
    x, y = (float(value) for value in page.resolution)
    if unit == "pixel" or (not imagej and (x, y) == (1.0, 1.0)):  # the tags' default
        return known_size({}, unit, interval=interval)
    sizes = {"Y": length / y if y else 0.0, "X": length / x if x else 0.0}
    if "spacing" in imagej:
        sizes["Z"] = float(imagej["spacing"])
    return known_size(sizes, unit, interval=interval)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
