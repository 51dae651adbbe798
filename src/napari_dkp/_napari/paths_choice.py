"""Choices of files and folders, typed or picked."""

import os
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

IMAGES = "Images (*.tif *.tiff *.png *.jpg *.jpeg *.bmp);;All files (*)"


class FolderChoice(QWidget):
    """A folder.

    Parameters
    ----------
    title : of the dialog in which it is picked.
    """

    edited = Signal()

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self.line = QLineEdit()
        self.folder = QPushButton("Folder…")
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.addWidget(self.line, 1)
        self.row.addWidget(self.folder)
        self.folder.clicked.connect(self._pick)
        self.line.textChanged.connect(self.line.setToolTip)
        self.line.editingFinished.connect(self.edited)

    def value(self) -> Path | None:
        """Return the folder; None where none is named."""
        text = self.line.text().strip()
        return Path(text).expanduser() if text else None

    def set_value(self, path: str | os.PathLike[str]) -> None:
        """Name a folder."""
        self.line.setText(os.fspath(path))
        self.edited.emit()

    def _pick(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self._title, self.line.text())
        if path:
            self.set_value(path)


class PathsChoice(FolderChoice):
    """A folder, or files."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._files: tuple[Path, ...] = ()
        self._shown = ""
        self.files = QPushButton("Files…")
        self.row.addWidget(self.files)
        self.files.clicked.connect(self._pick_files)

    def values(self) -> tuple[Path, ...]:
        """Return what is named."""
        if self._files and self.line.text() == self._shown:
            return self._files
        path = self.value()
        return () if path is None else (path,)

    @property
    def place(self) -> Path | None:
        """The folder that is named, or that of the files."""
        paths = self.values()
        if not paths:
            return None
        return paths[0] if paths[0].is_dir() else paths[0].parent

    def set_files(self, paths: list[Path]) -> None:
        """Name files."""
        if len(paths) == 1:
            self.set_value(paths[0])
            return
        self._shown = f"{len(paths)} files in {paths[0].parent}"
        self._files = tuple(paths)
        self.set_value(self._shown)
        self.line.setToolTip("\n".join(path.name for path in paths[:20]))

    def _pick_files(self) -> None:
        place = self.place
        paths, _ = QFileDialog.getOpenFileNames(
            self, self._title, "" if place is None else str(place), IMAGES
        )
        if paths:
            self.set_files([Path(path) for path in paths])
