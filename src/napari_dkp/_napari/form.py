"""Forms built from the config dataclasses: an editor for every field, by its type.

What a person reads beside it is in `wording`.
"""

from collections.abc import Collection, Iterable
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)
from superqt import QLargeIntSpinBox

from napari_dkp._napari.model_choice import ModelChoice
from napari_dkp._napari.wording import AUTOMATIC, ENTRIES, Entry


class Form(QWidget):
    """Labelled editors for fields of a config dataclass.

    Parameters
    ----------
    kind : dataclass whose fields are in `ENTRIES`.
    names : the fields to ask for; all of them by default.
    """

    edited = Signal()

    def __init__(
        self, kind: type, names: Iterable[str] | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.layout_ = form_layout(self)
        hints = get_type_hints(kind)
        defaults: dict[str, Any] = {entry.name: entry.default for entry in fields(kind)}
        self._kind, self._defaults = kind, defaults
        self.editors: dict[str, Editor] = {}
        for name in defaults if names is None else names:
            entry = ENTRIES[kind][name]
            editor = make_editor(hints[name], entry)
            show(editor, None if defaults[name] is MISSING else defaults[name])
            editor.setToolTip(entry.tip)
            editor.edited.connect(self.edited)
            self.editors[name] = editor
            add_row(self.layout_, entry.label, editor)

    def values(self) -> dict[str, Any]:
        """Return every field's value.

        Raises
        ------
        ValueError
            If what was typed is no value of that field.
        """
        return {name: editor.value() for name, editor in self.editors.items()}

    def config(self) -> Any:
        """Return the config that the form says, or None if nothing that it needs is known.

        Raises
        ------
        ValueError, TypeError
            Naming what cannot be used.
        """
        values = self.values()
        if any(value is None and self._needed(name) for name, value in values.items()):
            return None
        return self._kind(**values)

    def _needed(self, name: str) -> bool:
        return self._defaults[name] is MISSING

    def set_values(self, config: Any, *, but: Collection[str] = ()) -> None:
        """Show the values of a config; fields that this form does not ask for are passed over.

        Parameters
        ----------
        config : None shows that what a config needs is not known.
        but : fields that stay as they are.
        """
        for name, editor in self.editors.items():
            if name in but:
                continue
            if config is not None:
                show(editor, getattr(config, name))
            else:
                show(editor, None if self._needed(name) else self._defaults[name])


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


Editor = (
    Choice
    | Count
    | DeviceChoice
    | Factor
    | ModelChoice
    | Number
    | Numbers
    | OddSize
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
    if hint is float:
        return Number(entry)
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


def form_layout(widget: QWidget) -> QFormLayout:
    """Give a widget a form layout whose fields fill the width."""
    layout = QFormLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setHorizontalSpacing(10)
    layout.setVerticalSpacing(6)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return layout


def add_row(layout: QFormLayout, label: str, widget: QWidget) -> None:
    """Add a row; labels of all forms take the same width, so that fields stand in one line."""
    layout.addRow(label, widget)
    text = layout.labelForField(widget)
    assert text is not None
    text.setFixedWidth(LABEL_WIDTH)
    text.setToolTip(widget.toolTip())


LABEL_WIDTH = 100
MARGIN = 8


def _alike(name: str, value: int | tuple[int, ...]) -> int:
    """Return the one number that all axes share."""
    numbers = {value} if isinstance(value, int) else set(value)
    if len(numbers) > 1:
        raise ValueError(
            f"{name}: this form has one number for all axes; got {value}. Repeat such a run with "
            "'Copy as Python'"
        )
    return numbers.pop()
