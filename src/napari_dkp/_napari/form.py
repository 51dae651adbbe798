"""Forms built from the config dataclasses: an editor for every field, by its type.

What a person reads beside it is in `wording`.
"""

from collections.abc import Collection, Iterable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QFrame, QScrollArea, QWidget

from napari_dkp._napari.editors import Editor, make_editor, show
from napari_dkp._napari.wording import ENTRIES


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

    def show_rows(self, names: Collection[str], shown: bool) -> None:
        """Show some fields or hide them; hidden ones take no room."""
        for name in names:
            label = self.layout_.labelForField(self.editors[name])
            for widget in (label, self.editors[name]):
                assert widget is not None
                widget.setVisible(shown)

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


def scrolling(widget: QWidget) -> QScrollArea:
    """Return a frame in which a form moves up and down where the window is low."""
    scroll = QScrollArea()
    scroll.setWidgetResizable(True)
    scroll.setFrameShape(QFrame.Shape.NoFrame)
    scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    scroll.setWidget(widget)
    scroll.setMinimumHeight(160)
    return scroll


LABEL_WIDTH = 100
MARGIN = 8
