"""Search for a kernel on rough images, before the restoration proper.

An image that fits the data under some kernel makes that kernel look right, and the better it fits
the more so: alternation alone stays where it began. Two things break the circle. The image starts
anew several times while the kernel goes on, for only an image that is still forming tells kernels
apart. And some samples are left out of each fit: what is guessed there bears out no kernel.

Where a search ends also hangs on how it began, above all for bent paths: so the kernel starts anew,
too, a few times. What several searches agree on counts, and its mean is nearer to the truth than
each: part of their errors is their own.
"""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from napari_dkp import engine
from napari_dkp.config import SearchConfig
from napari_dkp.engine import ImageRestorer, KernelPrior
from napari_dkp.state import State, Stop


@dataclass(frozen=True)
class Round:
    """One image of the search, from its start.

    Attributes
    ----------
    steps : image steps.
    kernel_after : image steps before the first kernel update.
    counted_after : image steps after which kernels enter the mean that is found; None for never.
    anew : whether the kernel starts anew, too, as it does in the first round of all.
    """

    steps: int
    kernel_after: int
    counted_after: int | None
    anew: bool = False


def burn_in(config: SearchConfig) -> int:
    """Return how many first rounds of a kernel only bring it near."""
    return config.rounds // 2


def plan(config: SearchConfig, longest: int, kernel_every: int) -> list[Round]:
    """Return the rounds of a search, for one kernel after another.

    Parameters
    ----------
    longest : image steps that no round exceeds.
    kernel_every : image steps per kernel update.
    """
    steps = min(config.steps, longest)
    settled = min(round(config.settled * steps), steps - 1)
    # An image says the more about its own kernel the further it is: that slows, and steadies.
    near = Round(steps, kernel_every, None)
    steady = Round(steps, max(1, settled), settled)
    rounds = [near if number < burn_in(config) else steady for number in range(config.rounds)]
    return [replace(rounds[0], anew=True), *rounds[1:]] * config.searches


class KernelSearch:
    """The search on one LR plane.

    Parameters
    ----------
    make_prior : returns a fresh prior of the kernel.
    make_scout : returns a fresh image restorer for so many steps.
    start : image to hand out until a round has ended, HR frame.
    rounds : see `plan`.
    kernel_every : image steps per kernel update.
    """

    def __init__(
        self,
        make_prior: Callable[[], KernelPrior],
        make_scout: Callable[[int], ImageRestorer],
        start: Tensor,
        rounds: list[Round],
        kernel_every: int,
    ) -> None:
        self._make_prior = make_prior
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
        counted: list[list[Tensor]] = []
        for each in self._rounds:
            if each.anew or not counted:
                prior = self._make_prior()
                counted.append([])
            fit = engine.alternate(
                self._make_scout(each.steps),
                prior,
                self._start,
                each.steps,
                self._kernel_every,
                each.kernel_after,
            )
            for state in fit:
                late = each.counted_after is not None and state.step > each.counted_after
                if late and state.stop is not Stop.DIVERGED:
                    counted[-1].append(state.kernel)
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
        # A round that diverges ends early, and the next one may do better.
        found = [torch.stack(kernels).mean(0) for kernels in counted if kernels]
        if found:
            return agreed(found)
        yield replace(latest, stop=Stop.DIVERGED)
        return None


def agreed(kernels: Sequence[Tensor]) -> Tensor:
    """Return the mean of the kernel that is most like all of them and of those that resemble it.

    Parameters
    ----------
    kernels : each of shape (*K,), centred alike; at least one.
    """
    flat = functional.normalize(torch.stack(list(kernels)).flatten(1), dim=1)
    likeness = flat @ flat.T
    middle = likeness[likeness.sum(1).argmax()]
    return torch.stack([k for k, like in zip(kernels, middle, strict=True) if like > _ALIKE]).mean(
        0
    )


# Normalised cross-correlation. Searches that end in the same place come to 0.94 and more.
_ALIKE = 0.9
