"""Whether Z is restored together with Y and X, and how much finer it becomes."""

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_dkp._napari.editors import Factor, Switch
from napari_dkp._napari.form import add_row, form_layout
from napari_dkp._napari.wording import ENTRIES
from napari_dkp.config import Settings


class VolumeChoice(QWidget):
    """A check box for `Settings.volume` and, once it is on, the scale along Z.

    It is offered for layers with Z only; for others it counts as off.
    """

    edited = Signal()
    switched = Signal(bool)  # whether it counts as on

    def __init__(self) -> None:
        super().__init__()
        entry = ENTRIES[Settings]["volume"]
        self.check = Switch()
        self.check.setText("Restore as a volume (3-D)")
        self.check.setToolTip(entry.tip)
        self.factor = Factor(ENTRIES[Settings]["scale"])
        self.factor.setToolTip("Restored planes per plane of the image.")
        self._along = QWidget()
        add_row(form_layout(self._along), "Enlarge Z", self.factor)
        both = QVBoxLayout(self)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(6)
        both.addWidget(self.check)
        both.addWidget(self._along)
        self.check.edited.connect(self._changed)
        self.factor.edited.connect(self.edited)
        self.offer(False)

    def offer(self, possible: bool) -> None:
        """Show the choice where a layer has Z."""
        self._offered = possible
        self.setVisible(possible)
        self._show_whether()

    def values(self, scale: int) -> dict[str, Any]:
        """Return the fields of `Settings` that are decided here.

        Parameters
        ----------
        scale : along Y and X.
        """
        if not self._on:
            return {"volume": False, "scale": scale}
        along = self.factor.value()
        return {"volume": True, "scale": scale if along == scale else (along, scale, scale)}

    def set_values(self, settings: Settings) -> int | tuple[int, ...]:
        """Show settings; return the scale along Y and X."""
        self.check.set_value(settings.volume)
        if not settings.volume:
            return settings.scale
        along, *lateral = settings.scales(3)
        self.factor.set_value(along)
        return tuple(lateral)

    @property
    def _on(self) -> bool:
        return self._offered and self.check.value()

    def _changed(self) -> None:
        self._show_whether()
        self.edited.emit()

    def _show_whether(self) -> None:
        self._along.setVisible(self.check.value())
        self.switched.emit(self._on)
