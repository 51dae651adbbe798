"""The result of a run while it grows: each plane goes where it belongs as soon as it is done."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dkp._napari.place import Place
from napari_dkp._napari.progress import Watch
from napari_dkp._napari.source import Source
from napari_dkp.layout import Index, Layout
from napari_dkp.report import Report
from napari_dkp.state import Restoration, State, Stop

if TYPE_CHECKING:
    from napari_dkp.streaming import Finished


class Growth:
    """What states of a run leave behind, in one array that is there from the first one on.

    Parameters
    ----------
    source : of the run.
    place : where the result grows.
    watch : of the run.
    known_kernel : whether the run was given its kernel.

    Attributes
    ----------
    layout : of the source.
    """

    def __init__(self, source: Source, place: Place, watch: Watch, *, known_kernel: bool) -> None:
        self._source = source
        self._place = place
        self._run = place.run
        self._watch = watch
        self._known_kernel = known_kernel
        self._scales = place.run.settings.scales(len(source.spatial))
        self.layout = Layout(source.axes, source.shape, source.spatial)
        self._kernel: np.ndarray | None = None
        self._waits = np.ones(self.layout.looped_shape, bool)
        self._reports: dict[Index, Report | None] = {}
        self._latest: State[np.ndarray] | None = None
        self._history: list[float] = []
        self._search_history: list[float] = []
        self._finished: Finished | None = None

    def take(self, state: State[np.ndarray]) -> bool:
        """Note a state, and keep its plane if that is done; return whether it is a further step."""
        further = state.step != (self._latest.step if self._latest else 0)
        if further:
            history = self._search_history if state.searching else self._history
            history.append(state.residual)
        self._latest = state
        if state.done:
            self.draw(state)
            self._waits[state.plane] = False
            self._place.keep(state)
            report = state.report
            # Its images are kept by the place.
            self._reports[state.plane] = report and replace(report, residual=None, uncertainty=None)
        return further

    def draw(self, state: State[np.ndarray]) -> None:
        """Show what a plane has come to; planes that wait show its kernel, but no image."""
        if self._kernel is None:
            shape = (*self.layout.looped_shape, *state.kernel.shape)
            self._kernel = np.zeros(shape, np.float32)
        self._kernel[self._waits] = state.kernel
        self._kernel[state.plane] = state.kernel
        alpha = self._source.alpha(state.plane)
        self._place.draw(state.plane, self._source.displayed(state.image, alpha, self._scales))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than planned."""
        return (*self._place.notes, *self._run.notes)

    def conclude(self) -> None:
        """Take up what planes at work have come to when the run ends before them."""
        latest = self._latest
        complete = latest is None or latest.stop is not Stop.RUNNING
        if latest is not None and not complete:
            if not latest.done:
                self.draw(latest)
            for state in self._run.unfinished():
                if self._waits[state.plane]:
                    self.draw(state)
        self._finished = finished = self._place.finish(complete=complete)
        if finished is not None:
            if self._kernel is None:
                self._kernel = finished.kernels
            self._kernel[...] = finished.kernels

    def restoration(self) -> Restoration:
        """Return the result as far as it has come; its arrays go on growing.

        Raises
        ------
        ValueError
            If nothing has been drawn yet.
        """
        run, latest, kernel = self._run, self._latest, self._kernel
        if kernel is None:
            raise ValueError("restoration: expected a run of at least one step")
        stop = Stop.CANCELLED if latest is None or latest.stop is Stop.RUNNING else latest.stop
        found = Restoration(
            image=self._place.image,
            kernel=kernel,
            settings=run.settings,
            seed=run.settings.seed,
            device=str(run.device),
            seconds=self._watch.elapsed,
            stop=stop,
            history=tuple(self._history or self._search_history),
            steps=0 if latest is None else latest.step,
            known_kernel=self._known_kernel,
            choice=run.choice,
            notes=self.notes,
            reports=tuple(self._reports.get(index) for index in self.layout.planes),
            residual=self._place.maps.get("residual"),
            uncertainty=self._place.maps.get("uncertainty"),
        )
        if self._finished is None:
            return found
        record = self._finished.record  # which knows of planes that were done before
        return replace(
            found,
            settings=record.settings,
            seconds=record.seconds,
            stop=record.stop,
            steps=record.steps,
            choice=record.choice,
            notes=(*self._place.notes, *record.notes),
            reports=record.reports,
        )
