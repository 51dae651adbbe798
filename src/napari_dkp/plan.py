"""What planes of a stack, and tiles of a plane, have in common: it is found once."""

from typing import NamedTuple

import numpy as np


class Route(NamedTuple):
    """How a Richardson–Lucy image came to its least risk.

    Attributes
    ----------
    extrapolations : along the last change, of each half, after every step: share of it.
    penalised : strengths of the penalties that then helped, and the steps under each.
    """

    extrapolations: tuple[tuple[float, float], ...]
    penalised: tuple[tuple[float, int], ...]

    @property
    def steps(self) -> int:
        """Image steps on the way."""
        return len(self.extrapolations) + sum(steps for _, steps in self.penalised)


class Plan(NamedTuple):
    """What is found on a few pieces, and what the whole is restored by.

    Attributes
    ----------
    kernel : float32, shape (K, K).
    route : of method "richardson-lucy", else None.
    steps : image steps of every restoration; None for as many as are usual.
    width_spread : posterior standard deviation of the logarithm of the kernel's width; None where
        it is not known.
    """

    kernel: np.ndarray
    route: Route | None = None
    steps: int | None = None
    width_spread: float | None = None
