"""The layers of a run while it is under way and once it is done."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer

from napari_dkp._napari.job import Begun
from napari_dkp._napari.layers import METADATA_KEY, LayerData, kernel_contrast
from napari_dkp._napari.shown import shown_plane
from napari_dkp.layout import Index

if TYPE_CHECKING:
    from napari.viewer import Viewer


class LiveLayers:
    """Adds image and kernel, whose arrays the run fills, and survives that a user removes them."""

    def __init__(self, viewer: "Viewer", begun: Begun) -> None:
        self._viewer = viewer
        self._source = begun.source
        self.image, self.kernel = (Layer.create(*entry) for entry in begun.layers[:2])
        viewer.add_layer(self.kernel)
        viewer.add_layer(self.image)

    @property
    def gone(self) -> bool:
        """Whether the user has removed both."""
        return not any(layer in self._viewer.layers for layer in (self.image, self.kernel))

    @property
    def shown(self) -> Index | None:
        """The plane on screen, as in `State.plane`; None where that may be several."""
        if self._viewer.dims.ndisplay > 2:
            return None
        return shown_plane(self._viewer, self.image, self._source.axes, self._source.looped)

    def draw(self, step: int) -> None:
        """Show what the arrays hold by now."""
        for layer in (self.image, self.kernel):
            layer.metadata[METADATA_KEY]["steps"] = step
        self._refresh()

    def finish(self, layers: list[LayerData]) -> None:
        """Show the result and remember how it came about."""
        for layer, (data, options, _) in zip((self.image, self.kernel), layers, strict=False):
            layer.metadata = options["metadata"]
            if layer is self.image and data is not layer.data:  # in a file that is whole now
                layer.data = data
        self._refresh()
        active = self._viewer.layers.selection.active
        for entry in layers[2:]:
            self._viewer.add_layer(Layer.create(*entry))
        self._viewer.layers.selection.active = active

    def _refresh(self) -> None:
        self.kernel.contrast_limits = kernel_contrast(np.asarray(self.kernel.data))
        self.image.refresh()
        self.kernel.refresh()
