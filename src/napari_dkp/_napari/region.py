"""Rectangles that a user draws to restore a part of an image."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Shapes

from napari_dkp._napari.source import source_of
from napari_dkp._napari.window import Bounds

if TYPE_CHECKING:
    from napari.viewer import Viewer


def add_region(viewer: "Viewer", layer: Image, bounds: Bounds | None = None) -> Shapes:
    """Add a Shapes layer in the world's coordinates, with a rectangle if there are bounds.

    Parameters
    ----------
    layer : that the rectangle is drawn on.
    bounds : along Y and X, in pixels of the layer.
    """
    size = float(np.abs(np.array(layer.scale)[-2:]).min())
    shapes = Shapes(
        ndim=2,
        name=f"{layer.name} region",
        units=layer.units[-2:],
        edge_color="#f0a848",
        face_color="transparent",
        edge_width=size,
    )
    if bounds is not None:
        axes = source_of(layer).axes
        corners = []
        for y, x in ((0, 0), (0, 1), (1, 1), (1, 0)):
            pixel = np.zeros(layer.ndim)
            pixel[axes.index("Y")] = bounds[0][y] - 0.5
            pixel[axes.index("X")] = bounds[1][x] - 0.5
            corners.append(layer.data_to_world(pixel)[-2:])
        shapes.add(np.array(corners), shape_type="polygon", edge_width=size)
    shapes.current_edge_width = size
    viewer.add_layer(shapes)
    return shapes
