"""Random kernel sampling (RKS, eqs. 3-8): the kernel prior of the current step.

Two samplers share one interface: given the Gram statistics of the latest image, return k_p, the
weighted mean of family members (eq. 8). `PaperSampler` draws L fresh kernels and reweights them.
`SMCSampler` keeps a population that follows the likelihood as the image improves, together with
what is known of kernels without one.
"""

from typing import Protocol

import torch
from torch import Generator, Tensor

from napari_dkp.config import RKSConfig
from napari_dkp.families import KernelFamily
from napari_dkp.gram import GramStatistics


class KernelSampler(Protocol):
    """Proposes the prior kernel k_p."""

    def candidates(self) -> list[Tensor]:
        """Return kernels of shape (*kernel_shape) that are likely before there is an image.

        Images have to decide between them. An empty list where nothing is known.
        """

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""

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

    def candidates(self) -> list[Tensor]:
        """Return none: draws go on from nothing."""
        return []

    def keep(self, number: int) -> None:
        """Do nothing, as there are no candidates."""

    def step(self, statistics: GramStatistics) -> Tensor:
        """Return the reweighted mean of L fresh kernels."""
        kernels = self.draw(self._draws)
        misfit = statistics.misfit(kernels)
        weights = 1 / (misfit + _MISFIT_FLOOR)  # eq. 6, E_l + delta
        return _average(kernels, weights)  # eq. 8


class Known(Protocol):
    """What is known of kernels without an image."""

    def __call__(self, kernels: Tensor) -> Tensor:
        """Return the log-likelihood of kernels (N, *kernel_shape), float64, shape (N,)."""

    def explained(self, kernel: Tensor) -> bool:
        """Return whether a kernel leaves nothing that tells against what is assumed."""


class SMCSampler:
    """A population of one family under sequential Monte Carlo.

    Its target is what is known without an image times the tempered likelihood exp(-β E(k(h))) of
    the latest one, E the mean squared residual and β = confidence / min E, or the unit that the
    statistics have: the residual of an unfinished image is model error rather than noise, so a
    doubled misfit counts as so many nats whatever the number of pixels. A step reweights the
    population from the last target to the new one (as far as half of the effective sample allows),
    resamples, and moves it by differential-evolution Metropolis steps.

    Parameters
    ----------
    known : what is known without an image, part of every target; None where nothing is.
    """

    def __init__(
        self,
        family: KernelFamily,
        config: RKSConfig,
        generator: Generator,
        device: torch.device,
        known: Known | None = None,
    ) -> None:
        self._config = config
        self._family = family
        self._generator = generator
        self._known = known
        self._device = device
        self._periodic = torch.tensor(family.periodic, device=device)
        self._start()

    def _start(self) -> None:
        """Draw a population of the family."""
        count = self._config.particles
        self._points = _uniform((count, self._family.n_parameters), self._generator, self._device)
        self._kernels = self._family.render(self._points)
        self._misfit = torch.zeros(count, dtype=torch.float64, device=self._device)
        self._log_known = torch.zeros_like(self._misfit)
        self._log_target = torch.zeros_like(self._misfit)
        self._exponent = torch.zeros((), dtype=torch.float64, device=self._device)
        self._beta = torch.zeros_like(self._exponent)

    def draw(self, count: int) -> Tensor:
        """Return random members of the family, or of a population that has settled."""
        if self._exponent > 0:
            index = torch.randint(len(self._kernels), (count,), generator=self._generator)
            return self._kernels[index.to(self._kernels.device)]
        return _members(self._family, count, self._generator, self._points.device)

    def candidates(self) -> list[Tensor]:
        """Settle on what is known without an image; return what that leaves to be decided.

        That is at least one kernel, unless nothing is known, or the best one leaves what tells
        against what is assumed. Power spectra do not tell a kernel from the same one turned by 180
        degrees.
        """
        turned = self._family.turned
        if self._known is None:
            return []
        self._settle(self._known)
        best = self._kernels[self._log_target.argmax()]
        if not self._known.explained(best):
            self._known = None
            self._start()
            return []
        if turned is None:
            return [self._kernels.mean(0)]
        # The same half-turn for all: that which is nearer to the best one's.
        others = self._family.render(turned(self._points))
        nearer = _distance(others, best) < _distance(self._kernels, best)
        self._points = torch.where(nearer[:, None], turned(self._points), self._points)
        self._kernels = torch.where(nearer[:, None, None], others, self._kernels)
        return [self._kernels.mean(0), self._family.render(turned(self._points)).mean(0)]

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""
        if number:
            assert self._family.turned
            self._points = self._family.turned(self._points)
            self._kernels = self._family.render(self._points)

    def step(self, statistics: GramStatistics) -> Tensor:
        """Move the population to the new statistics and return its mean."""
        self._misfit = self._misfits(self._kernels, statistics)
        unit = statistics.unit or self._misfit.min().clamp_min(_MISFIT_FLOOR)
        target = self._config.confidence / torch.as_tensor(unit).to(self._beta)
        self._anneal(self._exponent.expand(_STAGES), target * self._halvings())
        for _ in range(self._config.moves):
            self._move(statistics)
        return self._kernels.mean(0)

    def _settle(self, known: Known) -> None:
        """Move the population to what is known without an image."""
        self._log_known = known(self._kernels)
        moves = 0
        while self._exponent < 1 or moves < settling_moves(self._family):
            if self._exponent < 1:
                exponents = self._exponent + (1 - self._exponent) * self._halvings()
                self._anneal(exponents, torch.zeros_like(exponents))
            for _ in range(_MOVES_PER_STAGE):
                self._move(None)
            moves += _MOVES_PER_STAGE

    def _halvings(self) -> Tensor:
        return 0.5 ** torch.arange(_STAGES, dtype=torch.float64, device=self._points.device)

    def _misfits(self, kernels: Tensor, statistics: GramStatistics | None) -> Tensor:
        if statistics is None:
            return torch.zeros(len(kernels), dtype=torch.float64, device=self._points.device)
        return statistics.misfit(kernels).to(self._points.device)

    def _anneal(self, exponents: Tensor, betas: Tensor) -> None:
        """Reweight and resample to one of some targets, the most wanted one first.

        Parameters
        ----------
        exponents : of what is known without an image, shape (T,).
        betas : inverse temperatures of the misfit, shape (T,).
        """
        targets = exponents[:, None] * self._log_known - betas[:, None] * self._misfit
        weights = torch.softmax(targets - self._log_target, 1)
        effective = 1 / weights.square().sum(1)
        # The first that keeps half of the population; where none does, the one that keeps most.
        count = len(self._misfit)
        wanted = torch.arange(len(exponents), 0, -1, device=effective.device)
        chosen = torch.where(effective >= 0.5 * count, count + wanted, effective).argmax()
        self._exponent, self._beta = exponents[chosen], betas[chosen]
        index = _systematic(weights[chosen], self._generator)
        self._points = self._points[index]
        self._kernels = self._kernels[index]
        self._misfit = self._misfit[index]
        self._log_known = self._log_known[index]
        self._log_target = targets[chosen, index]

    def _move(self, statistics: GramStatistics | None) -> None:
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
        misfit = self._misfits(kernels, statistics)
        log_known = torch.zeros_like(misfit)
        if self._known is not None and self._exponent > 0:
            log_known = self._known(kernels).to(device)
        log_target = self._exponent * log_known - self._beta * misfit
        chance = torch.rand(count, generator=self._generator, dtype=torch.float64).to(device)
        accepted = chance.log() < log_target - self._log_target
        self._points = torch.where(accepted[:, None], points, self._points)
        self._kernels = torch.where(
            accepted.reshape(-1, *(1,) * (kernels.ndim - 1)), kernels, self._kernels
        )
        self._misfit = torch.where(accepted, misfit, self._misfit)
        self._log_known = torch.where(accepted, log_known, self._log_known)
        self._log_target = torch.where(accepted, log_target, self._log_target)


def settling_moves(family: KernelFamily) -> int:
    """Return the Metropolis moves in which a population settles on what is known."""
    return min(_MOVES_PER_PARAMETER * family.n_parameters, _MOST_MOVES)


_MOVES_PER_PARAMETER, _MOST_MOVES = 10, 120
_MOVES_PER_STAGE = 5
# Targets between one and the next.
_STAGES = 24
# Keeps weights finite when a kernel fits exactly (delta of eq. 6), in normalised intensity squared.
_MISFIT_FLOOR = 1e-10
# Standard deviation of the random part of a move, in cube units.
_JITTER = 0.01


def make_sampler(
    families: list[KernelFamily],
    config: RKSConfig,
    generator: Generator,
    device: torch.device,
    known: Known | None = None,
) -> KernelSampler:
    """Return the sampler that the config names; a population has a single family."""
    if config.sampler == "paper":
        return PaperSampler(families, config, generator, device)
    (family,) = families
    return SMCSampler(family, config, generator, device, known)


def _distance(kernels: Tensor, kernel: Tensor) -> Tensor:
    """Return the squared distance of kernels (N, *kernel_shape) from one, shape (N,)."""
    return (kernels - kernel).flatten(1).square().sum(1)


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
