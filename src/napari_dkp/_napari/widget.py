"""The widget that restores a layer."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Layer, Shapes
from napari.settings import get_settings
from napari.utils import progress
from qtpy.QtWidgets import QApplication, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_dkp._napari.appraiser import Appraisal, Appraiser, duration
from napari_dkp._napari.form import MARGIN, add_row, form_layout, scrolling
from napari_dkp._napari.in_file import check_out
from napari_dkp._napari.job import Begun, Drawing, Ended, Happening, Job, Paused
from napari_dkp._napari.layer_combo import LayerCombo
from napari_dkp._napari.layers import METADATA_KEY, settings_from_layer, snippet
from napari_dkp._napari.lazy_job import LazyJob
from napari_dkp._napari.live import LiveLayers
from napari_dkp._napari.misfit_panel import MisfitPanel
from napari_dkp._napari.planes_choice import PlanesChoice
from napari_dkp._napari.region import add_region
from napari_dkp._napari.result_choice import ResultChoice
from napari_dkp._napari.run_widget import RunWidget
from napari_dkp._napari.settings_form import SettingsForm
from napari_dkp._napari.shown import show_plane, shown_plane
from napari_dkp._napari.source import Source, kernel_array, layer_axes, settings_for, source_of
from napari_dkp.config import Settings
from napari_dkp.layout import looped_axes
from napari_dkp.state import Stop

if TYPE_CHECKING:
    from napari.viewer import Viewer


class RestoreWidget(RunWidget):
    """Choose a layer, press Restore, watch, stop when satisfied."""

    panel: MisfitPanel

    def __init__(self, napari_viewer: "Viewer", parent: QWidget | None = None) -> None:
        super().__init__(MisfitPanel(), parent)
        self._viewer = napari_viewer
        self._live: LiveLayers | None = None
        self._bar: progress | None = None
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
        self.planes = PlanesChoice()
        self.result = ResultChoice()
        self.kernel = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Image), "Estimate it", optional=True
        )
        self.kernel.setToolTip(
            "A measured point spread function, if you have one: a layer in restored pixels."
        )
        self.form = SettingsForm(self.kernel)
        self.load = QPushButton("Load settings")
        self.load.setToolTip("Take over the settings of the selected result layer.")
        self.copy = QPushButton("Copy as Python")
        self.copy.setToolTip("Copy code for napari's console that repeats the selected result.")
        self._appraiser = Appraiser(self)
        self._arrange()
        self._connect()
        self.image.choose(napari_viewer.layers.selection.active)
        self.form.fill_from(self.image.layer)
        self._ask()

    def restore(self) -> None:
        """Start a run; what stands in its way is said, and changes nothing."""
        job: Job | LazyJob
        try:
            source, settings, kernel, out = self._request()
            if self.result.lazy:
                job = LazyJob(source, settings, kernel, self._shown(source))
            else:
                job = Job(source, settings, kernel, out)
        except (ValueError, TypeError) as error:
            self._show_problem(str(error))
            return
        bar = progress(total=0, desc=f"Restoring {job.name}")
        if not self._begin(
            job,
            yielded=self._watch,
            returned=self._keep,
            finished=[bar.close, self._rest],
        ):
            bar.close()
            return
        self._bar = bar
        self._live = None
        self.panel.clear()
        self._set_running(True)
        self.panel.say("Finding the kernel …" if self.result.lazy else "Starting …")

    def load_settings(self) -> None:
        """Take over the settings of a result layer, its source, region and planes too."""
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
        self.form.set_settings(settings)
        if isinstance(source, Image):
            axes = self.form.advanced.editors["axes"]
            with suppress(ValueError):
                if layer_axes(source) == axes.value():
                    # Left open, so that the form also fits the next image.
                    axes.set_value(None)  # type: ignore[arg-type]
            self.region.choose(None)
            if facts["region"] is not None:
                self.region.choose(add_region(self._viewer, source, facts["region"]))
            self._ask()  # which offers the planes of this source
            plane, ranges = facts["plane"], facts.get("ranges")
            self.planes.set_value("shown" if plane else "range" if ranges else "all", ranges)
            if plane:
                axes_ = source_of(source).axes
                looped = looped_axes(axes_, settings.spatial)
                show_plane(self._viewer, source, axes_, looped, plane)
        self.kernel.choose(None)
        psf = "" if facts["kernel"] is None else " It had a known PSF: choose it under Advanced."
        self.panel.say(f"Settings of {layer.name!r} loaded.{psf}")

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
        self.panel.say(f"Python that repeats {layer.name!r} is on the clipboard.")

    def draw_region(self) -> None:
        """Add a Shapes layer and let the user draw a rectangle in it."""
        layer = self.image.layer
        if layer is None:
            self._show_problem("Open an image first.")
            return
        shapes = add_region(self._viewer, layer)
        shapes.mode = "add_rectangle"
        self.region.choose(shapes)

    def _request(self) -> tuple[Source, Settings, np.ndarray | None, Path | None]:
        """Return what the form asks for, checked as far as it can be without reading the image."""
        layer = self.image.layer
        if layer is None:
            raise ValueError("Open an image first.")
        settings = self.form.settings()
        axes = source_of(layer, axes=settings.axes).axes
        every = looped_axes(axes)
        shown = dict(zip(every, shown_plane(self._viewer, layer, axes, every), strict=True))
        source = source_of(
            layer,
            region=self.region.layer,
            axes=axes,
            volume=settings.volume,
            **self.planes.chosen(shown, looped_axes(axes, settings.spatial)),
        )
        settings = settings_for(source, settings)
        psf = self.kernel.layer
        kernel = None if psf is None else kernel_array(psf, source, settings)
        out = self.result.value()
        if out is not None:
            check_out(out, source, settings)
        if self.result.lazy and not get_settings().experimental.async_:
            raise ValueError(
                "To compute as you look without napari standing still meanwhile, tick "
                "File ▸ Preferences ▸ Experimental ▸ Render Layers Asynchronously first."
            )
        return source, settings, kernel, out

    def _shown(self, source: Source) -> list[int]:
        """Return the plane on screen, counted from where the part to restore begins."""
        layer = self.image.layer
        assert layer is not None
        plane = shown_plane(self._viewer, layer, source.axes, source.looped)
        bounds = [source.window[source.axes.index(axis)] for axis in source.looped]
        pairs = zip(plane, bounds, strict=True)
        return [min(max(n, first), stop - 1) - first for n, (first, stop) in pairs]

    def _watch(self, event: Happening) -> None:
        job = self._running.job
        if not isinstance(job, Job) or event is None:
            return
        if isinstance(event, Begun):
            self._live = LiveLayers(self._viewer, event)
            if self._bar is not None:
                self._bar.total = event.n_steps
        elif isinstance(event, Paused):
            self.panel.say(f"Paused. {event.progress}.")
        elif self._live is not None and self._live.gone:
            job.leave()
        else:
            self._draw(job, event)

    def _draw(self, job: Job, drawing: Drawing) -> None:
        assert self._live is not None
        self._live.draw(drawing.step)
        self.panel.add_residuals(drawing.residuals)
        self.panel.tell(*drawing.notes)
        if not job.is_ending and not job.is_paused:
            self.panel.say(drawing.progress)
        shown = self._live.shown
        if self._bar is not None:
            self._bar.total = drawing.n_steps
            # Last, since napari handles events while it draws the bar, the end of the run too.
            self._bar.update(drawing.step - self._bar.n)
        job.drawn(shown)

    def _keep(self, ended: Ended | None) -> None:
        if self._live is not None and self._live.gone:
            later = "" if ended is not None else " With the same settings and file it goes on."
            self.panel.say(f"The run was stopped, since its layers were removed.{later}")
            return
        if ended is None:
            self.panel.say("The run was stopped before there was a result.")
            return
        facts = ended.layers[0][1]["metadata"][METADATA_KEY]
        if self._live is None:
            for entry in reversed(ended.layers):
                self._viewer.add_layer(Layer.create(*entry))
            self.panel.say("The kernel is found. Planes are computed as you look at them.")
            self.panel.tell(*facts["notes"])
            return
        self._live.finish(ended.layers)
        self.panel.add_residuals(ended.residuals)
        took = f"{facts['steps']} steps, {duration(facts['seconds']).removeprefix('about ')}."
        where = "" if ended.out is None else f" It lies in {ended.out}."
        self.panel.say(f"{Stop[facts['stop']].sentence} {took}{where}")
        self.result.go_on()
        self.panel.tell(facts["choice"], *facts["notes"], facts["report"])

    def _rest(self) -> None:
        self._running.job = None
        self._live = None
        self._bar = None
        self._set_running(False)
        if self.panel.status.text().endswith(" …"):
            self.panel.say("")
        self._ask()

    def _result(self) -> Image:
        """Return the selected result layer, else the newest."""
        active = self._viewer.layers.selection.active
        for layer in (active, *reversed(self._viewer.layers)):
            if layer is not None and METADATA_KEY in layer.metadata:
                return layer
        raise ValueError("There is no result layer yet: restore an image first.")

    def _fill_from_layer(self) -> None:
        self.form.fill_from(self.image.layer)

    def _changed(self) -> None:
        """Something in the form has changed, or a layer that it names."""
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
            self._offer()
            layer = self.image.layer
            if layer is None:
                self.panel.say_cost("Open an image, or one of File ▸ Open Sample.")
                self._appraiser.ask(None, self.form.settings())
                return
            source, settings, kernel, _ = self._request()
        except (ValueError, TypeError) as error:
            self.panel.say_cost(str(error), problem=True)
            return
        self._appraiser.ask(source, settings, known_kernel=kernel is not None)

    def _offer(self) -> None:
        """Ask only for what the image has: planes, or the axis of a volume."""
        layer = self.image.layer
        lengths: dict[str, int] = {}
        try:
            if layer is not None:
                source = source_of(layer, axes=self.form.advanced.editors["axes"].value())  # type: ignore[arg-type]
                lengths = {axis: source.length(axis) for axis in source.looped}
        finally:
            self.planes.offer(lengths)
            self.form.volume.offer(lengths.get("Z", 1) > 1)

    def _show_appraisal(self, appraisal: Appraisal) -> None:
        self.form.basic.editors["device"].describe(appraisal.devices)  # type: ignore[union-attr]
        if appraisal.problem or appraisal.cost:
            text = appraisal.problem or appraisal.cost[:1].upper() + appraisal.cost[1:]
            self.panel.say_cost(text, problem=bool(appraisal.problem))

    def _set_running(self, running: bool) -> None:
        self._above.setEnabled(not running)
        self.load.setEnabled(not running)
        self.panel.show_running(running)

    def _connect(self) -> None:
        self.panel.restore.clicked.connect(self.restore)
        self.load.clicked.connect(self.load_settings)
        self.copy.clicked.connect(self.copy_snippet)
        self.draw.clicked.connect(self.draw_region)
        self.image.edited.connect(self._fill_from_layer)
        parts: tuple[LayerCombo | PlanesChoice | ResultChoice | SettingsForm, ...]
        parts = (self.image, self.region, self.planes, self.result, self.kernel, self.form)
        for part in parts:
            part.edited.connect(self._changed)
        self._appraiser.found.connect(self._show_appraisal)

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
        actions = QWidget()
        pair = QHBoxLayout(actions)
        pair.setContentsMargins(0, 0, 0, 0)
        pair.addWidget(self.load)
        pair.addWidget(self.copy)

        self._above = QWidget()
        top = QVBoxLayout(self._above)
        top.setContentsMargins(0, 0, 0, 0)
        top.setSpacing(6)
        for part in (choice, self.planes, self.result, self.form):
            top.addWidget(part)
        top.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(8)
        layout.addWidget(scrolling(self._above), 1)
        layout.addWidget(self.panel)
        layout.addWidget(actions)
