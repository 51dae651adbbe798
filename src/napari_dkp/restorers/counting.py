"""Restoration from counted photons: several images, of which the one of least risk is taken."""

from collections.abc import Iterator

from torch import Tensor

from napari_dkp.config import RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
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
    """

    def __init__(
        self,
        model: Degradation,
        halves: PhotonHalves,
        config: RichardsonLucyConfig,
    ) -> None:
        self._model = model
        self._halves = halves
        self._likelihood = RichardsonLucyRestorer(model, halves, config.patience)
        self._strengths = [share * config.strength for share in _SHARES] if config.strength else []
        self._kernel: Tensor | None = None
        self._steps: Iterator[Candidate] = iter(())
        self._latest: Candidate | None = None
        self._best: Candidate | None = None

    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one step of the present stage under `kernel`, shape (*K,); none after the last."""
        if kernel is not self._kernel:
            self._kernel = kernel
            self._steps = self._run(kernel)
            self._best = None
        latest = next(self._steps, None)
        done = latest is None
        self._latest = latest or self._latest
        assert self._latest is not None
        if self._best is None or self._latest.risk < self._best.risk:
            self._best = self._latest
        return self._halves.handed_out(self._latest, self._best, done)

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        assert self._best is not None
        return self._halves.evidence(self._best.images, self._best.means)

    def _run(self, kernel: Tensor) -> Iterator[Candidate]:
        """Yield what each step leads to, until there is none that could help."""
        likelihood = self._likelihood
        likelihood.advance(kernel)
        while not likelihood.done:
            yield likelihood.latest
            likelihood.advance(kernel)
        best = likelihood.best
        risk = Risk(self._model, self._halves.counts, kernel)
        for strength in self._strengths:
            solver = PenalisedSolver(self._model, self._halves, kernel, risk, strength, best.images)
            best = solver.step()
            yield best
            for _ in range(_PENALISED_STEPS - 1):
                latest = solver.step()
                best = min(best, latest, key=lambda candidate: candidate.risk)
                yield latest


# Of the greatest strength: halves, so that one of them is near the best.
_SHARES = (0.25, 0.5, 1.0)
_PENALISED_STEPS = 20
