"""One plane: its kernel is found, then its image restored."""

from collections.abc import Generator as Iteration
from dataclasses import replace
from itertools import count
from typing import TypeVar

import torch
from torch import Generator as RandomGenerator
from torch import Tensor

from napari_dkp import engine
from napari_dkp.engine import TrialStep
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.parts import Parts
from napari_dkp.randomness import make_generator
from napari_dkp.restorers.diffusion import DiffusionRestorer
from napari_dkp.schedule import (
    kernel_every,
    optics_steps,
    own_steps,
    planned_steps,
    search_plan,
    standing_after,
    trial_steps,
)
from napari_dkp.search import Forming, KernelSearch, settling
from napari_dkp.state import State, Stop

Found = TypeVar("Found")


def fit(parts: Parts) -> engine.StateGenerator[Tensor]:
    """Restore one plane: find its kernel, unless a plan has it, then its image.

    Planes of one shape may stand side by side as channels: they share one kernel.

    Yields
    ------
    A state per image step, numbered over the search and the restoration proper; before the first,
    some of a kernel that settles on what is known without an image. If the last one is of a
    restoration that is complete, the parts know its `plan` and its `evidence`.
    """
    with parts.kept_memory():
        # Its frame, with all that takes memory, is gone before the memory is given back.
        yield from _fit(parts)


def _fit(parts: Parts) -> engine.StateGenerator[Tensor]:
    settings, plan = parts.settings, parts.given
    start = parts.start()
    generator = make_generator(settings.seed)
    search = None if plan else search_plan(settings)
    tried = plan is None and trial_steps(settings) > 0
    n_steps = planned_steps(settings, plan)
    left = own_steps(settings, plan)
    if plan is None:
        yield from _watched(parts.optics_trials(), 1, n_steps, start)
    prior: engine.KernelPrior | None = None
    if plan:
        prior = KnownKernel(torch.from_numpy(plan.kernel).to(start.device))
    elif settings.volume:
        sought = parts.volume_kernel(generator)
        prior = KnownKernel((yield from _watched(sought, 1, n_steps, start)))
    elif search:
        unknown = parts.search_prior(generator)
        before = optics_steps(settings)
        candidates = yield from settling(unknown.candidates(), before, n_steps, start)
        if candidates or not search.within:

            def scout(forming: Forming) -> engine.ImageRestorer:
                draws = make_generator(settings.seed) if forming.alike else generator
                return parts.scout(forming.steps, draws, partial=forming.partial)

            finding = KernelSearch(unknown, scout, start, search, parts.rks.every)
            found = yield from finding.run(candidates, before, n_steps)
            if found is None:
                return
            prior = KnownKernel(found)
            left -= search.n_steps if search.within else 0
    restorer = parts.restorer(generator, left, seeks=prior is None)
    if tried and isinstance(restorer, DiffusionRestorer):
        reached = yield from _seek_and_try(parts, restorer, start, generator)
        if reached is None:
            return
        start, settled, n_seeking = reached
        prior = KnownKernel(settled)
        left -= n_seeking
    prior = prior or parts.prior(generator)
    for state in engine.alternate(restorer, prior, start, left, kernel_every(settings)):
        if state.stop is Stop.COMPLETED:
            parts.conclude(restorer, state.kernel)
        yield replace(state, step=n_steps - left + state.step, n_steps=n_steps)


def _seek_and_try(
    parts: Parts,
    restorer: DiffusionRestorer,
    start: Tensor,
    generator: RandomGenerator,
) -> Iteration[State[Tensor], None, tuple[Tensor, Tensor, int] | None]:
    """Seek a kernel while its image forms, and settle it in trials.

    Returns the image, the kernel and the steps it took to seek it; None where the image diverged.
    """
    settings = parts.settings
    n_steps = planned_steps(settings)
    n_seeking = standing_after(settings) or 0
    prior = parts.prior(generator)
    for state in engine.alternate(restorer, prior, start, n_seeking, kernel_every(settings)):
        if state.stop is Stop.DIVERGED:
            yield replace(state, n_steps=n_steps)
            return None
        yield replace(state, n_steps=n_steps, stop=Stop.RUNNING)
    trials = parts.trials(prior.step(restorer.drawn), generator)
    settled = yield from _watched(trials, n_seeking + 1, n_steps, state.image)
    return state.image, settled, n_seeking


def _watched(
    trials: Iteration[TrialStep, None, Found], first: int, n_steps: int, image: Tensor
) -> Iteration[State[Tensor], None, Found]:
    """Yield a state per trial, numbered from `first`; return what they lead to.

    Their images are of pieces: another one is shown.
    """
    steps = count(first)

    def shown(trial: TrialStep) -> State[Tensor]:
        loss = float(trial.residual)
        return State(next(steps), n_steps, image, trial.kernel, loss, loss, searching=True)

    return (yield from engine.mapped(trials, shown))
