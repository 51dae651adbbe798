"""Pieces in which is found what planes of a stack, or tiles of a plane, have in common."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from napari_dkp.layout import Index
from napari_dkp.windows import Window, apart, contrast, windows


class _Piece(NamedTuple):
    contrast: float
    window: Window
    values: np.ndarray


def pieces(
    read: Callable[[Index], np.ndarray],
    planes: Sequence[Index],
    lr_shape: tuple[int, ...],
    least_side: int,
) -> list[np.ndarray]:
    """Return up to three pieces that tell most, of different planes where there are several.

    Together they are no larger than one plane, nor than 512² samples: what is found in them costs
    no more than a plane does.

    Parameters
    ----------
    read : loads a plane, shape (C, *n), in its own type; some planes are looked at.
    planes : their indices.
    lr_shape : samples along each spatial axis of what is restored at once, a plane or a tile.
    least_side : samples that a piece has along each axis, unless the plane has fewer.

    Returns
    -------
    Arrays of one shape (C, *n); none where no plane has contrast.
    """
    size = min(math.prod(lr_shape), _LARGEST)
    smallest = max(_SMALLEST, least_side ** len(lr_shape))
    count = min(max(size // smallest, 1), _MOST)
    side = max(int(round((size / count) ** (1 / len(lr_shape)), 6)), least_side)
    found = [_of_plane(read(index), side, count) for index in looked_at(planes)]
    # The best of every plane first, then their second best.
    ranked = sorted(
        (rank, -piece.contrast, number)
        for number, some in enumerate(found)
        for rank, piece in enumerate(some)
    )
    return [found[number][rank].values for rank, _, number in ranked[:count]]


def looked_at(planes: Sequence[Index]) -> list[Index]:
    """Return the planes, evenly spread, among which `pieces` are sought."""
    numbers = np.unique(np.linspace(0, len(planes) - 1, _LOOKED_AT, dtype=int))
    return [planes[number] for number in numbers]


def _of_plane(plane: np.ndarray, side: int, count: int) -> list[_Piece]:
    """Return the pieces of a plane in which it varies most, the best first; they share nothing."""
    ranked = sorted(
        ((contrast(plane, window), window) for window in windows(plane.shape[1:], side)),
        key=lambda entry: -entry[0],
    )
    chosen: list[_Piece] = []
    for variance, window in ranked:
        alone = all(apart(window, piece.window) for piece in chosen)
        if alone and variance > 0 and len(chosen) < count:
            chosen.append(_Piece(variance, window, plane[(slice(None), *window)].copy()))
    return chosen


_LOOKED_AT = 9  # planes
_MOST = 3  # pieces
# Samples: of a piece, and of all together.
_SMALLEST = 128**2
_LARGEST = 512**2
