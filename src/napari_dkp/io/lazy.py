"""An array in a file, of which only what is indexed is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np

Region = tuple[slice, ...]
"""One slice per axis, of step 1, its ends within the axis."""


@dataclass(frozen=True, slots=True, eq=False)
class LazyArray:
    """An array in a file: what is indexed is read anew each time, and nothing is kept.

    It takes integers, slices and an ellipsis, and goes wherever an array with shape, dtype and
    slicing does, as `dask.array.from_array`. It holds no open file, and can be pickled.

    Attributes
    ----------
    shape, dtype : as of numpy arrays.
    read : returns the values of a region, as an array of the region's shape.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Region], np.ndarray]

    @classmethod
    def of(cls, image: "np.ndarray | LazyArray") -> "LazyArray":
        """Return an array in memory as one of these."""
        if isinstance(image, LazyArray):
            return image
        return cls(image.shape, image.dtype, image.__getitem__)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes in memory."""
        return self.size * self.dtype.itemsize

    def arranged(self, order: Sequence[int]) -> "LazyArray":
        """Return the axes `order` in that order; those left out have length 1, and go."""
        if list(order) == list(range(self.ndim)):
            return self
        shape = tuple(self.shape[axis] for axis in order)
        return LazyArray(shape, self.dtype, _Arranged(self.read, tuple(order), self.ndim))

    def __getitem__(self, key: Any) -> Any:
        keys = self._full(key if isinstance(key, tuple) else (key,))
        region: list[slice] = []
        within: list[int | slice] = []  # the region: integers to drop, steps to take
        for n, each in zip(self.shape, keys, strict=True):
            if isinstance(each, slice):
                steps = range(n)[each]
                low, high = sorted((steps[0], steps[-1])) if steps else (0, -1)
                region.append(slice(low, high + 1))
                within.append(slice(None, None, each.step) if steps else slice(0, 0))
            else:
                position = range(n)[each]  # which refuses what lies outside
                region.append(slice(position, position + 1))
                within.append(0)
        if any(part.start == part.stop for part in region):
            return np.empty([part.stop - part.start for part in region], self.dtype)[tuple(within)]
        return self.read(tuple(region))[tuple(within)]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("copy: expected None or True, as the array lies in a file; got False")
        values: np.ndarray = np.asarray(self[...], dtype)
        return values

    def _full(self, keys: tuple[Any, ...]) -> list[Any]:
        """Return one key per axis."""
        if any(not isinstance(k, int | np.integer | slice | EllipsisType) for k in keys):
            raise IndexError(f"expected integers, slices and an ellipsis; got {keys}")
        dots = [i for i, each in enumerate(keys) if each is Ellipsis]
        missing = self.ndim - len(keys) + len(dots)
        if missing < 0 or len(dots) > 1:
            raise IndexError(f"expected one index for each of {self.ndim} axes; got {keys}")
        where = dots[0] if dots else len(keys)
        return [*keys[:where], *[slice(None)] * missing, *keys[where + len(dots) :]]


@dataclass(frozen=True, slots=True)
class _Arranged:
    """Reads a region of axes that were put in another order."""

    read: Callable[[Region], np.ndarray]
    order: tuple[int, ...]
    ndim: int

    def __call__(self, region: Region) -> np.ndarray:
        of_source = [slice(0, 1)] * self.ndim
        for axis, part in zip(self.order, region, strict=True):
            of_source[axis] = part
        dropped = [axis for axis in range(self.ndim) if axis not in self.order]
        values = self.read(tuple(of_source)).transpose([*dropped, *self.order])
        return values.reshape([part.stop - part.start for part in region])
