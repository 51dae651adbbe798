import time
from typing import ClassVar

import numpy as np
import pytest

from napari_dkp.layout import looped_axes
from napari_dkp.report import Report
from napari_dkp.state import Restoration, State, Stop


class FakeRun:
    """Behaves as `napari_dkp.stack.Run` without its cost: enlarges by repetition.

    Of diagnostics, the residual is the source less 50, the uncertainty a tenth of the image.
    """

    delay = 0.0
    search_steps = 0
    fail_at: int | None = None
    note = ""
    error: BaseException = RuntimeError("broken")
    report = Report(3.5, (3.2, 3.8), 4.0, 3.4, 0.98, -0.02)
    runs: ClassVar[list["FakeRun"]] = []

    def __init__(self, image, settings, kernel=None):
        self.image, self.given = np.asarray(image), kernel
        self.settings = settings.resolve()
        self.device = "cpu"
        self.closed = False
        axes = self.settings.axes
        self.looped = [axes.index(axis) for axis in looped_axes(axes)]
        self.n_planes = int(np.prod([self.image.shape[i] for i in self.looped], dtype=int))
        self.steps_per_plane = self.search_steps + self.settings.iterations
        self.n_steps = self.steps_per_plane * self.n_planes
        self.done = 0
        sizes = self.settings.kernel_sizes(2)
        values = np.exp(-(((np.indices(sizes) - sizes[0] // 2) / 2.0) ** 2).sum(0))
        self.kernel = (values / values.sum() if kernel is None else kernel).astype(np.float32)
        enlarged = self.image.astype(np.float32)
        for axis, factor in zip("YX", self.settings.scales(2), strict=True):
            enlarged = enlarged.repeat(factor, axes.index(axis))
        self.enlarged = enlarged
        type(self).runs.append(self)

    def __iter__(self):
        planes = self.planes()
        try:
            for step in range(1, self.n_steps + 1):
                time.sleep(self.delay)
                if step == self.fail_at:
                    raise self.error
                plane = planes[(step - 1) // self.steps_per_plane]
                self.done = step
                stop = Stop.COMPLETED if step == self.n_steps else Stop.RUNNING
                yield State(
                    step=step,
                    n_steps=self.n_steps,
                    image=self.enlarged[self.where(plane)],
                    kernel=self.kernel,
                    loss=1 / step,
                    residual=1 / step,
                    stop=stop,
                    plane=plane,
                    searching=(step - 1) % self.steps_per_plane < self.search_steps,
                    done=step % self.steps_per_plane == 0,
                    note=self.note if step == 1 else "",
                )
        finally:
            self.closed = True

    def planes(self):
        return list(np.ndindex(*[self.image.shape[i] for i in self.looped]))

    def where(self, plane):
        index = [slice(None)] * self.image.ndim
        for position, number in zip(self.looped, plane, strict=True):
            index[position] = number
        return tuple(index)

    def result(self):
        looped = [self.image.shape[i] for i in self.looped]
        n_done = self.done // self.steps_per_plane
        residual = uncertainty = None
        if self.settings.diagnostics and n_done:
            residual, uncertainty = self.image.astype(np.float32) - 50, self.enlarged / 10
            for plane in self.planes()[n_done:]:
                residual[self.where(plane)] = uncertainty[self.where(plane)] = np.nan
        return Restoration(
            image=self.enlarged,
            kernel=np.broadcast_to(self.kernel, (*looped, *self.kernel.shape)),
            settings=self.settings,
            seed=self.settings.seed,
            device="cpu",
            seconds=0.5,
            stop=Stop.COMPLETED if self.done == self.n_steps else Stop.CANCELLED,
            history=tuple(1 / step for step in range(1, self.done + 1)),
            steps=self.done,
            known_kernel=self.given is not None,
            notes=(self.note,) if self.note else (),
            reports=tuple(self.report if i < n_done else None for i in range(self.n_planes)),
            residual=residual,
            uncertainty=uncertainty,
        )


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
    widget.advanced.editors["iterations"].set_value(5)
    return viewer, widget
