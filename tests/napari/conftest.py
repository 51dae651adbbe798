import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from napari_dkp.layout import Layout
from napari_dkp.report import Report
from napari_dkp.state import State, Stop


class FakeRun:
    """Behaves as `napari_dkp.stack.Run` without its cost: enlarges by repetition.

    Of diagnostics, the residual is the source less 50, the uncertainty a tenth of the image.
    """

    delay = 0.0
    search_steps = 0
    fail_at: int | None = None
    note = ""
    together = 1
    counts_photons = True
    error: BaseException = RuntimeError("broken")
    report = Report(3.5, (3.2, 3.8), 4.0, 3.4, 0.98, -0.02)
    runs: ClassVar[list["FakeRun"]] = []

    def __init__(self, image, settings, kernel=None, *, keep=True):
        assert not keep, "planes are kept in the layer alone"
        self.image, self.given = np.asarray(image), kernel
        self.settings = settings.resolve()
        self.device, self.choice, self.notes = "cpu", "", []
        self.closed = False
        self.layout = Layout.of(self.image, self.settings.axes, self.settings.spatial)
        self.blocks = [
            self.layout.planes[i : i + self.together]
            for i in range(0, len(self.layout.planes), self.together)
        ]
        self.own_steps = self.search_steps + self.settings.iterations
        self.n_steps = self.own_steps * len(self.blocks)
        self.done = 0
        ndim = len(self.settings.spatial)
        sizes = self.settings.kernel_sizes(ndim)
        centre = np.reshape(sizes, (-1,) + (1,) * ndim) // 2
        values = np.exp(-(((np.indices(sizes) - centre) / 2.0) ** 2).sum(0))
        self.kernel = (values / values.sum() if kernel is None else kernel).astype(np.float32)
        enlarged = self.image.astype(np.float32)
        for axis, factor in zip(self.settings.spatial, self.settings.scales(ndim), strict=True):
            enlarged = enlarged.repeat(factor, self.settings.axes.index(axis))
        self.enlarged = enlarged
        type(self).runs.append(self)

    def __iter__(self):
        try:
            for block in self.blocks:
                yield from self.restored(block)
        finally:
            self.closed = True

    def restored(self, block):
        self.at_work = block
        for own in range(1, self.own_steps + 1):
            time.sleep(self.delay)
            if self.done + 1 == self.fail_at:
                raise self.error
            self.done += 1
            if self.note and self.done == 1:
                self.notes.append(self.note)
            last = own == self.own_steps
            for plane in block if last else block[:1]:
                yield self.state(plane, own, done=last)

    def state(self, plane, own, *, done=False):
        complete = done and plane == self.layout.planes[-1]
        return State(
            step=self.done,
            n_steps=self.n_steps,
            image=self.enlarged[self.layout.where(plane)],
            kernel=self.kernel,
            loss=1 / self.done,
            residual=1 / self.done,
            stop=Stop.COMPLETED if complete else Stop.RUNNING,
            plane=plane,
            searching=own <= self.search_steps,
            report=self.reported(plane) if done else None,
            done=done,
            note=self.note if self.done == 1 else "",
            own_step=own,
            own_steps=self.own_steps,
            together=len(self.at_work),
        )

    def reported(self, plane):
        if not self.settings.diagnostics:
            return self.report
        where = self.layout.where(plane)
        residual = self.image[where].astype(np.float32) - 50
        uncertainty = self.enlarged[where] / 10 if self.counts_photons else None
        return replace(self.report, residual=residual, uncertainty=uncertainty)

    def unfinished(self):
        return (self.state(plane, self.done % self.own_steps) for plane in self.at_work)


@pytest.fixture
def fake_run(monkeypatch):
    """Put a fresh `FakeRun` in place of the real one; set its class attributes to steer it."""

    class Fake(FakeRun):
        runs: ClassVar[list[FakeRun]] = []

    monkeypatch.setattr("napari_dkp.stack.Run", Fake)
    return Fake


@pytest.fixture
def idle(qtbot):
    """Wait until no run is under way, also at the end of the test."""
    from superqt.utils import WorkerBase

    from napari_dkp._napari import worker

    def wait():
        qtbot.waitUntil(lambda: worker._active is None, timeout=20_000)

    yield wait
    wait()
    WorkerBase.await_workers(20_000)
    qtbot.wait(20)  # for their last signals


@pytest.fixture
def no_appraisal(monkeypatch):
    """Answer every question about costs at once."""
    from napari_dkp._napari import appraiser

    answer = appraiser.Appraisal({"auto": "Automatic", "cpu": "CPU"}, cost="about 1 s")
    monkeypatch.setattr(appraiser, "appraise", lambda *question: answer)


@pytest.fixture
def restorer(make_napari_viewer, fake_run, idle, no_appraisal):
    """Return a viewer with one image, and the restore widget docked in it."""
    from napari_dkp._napari.widget import RestoreWidget

    viewer = make_napari_viewer()
    values = np.random.default_rng(0).integers(0, 200, (24, 30)).astype(np.uint16)
    viewer.add_image(values, name="cells", scale=(0.5, 0.5), units=("um", "um"))
    widget = RestoreWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Restore")
    widget.form.advanced.editors["iterations"].set_value(5)
    return viewer, widget
