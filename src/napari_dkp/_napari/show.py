"""A viewer of its own for a restoration that was made outside napari."""

import napari
import numpy as np

from napari_dkp._napari.layers import result_layers
from napari_dkp._napari.source import source_of
from napari_dkp.state import Restoration


def show(lr: np.ndarray, restoration: Restoration, name: str) -> None:
    """Open napari with source, restored image and kernel; return when it is closed.

    Parameters
    ----------
    lr : source, shape (Y, X).
    restoration : of `lr`.
    name : of the source's layer.
    """
    viewer = napari.Viewer(title="napari-dkp")
    layer = viewer.add_image(lr, name=name)
    for entry in result_layers(source_of(layer), restoration):
        viewer.add_layer(napari.layers.Layer.create(*entry))
    viewer.reset_view()
    napari.run()
