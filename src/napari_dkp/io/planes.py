"""Images written plane by plane, each plane on the disk before it counts."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from napari_dkp.io.claim import Claim
from napari_dkp.io.durable import explained
from napari_dkp.io.journal import Journal, Span
from napari_dkp.io.layout import Layout
from napari_dkp.io.names import check_free, move_into_place, partial_of, remove_partial
from napari_dkp.layout import Index


class Target(Protocol):
    """A file of some format that holds an image, as yet under another name."""

    def put(self, index: Index, plane: np.ndarray) -> None:
        """Write a plane of shape (Y, X[, C]), float32; return when it is on the disk."""

    def finish(self, spans: Mapping[Index, Span]) -> None:
        """Write what is known when all planes are."""

    def close(self) -> None:
        """Let go of the file."""


class PlaneWriter:
    """Writes an image plane by plane, in any order, from any thread.

    Until the last plane is written, the image lies in a folder `.NAME.partial` beside the file that
    it will be; `commit` gives it its name in one move. So the name stands for a whole image or for
    none, whenever the process ends, and `create` with `resume=True` goes on where it ended. As a
    context it commits when all planes are written, and else leaves the partial image.

    Get one from `create`.

    Attributes
    ----------
    path : the file that it will be.
    layout : shape, axes, pixel size and channels of the image.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        target: Target,
        journal: Journal,
        claim: Claim,
        *,
        overwrite: bool,
    ) -> None:
        self.path = path
        self.layout = layout
        self._target = target
        self._journal = journal
        self._claim = claim
        self._overwrite = overwrite
        self._filled: dict[Index, Span] = {}
        self._committed = False
        self._lock = Lock()

    @property
    def folder(self) -> Path:
        """Where the partial image lies; what else is put there goes with it."""
        return partial_of(self.path)

    @property
    def finished(self) -> frozenset[Index]:
        """Indices of the planes that are on the disk."""
        with self._lock:
            return frozenset(self._journal.planes)

    @property
    def complete(self) -> bool:
        """Every plane is on the disk, or filled."""
        return next(self.pending(), None) is None

    def pending(self) -> Iterator[Index]:
        """Yield the indices of the planes that are still to be written."""
        for index in self.layout.indices():
            if index not in self._journal.planes and index not in self._filled:
                yield index

    def write(self, index: Index, plane: np.ndarray) -> None:
        """Write one plane; when this returns, it is on the disk and counts as finished.

        Parameters
        ----------
        index : along the looped axes, which are all but Y, X and a C after them, in the order of
            the axes.
        plane : shape (Y, X), or (Y, X, C) with colours; stored as float32.

        Raises
        ------
        ValueError
            If there is no such plane, it has another shape, or it was written before.
        OSError
            If it cannot be written; the disk may be full.
        """
        self._put(index, plane, self._journal.add)

    def fill(self, index: Index, plane: np.ndarray) -> None:
        """Write what stands in for a plane that will not be finished.

        The image can then be committed. A process that goes on with it does not know of the plane,
        and writes it anew. Parameters and errors as of `write`.
        """
        self._put(index, plane, self._filled.__setitem__)

    def _put(self, index: Index, plane: np.ndarray, note: Callable[[Index, Span], object]) -> None:
        index = tuple(int(i) for i in index)
        loops, shape = self.layout.loops, self.layout.plane_shape
        inside = [0 <= i < n for i, n in zip(index, loops, strict=False)]
        if len(index) != len(loops) or not all(inside):
            raise ValueError(
                f"index: expected one below {loops} along {self.layout.looped!r}; got {index}"
            )
        if plane.shape != shape:
            raise ValueError(f"plane: expected shape {shape}; got {plane.shape}")
        values = np.ascontiguousarray(plane, np.float32)
        with self._lock, explained(self.path):
            if index in self._journal.planes or index in self._filled:
                raise ValueError(f"index: expected a plane not yet written; got {index}")
            self._target.put(index, values)
            note(index, _span(values))

    def commit(self) -> Path:
        """Give the image its name, in one move, and remove what helped to make it.

        Raises
        ------
        ValueError
            If planes are missing.
        FileExistsError, OSError
            If it cannot be moved to its name.
        """
        if self._committed:
            return self.path
        if not self.complete:
            missing = sum(1 for _ in self.pending())
            raise ValueError(f"output: '{self.path.name}' lacks {missing} planes; write them first")
        check_free(self.path, overwrite=self._overwrite)
        with explained(self.path):
            self._target.finish(self._journal.planes | self._filled)
            self._close_files()
            move_into_place(self.path)
            self._committed = True
            remove_partial(self.path)
        self._claim.release()
        return self.path

    def close(self) -> None:
        """Let go of the partial image, and leave it for `create` to go on with."""
        self._close_files()
        self._claim.release()

    def discard(self) -> None:
        """Remove the partial image."""
        self._close_files()
        try:
            remove_partial(self.path)
        finally:
            self._claim.release()

    def _close_files(self) -> None:
        self._target.close()
        self._journal.close()

    def __enter__(self) -> "PlaneWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self.complete:
                self.commit()
        finally:
            self.close()


def _span(plane: np.ndarray) -> Span:
    finite = plane if np.isfinite(plane).all() else np.where(np.isfinite(plane), plane, np.nan)
    return Span(float(np.fmin.reduce(finite, None)), float(np.fmax.reduce(finite, None)))
