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


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A kernel prior in the search.

    Attributes
    ----------
    prior : with a memory of its own.
    handicap : by which the logarithm of its prediction error has to undercut those without.
    """

    prior: KernelPrior
    handicap: float = 0.0


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
        self._round_steps = min(config.steps, longest)
        self._trial_steps = min(config.trial_steps, longest)
        self._generator = generator
        self._shown: Tensor | None = None

    def run(self) -> Fit[Tensor]:
        """Search; yield the state of every image step and return the kernel, shape (*K,)."""
        kernels = []
        for hypothesis in self._hypotheses:
            kernels.append((yield from self._formed(hypothesis.prior)))
        if len(kernels) == 1:
            return kernels[0]
        # The same samples and the same networks for all: what differs is the kernel's doing.
        seeds = self._seeds(self._config.trials)
        scores = []
        for hypothesis, kernel in zip(self._hypotheses, kernels, strict=True):
            error = yield from self._tried(kernel, seeds)
            scores.append(error + hypothesis.handicap)
        weights = torch.softmax(-torch.tensor(scores) / self._config.margin, 0)
        return torch.tensordot(weights.to(kernels[0]), torch.stack(kernels), 1)

    def _formed(self, prior: KernelPrior) -> Fit[Tensor]:
        """Let images form anew while the kernel goes on; return its mean over the later rounds."""
        ends = []
        steps = self._round_steps
        for number, seed in enumerate(self._seeds(self._config.rounds)):
            restorer = self._make_restorer(steps, self._config.left_out, make_generator(seed))
            # An image says the more about its own kernel the further it is: that slows, and steadies.
            late = number >= self._config.rounds // 2
            after = max(1, round(self._config.settled * steps) if late else self._kernel_every)
            fit = engine.alternate(restorer, prior, self._start, steps, self._kernel_every, after)
            for state in self._shown_with(fit):
                yield state
            ends.append(state.kernel)
        return torch.stack(ends[len(ends) // 2 :]).mean(0)

    def _tried(self, kernel: Tensor, seeds: Sequence[int]) -> Fit[float]:
        """Return half the logarithm of the error with which fits under a kernel predict samples."""
        steps = self._trial_steps
        errors = []
        for seed in seeds:
            restorer = self._make_restorer(
                steps, self._config.trial_left_out, make_generator(seed)
            )
            fit = engine.alternate(restorer, KnownKernel(kernel), self._start, steps)
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
        return torch.randint(2**62, (count,), generator=self._generator).tolist()


# Steps at the end of a trial over which the error is averaged.
_LAST = 5
# Score of a kernel under which a fit diverges: finite, for all of them may.
_HOPELESS = 1e3
