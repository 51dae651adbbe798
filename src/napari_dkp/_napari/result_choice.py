"""Where the result of a run goes."""

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_dkp import io
from napari_dkp._napari.editors import Choice
from napari_dkp._napari.form import add_row, form_layout
from napari_dkp._napari.paths_choice import FolderChoice

_WAYS = {
    "memory": "Keep in memory",
    "file": "Write to a file",
    "lazy": "Compute as I look",
}
_FORMATS = {"OME-Zarr (*.ome.zarr)": ".ome.zarr", "OME-TIFF (*.ome.tif)": ".ome.tif"}


class ResultChoice(QWidget):
    """Rows that ask what becomes of the result, and for the file it goes to."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.way = Choice(_WAYS, _WAYS)
        self.way.setToolTip(
            "Keep the result in memory until you save its layer; or write each plane to a file as "
            "soon as it is done, and look at it there: for stacks that are larger than the memory; "
            "or find the kernel, and restore a plane when you move the slider to it."
        )
        self.file = FileChoice("File for the result")
        self.file.setToolTip(
            "NAME.ome.zarr or NAME.ome.tif. NAME_kernel.tif and NAME_settings.json come beside it. "
            "What exists is never replaced. If napari ends early, restore the same layer with the "
            "same settings to the same file: it goes on."
        )
        both = QVBoxLayout(self)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(6)
        self._parts: list[QWidget] = []
        for label, part in (("Result", self.way), ("File", self.file)):
            row = QWidget()
            add_row(form_layout(row), label, part)
            both.addWidget(row)
            self._parts.append(row)
        self.way.edited.connect(self._changed)
        self.file.edited.connect(self.edited)
        self._show_file()

    def value(self) -> Path | None:
        """Return the file; None where there is none.

        Raises
        ------
        ValueError
            If no file is named.
        """
        if self.way.value() != "file":
            return None
        path = self.file.value()
        if path is None:
            raise ValueError("Name a file for the result, such as cells.ome.zarr.")
        return path

    @property
    def lazy(self) -> bool:
        """Whether planes are to be computed as they are looked at."""
        return self.way.value() == "lazy"

    def set_value(self, path: Path | None) -> None:
        """Show a choice."""
        if path is not None:
            self.file.set_value(path)
        self.way.set_value("memory" if path is None else "file")

    def go_on(self) -> None:
        """Propose another name for the next result, where this one is taken now."""
        path = self.file.value()
        if path is None or self.way.value() != "file":
            return
        stem, number = io.stem(path), 2
        ending = path.name.removeprefix(stem)
        while any(each.exists() for each in io.Outputs.beside(path).paths):
            path = path.with_name(f"{stem}_{number}{ending}")
            number += 1
        self.file.set_value(path)

    def _changed(self) -> None:
        self._show_file()
        self.edited.emit()

    def _show_file(self) -> None:
        self._parts[1].setVisible(self.way.value() == "file")


class FileChoice(FolderChoice):
    """A file that is to be written."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.folder.setText("Browse…")
        self.line.setPlaceholderText("NAME.ome.zarr or NAME.ome.tif")

    def _pick(self) -> None:
        path, form = QFileDialog.getSaveFileName(
            self,
            self._title,
            self.line.text(),
            ";;".join(_FORMATS),
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if path:
            ending = _FORMATS.get(form, ".ome.zarr")
            named = path.lower().endswith((".tif", ".tiff", ".zarr"))
            self.set_value(path if named else f"{path}{ending}")
