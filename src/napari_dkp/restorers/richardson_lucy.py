"""Richardson–Lucy: expectation–maximisation for counted photons (IR of eq. 16).

Each half of the photons is restored by itself and the mean of the two is handed out; the run ends
when its risk no longer falls.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.deviance import LEAST_COUNTS
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.risk import Risk


class RichardsonLucyRestorer:
    """Climbs the Poisson likelihood of both halves of one LR plane.

    A step is one of expectation–maximisation, x ← x · Aᵀ(n / m) / Aᵀ1 with m = A x + background
    (Richardson 1972, Lucy 1974), then an extrapolation along the last change (Biggs and Andrews
    1997).

    Parameters
    ----------
    model : forward model of the plane.
    halves : of its photons.
    patience : steps without gain after which the run is done.
    judge : returns how bad blurred images m of the halves are, shape (2, C, *lr_shape); None for
        the risk under the kernel in use. To compare kernels, it has to be the same for all.
    """

    def __init__(
        self,
        model: Degradation,
        halves: PhotonHalves,
        patience: int,
        judge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model = model
        self._halves = halves
        self._patience = patience
        self._judge = judge
        self._badness = judge  # the judge under the kernel in use, once there is one
        self._kernel: Tensor | None = None
        self._transfer = torch.empty(0)
        self._sensitivity = torch.empty(0)
        counts = halves.counts
        self._image = halves.level.expand(*counts.shape[:2], *model.domain_shape).clone()
        self._point = self._image  # extrapolated: what is judged, and where the next step starts
        self._mean = counts  # of the point; once there is a kernel
        self._change: Tensor | None = None
        self._extrapolations: list[Tensor] = []
        self._steps = 0
        self._latest: Candidate | None = None
        self._best: Candidate | None = None
        self._best_step = 0

    @property
    def done(self) -> bool:
        """Whether further steps would make the image worse."""
        return self._steps - self._best_step >= self._patience

    @property
    def latest(self) -> Candidate:
        """What the latest step has led to; after a step."""
        assert self._latest is not None
        return self._latest

    @property
    def best(self) -> Candidate:
        """What has the least risk under the present kernel; after a step."""
        assert self._best is not None
        return self._best

    @property
    def extrapolations(self) -> tuple[tuple[float, float], ...]:
        """Of both halves, at each step to the best: share of the last change that was added."""
        first = self._extrapolations[: self._best_step]
        return tuple((float(one), float(other)) for one, other in first)

    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one step on both halves under `kernel`, shape (*K,)."""
        self.advance(kernel)
        return self._halves.handed_out(self.latest, self.best, self.done)

    def advance(self, kernel: Tensor, extrapolation: tuple[float, float] | None = None) -> None:
        """Take that step, for who makes of `latest` and `best` what is handed out.

        Parameters
        ----------
        kernel : shape (*K,).
        extrapolation : of each half, along the last change; None takes what promises most.
        """
        if kernel is not self._kernel:
            self._set_kernel(kernel)
        self._climb(extrapolation)
        self._steps += 1
        assert self._badness is not None
        self._latest = Candidate(self._point, self._mean, float(self._badness(self._mean)))
        if self._best is None or self._latest.risk < self._best.risk:
            self._best, self._best_step = self._latest, self._steps

    def _set_kernel(self, kernel: Tensor) -> None:
        """Take up another kernel; what was best under the last one no longer counts."""
        self._kernel = kernel
        self._transfer = self._model.transfer(kernel)
        ones = torch.ones_like(self._halves.counts[:1])
        # Past the frame few samples see a pixel: its image would grow out of next to nothing.
        adjoint = self._model.adjoint_by(self._transfer, ones)
        self._sensitivity = adjoint.clamp_min(_LEAST_SENSITIVITY)
        self._mean = self._blurred(self._point)
        self._badness = self._judge or Risk(self._model, self._halves.counts, kernel)
        self._best = None

    def _climb(self, extrapolation: tuple[float, float] | None) -> None:
        ratio = self._halves.counts / self._mean.clamp_min(LEAST_COUNTS)
        back = self._model.adjoint_by(self._transfer, ratio)
        image = (self._point * back / self._sensitivity).clamp_min(_POSITIVE)
        change = image - self._point
        share = self._share(change, extrapolation)
        self._point = image
        if self._steps >= _UNACCELERATED:
            ahead = share.reshape(-1, *(1,) * (image.ndim - 1)) * (image - self._image)
            self._point = (image + ahead).clamp_min(_POSITIVE)
        self._extrapolations.append(share)
        self._change = change
        self._image = image
        self._mean = self._blurred(self._point)

    def _share(self, change: Tensor, given: tuple[float, float] | None) -> Tensor:
        """Return the share of the last change that goes on top, of each half."""
        if given is not None:
            return change.new_tensor(given)
        if self._change is None or self._steps < _UNACCELERATED:
            return change.new_zeros(2)
        share = _inner(change, self._change) / _inner(self._change, self._change)
        return share.clamp(0, _LARGEST_SHARE)

    def _blurred(self, image: Tensor) -> Tensor:
        return self._model.forward_by(self._transfer, image) + self._halves.background


_POSITIVE = 1e-8
_LEAST_SENSITIVITY = 1e-2
# Steps before the extrapolation: the first are so large that a fine choice among them matters.
_UNACCELERATED = 6
_LARGEST_SHARE = 0.9


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of each of two images, shape (2,)."""
    return (first * second).flatten(1).sum(1).clamp_min(1e-30)
