"""Which plane of a layer the sliders are at, and how to get there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_dkp.layout import Index

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer


def shown_plane(viewer: "Viewer", layer: "Image", axes: str, looped: str) -> Index:
    """Return the index, along looped axes, of the plane that a viewer is at.

    Parameters
    ----------
    axes : meaning of each axis of the layer's array.
    looped : letters of those that count, in their order.
    """
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    point = np.rint(layer.world_to_data(viewer.dims.point[-layer.ndim :]))
    positions = [axes.index(axis) for axis in looped]
    return tuple(int(np.clip(point[each], 0, shape[each] - 1)) for each in positions)


def show_plane(
    viewer: "Viewer", layer: "Image", axes: str, looped: str, plane: Sequence[int]
) -> None:
    """Move the sliders to a plane; arguments as for `shown_plane`."""
    positions = [axes.index(axis) for axis in looped]
    pixel = np.zeros(layer.ndim)
    pixel[positions] = plane
    world = layer.data_to_world(pixel)
    for position in positions:
        viewer.dims.set_point(position - layer.ndim, world[position])
