"""The one loop: kernel and image in alternation, as an iterator of immutable states.

The engine knows two protocols and no algorithm. Stopping is to stop iterating; the last state is a
usable result.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from napari_dkp.state import State, Stop


class RestorerStep(NamedTuple):
    """What an image restorer has after a step; tensors are detached and never written again.

    Attributes
    ----------
    image : x^t on the domain of the forward model, for the kernel prior.
    estimate : the image to hand out, on the HR frame.
    loss : the restorer's own objective, a scalar.
    residual : root mean square of y - (x * k)↓s, normalised intensity, a scalar.
    done : whether further steps would make the estimate worse; the run is then complete.
    """

    image: Tensor
    estimate: Tensor
    loss: Tensor
    residual: Tensor
    done: bool = False


class TrialStep(NamedTuple):
    """A step of trials, in which restorations under several kernels tell which one to take.

    Attributes
    ----------
    kernel : that is tried, shape (*K,).
    residual : see `RestorerStep`; of the piece that is looked at.
    """

    kernel: Tensor
    residual: Tensor


class ImageRestorer(Protocol):
    """Restores one LR plane under a kernel; owns its network and optimiser (IR of eq. 16)."""

    def step(self, kernel: Tensor) -> RestorerStep:
        """Improve the image once under `kernel`, shape (*K,)."""


class KernelPrior(Protocol):
    """Estimates the kernel for an image."""

    def step(self, image: Tensor | None) -> Tensor:
        """Return a kernel for the image; for None, one that no image has informed."""


Array = TypeVar("Array")
StateGenerator = Generator[State[Array], None, None]


Value = TypeVar("Value")
Other = TypeVar("Other")
Result = TypeVar("Result")


def mapped(
    values: Generator[Value, None, Result], change: Callable[[Value], Other]
) -> Generator[Other, None, Result]:
    """Yield what becomes of the values of a generator; return what it returns."""
    with closing(values):
        while True:
            try:
                value = next(values)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield change(value)


def alternate(
    restorer: ImageRestorer,
    prior: KernelPrior,
    start: Tensor,
    n_steps: int,
    kernel_every: int = 5,
    kernel_after: int = 1,
    block: int | None = None,
) -> StateGenerator[Tensor]:
    """Alternate kernel and image updates (Alg. 2, eqs. 14-16).

    Parameters
    ----------
    restorer, prior : bound to one LR plane.
    start : image to hand out if already the first step diverges, HR frame.
    n_steps : image steps.
    kernel_every : image steps per kernel update; 5 as published.
    kernel_after : image steps before the first kernel update.
    block : image steps to take, up to the next kernel update, before their numbers are read and
        their states yielded: to read is to wait for the device. None takes one on the CPU, where
        states come as soon as they are there, and as many as there are elsewhere.

    Yields
    ------
    One state per image step. The last one's `stop` says why it is the last; if values stop being
    finite or the residual explodes, it holds the last finite image and kernel.
    """
    kernel = prior.step(None)
    if not kernel.isfinite().all():
        flat = torch.full_like(kernel, 1 / kernel.numel())
        yield State(1, n_steps, start, flat, math.inf, math.inf, Stop.DIVERGED)
        return
    if block is None:
        block = 1 if start.device.type == "cpu" else min(kernel_every, _BLOCK)
    previous: State[Tensor] | None = None
    smallest = math.inf
    image: Tensor | None = None
    step = 0
    while step < n_steps:
        if image is not None and step >= kernel_after and step % kernel_every == 0:
            kernel = prior.step(image)
        count = min(block, kernel_every - step % kernel_every, n_steps - step)
        taken = [restorer.step(kernel) for _ in range(count)]
        image = taken[-1].image
        for (_, estimate, _, _, done), (loss, residual) in zip(taken, _numbers(taken), strict=True):
            step += 1
            smallest = max(min(smallest, residual), _EXACT)
            if not (math.isfinite(loss + residual) and residual <= _EXPLOSION * smallest):
                good = previous or State(step, n_steps, start, kernel, math.inf, math.inf)
                yield State(
                    step, n_steps, good.image, good.kernel, good.loss, good.residual, Stop.DIVERGED
                )
                return
            stop = Stop.COMPLETED if done or step == n_steps else Stop.RUNNING
            previous = State(step, n_steps, estimate, kernel, loss, residual, stop)
            yield previous
            if done:
                return


def _numbers(steps: list[RestorerStep]) -> list[tuple[float, float]]:
    """Return loss and residual of each step, for which the device is waited for once."""
    scalars = [scalar for step in steps for scalar in (step.loss, step.residual)]
    numbers: list[float] = torch.stack(scalars).tolist()
    return list(zip(numbers[::2], numbers[1::2], strict=True))


# Steps that a user waits for at most, and whose images are held at once.
_BLOCK = 8

# A residual so many times the smallest of the run is no fluctuation; one below _EXACT, in
# normalised intensity, counts as no residual at all.
_EXPLOSION = 1e3
_EXACT = 1e-6


def every(n: int, states: Iterable[State[Array]]) -> StateGenerator[Array]:
    """Thin a run to each n-th state; the last one always passes."""
    with _closing(states) as source:
        for state in source:
            # A kernel that settles has no residual, and takes no step.
            counts = state.step % n == 0 and not math.isnan(state.residual)
            if counts or state.stop is not Stop.RUNNING:
                yield state


def at_most(per_second: float, states: Iterable[State[Array]]) -> StateGenerator[Array]:
    """Thin a run to a rate of states; the last one always passes."""
    due = 0.0
    with _closing(states) as source:
        for state in source:
            now = monotonic()
            if now >= due or state.stop is not Stop.RUNNING:
                due = now + 1 / per_second
                yield state


def watched(
    watch: Callable[[State[Array]], object], states: Iterable[State[Array]]
) -> StateGenerator[Array]:
    """Call `watch` with each state on its way."""
    with _closing(states) as source:
        for state in source:
            watch(state)
            yield state


@contextmanager
def _closing(states: Iterable[State[Array]]) -> Iterator[Iterator[State[Array]]]:
    """Iterate and, whatever ends the iteration, close the source: a plain `for` does not."""
    source = iter(states)
    try:
        yield source
    finally:
        if isinstance(source, Generator):
            source.close()
