"""Restoration from counted photons: several images, of which the one of least risk is taken."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from torch import Tensor

from napari_dkp.config import RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.plan import Route
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.penalised import PenalisedSolver
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.restorers.risk import Risk


class CountingRestorer:
    """Richardson–Lucy, then penalties of growing strength, each from the best image before it.

    Parameters
    ----------
    model : forward model of the plane.
    halves : of its photons.
    config : numbers of the method.
    route : to follow to its end, as it was found on images alike; None looks for the least risk.
    """

    def __init__(
        self,
        model: Degradation,
        halves: PhotonHalves,
        config: RichardsonLucyConfig,
        route: Route | None = None,
    ) -> None:
        self._model = model
        self._halves = halves
        self._strength = config.strength
        self._given = route
        patience = config.patience if route is None else len(route.extrapolations) + 1
        self._likelihood = RichardsonLucyRestorer(model, halves, patience)
        self._kernel: Tensor | None = None
        self._steps: Iterator[_Step] = iter(())
        self._latest: _Step | None = None
        self._best: _Step | None = None

    @property
    def route(self) -> Route:
        """The way to the estimate; after at least one step."""
        assert self._best is not None
        return self._given or Route(self._likelihood.extrapolations, self._best.penalised)

    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one step of the present stage under `kernel`, shape (*K,); none after the last."""
        if kernel is not self._kernel:
            self._kernel = kernel
            self._steps = self._stages(kernel)
            self._best = None
        latest = next(self._steps, None)
        done = latest is None
        self._latest = latest or self._latest
        assert self._latest is not None
        # Who follows a route has been told where it ends.
        risk = self._latest.candidate.risk
        if self._given or self._best is None or risk < self._best.candidate.risk:
            self._best = self._latest
        return self._halves.handed_out(self._latest.candidate, self._best.candidate, done)

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        assert self._best is not None
        return self._halves.evidence(self._best.candidate.images, self._best.candidate.means)

    def _stages(self, kernel: Tensor) -> Iterator["_Step"]:
        """Return what the steps under a kernel lead to; it does not hold on to this restorer."""
        risk = Risk(self._model, self._halves.counts, kernel)
        solver = partial(PenalisedSolver, self._model, self._halves, kernel, risk)
        if self._given is not None:
            return _follow(self._given, kernel, self._likelihood, solver)
        strengths = [share * self._strength for share in _SHARES if self._strength]
        return _explore(strengths, kernel, self._likelihood, solver)


def _explore(
    strengths: list[float],
    kernel: Tensor,
    likelihood: RichardsonLucyRestorer,
    make_solver: Callable[[float, Tensor], PenalisedSolver],
) -> Iterator["_Step"]:
    """Yield what each step leads to, until there is none that could help."""
    likelihood.advance(kernel)
    while not likelihood.done:
        yield _Step(likelihood.latest)
        likelihood.advance(kernel)
    best = _Step(likelihood.best)
    for strength in strengths:
        solver = make_solver(strength, best.candidate.images)
        before = best.penalised
        for count in range(1, _PENALISED_STEPS + 1):
            latest = _Step(solver.step(), (*before, (strength, count)))
            # The first counts even where it is worse than what it started from.
            if count == 1 or latest.candidate.risk < best.candidate.risk:
                best = latest
            yield latest


def _follow(
    route: Route,
    kernel: Tensor,
    likelihood: RichardsonLucyRestorer,
    make_solver: Callable[[float, Tensor], PenalisedSolver],
) -> Iterator["_Step"]:
    """Yield what each step of a route leads to."""
    for extrapolation in route.extrapolations:
        likelihood.advance(kernel, extrapolation)
        yield _Step(likelihood.latest)
    images = likelihood.latest.images
    for strength, count in route.penalised:
        solver = make_solver(strength, images)
        for _ in range(count):
            latest = solver.step()
            yield _Step(latest)
        images = latest.images


class _Step(NamedTuple):
    """What a step leads to, and after which steps under which penalties."""

    candidate: Candidate
    penalised: tuple[tuple[float, int], ...] = ()


# Of the greatest strength: halves, so that one of them is near the best.
_SHARES = (0.25, 0.5, 1.0)
_PENALISED_STEPS = 20
