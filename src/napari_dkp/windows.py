"""Pieces of a plane that stand for the whole."""

import math
from itertools import product

import numpy as np
from torch import Tensor

Window = tuple[slice, ...]


def windows(shape: tuple[int, ...], side: int | tuple[int, ...]) -> list[Window]:
    """Return windows that cover a shape, overlapping by half.

    Parameters
    ----------
    shape : samples along each axis.
    side : of windows, at most; one for all axes, or one each.
    """
    sides = side if isinstance(side, tuple) else (side,) * len(shape)
    along = []
    for n, most in zip(shape, sides, strict=True):
        length = min(n, most)
        count = 1 + math.ceil(2 * (n - length) / most)
        starts = np.unique(np.linspace(0, n - length, count, dtype=int))
        along.append([slice(int(start), int(start) + length) for start in starts])
    return list(product(*along))


def contrast(plane: np.ndarray | Tensor, window: Window) -> float:
    """Return the variance of a plane (C, ...) in a window of its spatial axes."""
    values = plane[(slice(None), *window)]
    # In double precision, in which the square of a small contrast is not nothing.
    return float(values.var() if isinstance(values, Tensor) else values.var(dtype=np.float64))


def liveliest(plane: np.ndarray | Tensor, side: int | tuple[int, ...]) -> Window:
    """Return the one of `windows` in which a plane (C, ...) varies most."""
    return max(windows(tuple(plane.shape[1:]), side), key=lambda window: contrast(plane, window))


def apart(first: Window, second: Window) -> bool:
    """Tell whether two windows share nothing."""
    return any(a.stop <= b.start or b.stop <= a.start for a, b in zip(first, second, strict=True))
