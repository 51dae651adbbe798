"""Overlapping tiles of a plane, and how what is made of them is joined again."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from types import EllipsisType

import torch
from torch import Tensor


class Tiling:
    """Tiles of a plane, along every spatial axis as few as can be.

    In the middle of what two neighbours share, the one fades into the other: what is near the rim
    of a tile, where samples that it does not have would count, is left out.

    Parameters
    ----------
    shape : samples along each axis.
    side : samples of a tile along each axis, at most.
    overlap : samples that neighbours share, at least.

    Raises
    ------
    ValueError
        If tiles are no larger than what they share.
    """

    def __init__(self, shape: Sequence[int], side: int, overlap: int) -> None:
        if any(n > side for n in shape) and side < 2 * overlap:
            raise ValueError(
                f"tile: expected at least {2 * overlap} pixels, twice what neighbours share; "
                f"got {side}"
            )
        self._overlap = overlap
        self._spans = [_spans(n, side, overlap) for n in shape]

    def __len__(self) -> int:
        return math.prod(map(len, self._spans))

    def __iter__(self) -> Iterator["Tile"]:
        for numbers in product(*(range(len(spans)) for spans in self._spans)):
            yield Tile(self, numbers)

    def window(self, numbers: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the samples of a tile."""
        return tuple(spans[i] for spans, i in zip(self._spans, numbers, strict=True))

    def weight(self, axis: int, number: int, scale: int) -> Tensor:
        """Return what a tile's pixels count for along one axis; those of all tiles sum to 1."""
        spans = self._spans[axis]
        span = spans[number]
        place = (torch.arange(scale * span.start, scale * span.stop) + 0.5) / scale
        return self._reached(spans, number, place) - self._reached(spans, number + 1, place)

    def _reached(self, spans: list[slice], number: int, place: Tensor) -> Tensor:
        """Return to which share tiles from that number on have taken over, at places in samples."""
        if number == 0:
            return torch.ones_like(place)
        if number == len(spans):
            return torch.zeros_like(place)
        seam = 0.5 * (spans[number].start + spans[number - 1].stop)
        reached: Tensor = ((place - seam) / (_FADE * self._overlap) + 0.5).clamp(0, 1)
        return reached


class Tile:
    """One tile.

    Attributes
    ----------
    window : slices of its samples.
    """

    def __init__(self, tiling: Tiling, numbers: tuple[int, ...]) -> None:
        self._tiling = tiling
        self._numbers = numbers
        self.window = tiling.window(numbers)

    def add(self, canvas: Tensor, values: Tensor, scale: Sequence[int]) -> None:
        """Add what was made of the tile, shape (..., *tile), to its place in a canvas.

        Parameters
        ----------
        canvas : shape (..., *plane), zero at first.
        scale : pixels of the canvas per sample and axis.
        """
        values = values.to(canvas)
        ndim = len(scale)
        for axis, (number, s) in enumerate(zip(self._numbers, scale, strict=True)):
            weight = self._tiling.weight(axis, number, s).to(canvas)
            values = values * weight.reshape(-1, *(1,) * (ndim - 1 - axis))
        place: list[EllipsisType | slice] = [...]
        place += [slice(s * w.start, s * w.stop) for w, s in zip(self.window, scale, strict=True)]
        canvas[tuple(place)] += values


def _spans(length: int, side: int, overlap: int) -> list[slice]:
    """Return the fewest slices of at most `side` that cover a length and overlap by so much."""
    if length <= side:
        return [slice(0, length)]
    count = 1 + math.ceil((length - side) / (side - overlap))
    return [
        slice(start, start + side)
        for start in (round(i * (length - side) / (count - 1)) for i in range(count))
    ]


# Of the overlap, in which a tile fades into the next.
_FADE = 0.5
