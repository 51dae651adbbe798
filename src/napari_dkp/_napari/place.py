"""Where the result of a run grows: in memory, unless a file is named for it."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil

from napari_dkp._napari.source import Source
from napari_dkp.config import Settings
from napari_dkp.layout import Index

if TYPE_CHECKING:
    from napari_dkp.stack import Run, States
    from napari_dkp.state import State
    from napari_dkp.streaming import Finished

# Share of the free memory above which a result goes to a file.
_SHARE_OF_MEMORY = 0.5
_ON_DISK = (
    "The result would fill the memory: it lies in a temporary file, which goes with its layer. "
    "Save the layer to keep it, or name a file before the next run."
)


class Place(Protocol):
    """Holds what a run restores, for the viewer to look at while it grows.

    Attributes
    ----------
    run : that does not keep its planes.
    image : restored planes as napari draws them; others are empty: not a number, which napari draws
        transparent, or zero where colours are integers.
    maps : "residual" and "uncertainty", axes as in the source, where there are any.
    notes : what there is to know of the place.
    before : planes, or volumes, that are done when the run starts.
    """

    run: "Run"
    image: Any
    maps: dict[str, Any]
    notes: tuple[str, ...]
    before: int

    def states(self) -> "States":
        """Run."""

    def draw(self, index: Index, image: np.ndarray) -> None:
        """Show what a plane has come to."""

    def keep(self, state: "State[np.ndarray]") -> None:
        """Take up the maps of a plane that is done."""

    def finish(self, *, complete: bool) -> "Finished | None":
        """Let nothing change any more; return what was written, if anything was.

        Parameters
        ----------
        complete : whether the run has come to its end.
        """

    def close(self) -> None:
        """Let go of what is not needed to look at the result."""


class InMemory:
    """A place in memory, or in a temporary file where the result would fill it; see `Place`."""

    def __init__(self, source: Source, settings: Settings, kernel: np.ndarray | None) -> None:
        from napari_dkp.stack import Run

        self._source = source
        self.run = Run(source.pixels(), settings, kernel, keep=False)
        self.notes: tuple[str, ...] = ()
        self.before = 0
        self.maps: dict[str, Any] = {}
        self._shape, dtype = shape_and_type(source, self.run.settings)
        self.image = self._canvas(self._shape, dtype)

    def states(self) -> "States":
        """Run."""
        return iter(self.run)

    def draw(self, index: Index, image: np.ndarray) -> None:
        """Show what a plane has come to."""
        self.image[self._source.index(index)] = image

    def keep(self, state: "State[np.ndarray]") -> None:
        """Take up the maps of a plane that is done."""
        fine = (*self._shape[:-1], self._source.shape[-1]) if self._source.rgb else self._shape
        shapes = {"residual": self._source.shape, "uncertainty": fine}
        for name, shape in shapes.items():
            values: Any = state.report and getattr(state.report, name)
            if values is None:
                continue
            if name not in self.maps:
                self.maps[name] = np.full(shape, np.nan, np.float32)
            self.maps[name][self._source.index(state.plane)] = values

    def finish(self, *, complete: bool) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held open."""

    def _canvas(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        canvas: np.ndarray
        if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
            canvas = np.empty(shape, dtype)
        elif size < shutil.disk_usage(tempfile.gettempdir()).free:
            with tempfile.TemporaryFile(prefix="napari-dkp-") as file:
                canvas = np.memmap(file, dtype, shape=shape)
            self.notes = (_ON_DISK,)
        else:
            raise MemoryError("neither memory nor disk has room for the result")
        canvas.fill(blank_of(dtype))
        return canvas


def place_of(
    source: Source, settings: Settings, kernel: np.ndarray | None, out: Path | None
) -> Place:
    """Return the place for a result: a file, or memory where none is named."""
    if out is None:
        return InMemory(source, settings, kernel)
    from napari_dkp._napari.in_file import InFile

    return InFile(source, settings, kernel, out)


def shape_and_type(source: Source, settings: Settings) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of a result as napari draws it."""
    shape = enlarged(source, source.shape, settings.scales(len(source.spatial)))
    if not source.rgb:
        return shape, np.dtype(np.float32)
    dtype = np.dtype(source.data.dtype)
    if dtype.kind not in "iu":
        dtype = np.dtype(np.float32)
    return (*shape[:-1], int(source.data.shape[-1])), dtype


def enlarged(source: Source, shape: Sequence[int], scales: Sequence[int]) -> tuple[int, ...]:
    """Return a shape, axes as in the source, after restoration."""
    factors = dict(zip(source.spatial, scales, strict=True))
    return tuple(n * factors.get(axis, 1) for n, axis in zip(shape, source.axes, strict=True))


def blank_of(dtype: np.dtype) -> float:
    """Return the value of pixels that are not restored."""
    return np.nan if dtype.kind == "f" else 0
