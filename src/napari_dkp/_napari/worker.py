"""A run in a thread of its own: states on the way, layers at the end, one sentence if it fails."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from superqt.utils import GeneratorWorker

from napari_dkp._napari.layers import LayerData, result_layers
from napari_dkp._napari.source import Source
from napari_dkp.config import Settings
from napari_dkp.device import is_out_of_memory

INTERVAL = 0.25
"""Seconds between two states that are handed to the viewer, at least."""

BUSY = "A restoration is running already. Stop it, or wait until it is done."

Slot = Callable[..., Any]

_log = logging.getLogger(__name__)


class RunFailed(Exception):
    """Why a run ended without a result, in one sentence.

    No RuntimeError: superqt's generator workers swallow those, and never report an end.
    """


class Busy(Exception):
    """Another run is under way; one at a time has the device."""


@dataclass(frozen=True, eq=False)
class Begun:
    """The first state is there: both layers, ready to be added."""

    source: Source
    layers: list[LayerData]
    n_steps: int
    n_planes: int


@dataclass(frozen=True, eq=False)
class Drawing:
    """A state to draw, and the residuals of the steps since the last one, but for the search's.

    Besides how many planes are done, and the latest note on how the run goes on.
    """

    step: int
    n_steps: int
    image: np.ndarray
    kernel: np.ndarray
    plane: tuple[int, ...]
    searching: bool
    residuals: tuple[float, ...]
    n_done: int
    note: str


@dataclass(frozen=True, eq=False)
class Ended:
    """The result, complete or as far as it came, and the residuals since the last drawing."""

    layers: list[LayerData]
    residuals: tuple[float, ...]


class Job:
    """One run, watched from the thread of the viewer and done in another.

    Parameters
    ----------
    source : what to restore; read in the worker's thread.
    settings : of the run, with axes.
    kernel : known point spread function, or None.
    """

    def __init__(self, source: Source, settings: Settings, kernel: np.ndarray | None) -> None:
        self.name = source.name
        self._device = settings.device
        self._stop = Event()
        self._drawn = Event()
        self._drawn.set()
        # What is large lives in this generator alone: napari keeps every worker it ever had.
        self._steps = self._work(source, settings, kernel)

    def stop(self) -> None:
        """End the run after its present step; what it has reached is its result."""
        self._stop.set()

    def drawn(self) -> None:
        """Say that the last state is on screen: until then no other one is sent."""
        self._drawn.set()

    def events(self) -> Generator[Begun | Drawing | None, None, Ended]:
        """Yield what there is to show, None where there is nothing, and return the result.

        Raises
        ------
        RunFailed
            Whatever went wrong, as a sentence.
        """
        try:
            return (yield from self._steps)
        except Exception as error:
            failure = RunFailed(explain(error, self._device))
            # A traceback would keep the run's tensors alive.
            traceback.clear_frames(error.__traceback__)
        raise failure

    def release(self) -> None:
        """Free what an interrupted run still holds; only once its thread is done."""
        self._steps.close()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch is not None and torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def _work(
        self, source: Source, settings: Settings, kernel: np.ndarray | None
    ) -> Generator[Begun | Drawing | None, None, Ended]:
        from napari_dkp.stack import Run

        pixels = source.read()
        alpha = source.alpha(pixels)
        run = Run(source.colours(pixels), settings, kernel)
        scales = run.settings.scales(2)
        residuals: list[float] = []
        step = n_done = 0
        note = ""
        sent = 0.0
        with closing(iter(run)) as states:
            for state in states:
                if not state.searching and state.step != step:
                    residuals.append(state.residual)
                step = state.step
                n_done += state.done
                note = state.note or note
                if sent == 0.0:
                    layers = _own(result_layers(source, run.result(), alpha=alpha))
                    yield Begun(source, layers, run.n_steps, run.n_planes)
                if time.monotonic() - sent >= INTERVAL:
                    sent = time.monotonic()
                    if self._drawn.is_set():
                        self._drawn.clear()
                        plane_alpha = None if alpha is None else alpha[source.index(state.plane)]
                        image = source.displayed(state.image, plane_alpha, scales)
                        yield Drawing(
                            step=state.step,
                            n_steps=state.n_steps,
                            image=image,
                            kernel=state.kernel,
                            plane=state.plane,
                            searching=state.searching,
                            residuals=tuple(residuals),
                            n_done=n_done,
                            note=note,
                        )
                        residuals.clear()
                    else:
                        yield None  # the worker looks at its own stop flag at every yield
                if self._stop.is_set():
                    break
        return Ended(result_layers(source, run.result(), alpha=alpha), tuple(residuals))


class _Task(partial[Generator[Begun | Drawing | None, None, Ended]]):
    """Tells napari what is under way; it names its workers' functions when it asks to close."""

    name: str

    def __str__(self) -> str:
        return f"the restoration of {self.name!r}"


_active: Job | None = None


def start(job: Job, *, finished: Sequence[Slot], **connect: Slot) -> None:
    """Run a job in a thread; call from the viewer's.

    Parameters
    ----------
    finished : slots to call in every case once the thread is done and its memory is free.
    **connect : slots for the worker's other signals: `yielded`, `returned`, `errored`.

    Raises
    ------
    Busy
        If another job is under way, in whatever widget or viewer.
    """
    global _active
    if _active is not None:
        raise Busy(BUSY)
    _active = job
    task = _Task(job.events)
    task.name = job.name
    create_worker(
        task,
        _worker_class=GeneratorWorker,  # napari's own would show every error a second time
        _ignore_errors=True,
        _connect={**connect, "finished": [_release, *finished]},
    )


def _release() -> None:
    global _active
    if _active is not None:
        _active.release()
        _active = None


def explain(error: Exception, device: str) -> str:
    """Return one sentence for the user; the traceback of what nobody foresaw goes to the log."""
    text = str(error).strip()
    if is_out_of_memory(error):
        where = "" if device == "auto" else f" on {device}"
        return f"There is not enough memory{where}: choose a smaller region or another device."
    if isinstance(error, ValueError | TypeError):
        return text
    _log.error("A restoration failed", exc_info=error)
    if isinstance(error, ImportError | OSError) and "torch" not in sys.modules:
        return (
            f"PyTorch could not be loaded ({_first_line(text)}). On Windows, start Python, import "
            "torch first and open napari from there."
        )
    return f"The run failed: {_first_line(text) or type(error).__name__}."


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].rstrip(".")


def _own(layers: list[LayerData]) -> list[LayerData]:
    """Copy the arrays, so that states can be drawn into them."""
    return [(np.array(data), options, kind) for data, options, kind in layers]
