"""Search for the kernel: hypotheses, each with images of its own, compared by what they predict.

An image that fits the data under some kernel makes that kernel look right, and the better it fits
the more so: alternation alone stays where it began. Two things break the circle. The image starts
anew several times while the kernel goes on, for only an image that is still forming tells kernels
apart. And some samples are left out of each fit: how well they are predicted is an account of the
kernel to which no image has been fitted.
"""

import math
from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Generator, Tensor

from napari_dkp import engine
from napari_dkp.config import SearchConfig
from napari_dkp.engine import ImageRestorer, KernelPrior, StateGenerator
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.randomness import make_generator
from napari_dkp.state import State, Stop

Found = TypeVar("Found")
Fit = Iteration[State[Tensor], None, Found]


class PredictingRestorer(ImageRestorer, Protocol):
    """An image restorer that leaves samples out of its fit."""

    def prediction_error(self) -> Tensor:
        """Return the error of the latest step on the samples left out, a scalar."""


@dataclass(frozen=True)
class Schedule:
    """How a hypothesis is followed.

    Attributes
    ----------
    family : of its kernels.
    rounds : images that it forms.
    burn_in : first rounds, in which the kernel moves fast and nothing is remembered.
    afresh : whether each round begins with a new kernel. One image is enough for the few parameters
        of a Gaussian; over several it would grow ever narrower, while a mean over independent ones
        only gains.
    steps : image steps per round.
    settled : steps of a round after which kernels count, and after which, past the burn-in, images
        inform them.
    handicap : by which half the logarithm of its prediction error has to undercut those without.
    """

    family: str
    rounds: int
    burn_in: int
    steps: int
    settled: int
    afresh: bool = False
    handicap: float = 0.0

    def first_update(self, number: int, every: int) -> int:
        """Return the image steps before the first kernel update of a round."""
        # An image says the more about its own kernel the further it is: that slows, and steadies.
        return every if number < self.burn_in else max(1, self.settled)

    def counts(self, number: int, step: int) -> bool:
        """Whether the kernel of a step is part of the hypothesis's mean."""
        return number >= self.burn_in % self.rounds and step > min(self.settled, self.steps - 1)


def schedules(family: str, config: SearchConfig, longest: int) -> list[Schedule]:
    """Return the schedule of each hypothesis; for "auto" straight paths stand for lines.

    Parameters
    ----------
    longest : image steps that no fit exceeds.
    """
    chains = {"gaussian": 1, "trajectory": config.chains}
    if family != "auto":
        chains = {family: 1 if family == "gaussian" else max(1, config.chains)}
    found: list[Schedule] = []
    for name, count in chains.items():
        simple = name == "gaussian"
        rounds = config.gaussian_rounds if simple else config.rounds
        steps = min(config.gaussian_steps if simple else config.steps, longest)
        schedule = Schedule(
            name,
            rounds,
            rounds if simple else rounds // 2,
            steps,
            round(config.settled * steps),
            simple,
            0.0 if simple else config.margin,
        )
        found += [schedule] * count
    return found


def n_search_steps(plan: Sequence[Schedule], config: SearchConfig, longest: int) -> int:
    """Return the image steps of a search, its trials included."""
    trials = config.trials * len(plan) if len(plan) > 1 else 0
    rounds = sum(schedule.rounds * schedule.steps for schedule in plan)
    return rounds + trials * min(config.trial_steps, longest)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A kernel prior in the search, with a memory of its own, and how it is followed."""

    prior: KernelPrior
    schedule: Schedule


class KernelSearch:
    """The search on one LR plane.

    Parameters
    ----------
    hypotheses : at least one.
    make_restorer : called with a number of steps, a share of samples to leave out and a generator
        of random draws; returns a fresh image restorer.
    start : image to hand out if a fit diverges at once, HR frame.
    config : numbers of the search.
    kernel_every : image steps per kernel update.
    longest : image steps that no fit exceeds.
    generator : CPU generator of the fits' seeds.
    """

    def __init__(
        self,
        hypotheses: Sequence[Hypothesis],
        make_restorer: Callable[[int, float, Generator], PredictingRestorer],
        start: Tensor,
        config: SearchConfig,
        kernel_every: int,
        longest: int,
        generator: Generator,
    ) -> None:
        self._hypotheses = hypotheses
        self._make_restorer = make_restorer
        self._start = start
        self._config = config
        self._kernel_every = kernel_every
        self._trial_steps = min(config.trial_steps, longest)
        self._generator = generator
        self._shown: Tensor | None = None

    def run(self) -> Fit[Tensor]:
        """Search; yield the state of every image step and return the kernel, shape (*K,)."""
        kernels = []
        for hypothesis in self._hypotheses:
            kernels.append((yield from self._formed(hypothesis)))
        if len(kernels) == 1:
            return kernels[0]
        # The same samples and the same networks for all: what differs is the kernel's doing.
        seeds = self._seeds(self._config.trials)
        scores = []
        for hypothesis, kernel in zip(self._hypotheses, kernels, strict=True):
            error = yield from self._tried(kernel, seeds)
            scores.append(error + hypothesis.schedule.handicap)
        return kernels[min(range(len(scores)), key=scores.__getitem__)]

    def _formed(self, hypothesis: Hypothesis) -> Fit[Tensor]:
        """Let images form anew while the kernel goes on; return its mean."""
        schedule = hypothesis.schedule
        counted = []
        for number, seed in enumerate(self._seeds(schedule.rounds)):
            generator = make_generator(seed)
            restorer = self._make_restorer(schedule.steps, self._config.left_out, generator)
            fit = engine.alternate(
                restorer,
                hypothesis.prior,
                self._start,
                schedule.steps,
                self._kernel_every,
                schedule.first_update(number, self._kernel_every),
            )
            for state in self._shown_with(fit):
                yield state
                if schedule.counts(number, state.step):
                    counted.append(state.kernel)
        # A round that diverges ends early.
        return torch.stack(counted or [state.kernel]).mean(0)

    def _tried(self, kernel: Tensor, seeds: Sequence[int]) -> Fit[float]:
        """Return half the logarithm of the error with which fits under a kernel predict samples."""
        steps = self._trial_steps
        errors = []
        for seed in seeds:
            generator = make_generator(seed)
            restorer = self._make_restorer(steps, self._config.trial_left_out, generator)
            # Step by step: the restorer knows the error of its latest step only.
            fit = engine.alternate(restorer, KnownKernel(kernel), self._start, steps, block=1)
            for state in self._shown_with(fit):
                yield state
                if state.step > steps - _LAST:
                    errors.append(restorer.prediction_error())
            if state.step < steps:
                return _HOPELESS
        score = float(torch.stack(errors).log().mean()) / 2
        return score if math.isfinite(score) else _HOPELESS

    def _shown_with(self, fit: StateGenerator[Tensor]) -> StateGenerator[Tensor]:
        """Pass states on with the image of the latest finished fit: no image starts from noise."""
        for state in fit:
            shown = state.image if self._shown is None else self._shown
            yield replace(state, image=shown, stop=Stop.RUNNING, searching=True)
        self._shown = state.image

    def _seeds(self, count: int) -> list[int]:
        seeds: list[int] = torch.randint(2**62, (count,), generator=self._generator).tolist()
        return seeds


# Steps at the end of a trial over which the error is averaged.
_LAST = 5
# Score of a kernel under which a fit diverges: finite, for all of them may.
_HOPELESS = 1e3
