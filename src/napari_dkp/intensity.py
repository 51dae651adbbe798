"""Intensity units of an image, and those of the engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaling:
    """The affine map between an image's intensity units and those of the engine.

    The data spans [0, 1]; an untrained network's image may leave that range within `bounds`: what
    is small is brighter before the blur, but nothing passes the limits of an integer type. Counted
    photons have no upper bound.
    """

    low: float
    range: float
    bounds: tuple[float, float]

    @classmethod
    def of(cls, planes: Sequence[np.ndarray]) -> "Scaling":
        """Return the map under which some planes, of one type, together span [0, 1]."""
        low = min(float(plane.min()) for plane in planes)
        high = max(float(plane.max()) for plane in planes)
        span = high - low
        floor, ceiling = low - _ROOM_BELOW * span, high + _ROOM_ABOVE * span
        if planes[0].dtype.kind in "iu":
            limits = np.iinfo(planes[0].dtype)
            floor, ceiling = max(floor, float(limits.min)), min(ceiling, float(limits.max))
        return cls(low, span, ((floor - low) / span, (ceiling - low) / span))

    def normalise(self, plane: np.ndarray) -> np.ndarray:
        """Return float32 in the units of the engine."""
        return ((plane.astype(np.float64) - self.low) / self.range).astype(np.float32)

    def restore(self, plane: np.ndarray) -> np.ndarray:
        """Return float32 in the units of the image."""
        return (plane.astype(np.float64) * self.range + self.low).astype(np.float32)


# Shares of the data's range by which the restored image may go beyond it.
_ROOM_BELOW = 0.1
_ROOM_ABOVE = 0.5
