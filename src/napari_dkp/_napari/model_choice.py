"""The choice of a diffusion model: the one that is shipped, or a path or name."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_dkp.config import SHIPPED_MODEL
from napari_dkp.diffusion.names import describe


class ModelChoice(QWidget):
    """A diffusion model: the one that is shipped, or a path or name, typed or picked."""

    edited = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.names = QComboBox()
        self.names.setEditable(True)
        self.names.setCompleter(None)  # it would make of a name a longer one that begins alike
        self.names.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.names.addItem("Small, comes with it", SHIPPED_MODEL)
        self.names.setMinimumContentsLength(8)
        self.names.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.folder = QPushButton("Folder…")
        self.file = QPushButton("File…")
        self.folder.setToolTip("A folder that diffusers saved, with config.json.")
        self.file.setToolTip("A checkpoint of guided-diffusion, .pt or .safetensors.")
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setOpenExternalLinks(True)
        # Below the name, not beside it: paths are long.
        rows = QVBoxLayout(self)
        row = QHBoxLayout()
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(6)
        rows.addWidget(self.names)
        rows.addLayout(row)
        for button in (self.folder, self.file):
            row.addWidget(button)
        rows.addWidget(self.about)
        self.folder.clicked.connect(self._pick_folder)
        self.file.clicked.connect(self._pick_file)
        self.names.currentTextChanged.connect(self.names.setToolTip)
        self.names.currentTextChanged.connect(self._describe)
        self._describe()
        line = self.names.lineEdit()
        assert line is not None
        line.editingFinished.connect(self.edited)
        self.names.activated.connect(lambda _: self.edited.emit())

    def value(self) -> str:
        """Return the model as in `DiffusionConfig.model`."""
        text = self.names.currentText().strip()
        index = self.names.findText(text)
        return str(self.names.itemData(index)) if index >= 0 else text

    def set_value(self, value: str) -> None:
        """Choose a model; one that is not listed yet is."""
        index = self.names.findData(value)
        if index < 0:
            self.names.addItem(value, value)
            index = self.names.count() - 1
        self.names.setCurrentIndex(index)

    def _describe(self) -> None:
        where = " · ".join(
            f'<a href="{link}" style="color: {_LINK}">{name}</a>'
            for name, link in _ELSEWHERE.items()
        )
        self.about.setText(f"{describe(self.value())} More: {where}")

    def _pick_folder(self) -> None:
        self._picked(QFileDialog.getExistingDirectory(self, "Folder of a diffusion model"))

    def _pick_file(self) -> None:
        kinds = "Weights (*.pt *.pth *.ckpt *.safetensors)"
        self._picked(QFileDialog.getOpenFileName(self, "Diffusion model", "", kinds)[0])

    def _picked(self, path: str) -> None:
        if path:
            self.set_value(path)
            self.edited.emit()


_ELSEWHERE = {
    "guided-diffusion": "https://github.com/openai/guided-diffusion#download-pre-trained-models",
    "hub": "https://huggingface.co/models?pipeline_tag=unconditional-image-generation",
}
# Legible on dark and on light; Qt's own is not.
_LINK = "#5b8def"
