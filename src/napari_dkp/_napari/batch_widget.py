"""The widget that restores a folder of images."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_dkp._napari.appraiser import Appraisal, Appraiser
from napari_dkp._napari.batch_job import (
    Advanced,
    BatchJob,
    Happening,
    Listed,
    Request,
    Settled,
    plain,
)
from napari_dkp._napari.editors import Choice, Switch
from napari_dkp._napari.file_list import FileList
from napari_dkp._napari.form import MARGIN, add_row, form_layout, scrolling
from napari_dkp._napari.job import Paused
from napari_dkp._napari.layer_combo import LayerCombo
from napari_dkp._napari.opened import opened
from napari_dkp._napari.paths_choice import FolderChoice, PathsChoice
from napari_dkp._napari.run_panel import RunPanel
from napari_dkp._napari.run_widget import RunWidget
from napari_dkp._napari.settings_form import SettingsForm

if TYPE_CHECKING:
    from napari.viewer import Viewer

FORMATS = {"ome-tiff": "OME-TIFF", "ome-zarr": "OME-Zarr"}
# Folder for the results, in the one of the images, until another one is named.
_RESULTS = "restored"


class BatchWidget(RunWidget):
    """Choose a folder, press Restore; results go to the disk, one file after the other."""

    def __init__(self, napari_viewer: "Viewer", parent: QWidget | None = None) -> None:
        super().__init__(RunPanel(), parent)
        self._viewer = napari_viewer
        self._proposed = ""
        self.images = PathsChoice("Images to restore")
        self.images.setToolTip(
            "A folder of images, or some files: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, PNG, JPEG."
        )
        self.out = FolderChoice("Folder for the results")
        self.out.setToolTip(
            "Where results go: NAME.ome.tif, NAME_kernel.tif and NAME_settings.json for each "
            "image, and batch.md, which says what became of all."
        )
        self.format = Choice(FORMATS, FORMATS)
        self.format.setToolTip("Format of the restored images.")
        self.recursive = Switch()
        self.recursive.setToolTip("Also look into the folders in the folder.")
        self.overwrite = Switch()
        self.overwrite.setToolTip(
            "Replace results of other settings, or of images that have changed. What was done with "
            "the same settings is never done again."
        )
        self.kernel = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Image), "Estimate it", optional=True
        )
        self.kernel.setToolTip(
            "A measured point spread function of all images, if you have one: a layer in restored "
            "pixels."
        )
        self.form = SettingsForm(self.kernel)
        self.form.fill_from(None)
        self.files = FileList()
        self.open = QPushButton("Open result")
        self.open.setToolTip("Open the selected result in the viewer, as a double-click does.")
        self._appraiser = Appraiser(self)
        self._arrange()
        self._connect()
        self._look_at()
        self._appraiser.ask(None, self.form.settings())

    def restore(self) -> None:
        """Start, or go on; what stands in the way is said, and changes nothing."""
        try:
            job = BatchJob(self._request())
        except (ValueError, TypeError) as error:
            self._show_problem(str(error))
            return
        if not self._begin(
            job, yielded=self._watch, returned=self._conclude, finished=[self._rest]
        ):
            return
        self.panel.tell("")
        self._set_running(True)
        self.panel.say("Looking for images …")

    def open_result(self) -> list[Layer]:
        """Add the image and the kernel of the file that is selected to the viewer."""
        outcome = self.files.outcome
        if outcome is None or len(outcome.outputs) < 3:
            return []
        image, kernel, settings, *_ = outcome.outputs
        try:
            entries = opened(image, kernel, settings)
        except (ValueError, OSError) as error:
            self._show_problem(str(error))
            return []
        kernel_layer, image_layer = (Layer.create(*entry) for entry in reversed(entries))
        return [self._viewer.add_layer(layer) for layer in (kernel_layer, image_layer)]

    def _request(self) -> Request:
        """Return what the form asks for, checked as far as it can be without reading a file."""
        inputs, out = self.images.values(), self.out.value()
        if not inputs:
            raise ValueError("Choose a folder of images first.")
        missing = [path for path in inputs if not path.exists()]
        if missing:
            raise ValueError(f"Images: there is no '{missing[0]}'.")
        if out is None:
            raise ValueError("Choose a folder for the results.")
        if any(path.resolve() == out.resolve() for path in inputs):
            raise ValueError("Results: choose another folder than that of the images.")
        return Request(
            inputs=inputs,
            out=out,
            settings=self.form.settings(),
            kernel=_psf(self.kernel.layer),
            format=self.format.value(),
            recursive=self.recursive.value(),
            overwrite=self.overwrite.value(),
        )

    def _watch(self, event: Happening) -> None:
        job = self._running.job
        if job is None or event is None:
            return
        if isinstance(event, Listed):
            self.files.set_files(event.sources)
        elif isinstance(event, Paused):
            self.panel.say(f"Paused. {event.progress}.")
        elif isinstance(event, Advanced):
            self.files.show_lines(event.lines)
            if event.lines:
                self.files.follow(max(event.lines))
            if not job.is_ending and not job.is_paused:
                self.panel.say(event.progress)

    def _conclude(self, settled: Settled) -> None:
        self.files.show_lines(settled.lines)
        further = "" if settled.complete else " It was stopped; Restore goes on with it."
        self.panel.say(settled.totals + further)
        self.panel.tell(f"More in {settled.account}")

    def _fail(self, error: Exception) -> None:
        super()._fail(type(error)(plain(str(error))))

    def _rest(self) -> None:
        self._running.job = None
        self._set_running(False)
        if self.panel.status.text().endswith(" …"):
            self.panel.say("")

    def _propose(self) -> None:
        """Name a folder for the results, unless the user did."""
        place, out = self.images.place, self.out.line.text()
        if place is None or out not in ("", self._proposed):
            return
        self._proposed = str(place / _RESULTS)
        self.out.set_value(self._proposed)

    def _look_at(self) -> None:
        """Say of the file that is selected what does not fit in its line, and offer its result."""
        outcome = self.files.outcome
        failed = outcome is not None and outcome.status == "failed"
        self.panel.say_cost(self.files.said if failed else "", problem=True)
        self.open.setEnabled(outcome is not None and len(outcome.outputs) > 2)

    def _show_appraisal(self, appraisal: Appraisal) -> None:
        self.form.basic.editors["device"].describe(appraisal.devices)  # type: ignore[union-attr]
        if appraisal.problem:
            self.panel.say_cost(appraisal.problem, problem=True)

    def _set_running(self, running: bool) -> None:
        self._above.setEnabled(not running)
        self.panel.show_running(running)

    def _connect(self) -> None:
        self.panel.restore.clicked.connect(self.restore)
        self.images.edited.connect(self._propose)
        self.files.chosen.connect(self._look_at)
        self.files.wanted.connect(self.open_result)
        self.open.clicked.connect(self.open_result)
        self._appraiser.found.connect(self._show_appraisal)

    def _arrange(self) -> None:
        choice = QWidget()
        rows = form_layout(choice)
        add_row(rows, "Images", self.images)
        add_row(rows, "Subfolders", self.recursive)
        add_row(rows, "Results", self.out)
        add_row(rows, "Format", self.format)
        add_row(rows, "Replace", self.overwrite)
        self.panel.stop.setToolTip(
            "Stop after the present step. What is done stays on the disk; Restore goes on."
        )
        self._above = QWidget()
        top = QVBoxLayout(self._above)
        top.setContentsMargins(0, 0, 0, 0)
        top.setSpacing(6)
        for part in (choice, self.form):
            top.addWidget(part)
        top.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(8)
        layout.addWidget(scrolling(self._above), 3)
        layout.addWidget(self.files, 2)
        layout.addWidget(self.panel)
        layout.addWidget(self.open)


def _psf(layer: Layer | None) -> np.ndarray | None:
    """Return the one plane of a layer.

    Raises
    ------
    ValueError
        If it has more.
    """
    if layer is None:
        return None
    values = np.squeeze(np.asarray(layer.data[0] if layer.multiscale else layer.data))
    if values.ndim != 2:
        raise ValueError(f"kernel: expected one plane; got the layer {layer.name!r}")
    return values
