"""A run that can be watched, paused and stopped; what it hands out can be drawn at once."""

import logging
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

import numpy as np

from napari_dkp._napari.growth import Growth
from napari_dkp._napari.layers import LayerData, result_layers
from napari_dkp._napari.progress import Progress, Watch
from napari_dkp._napari.source import Source
from napari_dkp.config import Settings
from napari_dkp.device import is_out_of_memory
from napari_dkp.layout import Index

INTERVAL = 0.25
"""Seconds between two states that are handed to the viewer, at least."""

_log = logging.getLogger(__name__)


class RunFailed(Exception):
    """Why a run ended without a result, in one sentence.

    No RuntimeError: superqt's generator workers swallow those, and never report an end.
    """


@dataclass(frozen=True, eq=False)
class Begun:
    """The first state is there: both layers, ready to be added; their arrays grow with the run."""

    source: Source
    layers: list[LayerData]
    n_steps: int


@dataclass(frozen=True, eq=False)
class Drawing:
    """The layers' arrays have changed.

    Attributes
    ----------
    step, n_steps : of the run.
    progress : how far it is, in words.
    notes : what was done otherwise than planned.
    residuals : of the steps since the last drawing, but for the search's.
    """

    step: int
    n_steps: int
    progress: str
    notes: tuple[str, ...]
    residuals: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Paused:
    """The run waits; how far it is, in words."""

    progress: str


@dataclass(frozen=True, eq=False)
class Ended:
    """The result, complete or as far as it came, and the residuals since the last drawing."""

    layers: list[LayerData]
    residuals: tuple[float, ...]


Happening = Begun | Drawing | Paused | None


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
        self._goes_on = Event()
        self._goes_on.set()
        self._shown: Index | None = None
        # What is large lives in this generator alone: napari keeps every worker it ever had.
        self._steps = self._work(source, settings, kernel)

    @property
    def is_paused(self) -> bool:
        """Whether the run waits, or will after its present step."""
        return not self._goes_on.is_set()

    @property
    def is_ending(self) -> bool:
        """Whether the run ends after its present step."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the run after its present step; what it has reached is its result."""
        self._stop.set()
        self._goes_on.set()

    def pause(self) -> None:
        """Wait after the present step until the run is resumed or stopped."""
        if not self._stop.is_set():
            self._goes_on.clear()

    def resume(self) -> None:
        """Go on."""
        self._goes_on.set()

    def drawn(self, shown: Index | None = None) -> None:
        """Say that the last state is on screen: until then no other one is sent.

        Parameters
        ----------
        shown : the plane that is on screen: others are drawn once they are done; None draws all.
        """
        self._shown = shown
        self._drawn.set()

    def events(self) -> Generator[Happening, None, Ended]:
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
    ) -> Generator[Happening, None, Ended]:
        from napari_dkp.stack import Run

        run = Run(source.pixels(), settings, kernel, keep=False)
        watch = Watch()
        growth = Growth(source, run, watch, known_kernel=kernel is not None)
        layout = growth.layout
        progress = Progress(
            watch,
            len(layout.planes),
            source.length("C") if "C" in source.looped else 1,
            shared=run.settings.share_kernel,
            each="volume" if run.settings.volume else "plane",
        )
        residuals: list[float] = []
        sent: float | None = None
        with closing(iter(run)) as states:
            for state in states:
                further = growth.take(state)
                progress.take(state, layout.channel(state.plane))
                if further and not state.searching:
                    residuals.append(state.residual)
                if sent is None:
                    growth.draw(state)
                    sent = 0.0
                    yield Begun(source, result_layers(source, growth.restoration()), run.n_steps)
                if time.monotonic() - sent >= INTERVAL:
                    sent = time.monotonic()
                    if self._drawn.is_set():
                        self._drawn.clear()
                        if self._shown in (None, state.plane) and not state.done:
                            growth.draw(state)
                        yield Drawing(
                            step=state.step,
                            n_steps=state.n_steps,
                            progress=str(progress),
                            notes=growth.notes,
                            residuals=tuple(residuals),
                        )
                        residuals.clear()
                    else:
                        yield None  # the worker looks at its own stop flag at every yield
                if not self._goes_on.is_set():
                    yield Paused(str(progress))
                    with watch.halted():
                        self._goes_on.wait()
                    yield None  # where napari has closed meanwhile, the worker ends here
                if self._stop.is_set():
                    break
        growth.conclude()
        return Ended(result_layers(source, growth.restoration()), tuple(residuals))


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
