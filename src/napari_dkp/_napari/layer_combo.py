"""A choice among the layers of a viewer."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox

if TYPE_CHECKING:
    from napari.viewer import Viewer


class LayerCombo(QComboBox):
    """The layers of a viewer that fit, kept up to date; the choice stays where it can.

    Parameters
    ----------
    viewer : whose layers.
    fits : which layers to offer.
    none : what stands for no layer, the first choice; shown alone while no layer fits.
    optional : whether no layer can be chosen although some fit.
    """

    edited = Signal()

    def __init__(
        self, viewer: "Viewer", fits: Callable[[Layer], bool], none: str, *, optional: bool
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._fits = fits
        self._none = none
        self._optional = optional
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        for layer in viewer.layers:
            layer.events.name.connect(self._fill)
        viewer.layers.events.inserted.connect(self._watch)
        viewer.layers.events.removed.connect(self._fill)
        viewer.layers.events.reordered.connect(self._fill)
        self._fill()
        self.currentIndexChanged.connect(self.edited)

    @property
    def layer(self) -> Layer | None:
        """The layer chosen."""
        return self.currentData()

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer of the viewer, or none; one that is not offered changes nothing."""
        for index in range(self.count()):
            if self.itemData(index) is layer:
                self.setCurrentIndex(index)

    def _watch(self, event: object = None) -> None:
        newest = self._viewer.layers[event.index]  # type: ignore[attr-defined]
        newest.events.name.connect(self._fill)
        self._fill()

    def _fill(self, event: object = None) -> None:
        chosen = self.layer
        fitting = [layer for layer in reversed(self._viewer.layers) if self._fits(layer)]
        blocked = self.blockSignals(True)
        self.clear()
        if self._optional or not fitting:
            self.addItem(self._none, None)
        for layer in fitting:
            self.addItem(layer.name, layer)
        self.choose(chosen)
        self.blockSignals(blocked)
        if self.layer is not chosen:
            self.edited.emit()
