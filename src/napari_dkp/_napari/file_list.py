"""The files of a batch, one to a line, with what became of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from napari_dkp._napari.batch_job import Line

if TYPE_CHECKING:
    from napari_dkp.batch import Outcome


class FileList(QTreeWidget):
    """Lines of a name and a state; what does not fit shows while the pointer rests on it.

    `chosen` is emitted when another line is selected, `wanted` when one is to be opened.
    """

    chosen = Signal()
    wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._outcomes: dict[int, Outcome] = {}
        self.setColumnCount(2)
        self.setHeaderLabels(["File", "State"])
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        header = self.header()
        assert header is not None
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        header.resizeSection(0, 150)
        self.setMinimumHeight(110)
        self.itemSelectionChanged.connect(self.chosen)
        self.itemDoubleClicked.connect(lambda *_: self.wanted.emit())

    @property
    def outcome(self) -> "Outcome | None":
        """What became of the file that is selected, if something has."""
        items = self.selectedItems()
        return self._outcomes.get(self.indexOfTopLevelItem(items[0])) if items else None

    @property
    def said(self) -> str:
        """The state of the file that is selected, in full."""
        items = self.selectedItems()
        return items[0].text(1) if items else ""

    @property
    def texts(self) -> list[str]:
        """The states of all files, as they stand in the list."""
        return [self._item(number).text(1) for number in range(self.topLevelItemCount())]

    def set_files(self, paths: Sequence[Path]) -> None:
        """List files, of which nothing is known yet."""
        self.clear()
        self._outcomes = {}
        for path, name in zip(paths, _short(paths), strict=True):
            item = QTreeWidgetItem([name, "waiting"])
            item.setToolTip(0, str(path))
            self.addTopLevelItem(item)

    def show_lines(self, lines: Mapping[int, Line]) -> None:
        """Show what is said of files, by their numbers."""
        for number, line in lines.items():
            item = self._item(number)
            item.setText(1, line.text)
            item.setToolTip(1, line.text)
            if line.outcome is not None:
                self._outcomes[number] = line.outcome
        if lines:
            self.chosen.emit()

    def follow(self, number: int) -> None:
        """Bring a file in sight."""
        self.scrollToItem(self._item(number))

    def choose(self, number: int) -> None:
        """Select a file."""
        self.setCurrentItem(self._item(number))

    def _item(self, number: int) -> QTreeWidgetItem:
        item = self.topLevelItem(number)
        assert item is not None
        return item


def _short(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with as many folders as tell them apart from one folder on."""
    try:
        common = os.path.commonpath([path.absolute().parent for path in paths])
    except ValueError:  # no files, or on several drives
        return [str(path) for path in paths]
    return [os.path.relpath(path.absolute(), common) for path in paths]
