"""Pieces of a plane that stand for the whole."""

import math
from itertools import product

import numpy as np
from torch import Tensor

Window = tuple[slice, ...]


def windows(shape: tuple[int, ...], side: int) -> list[Window]:
    """Return windows of at most `side` along each axis that cover a shape, overlapping by half."""
    along = []
    for n in shape:
        length = min(n, side)
        count = 1 + math.ceil(2 * (n - length) / side)
        starts = np.unique(np.linspace(0, n - length, count, dtype=int))
        along.append([slice(int(start), int(start) + length) for start in starts])
    return list(product(*along))


def contrast(plane: np.ndarray | Tensor, window: Window) -> float:
    """Return the variance of a plane (C, ...) in a window of its spatial axes."""
    values = plane[(slice(None), *window)]
    # In double precision, in which the square of a small contrast is not nothing.
    return float(values.var() if isinstance(values, Tensor) else values.var(dtype=np.float64))


def liveliest(plane: np.ndarray | Tensor, side: int) -> Window:
    """Return the window of at most `side` along each axis in which a plane (C, ...) varies most."""
    return max(windows(tuple(plane.shape[1:]), side), key=lambda window: contrast(plane, window))


def apart(first: Window, second: Window) -> bool:
    """Tell whether two windows share nothing."""
    return any(a.stop <= b.start or b.stop <= a.start for a, b in zip(first, second, strict=True))
