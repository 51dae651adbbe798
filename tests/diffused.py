"""Diffusion models that are known in closed form, for tests."""

import math

import torch
from torch import Tensor

from napari_dkp.restorers.diffusion import Denoiser

# ᾱ_t of the published schedule.
ALPHAS = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


class GaussianField(Denoiser):
    """The exact model of stationary Gaussian images that wrap, of mean 0.

    Parameters
    ----------
    power : variance of each frequency, shape (H, W); 1 for white noise of variance 1.
    """

    def __init__(self, power: Tensor, channels: int = 1) -> None:
        self.power = power
        self.channels = channels
        self.calls = 0

    def time_of(self, sigma: float) -> int:
        levels = 0.5 * torch.log((1 - ALPHAS) / ALPHAS)
        return int((levels - math.log(sigma)).abs().argmin())

    def alpha(self, time: int) -> float:
        return float(ALPHAS[time])

    def denoise(self, noisy: Tensor, time: int) -> Tensor:
        self.calls += 1
        alpha = self.alpha(time)
        gain = math.sqrt(alpha) * self.power / (alpha * self.power + 1 - alpha)
        return torch.fft.ifft2(gain * torch.fft.fft2(noisy)).real

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return an image, shape (channels, H, W)."""
        noise = torch.randn(self.channels, *self.power.shape, generator=generator)
        return torch.fft.ifft2(self.power.sqrt() * torch.fft.fft2(noise)).real


def natural_power(side: int) -> Tensor:
    """Return the spectrum of natural images, 1/f², of variance 0.2 in all."""
    along = torch.fft.fftfreq(side)
    power = 1 / (along[:, None] ** 2 + along**2 + (1 / side) ** 2)
    return 0.2 * power / power.mean()
