"""Editors for the fields of config dataclasses, one per type."""

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from qtpy.QtCore import Signal
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
)
from superqt import QLargeIntSpinBox

from napari_dkp._napari.model_choice import ModelChoice
from napari_dkp._napari.wording import AUTOMATIC, Entry


class Choice(QComboBox):
    """One of several named options."""

    edited = Signal()

    def __init__(self, options: Iterable[str], names: dict[str, str]) -> None:
        super().__init__()
        for option in options:
            self.addItem(names[option], option)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.currentIndexChanged.connect(self.edited)

    def value(self) -> str:
        """Return the option chosen."""
        return str(self.currentData())

    def set_value(self, value: str) -> None:
        """Choose an option."""
        index = self.findData(value)
        if index < 0:
            raise ValueError(f"expected one of the options of this form; got {value!r}")
        self.setCurrentIndex(index)

    def enable(self, value: str, possible: bool) -> None:
        """Offer an option or not; the first one stands in for one that is chosen already."""
        items = self.model()
        assert isinstance(items, QStandardItemModel)
        item = items.item(self.findData(value))
        assert item is not None
        item.setEnabled(possible)
        if not possible and self.value() == value:
            self.setCurrentIndex(0)


class DeviceChoice(QComboBox):
    """A device, by its name; what this machine has is filled in once it is known."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.addItem("Automatic", "auto")
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.currentIndexChanged.connect(self.edited)
        self.currentTextChanged.connect(self.setToolTip)

    def value(self) -> str:
        """Return the device's name as in `Settings.device`."""
        return str(self.currentData())

    def set_value(self, value: str) -> None:
        """Choose a device; one that this machine has not is listed all the same."""
        if self.findData(value) < 0:
            self.addItem(f"{value}, not on this machine", value)
        self.setCurrentIndex(self.findData(value))

    def describe(self, descriptions: dict[str, str]) -> None:
        """Say what each device is; names as in `Settings.device`."""
        for name, text in descriptions.items():
            index = self.findData(name)
            if index < 0:
                self.addItem(text, name)
            else:
                self.setItemText(index, text)


class Whole(QLargeIntSpinBox):
    """An integer of any size."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.setRange(int(entry.low), int(entry.high))  # type: ignore[no-untyped-call]
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.valueChanged.connect(self.edited)

    def set_value(self, value: int) -> None:
        """Show a number."""
        self.setValue(value)  # type: ignore[no-untyped-call]


class Count(QSpinBox):
    """An integer, or None, for which the entry has a text."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.setRange(int(entry.low), int(entry.high))
        self.setSpecialValueText(entry.unset or "")
        self.valueChanged.connect(self.edited)

    def value(self) -> int | None:  # type: ignore[override]
        """Return the number; the smallest stands for None."""
        return None if super().value() == self.minimum() else super().value()

    def set_value(self, value: int | None) -> None:
        """Show a number."""
        self.setValue(self.minimum() if value is None else value)


class Factor(QSpinBox):
    """A small factor, shown as ×2."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.setRange(int(entry.low), int(entry.high))
        self.setPrefix("×")
        self.valueChanged.connect(self.edited)

    def set_value(self, value: int | tuple[int, ...]) -> None:
        """Show a factor."""
        self.setValue(_alike("scale", value))


class OddSize(QSpinBox):
    """An odd number of pixels, or None for the default."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.setRange(int(entry.low), int(entry.high))
        self.setSingleStep(2)
        self.setSpecialValueText(AUTOMATIC)
        self.setSuffix(" px")
        self.valueChanged.connect(self.edited)

    def value(self) -> int | None:  # type: ignore[override]
        """Return the size; the smallest stands for None."""
        return None if super().value() == self.minimum() else super().value()

    def set_value(self, value: int | tuple[int, ...] | None) -> None:
        """Show a size."""
        self.setValue(self.minimum() if value is None else _alike("kernel_size", value))


class Number(QDoubleSpinBox):
    """A real number, written as short as it can be, or None where the entry has a text for that."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.setDecimals(8)
        self.setRange(entry.low, entry.high)
        self.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
        self._unset = entry.unset
        self.setSpecialValueText(entry.unset or "")
        self.setSuffix(f" {entry.unit}" if entry.unit else "")
        self.valueChanged.connect(self.edited)

    def textFromValue(self, value: float) -> str:
        """Write 0.0002 and not 0.00020000."""
        return f"{value:.8g}"

    def value(self) -> float | None:  # type: ignore[override]
        """Return the number."""
        number = super().value()
        return None if self._unset is not None and number == self.minimum() else number

    def set_value(self, value: float | None) -> None:
        """Show a number."""
        self.setValue(self.minimum() if value is None else value)


class Switch(QCheckBox):
    """Yes or no."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.toggled.connect(self.edited)

    def value(self) -> bool:
        """Return whether it is on."""
        return self.isChecked()

    def set_value(self, value: bool) -> None:
        """Switch on or off."""
        self.setChecked(value)


class Text(QLineEdit):
    """Letters, or None where nothing is typed."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText(AUTOMATIC)
        self.editingFinished.connect(self.edited)

    def value(self) -> str | None:
        """Return what was typed, in capitals."""
        return self.text().strip().upper() or None

    def set_value(self, value: str | None) -> None:
        """Show a text."""
        self.setText(value or "")


class Numbers(QLineEdit):
    """Numbers with commas between them, or None where nothing is typed and None is allowed."""

    edited = Signal()

    def __init__(self, entry: Entry, kind: type, *, optional: bool) -> None:
        super().__init__()
        self._label = entry.label
        self._kind = kind
        self._optional = optional
        if optional:
            self.setPlaceholderText(AUTOMATIC)
        self.editingFinished.connect(self.edited)

    def value(self) -> tuple[Any, ...] | None:
        """Return the numbers."""
        text = self.text().strip()
        if not text and self._optional:
            return None
        try:
            return tuple(self._kind(part) for part in text.split(","))
        except ValueError:
            raise ValueError(
                f"{self._label}: expected numbers with commas between them; got {text!r}"
            ) from None

    def set_value(self, value: tuple[Any, ...] | None) -> None:
        """Show numbers."""
        self.setText("" if value is None else ", ".join(f"{number:g}" for number in value))


class PerChannel(QLineEdit):
    """A length of all channels, or one of each; None where it is not known."""

    edited = Signal()

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self._label = entry.label
        self._unit = entry.unit
        self.setPlaceholderText(entry.unset or "")
        self.editingFinished.connect(self.edited)

    def value(self) -> float | tuple[float | None, ...] | None:
        """Return the number, or those of the channels."""
        text = self.text().strip().removesuffix(self._unit).strip()
        if not text:
            return None
        try:
            numbers = tuple(
                None if part.strip() in ("", _UNKNOWN) else _positive(part)
                for part in text.split(",")
            )
        except ValueError:
            raise ValueError(
                f"{self._label}: expected a number, or one for each channel with commas between "
                f"them, {_UNKNOWN} where it is not known; got {text!r}"
            ) from None
        return numbers if len(numbers) > 1 else numbers[0]

    def set_value(self, value: float | tuple[float | None, ...] | None) -> None:
        """Show a number, or those of the channels."""
        numbers = value if isinstance(value, tuple) else (value,)
        text = ", ".join(_UNKNOWN if each is None else f"{each:g}" for each in numbers)
        self.setText("" if value is None else f"{text} {self._unit}")
        self.edited.emit()


# What stands for the length of a channel that is not known.
_UNKNOWN = "?"


Editor = (
    Choice
    | Count
    | DeviceChoice
    | Factor
    | ModelChoice
    | Number
    | Numbers
    | OddSize
    | PerChannel
    | Switch
    | Text
    | Whole
)


def show(editor: Any, value: Any) -> None:
    """Show a value of the editor's own type."""
    editor.set_value(value)


def make_editor(hint: Any, entry: Entry) -> Editor:
    """Return an editor for a field of the given type."""
    if get_origin(hint) is Literal:
        assert entry.names is not None
        return Choice(get_args(hint), entry.names)
    options = set(get_args(hint))
    tuples = [option for option in options | {hint} if get_origin(option) is tuple]
    if hint is bool:
        return Switch()
    if hint in (float, float | None):
        return PerChannel(entry) if entry.per_channel else Number(entry)
    if hint is int:
        return Whole(entry)
    if hint == int | None:
        return Count(entry)
    if options == {int, tuple[int, ...]}:
        return Factor(entry)
    if options == {int, tuple[int, ...], type(None)}:
        return OddSize(entry)
    if hint is str:
        return ModelChoice() if entry.is_model else DeviceChoice()
    if hint == str | None:
        return Text()
    if tuples:
        return Numbers(entry, get_args(tuples[0])[0], optional=type(None) in options)
    raise TypeError(f"hint: expected a type that a form can ask for; got {hint}")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def _alike(name: str, value: int | tuple[int, ...]) -> int:
    """Return the one number that all axes share."""
    numbers = {value} if isinstance(value, int) else set(value)
    if len(numbers) > 1:
        raise ValueError(
            f"{name}: this form has one number for all axes; got {value}. Repeat such a run with "
            "'Copy as Python'"
        )
    return numbers.pop()
