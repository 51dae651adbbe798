"""Pieces of a plane that stand for the whole."""

import math

import numpy as np
from torch import Tensor


def liveliest(plane: np.ndarray | Tensor, side: int | tuple[int, ...]) -> tuple[slice, ...]:
    """Return the window of at most so many pixels a side in which a plane varies most.

    Windows overlap by half; their slices are of the spatial axes.

    Parameters
    ----------
    plane : shape (C, *spatial).
    side : pixels, one for all spatial axes or one each.
    """
    lengths = plane.shape[1:]
    most = side if isinstance(side, tuple) else (side,) * len(lengths)
    sides = tuple(min(n, each) for n, each in zip(lengths, most, strict=True))
    starts = [
        np.unique(np.linspace(0, n - length, 1 + math.ceil(2 * (n - length) / each), dtype=int))
        for n, length, each in zip(lengths, sides, most, strict=True)
    ]
    corners = np.array(np.meshgrid(*starts, indexing="ij")).reshape(len(lengths), -1).T
    windows = [
        tuple(slice(int(first), int(first) + n) for first, n in zip(corner, sides, strict=True))
        for corner in corners
    ]
    return max(windows, key=lambda window: float(plane[(slice(None), *window)].var()))
