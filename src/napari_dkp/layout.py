"""What the axes of an image are for: which are restored together, which one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from napari_dkp import _checks

Index = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The axes of an image and their lengths.

    Planes are restored one by one. C after the spatial axes holds the colours of one picture, which
    belong to its planes; before them it holds channels, each taken through optics of its own.

    Parameters
    ----------
    axes : letters out of T, C, Z, Y, X.
    shape : of the image.
    spatial : letters of the axes that kernels have.
    """

    axes: str
    shape: tuple[int, ...]
    spatial: str = "YX"

    @classmethod
    def of(cls, image: Any, axes: str | None, spatial: str = "YX") -> "Layout":
        """Return that of an array; None guesses the axes.

        Raises
        ------
        ValueError
            If axes and shape do not fit, or there is no pixel.
        """
        axes = axes or guess_axes(image.shape)
        _checks.axes("axes", axes, len(image.shape))
        if not set(spatial) <= set(axes):
            raise ValueError(f"axes: expected Z among them with volume=True; got {axes!r}")
        if 0 in image.shape:
            raise ValueError(f"image: expected at least one pixel; got shape {tuple(image.shape)}")
        return cls(axes, tuple(int(n) for n in image.shape), spatial)

    @cached_property
    def coloured(self) -> bool:
        """Whether planes have colours."""
        return is_coloured(self.axes)

    @property
    def colours(self) -> int:
        """Colours of a plane; 1 where it is grey."""
        return self.shape[self.axes.index("C")] if self.coloured else 1

    @property
    def channels(self) -> int:
        """Channels of the image; 1 where there are none."""
        return self.looped_shape[self.looped.index("C")] if "C" in self.looped else 1

    @cached_property
    def looped(self) -> str:
        """Letters of the axes along which planes lie, in their order."""
        return looped_axes(self.axes, self.spatial)

    @cached_property
    def lr_shape(self) -> tuple[int, ...]:
        """Samples along each spatial axis."""
        return tuple(self.shape[self.axes.index(letter)] for letter in self.spatial)

    @cached_property
    def looped_shape(self) -> tuple[int, ...]:
        """Planes along each looped axis."""
        return tuple(self.shape[self.axes.index(letter)] for letter in self.looped)

    @cached_property
    def planes(self) -> list[Index]:
        """Index of every plane along the looped axes."""
        return list(np.ndindex(*self.looped_shape))

    @property
    def middle(self) -> Index:
        """Index of the plane in the middle."""
        return tuple(n // 2 for n in self.looped_shape)

    def channel(self, index: Index) -> int:
        """Return the channel of a plane; 0 where there are none."""
        return index[self.looped.index("C")] if "C" in self.looped else 0

    def where(self, index: Index) -> tuple[int | slice, ...]:
        """Return what selects a plane from an array with these axes."""
        numbers = dict(zip(self.looped, index, strict=True))
        return tuple(numbers.get(letter, slice(None)) for letter in self.axes)

    def read(self, image: Any, index: Index) -> np.ndarray:
        """Load one plane of an image, in its own type, shape (C, *lr_shape)."""
        plane = np.asarray(image[self.where(index)]).transpose(self._order)
        return plane if self.coloured else plane[None]

    def as_read(self, plane: np.ndarray) -> np.ndarray:
        """Put the axes of a plane (C, ...) where the image has them."""
        plane = plane if self.coloured else plane[0]
        return plane.transpose(np.argsort(self._order))

    def assembled(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """Put planes, as `as_read` returns them and in the order of `planes`, where they belong."""
        image = np.stack(planes).reshape(*self.looped_shape, *planes[0].shape)
        positions = [self.axes.index(letter) for letter in self.looped]
        return np.ascontiguousarray(np.moveaxis(image, range(len(positions)), positions))

    @cached_property
    def _order(self) -> list[int]:
        """Where colours (if any) and spatial axes are in a plane."""
        kept = [letter for letter in self.axes if letter not in self.looped]
        return [kept.index(letter) for letter in f"C{self.spatial}" if letter in kept]


def is_coloured(axes: str) -> bool:
    """Tell whether C is the colours of pictures: after Y and X."""
    return "C" in axes and axes.index("C") > max(axes.index("Y"), axes.index("X"))


def looped_axes(axes: str, spatial: str = "YX") -> str:
    """Return the letters of the axes along which planes lie, in their order."""
    within = spatial + ("C" if is_coloured(axes) else "")
    return "".join(letter for letter in axes if letter not in within)


def guess_axes(shape: Sequence[int]) -> str:
    """Return the axes of an image of this shape, channels only where they look like RGB(A).

    Raises
    ------
    ValueError
        If the shape has fewer than two or more than five axes.
    """
    if len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 30:
        return "YXC"
    names = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
    if len(shape) not in names:
        raise ValueError(f"image: expected 2 to 5 axes; got {len(shape)}, shape {tuple(shape)}")
    return names[len(shape)]
