"""How far images of two halves of the photons are from the truth, told by the halves themselves."""

import math
from dataclasses import replace
from types import EllipsisType

import torch
from scipy.fft import prev_fast_len
from torch import Tensor

from napari_dkp.degradation import Degradation
from napari_dkp.device import float64_device


class Risk:
    """Estimates the squared error of the mean of two images, one restored from each half.

    The photons of one half are noise about the truth that the other half's image knows nothing of:
    the square of n_b - m_a counts that image's error plus a noise that is the same for every image.
    It does so for each image by itself, whose own noise is twice as large as that of the mean; how
    large, their difference tells. So, with ⟨·⟩ over both halves and all frequencies,

        risk = ⟨w |N_b - M_a|²⟩ - ¼ ⟨w |M_a - M_b|²⟩.

    These are errors of blurred images. w = 1 / (|T|² + ε) undoes the blur where it can be undone, T
    being the transfer function of the kernel: what is asked for is the error of the sharp image.

    The last rows are left out where lengths are slow to transform: 502 takes three times what 500
    does.

    Parameters
    ----------
    model : forward model of the plane, or of the volume.
    photons : n, of the halves, shape (2, C, *lr_shape).
    kernel : shape (*K,), whose passband counts.
    """

    def __init__(self, model: Degradation, photons: Tensor, kernel: Tensor) -> None:
        lengths = tuple(prev_fast_len(n) for n in model.lr_shape)
        self._window: tuple[EllipsisType | slice, ...] = (..., *(slice(n) for n in lengths))
        weight = 1 / (replace(model, lr_shape=lengths).passband(kernel) + _WORTHLESS)
        # The real transform holds one of each pair of opposite frequencies, but of these columns.
        weight[..., 0] *= 0.5
        if lengths[-1] % 2 == 0:
            weight[..., -1] *= 0.5
        self._axes = tuple(range(-model.ndim, 0))
        # Noise alone has a risk of one.
        level = photons.mean().clamp_min(_LEAST_LEVEL)
        weight = weight / (weight.sum() * math.prod(lengths) * photons.shape[1] * level)
        # In float64: a run ends by differences in the seventh digit.
        self._home = float64_device(photons.device)
        self._weight = weight.to(self._home, torch.float64)
        self._unseen = photons[self._window].flip(0).to(self._home, torch.float64)
        first, second = torch.fft.rfftn(self._unseen, dim=self._axes)
        self._unseen_apart = first - second

    def __call__(self, means: Tensor) -> Tensor:
        """Return the risk for m, shape (2, C, *lr_shape), in units of the noise of a half."""
        means = means[self._window].to(self._home, torch.float64)
        away = torch.fft.rfftn(means - self._unseen, dim=self._axes)
        apart = away[0] - away[1] + self._unseen_apart
        return 0.5 * self._power(away) - 0.25 * self._power(apart)

    def _power(self, spectra: Tensor) -> Tensor:
        """Return ⟨w |·|²⟩, the sum over all of them."""
        return torch.vdot(spectra.flatten(), (self._weight * spectra).flatten()).real


# Power that is passed of a frequency below which errors there no longer count more.
_WORTHLESS = 0.1
_LEAST_LEVEL = 1e-3
