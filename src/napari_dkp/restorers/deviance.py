"""How well images of two halves of the photons foretell the respective other half."""

import torch
from torch import Tensor

from napari_dkp.device import float64_device


class Deviance:
    """The Poisson deviance per sample of the photons that each image has not seen.

    Parameters
    ----------
    photons : n, of the halves, shape (2, C, *lr_shape).
    """

    def __init__(self, photons: Tensor) -> None:
        # In float64: runs are told apart by differences in the seventh digit.
        self._home = float64_device(photons.device)
        self._unseen = photons.flip(0).to(self._home, torch.float64)
        # Where there is none its logarithm counts nothing, but has to be a number.
        self._positive = self._unseen.clamp_min(LEAST_COUNTS)

    def __call__(self, means: Tensor) -> Tensor:
        """Return 2 ⟨m - n + n log(n / m)⟩ for m of each half's image, shape (2, C, *lr_shape)."""
        means = means.clamp_min(LEAST_COUNTS).to(self._home, torch.float64)
        logarithm = (self._positive / means).log_()
        return 2 * (means - self._unseen).addcmul_(self._unseen, logarithm).mean()


# Counts per sample that stand for none where one divides by them.
LEAST_COUNTS = 1e-3
