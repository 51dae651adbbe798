"""The widget that restores a layer."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer, Shapes
from napari.utils import progress
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QApplication,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_dkp._napari import worker
from napari_dkp._napari.appraiser import Appraisal, Appraiser, duration
from napari_dkp._napari.curve_plot import Curve, CurvePlot
from napari_dkp._napari.form import MARGIN, Choice, Form, add_row, form_layout
from napari_dkp._napari.layer_combo import LayerCombo
from napari_dkp._napari.layers import METADATA_KEY, settings_from_layer, snippet
from napari_dkp._napari.live import LiveLayers
from napari_dkp._napari.microscope import OpticsFilling
from napari_dkp._napari.source import Source, kernel_array, layer_axes, source_of
from napari_dkp._napari.worker import Begun, Drawing, Ended, Job, RunFailed
from napari_dkp.config import (
    OF_THE_MODEL,
    DiffusionConfig,
    DIPConfig,
    NoiseConfig,
    OpticsConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.layout import looped_axes
from napari_dkp.state import Stop

if TYPE_CHECKING:
    from napari.viewer import Viewer

BASIC = ("scale", "kernel_family", "method", "preset", "diagnostics", "device")
ADVANCED = (
    "iterations",
    "kernel_size",
    "axes",
    "share_kernel",
    "tile",
    "phase",
    "boundary",
    "precision",
    "seed",
)
KNOWN: dict[str, tuple[str, type]] = {
    "optics": ("Microscope", OpticsConfig),
    "noise": ("Camera noise", NoiseConfig),
}
CONFIGS = {
    "rks": ("Kernel sampling", RKSConfig),
    "pke": ("Kernel network", PKEConfig),
    "search": ("Search for motion", SearchConfig),
    "dip": ("Image network", DIPConfig),
    "diffusion": ("Diffusion model", DiffusionConfig),
    "richardson_lucy": ("Richardson–Lucy", RichardsonLucyConfig),
}
_PROBLEM_STYLE = "color: #e5695f;"


class RestoreWidget(QWidget):
    """Choose a layer, press Restore, watch, stop when satisfied."""

    def __init__(self, napari_viewer: "Viewer", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._running = _Running()
        self._live: LiveLayers | None = None
        self._bar: progress | None = None
        self._began = 0.0
        self._n_planes = 1
        self._residuals: list[float] = []
        self._watched: Layer | None = None

        self.image = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Image), "Open an image", optional=False
        )
        self.image.setToolTip("The layer to restore.")
        self.region = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Shapes), "Whole image", optional=True
        )
        self.region.setToolTip(
            "Restore only a rectangle: the selected shape of a Shapes layer, else its last. "
            "Quick to try settings on."
        )
        self.draw = QPushButton("Draw")
        self.draw.setToolTip("Draw a rectangle on the image.")
        self.planes = Choice(("all", "shown"), {"all": "All", "shown": "The one shown"})
        self.planes.setToolTip("Restore all planes of a stack and all channels, or one.")
        self.kernel = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Image), "Estimate it", optional=True
        )
        self.kernel.setToolTip(
            "A measured point spread function, if you have one: a layer in restored pixels."
        )
        self.basic = Form(Settings, BASIC)
        self.advanced = Form(Settings, ADVANCED)
        self.known = {name: Form(kind) for name, (_, kind) in KNOWN.items()}
        self._optics = OpticsFilling(self.known["optics"])
        self.configs = {name: Form(kind) for name, (_, kind) in CONFIGS.items()}
        self.load = QPushButton("Load settings")
        self.load.setToolTip("Take over the settings of the selected result layer.")
        self.copy = QPushButton("Copy as Python")
        self.copy.setToolTip("Copy code for napari's console that repeats the selected result.")
        self.estimate = QLabel()
        self.restore_button = QPushButton("Restore")
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("Stop and keep what has been reached.")
        self.status = QLabel()
        self.report = QLabel()
        self.report.setToolTip(
            "What was chosen for the image, and what there is to trust in the result."
        )
        self.plot = CurvePlot("Misfit to the image", "appears when the restoration begins")
        self.plot.setToolTip(
            "How far the restored image, blurred again, is from the image: root mean square, in "
            "the image's intensity units."
        )
        self._appraiser = Appraiser(self)
        self._arrange()
        self._fill_from_preset()
        self._connect()
        active = napari_viewer.layers.selection.active
        self.image.choose(active)
        self._fill_from_layer()
        self._ask()

    def settings(self) -> Settings:
        """Return what the form says.

        Raises
        ------
        ValueError, TypeError
            Naming what cannot be used.
        """
        configs = {name: form.config() for name, form in (self.known | self.configs).items()}
        typed = self._optics.typed
        half = typed.get("numerical_aperture") or typed.get("wavelength")
        if configs["optics"] is None and half:
            raise ValueError(
                "Microscope: expected aperture, wavelength and pixel size, or neither aperture "
                "nor wavelength."
            )
        return Settings(**self.basic.values(), **self.advanced.values(), **configs)

    def set_settings(self, settings: Settings) -> None:
        """Show settings."""
        resolved = settings.resolve()
        self.basic.set_values(settings)
        self.advanced.set_values(settings)
        for name, form in (self.known | self.configs).items():
            form.set_values(getattr(resolved, name))
        if settings.optics is None:
            self._optics.show_pixel_size()

    def restore(self) -> None:
        """Start a run; what stands in its way is said, and changes nothing."""
        try:
            job = Job(*self._request())
        except (ValueError, TypeError) as error:
            self._show_problem(str(error))
            return
        bar = progress(total=0, desc=f"Restoring {job.name}")
        try:
            worker.start(
                job,
                yielded=self._watch,
                returned=self._keep,
                errored=self._fail,
                finished=[bar.close, self._rest],
            )
        except worker.Busy as busy:
            bar.close()
            self._say(str(busy), problem=True)
            show_info(str(busy))
            return
        self._running.job = job
        self._bar = bar
        self._live = None
        self._residuals = []
        self.plot.clear()
        self.report.hide()
        self._set_running(True)
        self._say("Starting …")

    def stop(self) -> None:
        """End the run after its present step and keep what it has reached."""
        self._running.stop()
        self.stop_button.setEnabled(False)
        self._say("Stopping …")

    def load_settings(self) -> None:
        """Take over the settings of a result layer, its source and region too."""
        try:
            layer = self._result()
            settings = settings_from_layer(layer)
        except ValueError as error:
            self._show_problem(str(error))
            return
        facts = layer.metadata[METADATA_KEY]
        source = (
            self._viewer.layers[facts["source"]] if facts["source"] in self._viewer.layers else None
        )
        if isinstance(source, Image):
            # First, since it brings its own optics.
            self.image.choose(source)
        self.set_settings(settings)
        if isinstance(source, Image):
            with suppress(ValueError):
                if layer_axes(source) == self.advanced.editors["axes"].value():
                    # Left open, so that the form also fits the next image.
                    self.advanced.editors["axes"].set_value(None)  # type: ignore[arg-type]
            self.region.choose(None)
            if facts["region"] is not None:
                self.region.choose(self._add_region(source, facts["region"]))
            self.planes.set_value("all" if facts["plane"] is None else "shown")
            if facts["plane"] is not None:
                self._show_plane(source, facts["plane"])
        self.kernel.choose(None)
        psf = "" if facts["kernel"] is None else " It had a known PSF: choose it under Advanced."
        self._say(f"Settings of {layer.name!r} loaded.{psf}")

    def copy_snippet(self) -> None:
        """Copy Python that repeats a result layer's run."""
        try:
            layer = self._result()
            text = snippet(layer)
        except ValueError as error:
            self._show_problem(str(error))
            return
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(text)
        self._say(f"Python that repeats {layer.name!r} is on the clipboard.")

    def draw_region(self) -> None:
        """Add a Shapes layer and let the user draw a rectangle in it."""
        layer = self.image.layer
        if layer is None:
            self._show_problem("Open an image first.")
            return
        shapes = self._add_region(layer, None)
        shapes.mode = "add_rectangle"
        self.region.choose(shapes)

    def event(self, event: QEvent | None) -> bool:
        """Stop the run when the widget is taken out of the viewer."""
        if event is not None and event.type() == QEvent.Type.ParentChange and not self.parent():
            self._running.stop()
        return bool(super().event(event))

    def _request(self) -> tuple[Source, Settings, np.ndarray | None]:
        """Return what the form asks for, checked as far as it can be without reading the image."""
        layer = self.image.layer
        if layer is None:
            raise ValueError("Open an image first.")
        settings = self.settings()
        plane = None
        source = source_of(layer, region=self.region.layer, axes=settings.axes)
        if self._loops(source) and self.planes.value() == "shown":
            plane = self._shown_plane(source, layer)
            source = source_of(layer, region=self.region.layer, plane=plane, axes=settings.axes)
        settings = replace(settings, axes=source.axes)
        kernel = self.kernel.layer
        return source, settings, None if kernel is None else kernel_array(kernel, source, settings)

    def _watch(self, event: Begun | Drawing | None) -> None:
        job = self._running.job
        if job is None or event is None:
            return
        if isinstance(event, Begun):
            self._live = LiveLayers(self._viewer, event.source, event.layers)
            self._began = time.monotonic()
            self._n_planes = event.n_planes
            if self._bar is not None:
                self._bar.total = event.n_steps
            return
        assert self._live is not None
        if self._live.gone:
            job.stop()
            return
        self._live.draw(event)
        self._plot(event.residuals)
        left = (time.monotonic() - self._began) / event.step * (event.n_steps - event.step)
        planes = self._n_planes
        at = "finding the kernel: step" if event.searching else "step"
        if planes > 1:
            at = f"plane {min(event.n_done + 1, planes)} of {planes}, {at}"
        at = at[:1].upper() + at[1:]
        told = f"{at} {event.step} of {event.n_steps}, {duration(left)} left"
        self._say(f"{event.note} {told}".strip())
        if self._bar is not None:
            self._bar.total = event.n_steps
            # Last, since napari handles events while it draws the bar, the end of the run too.
            self._bar.update(event.step - self._bar.n)
        job.drawn()

    def _keep(self, ended: Ended) -> None:
        assert self._live is not None
        facts = ended.layers[0][1]["metadata"][METADATA_KEY]
        if self._live.gone:
            self._say("The run was stopped, since its layers were removed.")
            return
        self._live.finish(ended.layers)
        self._plot(ended.residuals)
        took = f"{facts['steps']} steps, {duration(facts['seconds']).removeprefix('about ')}."
        self._say(f"{Stop[facts['stop']].sentence} {took}")
        told = (facts["choice"], *facts["notes"], facts["report"])
        found = "\n".join(text for text in told if text)
        self.report.setText(found)
        self.report.setVisible(bool(found))

    def _fail(self, error: Exception) -> None:
        self._show_problem(
            str(error) if isinstance(error, RunFailed) else f"The run failed: {error}"
        )

    def _rest(self) -> None:
        self._running.job = None
        self._live = None
        self._bar = None
        self._set_running(False)
        if self.status.text() in ("Starting …", "Stopping …"):
            self._say("")
        self._ask()

    def _plot(self, residuals: tuple[float, ...]) -> None:
        self._residuals += residuals
        steps = range(1, len(self._residuals) + 1)
        self.plot.set_curves(Curve(steps, self._residuals), x_label="step")

    def _result(self) -> Image:
        """Return the selected result layer, else the newest."""
        active = self._viewer.layers.selection.active
        for layer in (active, *reversed(self._viewer.layers)):
            if layer is not None and METADATA_KEY in layer.metadata:
                return layer
        raise ValueError("There is no result layer yet: restore an image first.")

    def _add_region(self, layer: Image, bounds: tuple[tuple[int, int], ...] | None) -> Shapes:
        """Add a Shapes layer in the world's coordinates, with a rectangle if there are bounds."""
        size = float(np.abs(np.array(layer.scale)[-2:]).min())
        shapes = Shapes(
            ndim=2,
            name=f"{layer.name} region",
            units=layer.units[-2:],
            edge_color="#f0a848",
            face_color="transparent",
            edge_width=size,
        )
        if bounds is not None:
            source = source_of(layer)
            corners = []
            for y, x in ((0, 0), (0, 1), (1, 1), (1, 0)):
                pixel = np.zeros(layer.ndim)
                pixel[source.axes.index("Y")] = bounds[0][y] - 0.5
                pixel[source.axes.index("X")] = bounds[1][x] - 0.5
                corners.append(layer.data_to_world(pixel)[-2:])
            shapes.add(np.array(corners), shape_type="polygon", edge_width=size)
        shapes.current_edge_width = size
        self._viewer.add_layer(shapes)
        return shapes

    def _shown_plane(self, source: Source, layer: Image) -> tuple[int, ...]:
        point = layer.world_to_data(self._viewer.dims.point[-layer.ndim :])
        return tuple(
            int(np.clip(np.rint(point[position]), 0, source.data.shape[position] - 1))
            for position, axis in enumerate(source.axes)
            if axis in looped_axes(source.axes)
        )

    def _show_plane(self, layer: Image, plane: tuple[int, ...]) -> None:
        axes = source_of(layer).axes
        looped = [position for position, axis in enumerate(axes) if axis in looped_axes(axes)]
        pixel = np.zeros(layer.ndim)
        pixel[looped] = plane
        world = layer.data_to_world(pixel)
        for position in looped:
            self._viewer.dims.set_point(position - layer.ndim, world[position])

    @staticmethod
    def _loops(source: Source) -> bool:
        looped = looped_axes(source.axes)
        lengths = zip(source.axes, source.window, strict=True)
        return any(axis in looped and stop - start > 1 for axis, (start, stop) in lengths)

    def _fill_from_layer(self) -> None:
        """Take the optics from the layer; those of another layer would be wrong."""
        self._optics.fill(self.image.layer)
        self._note_optics()

    def _note_optics(self) -> None:
        """Say which optics count, which need not be typed."""
        note = ""
        with suppress(ValueError):
            optics = self.known["optics"].config()
            if optics is not None:
                note = f"NA {optics.numerical_aperture:g}, {optics.wavelength:g} nm"
        self._sections["optics"].set_note(note)

    def _changed(self) -> None:
        """Something in the form has changed, or a layer that it names."""
        self._note_optics()
        region = self.region.layer
        if self._watched is not region:
            if self._watched is not None:
                self._watched.events.data.disconnect(self._ask)
            if region is not None:
                region.events.data.connect(self._ask)
            self._watched = region
        self._ask()

    def _ask(self, event: object = None) -> None:
        """Have the cost estimated; what is wrong already is said at once."""
        if self._running.job is not None:
            return
        try:
            layer = self.image.layer
            settings = self.settings()
            source = None if layer is None else source_of(layer, axes=settings.axes)
            self._planes_row.setVisible(source is not None and self._loops(source))
            if source is None:
                self.estimate.setText("Open an image, or one of File ▸ Open Sample.")
                self.estimate.setStyleSheet("")
                self._appraiser.ask(None, settings)
                return
            source, settings, kernel = self._request()
        except (ValueError, TypeError) as error:
            self.estimate.setText(str(error))
            self.estimate.setStyleSheet(_PROBLEM_STYLE)
            return
        self._appraiser.ask(source, settings, known_kernel=kernel is not None)

    def _show_appraisal(self, appraisal: Appraisal) -> None:
        self.basic.editors["device"].describe(appraisal.devices)  # type: ignore[union-attr]
        if appraisal.problem or appraisal.cost:
            text = appraisal.problem or appraisal.cost[:1].upper() + appraisal.cost[1:]
            self.estimate.setText(text)
            self.estimate.setStyleSheet(_PROBLEM_STYLE if appraisal.problem else "")

    def _fill_from_preset(self) -> None:
        preset = self.basic.editors["preset"].value()
        resolved = Settings(preset=preset).resolve()  # type: ignore[arg-type]
        self.advanced.editors["iterations"].set_value(None)  # type: ignore[arg-type]
        for name, form in self.configs.items():
            form.set_values(getattr(resolved, name), but=OF_THE_MODEL)

    def _set_running(self, running: bool) -> None:
        self._form.setEnabled(not running)
        self.load.setEnabled(not running)
        self.restore_button.setEnabled(not running)
        self.stop_button.setEnabled(running)

    def _say(self, text: str, *, problem: bool = False) -> None:
        self.status.setText(text)
        self.status.setStyleSheet(_PROBLEM_STYLE if problem else "")

    def _show_problem(self, sentence: str) -> None:
        self._say(sentence, problem=True)
        show_error(sentence)

    def _connect(self) -> None:
        self.restore_button.clicked.connect(self.restore)
        self.stop_button.clicked.connect(self.stop)
        self.load.clicked.connect(self.load_settings)
        self.copy.clicked.connect(self.copy_snippet)
        self.draw.clicked.connect(self.draw_region)
        self.basic.editors["preset"].edited.connect(self._fill_from_preset)
        self.image.edited.connect(self._fill_from_layer)
        forms = (self.basic, self.advanced, *self.known.values(), *self.configs.values())
        choices = (self.image, self.region, self.planes, self.kernel)
        parts: tuple[LayerCombo | Choice | Form, ...] = (*choices, *forms)
        for part in parts:
            part.edited.connect(self._changed)
        self._appraiser.found.connect(self._show_appraisal)
        # Not a method of this widget, which is gone by then.
        self.destroyed.connect(self._running.stop)

    def _arrange(self) -> None:
        region = QWidget()
        beside = QHBoxLayout(region)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.addWidget(self.region, 1)
        beside.addWidget(self.draw)
        choice = QWidget()
        rows = form_layout(choice)
        add_row(rows, "Image", self.image)
        add_row(rows, "Region", region)
        self._planes_row = QWidget()
        plane_rows = form_layout(self._planes_row)
        add_row(plane_rows, "Planes", self.planes)
        known = QWidget()
        add_row(form_layout(known), "Known PSF", self.kernel)

        more = _Section("Advanced", known, self.advanced)
        for name, (title, _) in CONFIGS.items():
            more.addWidget(_Section(title, self.configs[name]))
        actions = QWidget()
        pair = QHBoxLayout(actions)
        pair.setContentsMargins(0, 0, 0, 0)
        pair.addWidget(self.load)
        pair.addWidget(self.copy)

        self._form = QWidget()
        top = QVBoxLayout(self._form)
        top.setContentsMargins(0, 0, 0, 0)
        top.setSpacing(6)
        self._sections = {
            name: _Section(title, self.known[name]) for name, (title, _) in KNOWN.items()
        }
        for part in (choice, self._planes_row, self.basic, *self._sections.values(), more):
            top.addWidget(part)
        top.addStretch()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(self._form)
        scroll.setMinimumHeight(160)

        buttons = QWidget()
        pair = QHBoxLayout(buttons)
        pair.setContentsMargins(0, 0, 0, 0)
        pair.addWidget(self.restore_button, 2)
        pair.addWidget(self.stop_button, 1)
        self.stop_button.setEnabled(False)
        self.report.hide()
        for label in (self.estimate, self.status, self.report):
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(8)
        layout.addWidget(scroll, 1)
        for part in (self.estimate, buttons, self.status, self.report, self.plot, actions):
            layout.addWidget(part)


class _Running:
    """The job under way; outlives the widget, so that it can be stopped when that goes."""

    job: Job | None = None

    def stop(self, _: Any = None) -> None:
        if self.job is not None:
            self.job.stop()


class _Section(QCollapsible):
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
