"""Images of both halves of the photons, and how good they are."""

from typing import NamedTuple

from torch import Tensor


class Candidate(NamedTuple):
    """An image of each half.

    Attributes
    ----------
    images : x over the background, in counts, shape (2, C, *domain_shape).
    means : m = A x + background, shape (2, C, *lr_shape); of x before it was kept positive, where a
        method does that last.
    risk : see `risk.Risk`.
    """

    images: Tensor
    means: Tensor
    risk: float
