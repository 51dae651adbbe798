"""The result of a run while it grows: each plane goes where it belongs as soon as it is done."""

import math
import shutil
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_dkp._napari.progress import Watch
from napari_dkp._napari.source import Source
from napari_dkp.layout import Index, Layout
from napari_dkp.report import Report
from napari_dkp.state import Restoration, State, Stop

if TYPE_CHECKING:
    from napari_dkp.stack import Run

# Share of the free memory above which a result goes to a file.
_SHARE_OF_MEMORY = 0.5
_ON_DISK = (
    "The result would fill the memory: it lies in a temporary file, which goes with its layer. "
    "Save the layer to keep it."
)


class Growth:
    """What states of a run leave behind, in one array that is there from the first one on.

    Parameters
    ----------
    source : of the run.
    run : that does not keep its planes.
    watch : of the run.

    Attributes
    ----------
    layout : of the source.
    image : the restored planes as napari draws them; others are empty: not a number, which napari
        draws transparent, or zero where colours are integers.
    """

    def __init__(self, source: Source, run: "Run", watch: Watch, *, known_kernel: bool) -> None:
        self._source = source
        self._run = run
        self._watch = watch
        self._known_kernel = known_kernel
        self._scales = run.settings.scales(len(source.spatial))
        self._notes: list[str] = []
        self.layout = Layout(source.axes, source.shape, source.spatial)
        self.image = self._canvas()
        self._kernel: np.ndarray | None = None
        self._waits = np.ones(self.layout.looped_shape, bool)
        self._maps: dict[str, np.ndarray] = {}
        self._reports: dict[Index, Report | None] = {}
        self._latest: State[np.ndarray] | None = None
        self._history: list[float] = []
        self._search_history: list[float] = []

    def take(self, state: State[np.ndarray]) -> bool:
        """Note a state, and keep its plane if that is done; return whether it is a further step."""
        further = self._latest is None or state.step != self._latest.step
        if further:
            history = self._search_history if state.searching else self._history
            history.append(state.residual)
        self._latest = state
        if state.done:
            self.draw(state)
            self._waits[state.plane] = False
            self._reports[state.plane] = self._without_maps(state)
        return further

    def draw(self, state: State[np.ndarray]) -> None:
        """Show what a plane has come to; planes that wait show its kernel, but no image."""
        if self._kernel is None:
            shape = (*self.layout.looped_shape, *state.kernel.shape)
            self._kernel = np.zeros(shape, np.float32)
        self._kernel[self._waits] = state.kernel
        self._kernel[state.plane] = state.kernel
        alpha = self._source.alpha(state.plane)
        image = self._source.displayed(state.image, alpha, self._scales)
        self.image[self._source.index(state.plane)] = image

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than planned."""
        return (*self._notes, *self._run.notes)

    def conclude(self) -> None:
        """Take up what planes at work have come to when the run ends before them."""
        if self._latest is None or self._latest.stop is not Stop.RUNNING:
            return
        if not self._latest.done:
            self.draw(self._latest)
        for state in self._run.unfinished():
            if self._waits[state.plane]:
                self.draw(state)

    def restoration(self) -> Restoration:
        """Return the result as far as it has come; its arrays go on growing.

        Raises
        ------
        ValueError
            If nothing has been drawn yet.
        """
        run, latest, kernel = self._run, self._latest, self._kernel
        if latest is None or kernel is None:
            raise ValueError("restoration: expected a run of at least one step")
        return Restoration(
            image=self.image,
            kernel=kernel,
            settings=run.settings,
            seed=run.settings.seed,
            device=str(run.device),
            seconds=self._watch.elapsed,
            stop=Stop.CANCELLED if latest.stop is Stop.RUNNING else latest.stop,
            history=tuple(self._history or self._search_history),
            steps=latest.step,
            known_kernel=self._known_kernel,
            choice=run.choice,
            notes=self.notes,
            reports=tuple(self._reports.get(index) for index in self.layout.planes),
            residual=self._maps.get("residual"),
            uncertainty=self._maps.get("uncertainty"),
        )

    def _canvas(self) -> np.ndarray:
        shape = self._fine(self._source.shape)
        dtype = np.dtype(np.float32)
        if self._source.rgb:
            shape = (*shape[:-1], int(self._source.data.shape[-1]))
            if self._source.data.dtype.kind in "iu":
                dtype = np.dtype(self._source.data.dtype)
        size = math.prod(shape) * dtype.itemsize
        if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
            canvas = np.empty(shape, dtype)
        elif size < shutil.disk_usage(tempfile.gettempdir()).free:
            with tempfile.TemporaryFile(prefix="napari-dkp-") as file:
                canvas = np.memmap(file, dtype, shape=shape)
            self._notes.append(_ON_DISK)
        else:
            raise MemoryError("neither memory nor disk has room for the result")
        canvas.fill(np.nan if dtype.kind == "f" else 0)
        return canvas

    def _fine(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        factors = dict(zip(self._source.spatial, self._scales, strict=True))
        pairs = zip(shape, self._source.axes, strict=True)
        return tuple(n * factors.get(axis, 1) for n, axis in pairs)

    def _without_maps(self, state: State[np.ndarray]) -> Report | None:
        """Put the images of a report where they belong; return the rest."""
        report = state.report
        if report is None:
            return None
        shapes = {"residual": self._source.shape, "uncertainty": self._fine(self._source.shape)}
        for name, shape in shapes.items():
            values: Any = getattr(report, name)
            if values is None:
                continue
            if name not in self._maps:
                self._maps[name] = np.full(shape, np.nan, np.float32)
            self._maps[name][self._source.index(state.plane)] = values
        return replace(report, residual=None, uncertainty=None)
