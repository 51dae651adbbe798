"""Random kernel sampling (RKS, eqs. 3-8): the kernel prior of the current step.

Two samplers share one interface: given the Gram statistics of the latest image, return k_p, the
weighted mean of family members (eq. 8). `PaperSampler` draws L fresh kernels and reweights them.
`SMCSampler` keeps a population that follows the likelihood as the image improves.
"""

from typing import Protocol

import torch
from torch import Generator, Tensor

from napari_dkp.config import RKSConfig
from napari_dkp.families import KernelFamily
from napari_dkp.gram import GramStatistics


class KernelSampler(Protocol):
    """Proposes the prior kernel k_p."""

    def draw(self, count: int) -> Tensor:
        """Return kernels drawn from the families, shape (count, *kernel_shape)."""

    def step(self, statistics: GramStatistics) -> Tensor:
        """Return k_p under the statistics of the latest image, shape (*kernel_shape)."""


class PaperSampler:
    """L fresh draws per step, weighted by the inverse of their misfit (eqs. 4-8)."""

    def __init__(
        self,
        families: list[KernelFamily],
        config: RKSConfig,
        generator: Generator,
        device: torch.device,
    ) -> None:
        self._families = families
        self._draws = config.draws
        self._generator = generator
        self._device = device

    def draw(self, count: int) -> Tensor:
        """Return random members of the families."""
        chosen = torch.randint(len(self._families), (count,), generator=self._generator)
        which, counts = chosen.unique(return_counts=True)
        kernels = [
            _members(self._families[index], n, self._generator, self._device)
            for index, n in zip(which.tolist(), counts.tolist(), strict=True)
        ]
        place = chosen.argsort().argsort()  # of each draw, family by family
        return torch.cat(kernels)[place.to(self._device)]

    def step(self, statistics: GramStatistics) -> Tensor:
        """Return the reweighted mean of L fresh kernels."""
        kernels = self.draw(self._draws)
        misfit = statistics.misfit(kernels)
        weights = 1 / (misfit + _MISFIT_FLOOR)  # eq. 6, E_l + delta
        return _average(kernels, weights)  # eq. 8


class SMCSampler:
    """A population of one family under sequential Monte Carlo.

    It follows the tempered likelihood exp(-β E(k(h))), E the mean squared residual and
    β = confidence / min E: the residual of an unfinished image is model error rather than noise,
    so a doubled misfit counts as so many nats whatever the number of pixels. A step
    reweights the population from the last target to the new one (as far as half of the effective
    sample allows), resamples, and moves it by differential-evolution Metropolis steps.
    """

    def __init__(
        self, family: KernelFamily, config: RKSConfig, generator: Generator, device: torch.device
    ) -> None:
        self._config = config
        self._family = family
        self._generator = generator
        self._periodic = torch.tensor(family.periodic, device=device)
        count = config.particles
        self._points = _uniform((count, family.n_parameters), generator, device)
        self._kernels = family.render(self._points)
        self._misfit = torch.zeros(count, dtype=torch.float64, device=device)
        self._log_target = torch.zeros_like(self._misfit)
        self._beta = torch.zeros((), dtype=torch.float64, device=device)

    def draw(self, count: int) -> Tensor:
        """Return random members of the family."""
        return _members(self._family, count, self._generator, self._points.device)

    def step(self, statistics: GramStatistics) -> Tensor:
        """Move the population to the new statistics and return its mean."""
        self._misfit = statistics.misfit(self._kernels).to(self._points.device)
        self._anneal(self._config.confidence / self._misfit.min().clamp_min(_MISFIT_FLOOR))
        for _ in range(self._config.moves):
            self._move(statistics)
        return self._kernels.mean(0)

    def _anneal(self, target: Tensor) -> None:
        """Reweight and resample to an inverse temperature, or as near as the population bears."""
        betas = target * 0.5 ** torch.arange(24, device=target.device)
        log_weights = -betas[:, None] * self._misfit - self._log_target
        weights = torch.softmax(log_weights, 1)
        effective = 1 / weights.square().sum(1)
        # The coldest that keeps half of the population; where none does, the one that keeps most.
        count = len(self._misfit)
        enough = effective >= 0.5 * count
        chosen = torch.where(enough, count + betas / target, effective).argmax()
        self._beta = betas[chosen]
        index = _systematic(weights[chosen], self._generator)
        self._points = self._points[index]
        self._kernels = self._kernels[index]
        self._misfit = self._misfit[index]
        self._log_target = -self._beta * self._misfit

    def _move(self, statistics: GramStatistics) -> None:
        """Do one Metropolis step along differences between particles (DE-MC, ter Braak 2006)."""
        count, dimension = self._points.shape
        device = self._points.device
        order = torch.rand(2, count, generator=self._generator).argsort(1).to(device)
        difference = self._points[order[0]] - self._points[order[1]]
        difference = torch.where(self._periodic, _wrapped(difference), difference)
        step = 2.38 / (2 * dimension) ** 0.5
        jitter = torch.randn(count, dimension, generator=self._generator).to(device)
        points = self._points + step * difference + _JITTER * jitter
        points = torch.where(self._periodic, points % 1.0, _reflected(points))
        kernels = self._family.render(points)
        misfit = statistics.misfit(kernels).to(device)
        log_target = -self._beta * misfit
        chance = torch.rand(count, generator=self._generator, dtype=torch.float64).to(device)
        accepted = chance.log() < log_target - self._log_target
        self._points = torch.where(accepted[:, None], points, self._points)
        self._kernels = torch.where(
            accepted.reshape(-1, *(1,) * (kernels.ndim - 1)), kernels, self._kernels
        )
        self._misfit = torch.where(accepted, misfit, self._misfit)
        self._log_target = torch.where(accepted, log_target, self._log_target)


# Keeps weights finite when a kernel fits exactly (delta of eq. 6), in normalised intensity squared.
_MISFIT_FLOOR = 1e-10
# Standard deviation of the random part of a move, in cube units.
_JITTER = 0.01


def make_sampler(
    families: list[KernelFamily], config: RKSConfig, generator: Generator, device: torch.device
) -> KernelSampler:
    """Return the sampler that the config names; a population has a single family."""
    if config.sampler == "paper":
        return PaperSampler(families, config, generator, device)
    (family,) = families
    return SMCSampler(family, config, generator, device)


def _members(
    family: KernelFamily, count: int, generator: Generator, device: torch.device
) -> Tensor:
    return family.render(_uniform((count, family.n_parameters), generator, device))


def _uniform(shape: tuple[int, int], generator: Generator, device: torch.device) -> Tensor:
    """Draw on the CPU, then move: the same kernels on every device."""
    return torch.rand(shape, generator=generator).to(device)


def _average(kernels: Tensor, weights: Tensor) -> Tensor:
    weights = (weights / weights.sum()).to(kernels)
    average: Tensor = torch.tensordot(weights, kernels, 1)
    return average


def _systematic(weights: Tensor, generator: Generator) -> Tensor:
    """Resample with one uniform draw: the index of each survivor (systematic resampling)."""
    count = len(weights)
    start = torch.rand(1, generator=generator, dtype=torch.float64).to(weights.device)
    points = (torch.arange(count, device=weights.device) + start) / count
    return torch.searchsorted(weights.cumsum(0), points).clamp_max(count - 1)


def _wrapped(difference: Tensor) -> Tensor:
    """Map differences of periodic parameters to [-½, ½)."""
    return (difference + 0.5) % 1.0 - 0.5


def _reflected(points: Tensor) -> Tensor:
    """Mirror points outside the cube back into it."""
    return 1 - (points % 2.0 - 1).abs()
