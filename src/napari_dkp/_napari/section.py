"""A part of a form that folds away."""

from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible


class Section(QCollapsible):
    """Widgets under a title that folds them away, and a note beside it that stays."""

    def __init__(self, title: str, *parts: QWidget) -> None:
        # The sign is part of the text: superqt's icons do not follow napari's theme.
        super().__init__(title, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self._title = title
        self._note = ""
        self.setDuration(0)
        self.toggleButton().setStyleSheet(
            "QPushButton, QPushButton:checked { text-align: left; border: none; background: none; }"
        )
        self.toggled.connect(self._entitle)
        self._entitle()
        for frame, margins in ((self, (0, 0, 0, 0)), (self.content(), (0, 4, 0, 4))):
            layout = frame.layout()
            assert layout is not None
            layout.setContentsMargins(*margins)
        for part in parts:
            self.addWidget(part)

    def set_note(self, note: str) -> None:
        """Say beside the title what counts, also while it is folded away."""
        self._note = note
        self._entitle()

    def _entitle(self) -> None:
        note = f": {self._note}" if self._note else ""
        sign = "▾" if self.isExpanded() else "▸"
        self.toggleButton().setText(f"{sign} {self._title}{note}")
