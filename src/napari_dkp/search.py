"""Search for a kernel on rough images, before the restoration proper.

An image that fits the data under some kernel makes that kernel look right, and the better it fits
the more so: alternation alone stays where it began. Two things break the circle. The image starts
anew several times while the kernel goes on, for only an image that is still forming tells kernels
apart. And some samples are left out of each fit: what is guessed there bears out no kernel.

Where a choice between a few kernels is left, before there is an image, one is formed under each:
that which fits best decides.
"""

import math
from collections.abc import Callable
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from napari_dkp import engine
from napari_dkp.config import SearchConfig
from napari_dkp.engine import ImageRestorer, KernelPrior
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.state import State, Stop


@dataclass(frozen=True)
class Round:
    """One image of the search, from its start.

    Attributes
    ----------
    steps : image steps.
    kernel_after : image steps before the first kernel update.
    counted_after : image steps after which kernels enter the mean that is found; None for never.
    candidate : the number of the kernel under which it forms, and which it judges; None for kernels
        that go on.
    """

    steps: int
    kernel_after: int
    counted_after: int | None
    candidate: int | None = None


def burn_in(config: SearchConfig) -> int:
    """Return how many first rounds only bring the kernel near."""
    return config.rounds // 2


def plan(
    config: SearchConfig, longest: int, kernel_every: int, n_candidates: int = 0
) -> list[Round]:
    """Return the rounds of a search.

    Parameters
    ----------
    longest : image steps that no round exceeds.
    kernel_every : image steps per kernel update.
    n_candidates : kernels that are judged first.
    """
    steps = min(config.steps, longest)
    settled = min(round(config.settled * steps), steps - 1)
    # An image says the more about its own kernel the further it is: that slows, and steadies.
    near = Round(steps, kernel_every, None)
    steady = Round(steps, max(1, settled), settled)
    long = min(_JUDGING * steps, longest)
    judging = [Round(long, long, None, number) for number in range(n_candidates)]
    near_rounds = burn_in(config)
    return judging + [near] * near_rounds + [steady] * (config.rounds - near_rounds)


class SoughtKernel(KernelPrior, Protocol):
    """A kernel prior that may know something before there is an image."""

    def candidates(self) -> list[Tensor]:
        """Return kernels of shape (*K,) between which images have to decide, if any."""

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""


class KernelSearch:
    """The search on one LR plane.

    Parameters
    ----------
    prior : of the kernel.
    make_scout : returns a fresh image restorer for a round, from the same draws for all candidates.
    start : image to hand out until a round has ended, HR frame.
    rounds : see `plan`.
    kernel_every : image steps per kernel update.
    """

    def __init__(
        self,
        prior: SoughtKernel,
        make_scout: Callable[[Round], ImageRestorer],
        start: Tensor,
        rounds: list[Round],
        kernel_every: int,
    ) -> None:
        self._prior = prior
        self._make_scout = make_scout
        self._start = start
        self._rounds = rounds
        self._kernel_every = kernel_every

    def run(self, before: int, n_steps: int) -> Iteration[State[Tensor], None, Tensor | None]:
        """Search; yield the state of every image step and return the kernel, shape (*K,).

        Where every later round diverges there is none, and the last state says so.

        States are numbered over all rounds and show the image of the latest finished one: no image
        is shown that starts from noise.

        Parameters
        ----------
        before, n_steps : for the states, image steps that precede the search, and those with what
            follows it.
        """
        done = before
        shown = self._start
        counted = []
        candidates = self._prior.candidates()
        rounds = self._rounds
        if not candidates:
            rounds = [self._unjudging(each) for each in rounds]
        misfits: list[float] = []
        for each in rounds:
            judged = None if each.candidate is None else candidates[each.candidate]
            prior: KernelPrior = self._prior if judged is None else KnownKernel(judged)
            fit = engine.alternate(
                self._make_scout(each),
                prior,
                self._start,
                each.steps,
                self._kernel_every,
                each.kernel_after,
            )
            for state in fit:
                late = each.counted_after is not None and state.step > each.counted_after
                if late and state.stop is not Stop.DIVERGED:
                    counted.append(state.kernel)
                latest = replace(
                    state,
                    step=done + state.step,
                    n_steps=n_steps,
                    image=shown,
                    stop=Stop.RUNNING,
                    searching=True,
                )
                yield latest
            done += each.steps
            if state.stop is Stop.COMPLETED:
                shown = state.image
            if judged is not None:
                misfits.append(state.residual if state.stop is Stop.COMPLETED else math.inf)
                if len(misfits) == len(candidates):
                    self._prior.keep(misfits.index(min(misfits)))
        # A round that diverges ends early, and the next one may do better.
        if counted:
            return torch.stack(counted).mean(0)
        yield replace(latest, stop=Stop.DIVERGED)
        return None

    def _unjudging(self, each: Round) -> Round:
        """Return a round, or in place of one that judges, such as bring the kernel near."""
        if each.candidate is None:
            return each
        return replace(each, kernel_after=self._kernel_every, candidate=None)


# Times the steps of a round: images that have formed are judged.
_JUDGING = 2
