"""A layer as what a file would hold of it: axes, and size and place of its pixels.

Nothing here imports napari or Qt.
"""

import numpy as np

from napari_dkp._napari.source import Grid, Source
from napari_dkp.io import Picture, PixelSize
from napari_dkp.ome import METRES


def as_picture(source: Source) -> tuple[Picture, str]:
    """Return the part of a layer that is restored, and what files cannot tell of it, in words."""
    axes = source.layer_axes
    grid = source.grid
    start = np.array([first for first, _ in source.window[: len(axes)]], float)
    origin = dict(zip(axes, grid.refined([1] * len(axes), start).translate, strict=True))
    scale = dict(zip(axes, grid.scale, strict=True))
    units = dict(zip(axes, source.display["units"], strict=True))
    unit, factors = "pixel", dict.fromkeys("ZYX", 1.0)
    if all(units[axis].is_compatible_with("m") for axis in "YX"):
        named = f"{units['X']:~}"
        unit = named if named in METRES else "µm"
        factors = {
            axis: float((1 * units[axis]).to("m").magnitude) / METRES[unit]
            for axis in "ZYX"
            if axis in axes and units[axis].is_compatible_with("m")
        }
    spatial = [axis for axis in axes if axis in factors]
    interval = None
    if "T" in axes and units["T"].is_compatible_with("s"):
        interval = float((scale["T"] * units["T"]).to("s").magnitude)
    size = PixelSize(
        {axis: float(scale[axis]) * factors[axis] for axis in spatial},
        unit,
        {axis: float(origin[axis]) * factors[axis] for axis in spatial},
        interval if interval and interval > 0 else None,
    )
    said = ""
    if not _is_upright(grid):
        said = "The file holds the scale of the layer and where it begins, not how it is turned."
    return Picture(source.pixels(), source.axes, size, source.name), said


def _is_upright(grid: Grid) -> bool:
    n = len(grid.scale)
    upright = np.allclose(grid.rotate, np.eye(n)) and np.allclose(grid.affine, np.eye(n + 1))
    sheared = grid.shear - np.eye(n) if grid.shear.ndim == 2 else grid.shear
    return bool(upright and np.allclose(sheared, 0))
