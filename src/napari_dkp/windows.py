"""Pieces of a plane that stand for the whole."""

import math

import numpy as np
from torch import Tensor


def liveliest(plane: np.ndarray | Tensor, side: int) -> tuple[slice, ...]:
    """Return the window of at most side² pixels in which a plane (C, h, w) varies most.

    Windows overlap by half; their slices are of the last two axes.
    """
    sides = tuple(min(n, side) for n in plane.shape[1:])
    starts = [
        np.unique(np.linspace(0, n - length, 1 + math.ceil(2 * (n - length) / side), dtype=int))
        for n, length in zip(plane.shape[1:], sides, strict=True)
    ]
    corners = np.array(np.meshgrid(*starts, indexing="ij")).reshape(2, -1).T
    windows = [
        tuple(slice(int(first), int(first) + n) for first, n in zip(corner, sides, strict=True))
        for corner in corners
    ]
    return max(windows, key=lambda window: float(plane[(slice(None), *window)].var()))
