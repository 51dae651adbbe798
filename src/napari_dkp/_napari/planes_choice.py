"""Which planes of a stack are restored."""

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from napari_dkp._napari.editors import Choice
from napari_dkp._napari.form import add_row, form_layout
from napari_dkp._napari.source import Ranges

_WAYS = {
    "all": "All",
    "shown": "The one shown",
    "time": "The time point shown",
    "range": "A range",
}


class PlanesChoice(QWidget):
    """A row that asks for all planes, those on screen, or ranges along the sliders' axes."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.way = Choice(_WAYS, _WAYS)
        self.way.setToolTip("Restore all planes of a stack and all channels, or some.")
        self.rows = {axis: Range() for axis in "TCZ"}
        self._lengths: dict[str, int] = {}
        both = QVBoxLayout(self)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(6)
        self._parts: dict[str, QWidget] = {}
        for label, part in {"Planes": self.way, **self.rows}.items():
            self._parts[label] = QWidget()
            add_row(form_layout(self._parts[label]), label, part)
            both.addWidget(self._parts[label])
        for row in self.rows.values():
            row.edited.connect(self.edited)
        self.way.edited.connect(self._changed)
        self.offer({})

    def offer(self, lengths: Mapping[str, int]) -> None:
        """Ask for planes of a stack.

        Parameters
        ----------
        lengths : of the axes T, C and Z that it has; those of one plane are not asked for.
        """
        self._lengths = {axis: length for axis, length in lengths.items() if length > 1}
        for axis, row in self.rows.items():
            row.set_length(self._lengths.get(axis, 1))
        self.way.enable("time", "T" in self._lengths and len(self._lengths) > 1)
        self.setVisible(bool(self._lengths))
        self._show_ranges()

    def value(self) -> str:
        """Return which way planes are chosen: "all", "shown", "time" or "range"."""
        return self.way.value() if self._lengths else "all"

    def chosen(self, shown: Mapping[str, int], looped: str) -> dict[str, Any]:
        """Return what `source_of` is to be told.

        Parameters
        ----------
        shown : index of what is on screen, along each axis.
        looped : letters of the axes along which planes lie.
        """
        way = self.value()
        if way == "shown":
            return {"plane": tuple(shown[axis] for axis in looped)} if looped else {}
        if way == "time":
            return {"ranges": {"T": (shown["T"], shown["T"] + 1)}}
        if way == "range":
            ranges = {axis: self.rows[axis].value() for axis in self._lengths}
            part = {axis: each for axis, each in ranges.items() if each != (0, self._lengths[axis])}
            return {"ranges": part} if part else {}
        return {}

    def set_value(self, way: str, ranges: Ranges | None = None) -> None:
        """Show a choice."""
        for axis, row in self.rows.items():
            row.set_value((ranges or {}).get(axis, (0, self._lengths.get(axis, 1))))
        self.way.set_value(way)

    def _changed(self) -> None:
        self._show_ranges()
        self.edited.emit()

    def _show_ranges(self) -> None:
        for axis in self.rows:
            self._parts[axis].setVisible(self.value() == "range" and axis in self._lengths)


class Range(QWidget):
    """First and last index along one axis, in the numbers of its slider."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = QSpinBox(), QSpinBox()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for part, stretch in ((self.first, 1), (QLabel("to"), 0), (self.last, 1)):
            row.addWidget(part, stretch)
        for part in (self.first, self.last):
            part.setStyleSheet("min-width: 34px;")  # two of what napari has would not fit
            part.setToolTip("As the slider counts, from 0; both ends are restored.")
        self.first.valueChanged.connect(self._first_changed)
        self.last.valueChanged.connect(self._last_changed)

    def set_length(self, length: int) -> None:
        """Offer indices up to a length; all of them, where it is another one than before."""
        if self.last.maximum() == length - 1:
            return
        blocked = self.blockSignals(True)
        for part in (self.first, self.last):
            part.setRange(0, length - 1)
        self.set_value((0, length))
        self.blockSignals(blocked)

    def value(self) -> tuple[int, int]:
        """Return the range as (start, stop)."""
        return self.first.value(), self.last.value() + 1

    def set_value(self, bounds: tuple[int, int]) -> None:
        """Show a range."""
        start, stop = bounds
        self.first.setValue(0)
        self.last.setValue(stop - 1)
        self.first.setValue(start)

    def _first_changed(self, value: int) -> None:
        self.last.setValue(max(value, self.last.value()))
        self.edited.emit()

    def _last_changed(self, value: int) -> None:
        self.first.setValue(min(value, self.first.value()))
        self.edited.emit()
