"""A diffusion model as image restorer (Diff-DKP, eqs. 21-24, Alg. 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from napari_dkp.config import DiffusionConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.restorers.data_step import DataStep
from napari_dkp.restorers.evidence import Evidence


class Denoiser(Protocol):
    """What a restorer needs of a diffusion model, see `diffusion.model.DiffusionModel`."""

    channels: int

    def time_of(self, sigma: float) -> int:
        """Return t at which the noise, relative to the image, is nearest to `sigma`."""

    def alpha(self, time: int) -> float:
        """Return ᾱ_t."""

    def denoise(self, noisy: Tensor, time: int) -> Tensor:
        """Return x̂₀ of images x_t (eq. 21), shape (N, channels, H, W), both."""


class Level(NamedTuple):
    """One noise level of a run.

    Attributes
    ----------
    time : t of the model.
    alpha : ᾱ_t.
    kept, fresh : shares of the noise of x_t that are that of the step before, and that are drawn;
        their squares sum to 1, or both are 0 where an image is refined without noise.
    """

    time: int
    alpha: float
    kept: float
    fresh: float


class DiffusionRestorer:
    """Denoises an image at falling noise levels, and holds it to the data in between.

    At each level x_t is made from the refined x̂₀ of the level before (eq. 22), denoised (eq. 21),
    and given to the kernel prior; with the kernel that this makes, it is refined (eqs. 23-24).

    An image that is drawn has the fine structure that the model expects of images, and what the
    model makes of it under noise bears out the true kernel. An image that is refined again and
    again is smoother, and the kernel by which it explains the data too narrow; but it is nearer to
    the truth. So "anneal" draws while the kernel is sought, then finishes an image without drawing.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (C, h, w).
    bounds : intensities that the diffusion model is to take for black and white, normalised.
    diffusion : the model.
    config : numbers of the method.
    levels : one for each step, see `levels` and `refining`.
    generator : CPU generator of all noise.
    variance : of the noise of each datum, shape of `data`, normalised; None where it is not known.
    data_steps : see `DataStep`.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        bounds: tuple[float, float],
        diffusion: Denoiser,
        config: DiffusionConfig,
        levels: Sequence[Level],
        generator: Generator,
        variance: Tensor | None = None,
        data_steps: int = 4,
    ) -> None:
        self._model = model
        self._black, white = bounds
        self._half_range = 0.5 * (white - self._black)
        self._diffusion = diffusion
        self._generator = generator
        self._gradient = config.data_step == "gradient"
        self._scaled = scaled = self._as_diffused(data)
        least, self._relative = config.noise**2, None
        if variance is not None:
            variance = (variance / self._half_range**2).clamp_min(least)
            least = float(variance.min())
            self._relative = variance / least
        self._noise_variance = least / config.trust
        self._data_steps = data_steps
        self._kernel: Tensor | None = None
        # x̂₀ of each sample, shape (S, C, *domain_shape)
        start = model.extend(model.upsample(scaled))
        self._clean = start.expand(config.samples, *start.shape)
        self._before = self._clean, 1.0  # x_t and ᾱ_t of the level before
        self.take_up(levels)

    def take_up(self, levels: Sequence[Level]) -> None:
        """Go on from here at other levels; so may a shallow copy, where no noise is drawn."""
        self._levels = levels
        self._steps = 0
        self._variance = 1 - levels[0].alpha  # of x̂₀ about x, at most

    @torch.no_grad()
    def step(self, kernel: Tensor) -> RestorerStep:
        """Refine x̂₀ under `kernel`, shape (K, K), and predict it anew at the next noise level."""
        if kernel is not self._kernel:
            self._kernel = kernel
            self._data_step = DataStep(
                self._model, self._scaled, kernel, self._relative, self._data_steps
            )
            self._residual = self._data_step.residual(self._clean)
        level = self._levels[self._steps]
        self._steps += 1
        noisy = self._noisy(self._refined(), level)
        self._clean = self._as_planes(self._diffusion.denoise(noisy, level.time))
        self._residual = self._data_step.residual(self._clean)
        self._variance = 1 - level.alpha
        self._drawn = self._clean[0]
        if self._steps == len(self._levels):
            self._clean = self._refined()
            self._residual = self._data_step.residual(self._clean)
        misfit = self._half_range * self._residual.mean(0).square().mean().sqrt()
        estimate = self._model.crop(self._as_seen(self._clean.mean(0)))
        return RestorerStep(self.drawn, estimate, misfit, misfit)

    @property
    def drawn(self) -> Tensor:
        """What the model made of the image at the latest step, on the domain; after one step."""
        return self._as_seen(self._drawn)

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        mean = self._as_seen(self._scaled - self._residual.mean(0))
        if len(self._clean) == 1:
            return Evidence(mean)
        deviation = self._half_range * self._model.crop(self._clean).std(0)
        return Evidence(mean, deviation=deviation)

    def _refined(self) -> Tensor:
        """Return x̂₀ held to the data: the surer the model is of it, the less."""
        if self._gradient:
            return self._data_step.gradient(self._clean, self._residual)
        ratio = self._noise_variance / self._variance
        return self._data_step.proximal(self._clean, self._residual, ratio)

    def _noisy(self, clean: Tensor, level: Level) -> Tensor:
        """Return x_t, shape (N, channels, H, W), from x̂₀ and x_t of the level before (eq. 22)."""
        clean = self._as_images(clean)
        noisy = math.sqrt(level.alpha) * clean
        deviation = math.sqrt(1 - level.alpha)
        if level.fresh:
            drawn = torch.randn(clean.shape, generator=self._generator).to(clean)
            noisy += deviation * level.fresh * drawn
        if level.kept:
            before, alpha = self._before
            noise = (before - math.sqrt(alpha) * clean) / math.sqrt(1 - alpha)
            noisy += deviation * level.kept * noise
        self._before = noisy, level.alpha
        return noisy

    def _as_images(self, planes: Tensor) -> Tensor:
        """Return planes (S, C, H, W) as images of the channels that the model knows.

        Where these are others than the plane's, each of its channels is an image of its own, grey.
        """
        channels = self._diffusion.channels
        if planes.shape[1] == channels:
            return planes
        return planes.flatten(0, 1)[:, None].expand(-1, channels, -1, -1)

    def _as_planes(self, images: Tensor) -> Tensor:
        """Undo `_as_images`; grey is the mean of colours."""
        shape = self._clean.shape
        return images if images.shape[1] == shape[1] else images.mean(1).reshape(shape)

    def _as_diffused(self, values: Tensor) -> Tensor:
        return (values - self._black) / self._half_range - 1

    def _as_seen(self, values: Tensor) -> Tensor:
        return (values + 1) * self._half_range + self._black


def levels(
    diffusion: Denoiser, config: DiffusionConfig, n_steps: int, n_seeking: int
) -> list[Level]:
    """Return the noise levels of a run.

    Parameters
    ----------
    diffusion : the model.
    config : numbers of the method.
    n_steps : planned steps.
    n_seeking : first steps, in which the kernel is sought; 0 where it is known.
    """
    if config.sampler != "anneal":
        return _drawn(diffusion, _falling(config.first, config.last, n_steps), config.sampler)
    low, high = config.seek
    sought = _drawn(diffusion, _falling(high, low, n_seeking), "ddpm")
    return sought + refining(diffusion, config.first, config.last, n_steps - n_seeking)


def refining(diffusion: Denoiser, first: float, last: float, count: int) -> list[Level]:
    """Return levels from `first` to `last` at which an image is refined without noise."""
    return [
        Level(*_time(diffusion, sigma), kept=0, fresh=0) for sigma in _falling(first, last, count)
    ]


def _drawn(diffusion: Denoiser, sigmas: list[float], sampler: str) -> list[Level]:
    """Return levels at which noise goes on as it does in an image that is drawn (eq. 22)."""
    found: list[Level] = []
    for sigma in sigmas:
        time, alpha = _time(diffusion, sigma)
        fresh = 0.0 if found else 1.0
        if found and sampler == "ddpm":
            before = found[-1].alpha
            fresh = math.sqrt((1 - before / alpha) / (1 - before))
        found.append(Level(time, alpha, math.sqrt(1 - fresh**2), fresh))
    return found


def _time(diffusion: Denoiser, sigma: float) -> tuple[int, float]:
    time = diffusion.time_of(sigma)
    return time, diffusion.alpha(time)


def _falling(first: float, last: float, count: int) -> list[float]:
    """Return numbers from the first to the last, each the same share of the one before."""
    if count == 1:
        return [last]
    return [first * (last / first) ** (i / (count - 1)) for i in range(count)]
