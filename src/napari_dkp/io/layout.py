"""The image to be written: its axes, and the planes that it is made of."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from napari_dkp import _checks
from napari_dkp.io.picture import PixelSize
from napari_dkp.layout import Index, is_coloured, looped_axes


@dataclass(frozen=True, slots=True)
class Layout:
    """An image of float32, to be written plane by plane.

    Attributes
    ----------
    shape : one length per letter of `axes`.
    axes : distinct letters out of T, C, Z, Y, X, with Y and X.
    pixel_size : of the image.
    channels : names, in the order of C; empty where there are none.

    Raises
    ------
    ValueError
        If shape, axes and channels do not fit together.
    """

    shape: tuple[int, ...]
    axes: str
    pixel_size: PixelSize
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _checks.axes("axes", self.axes, len(self.shape))
        if min(self.shape) < 1:
            raise ValueError(f"shape: expected at least one pixel; got {self.shape}")
        n = self.length("C") if "C" in self.axes else 1
        if self.channels and len(self.channels) != n:
            raise ValueError(f"channels: expected {n} names; got {list(self.channels)}")

    def length(self, axis: str) -> int:
        """Return the length of an axis."""
        return self.shape[self.axes.index(axis)]

    @property
    def colours(self) -> int | None:
        """Number of colours of each pixel; None where C is not last."""
        return self.length("C") if is_coloured(self.axes) else None

    @property
    def looped(self) -> str:
        """Axes that run over planes, in the order of `axes`."""
        return looped_axes(self.axes)

    @property
    def loops(self) -> tuple[int, ...]:
        """Lengths of the looped axes."""
        return tuple(self.length(axis) for axis in self.looped)

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Shape of a plane: (Y, X), or (Y, X, C) with colours."""
        plane = (self.length("Y"), self.length("X"))
        return plane if self.colours is None else (*plane, self.colours)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    def indices(self) -> Iterator[Index]:
        """Yield the index of every plane, the last axis fastest."""
        yield from np.ndindex(self.loops)

    def position(self, index: Index) -> dict[str, int]:
        """Return where a plane lies along each looped axis."""
        return dict(zip(self.looped, index, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON knows it."""
        return asdict(self)
