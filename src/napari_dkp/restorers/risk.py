"""How far images of two halves of the photons are from the truth, told by the halves themselves."""

import math

import torch
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

    Parameters
    ----------
    model : forward model of the plane, or of the volume.
    photons : n, of the halves, shape (2, C, *lr_shape).
    kernel : shape (*K,), whose passband counts.
    """

    def __init__(self, model: Degradation, photons: Tensor, kernel: Tensor) -> None:
        samples = math.prod(model.lr_shape)
        weight = 1 / (model.passband(kernel) + _WORTHLESS)
        # The real transform holds one of each pair of opposite frequencies, but of these columns.
        weight[..., 0] *= 0.5
        if model.lr_shape[-1] % 2 == 0:
            weight[..., -1] *= 0.5
        self._axes = tuple(range(-model.ndim, 0))
        # Noise alone has a risk of one.
        level = photons.mean().clamp_min(_LEAST_LEVEL)
        weight = weight / (weight.sum() * samples * photons.shape[1] * level)
        # In float64: a run ends by differences in the seventh digit.
        self._home = float64_device(photons.device)
        self._weight = weight.to(self._home, torch.float64)
        self._photons = photons.to(self._home, torch.float64)

    def __call__(self, means: Tensor) -> Tensor:
        """Return the risk for m, shape (2, C, *lr_shape), in units of the noise of a half."""
        means = means.to(self._home, torch.float64)
        away = torch.fft.rfftn(means - self._photons.flip(0), dim=self._axes).abs().square()
        apart = torch.fft.rfftn(means[0] - means[1], dim=self._axes).abs().square()
        risk: Tensor = (self._weight * (0.5 * away.sum((0, 1)) - 0.25 * apart.sum(0))).sum()
        return risk


# Power that is passed of a frequency below which errors there no longer count more.
_WORTHLESS = 0.1
_LEAST_LEVEL = 1e-3
