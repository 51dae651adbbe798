"""Search for a kernel on rough images, before the restoration proper.

An image that fits the data under some kernel makes that kernel look right, and the better it fits
the more so: alternation alone stays where it began. So each image forms from the start under a
kernel that stands. How well it fits when it is complete tells kernels apart, and so does the slope
of its misfit: with the image at its best that is, to first order, the slope of what images reach
under one kernel after the other. From that a kernel learns.

A motion of which nothing is known to begin with follows images that are forming, for these tell
kernels apart too, for a while. The images start anew several times while the kernel goes on, and
some samples are left out of each. A Gaussian then follows the image proper instead.
"""

import math
from collections.abc import Callable
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from napari_dkp import engine
from napari_dkp.engine import ImageRestorer, KernelPrior, RestorerStep
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.state import State, Stop


@dataclass(frozen=True)
class SearchPlan:
    """What a search does.

    Attributes
    ----------
    steps : of each image under a kernel that stands.
    candidates : kernels there may be to begin with; under each of several an image forms.
    learnt : images that the kernel learns from, that of the best candidate first.
    following : steps of each image that the kernel follows where there are no candidates. The first
        half of them only bring the kernel near. 0: it follows the image proper, from whose steps
        those of the search are taken.
    settled : of the second half, steps after which an image informs the kernel, and kernels count.
    """

    steps: int
    candidates: int
    learnt: int
    following: int = 0
    settled: int = 0

    @property
    def within(self) -> bool:
        """Whether its steps are taken from those of the image proper."""
        return self.following == 0

    @property
    def n_steps(self) -> int:
        """Image steps in all, at most."""
        return (self.candidates + self.learnt - 1) * self.steps

    @property
    def followed(self) -> int:
        """Images that the kernel follows where there are no candidates: they take as long."""
        return self.n_steps // self.following

    @property
    def near(self) -> int:
        """Of these, how many only bring it near."""
        return self.followed // 2


@dataclass(frozen=True)
class Forming:
    """How an image of the search is to form.

    Attributes
    ----------
    steps : it has.
    alike : from the same draws as the others that are alike.
    partial : from a part of the samples: what is guessed at the others bears out no kernel.
    """

    steps: int
    alike: bool = False
    partial: bool = False


class SoughtKernel(KernelPrior, Protocol):
    """A kernel prior that learns from complete images; its `step` follows one that is forming."""

    def remember(self) -> None:
        """From now on, count what earlier images that it followed told."""

    def gradient_misfit(self, image: Tensor, kernel: Tensor) -> float:
        """Return how ill the gradients of a complete image fit, under its kernel (*K,)."""

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""

    def learned(self, image: Tensor, kernel: Tensor) -> Tensor:
        """Return the kernel, shape (*K,), after an image that has formed under `kernel`."""


class _Formed(NamedTuple):
    image: Tensor | None  # on the domain, shape (C, *domain_shape); None where it has diverged
    kernels: list[Tensor]  # of each step that has not diverged, shape (*K,)


class KernelSearch:
    """The search on one LR plane; it runs once.

    Parameters
    ----------
    prior : of the kernel.
    make_scout : returns a fresh image restorer.
    start : image to hand out until one has formed, HR frame.
    plan : see there.
    kernel_every : image steps per kernel update, of a kernel that follows.
    """

    def __init__(
        self,
        prior: SoughtKernel,
        make_scout: Callable[[Forming], ImageRestorer],
        start: Tensor,
        plan: SearchPlan,
        kernel_every: int,
    ) -> None:
        self._prior = prior
        self._make_scout = make_scout
        self._start = start
        self._plan = plan
        self._kernel_every = kernel_every

    def run(
        self, candidates: list[Tensor], before: int, n_steps: int
    ) -> Iteration[State[Tensor], None, Tensor | None]:
        """Search; yield a state per image step, and return the kernel, shape (*K,).

        There is none where the images under several candidates all diverge, or without candidates
        all that count; the last state then says so.

        States are numbered over all images and show the latest one that has formed: none is shown
        that starts from noise.

        Parameters
        ----------
        candidates : of the prior.
        before, n_steps : for the states, image steps that precede the search, and those with what
            follows it.
        """
        self._done, self._n_steps = before, n_steps
        kernel: Tensor | None
        if candidates:
            kernel = yield from self._learned(candidates)
        else:
            kernel = yield from self._followed()
        if kernel is None:
            yield replace(self._latest, stop=Stop.DIVERGED)
        return kernel

    def _learned(self, candidates: list[Tensor]) -> Iteration[State[Tensor], None, Tensor | None]:
        """Go on from the candidate whose image fits best, and learn."""
        best, image = 0, None
        if len(candidates) > 1:
            best, image = yield from self._judged(candidates)
            if image is None:
                return None
            self._prior.keep(best)
        kernel = candidates[best]
        for _ in range(self._plan.learnt):
            if image is None:
                formed = yield from self._form(Forming(self._plan.steps), KnownKernel(kernel))
                image = formed.image
            # One that diverges says nothing, and the next one may do better.
            if image is not None:
                kernel = self._prior.learned(image, kernel)
            image = None
        return kernel

    def _judged(
        self, candidates: list[Tensor]
    ) -> Iteration[State[Tensor], None, tuple[int, Tensor | None]]:
        """Form an image under each; return number and image of the best, if any has formed."""
        best, image, least = 0, None, math.inf
        for number, candidate in enumerate(candidates):
            forming = Forming(self._plan.steps, alike=True)
            formed = yield from self._form(forming, KnownKernel(candidate))
            if formed.image is None:
                continue
            misfit = self._prior.gradient_misfit(formed.image, candidate)
            if image is None or misfit < least:
                best, image, least = number, formed.image, misfit
        return best, image

    def _followed(self) -> Iteration[State[Tensor], None, Tensor | None]:
        """Let the kernel follow forming images; return its mean where it counts."""
        plan = self._plan
        forming = Forming(plan.following, partial=True)
        counted: list[Tensor] = []
        for _ in range(plan.near):
            yield from self._form(forming, self._prior, self._kernel_every)
        self._prior.remember()
        for _ in range(plan.near, plan.followed):
            # An image says the more about its own kernel the further it is: that slows, and
            # steadies.
            after = max(1, plan.settled)
            formed = yield from self._form(forming, self._prior, after)
            counted += formed.kernels[plan.settled :]
        return torch.stack(counted).mean(0) if counted else None

    def _form(
        self, forming: Forming, prior: KernelPrior, kernel_after: int | None = None
    ) -> Iteration[State[Tensor], None, _Formed]:
        """Form an image from the start.

        Parameters
        ----------
        kernel_after : steps before the first kernel update; None for no update.
        """
        kernels: list[Tensor] = []
        scout = _Remembering(self._make_scout(forming))
        for state in engine.alternate(
            scout,
            prior,
            self._start,
            forming.steps,
            self._kernel_every,
            kernel_after or forming.steps,
        ):
            if state.stop is not Stop.DIVERGED:
                kernels.append(state.kernel)
            self._latest = replace(
                state,
                step=self._done + state.step,
                n_steps=self._n_steps,
                image=self._start,
                stop=Stop.RUNNING,
                searching=True,
            )
            yield self._latest
        self._done += forming.steps
        if state.stop is not Stop.COMPLETED or scout.latest is None:
            return _Formed(None, kernels)
        self._start = state.image
        return _Formed(scout.latest.image, kernels)


Found = TypeVar("Found")


def settling(
    kernels: Iteration[Tensor, None, Found], step: int, n_steps: int, image: Tensor
) -> Iteration[State[Tensor], None, Found]:
    """Yield a state per kernel on the way to something that is known without images; return that.

    Parameters
    ----------
    kernels : of shape (*K,) each.
    step, n_steps, image : of all these states. They are no image steps, and nothing is fitted.
    """

    def shown(kernel: Tensor) -> State[Tensor]:
        return State(step, n_steps, image, kernel, math.nan, math.nan, searching=True)

    return (yield from engine.mapped(kernels, shown))


class _Remembering:
    """A restorer that keeps its latest step."""

    def __init__(self, restorer: ImageRestorer) -> None:
        self._restorer = restorer
        self.latest: RestorerStep | None = None

    def step(self, kernel: Tensor) -> RestorerStep:
        """Improve the image once."""
        self.latest = self._restorer.step(kernel)
        return self.latest
