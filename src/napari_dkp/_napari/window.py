"""A part of an array that is read when it is looked at."""

from typing import Any

import numpy as np
import numpy.typing as npt

Bounds = tuple[tuple[int, int], ...]


class Window:
    """What lies within bounds of an array: numpy, dask, zarr, ...

    Parameters
    ----------
    data : with shape, dtype and slicing.
    bounds : one (start, stop) per axis.
    """

    def __init__(self, data: Any, bounds: Bounds) -> None:
        self._data = data
        self._bounds = bounds
        self.shape = tuple(stop - start for start, stop in bounds)
        self.ndim = len(bounds)
        self.dtype = np.dtype(data.dtype)

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        """Read what is at an index of one entry per axis, each a number or a slice of step 1."""
        where: list[int | slice] = []
        for wanted, (first, last) in zip(index, self._bounds, strict=True):
            if isinstance(wanted, slice):
                start, stop, _ = wanted.indices(last - first)
                where.append(slice(first + start, first + stop))
            else:
                where.append(first + wanted)
        return np.asarray(self._data[tuple(where)])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all."""
        return np.array(self[(slice(None),) * self.ndim], dtype, copy=copy)


def part(data: Any, bounds: Bounds) -> Any:
    """Return a view of an array in memory, or a window on one that is read as it is needed."""
    if isinstance(data, np.ndarray):
        return data[tuple(slice(*each) for each in bounds)]
    return Window(data, bounds)
