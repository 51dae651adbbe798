"""Restoration from counted photons: several images, weighed by photons they have not seen."""

from collections.abc import Iterator

import torch
from torch import Tensor

from napari_dkp.config import RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.penalised import PenalisedSolver
from napari_dkp.restorers.photon_halves import Candidate, PhotonHalves
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer


class CountingRestorer:
    """Richardson–Lucy, then penalties of growing strength.

    Each stage starts from the best image of the one before. The image handed out is the mean of
    what every stage has best, by how well it tells the held-out photons: where none stands out,
    errors of several average out.

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
        self._steps: Iterator[RestorerStep] = iter(())
        # What each stage has best, that of the likelihood first.
        self._stages: list[Candidate] = []

    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one step of the present stage under `kernel`, shape (K, K); none after the last."""
        if kernel is not self._kernel:
            self._kernel = kernel
            self._steps = self._run(kernel)
        return next(self._steps, None) or self._handed_out()._replace(done=True)

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        return self._halves.evidence(*self._mean())

    def _run(self, kernel: Tensor) -> Iterator[RestorerStep]:
        """Yield a step at a time, until there is none that could help."""
        step = self._likelihood.step(kernel)
        while not step.done:
            self._stages = [self._likelihood.best]
            yield step
            step = self._likelihood.step(kernel)
        transfer = self._model.transfer(kernel)
        for strength in self._strengths:
            start = self._stages[-1].images
            solver = PenalisedSolver(self._model, self._halves, transfer, strength, start)
            self._stages.append(solver.step())
            yield self._handed_out()
            for _ in range(_PENALISED_STEPS - 1):
                candidate = solver.step()
                if candidate.loss < self._stages[-1].loss:
                    self._stages[-1] = candidate
                yield self._handed_out()

    def _handed_out(self) -> RestorerStep:
        images, means = self._mean()
        image = self._halves.estimate(images)
        return RestorerStep(
            image,
            self._model.crop(image),
            image.new_tensor(self._stages[-1].loss),
            self._halves.residual(means),
        )

    def _mean(self) -> tuple[Tensor, Tensor]:
        """Return the mean of images and of their means, over the stages."""
        losses = torch.tensor([stage.loss for stage in self._stages], dtype=torch.float64)
        n_samples = self._halves.counts[0].numel()
        # Half the deviance is a log-likelihood, and there are two halves.
        weights = torch.softmax(-_TRUST * n_samples * losses, 0).tolist()
        images = torch.zeros_like(self._stages[0].images)
        means = torch.zeros_like(self._stages[0].means)
        for weight, stage in zip(weights, self._stages, strict=True):
            images.add_(stage.images, alpha=weight)
            means.add_(stage.means, alpha=weight)
        return images, means


# Of the greatest strength: halves, so that one of them is near the best.
_SHARES = (0.25, 0.5, 1.0)
_PENALISED_STEPS = 20
# Of the log-likelihood of held-out photons: it tells the blurred image, not the sharp one.
_TRUST = 0.01
