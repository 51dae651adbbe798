"""Random kernel sampling (RKS, eqs. 3-8): the kernel prior of the current step.

Two samplers share one interface: given the Gram statistics of the latest image, return k_p, the
weighted mean of family members (eq. 8). `PaperSampler` draws L fresh kernels and reweights them.
`SMCSampler` keeps a population that follows the likelihood as the image improves, together with
what is known of kernels without one.
"""

import math
from collections.abc import Callable
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from napari_dkp.config import RKSConfig
from napari_dkp.families import KernelFamily
from napari_dkp.gram import GramStatistics


class KernelSampler(Protocol):
    """Proposes the prior kernel k_p."""

    def candidates(self) -> Iteration[Tensor, None, list[Tensor]]:
        """Return kernels of shape (*kernel_shape) that are likely before there is an image.

        Images have to decide between them. An empty list where nothing is known.

        Yields
        ------
        The mean of the kernels on the way, shape (*kernel_shape), for that takes a while.
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

    def candidates(self) -> Iteration[Tensor, None, list[Tensor]]:
        """Return none: draws go on from nothing."""
        yield from ()
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


Likelihood = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Population:
    """Kernels, where they are in the family's cube, and what they are judged by.

    Attributes
    ----------
    points : shape (N, p).
    kernels : shape (N, *kernel_shape).
    terms : log-likelihoods, of which targets are weighted sums: what is known without an image,
        what is known near a population, minus the misfit of the latest image. Shape (N, 3).
    """

    points: Tensor
    kernels: Tensor
    terms: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def with_term(self, term: int, values: Tensor) -> "_Population":
        terms = self.terms.clone()
        terms[:, term] = values
        return replace(self, terms=terms)

    def at(self, index: Tensor) -> "_Population":
        return _Population(self.points[index], self.kernels[index], self.terms[index])

    def replaced(self, chosen: Tensor, other: "_Population") -> "_Population":
        """Return the members of another population where these are chosen, shape (N,)."""

        def either(mine: Tensor, its: Tensor) -> Tensor:
            return torch.where(chosen.reshape(-1, *(1,) * (mine.ndim - 1)), its, mine)

        return _Population(
            either(self.points, other.points),
            either(self.kernels, other.kernels),
            either(self.terms, other.terms),
        )


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
    known_near : what more is known of kernels like those of a settled population
        (N, *kernel_shape), or the same turned by 180 degrees, part of every target from then on;
        None where nothing is.
    """

    def __init__(
        self,
        family: KernelFamily,
        config: RKSConfig,
        generator: Generator,
        device: torch.device,
        known: Known | None = None,
        known_near: Callable[[list[Tensor]], Likelihood] | None = None,
    ) -> None:
        self._config = config
        self._family = family
        self._generator = generator
        self._known = known
        self._known_near = known_near
        self._device = device
        self._periodic = torch.tensor(family.periodic, device=device)
        self._start()

    def _start(self) -> None:
        """Draw a population of the family."""
        count = self._config.particles
        points = _uniform((count, self._family.n_parameters), self._generator, self._device)
        terms = torch.zeros(count, 3, dtype=torch.float64, device=self._device)
        self._population = _Population(points, self._family.render(points), terms)
        self._near: Likelihood | None = None
        # Of the terms in the target.
        self._exponents = torch.zeros_like(terms[0])
        self._candidates: list[_Population] = []

    def draw(self, count: int) -> Tensor:
        """Return random members of the family, or of a population that has settled."""
        if self._exponents[_KNOWN] > 0:
            kernels = self._population.kernels
            index = torch.randint(len(kernels), (count,), generator=self._generator)
            return kernels[index.to(kernels.device)]
        return _members(self._family, count, self._generator, self._device)

    def candidates(self) -> Iteration[Tensor, None, list[Tensor]]:
        """Settle on what is known without an image; return what that leaves to be decided.

        That is at least one kernel, unless nothing is known, or the best one leaves what tells
        against what is assumed. Power spectra do not tell a kernel from the same one turned by 180
        degrees.

        Yields
        ------
        The mean kernel after each stage, shape (*kernel_shape).
        """
        turned = self._family.turned
        if self._known is None:
            return []
        yield from self._settle(_KNOWN, self._known, settling_moves(self._family))
        kernels = self._population.kernels
        best = kernels[self._log_target(self._population).argmax()]
        if not self._known.explained(best):
            self._known = None
            self._start()
            return []
        populations = [self._population]
        if turned is not None:
            # The same half-turn for all: that which is nearer to the best one's.
            other = self._turned(self._population)
            nearer = _distance(other.kernels, best) < _distance(kernels, best)
            alike = self._population.replaced(nearer, other)
            populations = [alike, self._turned(alike)]
        if self._known_near is not None:
            self._near = self._known_near([each.kernels for each in populations])
            for number, population in enumerate(populations):
                self._population = population
                yield from self._settle(_NEAR, self._near, moves_nearer(self._family))
                populations[number] = self._population
        self._candidates = populations
        self.keep(0)
        return [population.kernels.mean(0) for population in populations]

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""
        self._population = self._candidates[number]

    def step(self, statistics: GramStatistics) -> Tensor:
        """Move the population to the new statistics and return its mean."""
        misfits = self._misfits(self._population.kernels, statistics)
        self._population = self._population.with_term(_IMAGE, -misfits)
        unit = statistics.unit or misfits.min().clamp_min(_MISFIT_FLOOR)
        betas = self._config.confidence / torch.as_tensor(unit).to(misfits) * self._halvings()
        exponents = self._exponents.repeat(_STAGES, 1)
        exponents[:, _IMAGE] = betas
        self._anneal(exponents)
        for _ in range(self._config.moves):
            self._move(statistics)
        return self._population.kernels.mean(0)

    def _turned(self, population: _Population) -> _Population:
        assert self._family.turned
        points = self._family.turned(population.points)
        return _Population(points, self._family.render(points), population.terms)

    def _settle(
        self, term: int, likelihood: Likelihood, at_least: int
    ) -> Iteration[Tensor, None, None]:
        """Move the population, in so many moves at least, to a target with a new term.

        Yields
        ------
        The mean kernel after each stage, shape (*kernel_shape).
        """
        self._population = self._population.with_term(
            term, likelihood(self._population.kernels).to(self._device)
        )
        self._exponents[term] = 0
        moves = 0
        while self._exponents[term] < 1 or moves < at_least:
            if self._exponents[term] < 1:
                exponents = self._exponents.repeat(_STAGES, 1)
                exponents[:, term] += (1 - exponents[:, term]) * self._halvings()
                self._anneal(exponents)
            for _ in range(_MOVES_PER_STAGE):
                self._move(None)
            moves += _MOVES_PER_STAGE
            yield self._population.kernels.mean(0)

    def _halvings(self) -> Tensor:
        return 0.5 ** torch.arange(_STAGES, dtype=torch.float64, device=self._device)

    def _misfits(self, kernels: Tensor, statistics: GramStatistics) -> Tensor:
        return statistics.misfit(kernels).to(self._device)

    def _log_target(self, population: _Population) -> Tensor:
        return population.terms @ self._exponents

    def _anneal(self, exponents: Tensor) -> None:
        """Reweight and resample to one of some targets, the most wanted one first.

        Parameters
        ----------
        exponents : of each target's terms, shape (T, 3).
        """
        targets = exponents @ self._population.terms.mT
        weights = torch.softmax(targets - self._log_target(self._population), 1)
        effective = 1 / weights.square().sum(1)
        # The first that keeps half of the population; where none does, the one that keeps most.
        count = len(self._population)
        wanted = torch.arange(len(exponents), 0, -1, device=effective.device)
        chosen = torch.where(effective >= 0.5 * count, count + wanted, effective).argmax()
        self._exponents = exponents[chosen]
        self._population = self._population.at(_systematic(weights[chosen], self._generator))

    def _move(self, statistics: GramStatistics | None) -> None:
        """Do one Metropolis step along differences between particles (DE-MC, ter Braak 2006)."""
        points = self._population.points
        count, dimension = points.shape
        order = torch.rand(2, count, generator=self._generator).argsort(1).to(self._device)
        difference = points[order[0]] - points[order[1]]
        difference = torch.where(self._periodic, _wrapped(difference), difference)
        step = 2.38 / (2 * dimension) ** 0.5
        jitter = torch.randn(count, dimension, generator=self._generator).to(self._device)
        points = points + step * difference + _JITTER * jitter
        points = torch.where(self._periodic, points % 1.0, _reflected(points))
        proposed = self._judged(points, statistics)
        rise = self._log_target(proposed) - self._log_target(self._population)
        chance = torch.rand(count, generator=self._generator, dtype=torch.float64).to(self._device)
        self._population = self._population.replaced(chance.log() < rise, proposed)

    def _judged(self, points: Tensor, statistics: GramStatistics | None) -> _Population:
        """Return the kernels at points, with those terms that count."""
        kernels = self._family.render(points)
        terms = torch.zeros(len(points), 3, dtype=torch.float64, device=self._device)
        if self._known is not None and self._exponents[_KNOWN] > 0:
            terms[:, _KNOWN] = self._known(kernels)
        if self._near is not None and self._exponents[_NEAR] > 0:
            terms[:, _NEAR] = self._near(kernels)
        if statistics is not None:
            terms[:, _IMAGE] = -self._misfits(kernels, statistics)
        return _Population(points, kernels, terms)


# Columns of a population's terms.
_KNOWN, _NEAR, _IMAGE = range(3)


def settling_moves(family: KernelFamily) -> int:
    """Return the Metropolis moves in which a population settles on what is known."""
    return min(_MOVES_PER_PARAMETER * family.n_parameters, _MOST_MOVES)


def moves_nearer(family: KernelFamily) -> int:
    """Return those in which it then settles on what is known near it."""
    return _MOVES_PER_STAGE * math.ceil(settling_moves(family) / 3 / _MOVES_PER_STAGE)


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
    known_near: Callable[[list[Tensor]], Likelihood] | None = None,
) -> KernelSampler:
    """Return the sampler that the config names; a population has a single family."""
    if config.sampler == "paper":
        return PaperSampler(families, config, generator, device)
    (family,) = families
    return SMCSampler(family, config, generator, device, known, known_near)


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
