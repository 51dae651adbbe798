"""The layers of a run while it is under way and once it is done."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer

from napari_dkp._napari.layers import METADATA_KEY, LayerData, kernel_contrast, kernel_over_axes
from napari_dkp._napari.worker import Drawing

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_dkp._napari.source import Source


class LiveLayers:
    """Adds image and kernel, draws states into them, and survives that a user removes them."""

    def __init__(self, viewer: "Viewer", source: "Source", layers: list[LayerData]) -> None:
        self._viewer = viewer
        self._source = source
        self.image, self.kernel = (Layer.create(*entry) for entry in layers[:2])
        viewer.add_layer(self.kernel)
        viewer.add_layer(self.image)

    @property
    def gone(self) -> bool:
        """Whether the user has removed both."""
        return not any(layer in self._viewer.layers for layer in (self.image, self.kernel))

    def draw(self, drawing: Drawing) -> None:
        """Show a state; layers that were removed stay so."""
        index = self._source.index(drawing.plane)
        kernel = kernel_over_axes(self._source, drawing.kernel)
        for layer, values in ((self.image, drawing.image), (self.kernel, kernel)):
            layer.data[index[: layer.data.ndim]] = values
            layer.metadata[METADATA_KEY]["steps"] = drawing.step
        self._stretch()
        self.image.refresh()
        self.kernel.refresh()

    def finish(self, layers: list[LayerData]) -> None:
        """Show the result and remember how it came about."""
        for layer, (data, options, _) in zip((self.image, self.kernel), layers, strict=False):
            layer.data = data
            layer.metadata = options["metadata"]
        self._stretch()
        active = self._viewer.layers.selection.active
        for entry in layers[2:]:
            self._viewer.add_layer(Layer.create(*entry))
        self._viewer.layers.selection.active = active

    def _stretch(self) -> None:
        self.kernel.contrast_limits = kernel_contrast(np.asarray(self.kernel.data))
