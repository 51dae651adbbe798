"""Restorations from some samples of a plane, which are to foretell the others.

A kernel that is sought in the very image it has formed confirms itself. So some samples are left
out of the data step: an image that is held to the others only has to be right between them, too,
for the kernel to make of it what was measured there. (Where it starts, interpolated, it has seen
all samples. Without that, what no one can foretell makes kernels wide.)
"""

from collections.abc import Generator as Iteration
from collections.abc import Sequence
from copy import copy
from functools import cached_property

import torch
from torch import Generator, Tensor

from napari_dkp.config import DiffusionConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import TrialStep
from napari_dkp.restorers.diffusion import Denoiser, DiffusionRestorer, Level, refining
from napari_dkp.windows import liveliest

# HR pixels along each axis of what trials look at, at most; its margin is not counted.
WINDOW = 320
# Variances of the noise that are tried, in shares of the one that is estimated. Texture passes for
# noise, and what is taken for noise no restoration has to explain.
NOISE_SHARES = (1.0, 0.1, 0.01)


class LeftOut:
    """A plane, or the liveliest piece of a large one, some samples of which no restoration sees.

    Of more channels than the diffusion model has, one image each, it is that of one channel.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (C, h, w).
    variance : of its noise, same shape.
    bounds : intensities that the diffusion model is to take for black and white, normalised.
    diffusion : the model.
    config : its numbers.
    generator : of the samples that are left out; nothing else is drawn.

    Attributes
    ----------
    model : forward model of that piece.
    enough : whether there are so many that they tell of the kernel more than of themselves.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        variance: Tensor,
        bounds: tuple[float, float],
        diffusion: Denoiser,
        config: DiffusionConfig,
        generator: Generator,
    ) -> None:
        window = (slice(None), *liveliest(data, WINDOW // max(model.scale)))
        if len(data) > diffusion.channels:
            most = int(data[window].flatten(1).var(1).argmax())
            window = (slice(most, most + 1), *window[1:])
        piece = data[window]
        if piece.shape[1:] != data.shape[1:]:  # a piece does not wrap
            model = Degradation(
                tuple(piece.shape[1:]), model.scale, model.kernel_shape, model.phase
            )
        left_out = torch.rand(piece.shape[1:], generator=generator) < _SHARE
        self.enough = int(left_out.sum()) >= _FEWEST
        self.model = model
        self._data = piece
        self._typical = variance[window].median()
        self._bounds = bounds
        self._diffusion = diffusion
        self._config = config
        self._generator = generator
        self._samples = left_out.to(piece.device)

    def levels(self, first: float, last: float, count: int) -> list[Level]:
        """Return so many noise levels of the diffusion model, see `refining`."""
        return refining(self._diffusion, first, last, count)

    def trials(self, levels: Sequence[Level]) -> list["Trial"]:
        """Return restorations that have not begun, one for each variance of the noise.

        Parameters
        ----------
        levels : noise levels of the diffusion model at which they are to begin.
        """
        least = (self._config.noise * (self._bounds[1] - self._bounds[0])) ** 2
        noises = {float((share * self._typical).clamp_min(least)) for share in NOISE_SHARES}
        return [self._trial(noise, levels) for noise in sorted(noises)]

    def _trial(self, noise: float, levels: Sequence[Level]) -> "Trial":
        unequal = (noise * torch.where(self._samples, _UNSEEN, 1.0)).expand_as(self._data)
        restorer = DiffusionRestorer(
            self.model,
            self._data,
            self._bounds,
            self._diffusion,
            self._config,
            levels,
            self._generator,
            unequal,
            _DATA_STEPS,
        )
        return Trial(restorer, self._data, self._samples)


class Trial:
    """A restoration from the samples that are not left out."""

    def __init__(self, restorer: DiffusionRestorer, data: Tensor, left_out: Tensor) -> None:
        self._restorer = restorer
        self._data = data
        self._left_out = left_out

    def under(self, kernel: Tensor, levels: Sequence[Level]) -> Iteration[TrialStep, None, "Trial"]:
        """Go on from here under a kernel; return what that leads to."""
        restorer = copy(self._restorer)
        restorer.take_up(levels)
        for _ in levels:
            yield TrialStep(kernel, restorer.step(kernel).residual)
        return Trial(restorer, self._data, self._left_out)

    @cached_property
    def errors(self) -> Tensor:
        """By how much it foretells the samples left out wrong, shape (N,)."""
        error = self._data - self._restorer.evidence().mean
        return error[:, self._left_out].flatten().cpu().double()

    @property
    def misfit(self) -> float:
        """Mean absolute error."""
        return float(self.errors.abs().mean())


# Of samples; more would be missed, fewer tell little.
_SHARE = 0.15
_FEWEST = 300
# The variance of those left out, in units of what it would be.
_UNSEEN = 1e4
_DATA_STEPS = 12
