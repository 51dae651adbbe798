"""A run that can be watched, paused and stopped; what it hands out can be drawn at once."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from napari_dkp._napari.growth import Growth
from napari_dkp._napari.layers import LayerData, result_layers
from napari_dkp._napari.place import Place, place_of
from napari_dkp._napari.progress import Progress, Watch
from napari_dkp._napari.source import Source
from napari_dkp._napari.work import Work
from napari_dkp.config import Settings
from napari_dkp.layout import Index
from napari_dkp.state import Stop

INTERVAL = 0.25
"""Seconds between two states that are handed to the viewer, at least."""


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
    """The result, complete or as far as it came.

    Attributes
    ----------
    layers : of the result.
    residuals : since the last drawing.
    out : file that it lies in; None for memory.
    """

    layers: list[LayerData]
    residuals: tuple[float, ...]
    out: Path | None = None


Happening = Begun | Drawing | Paused | None


class Job(Work):
    """One run, watched from the thread of the viewer and done in another.

    Parameters
    ----------
    source : what to restore; read in the worker's thread.
    settings : of the run, with axes.
    kernel : known point spread function, or None.
    out : file for the result; None for memory.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        kernel: np.ndarray | None,
        out: Path | None = None,
    ) -> None:
        self._drawn = Event()
        self._drawn.set()
        self._shown: Index | None = None
        super().__init__(source.name, settings.device, self._work(source, settings, kernel, out))

    def drawn(self, shown: Index | None = None) -> None:
        """Say that the last state is on screen: until then no other one is sent.

        Parameters
        ----------
        shown : the plane that is on screen: others are drawn once they are done; None draws all.
        """
        self._shown = shown
        self._drawn.set()

    def _work(
        self, source: Source, settings: Settings, kernel: np.ndarray | None, out: Path | None
    ) -> Generator[Happening, None, Ended | None]:
        with closing(place_of(source, settings, kernel, out)) as place:
            return (yield from self._grow(source, place, out, known_kernel=kernel is not None))

    def _grow(
        self, source: Source, place: Place, out: Path | None, *, known_kernel: bool
    ) -> Generator[Happening, None, Ended | None]:
        run = place.run
        watch = Watch()
        growth = Growth(source, place, watch, known_kernel=known_kernel)
        layout = growth.layout
        progress = Progress(
            watch,
            len(layout.planes),
            source.length("C") if "C" in source.looped else 1,
            shared=run.settings.share_kernel,
            each="volume" if run.settings.volume else "plane",
            before=place.before,
        )
        residuals: list[float] = []
        sent: float | None = None
        with closing(place.states()) as states:
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
                    if self._left and out is not None and state.stop is Stop.RUNNING:
                        return None
                    break
        growth.conclude()
        if sent is None:  # all was done before
            yield Begun(source, result_layers(source, growth.restoration()), run.n_steps)
        return Ended(result_layers(source, growth.restoration()), tuple(residuals), out)
