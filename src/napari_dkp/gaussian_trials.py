"""Trials of a Gaussian kernel: who restores an image from some samples best foretells the others.

A kernel that is sought in the very image it has formed confirms itself, most of all in its width.
So some samples are left out of the data step: an image that is held to the others only has to be
right between them, too, for the kernel to make of it what was measured there. (Where it starts,
interpolated, it has seen all samples. Without that, what no one can foretell makes kernels wide.)

How a foretelling changes with the kernel includes how the image does: images are restored under
kernels that differ a little, and a Gauss–Newton step leads to the one that foretells best.
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
from napari_dkp.kernels import covariance, gaussian
from napari_dkp.restorers.diffusion import Denoiser, DiffusionRestorer, Level, refining
from napari_dkp.windows import liveliest

# HR pixels along each axis of what trials look at, at most; its margin is not counted.
WINDOW = 320


def try_gaussians(
    model: Degradation,
    data: Tensor,
    variance: Tensor,
    bounds: tuple[float, float],
    diffusion: Denoiser,
    config: DiffusionConfig,
    kernel: Tensor,
    generator: Generator,
) -> Iteration[TrialStep, None, Tensor]:
    """Find the kernel that foretells samples best: the given one, or the Gaussian of a round.

    Yields image steps, at most `most_steps` of them, and returns that kernel. Rounds go on from the
    image of the one before, which is in favour of later ones a little. Where a plane is large, a
    piece of it has to do; where it is small, the kernel stays as it is.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (C, h, w).
    variance : of its noise, same shape.
    bounds : intensities that the diffusion model is to take for black and white, normalised.
    diffusion : the model.
    config : its numbers; `trials` is that of steps.
    kernel : to start from, shape (K, K).
    generator : of the samples that are left out; nothing else is drawn.
    """
    window = (slice(None), *liveliest(data, WINDOW // max(model.scale)))
    piece = data[window]
    if piece.shape != data.shape:  # a piece does not wrap
        model = Degradation(tuple(piece.shape[1:]), model.scale, model.kernel_shape, model.phase)
    left_out = (torch.rand(piece.shape[1:], generator=generator) < _SHARE).to(piece.device)
    if int(left_out.sum()) < _FEWEST:
        return kernel
    start = refining(diffusion, _COARSE, _MIDDLE, _START_STEPS)
    finish = refining(diffusion, _MIDDLE, _FINE, _TRIAL_STEPS)
    # Texture passes for noise, and what is taken for noise no restoration has to explain: variances
    # far below the estimate are tried too, down to twice the least noise level of the settings.
    least = (config.noise * (bounds[1] - bounds[0])) ** 2
    typical = variance[window].median()
    noises = {float((share * typical).clamp_min(least)) for share in _NOISE_SHARES}
    started = []
    for noise in sorted(noises):
        unequal = (noise * torch.where(left_out, _UNSEEN, 1.0)).expand_as(piece)
        restorer = DiffusionRestorer(
            model, piece, bounds, diffusion, config, start, generator, unequal, _DATA_STEPS
        )
        started.append((yield from _Trial(restorer, piece, left_out).under(kernel, start)))
    reached = min(started, key=lambda trial: trial.misfit)

    def rendered(width: Tensor) -> Tensor:
        spread = torch.linalg.matrix_exp(2 * width)[None].to(kernel)
        return gaussian(spread, model.kernel_shape, model.kernel_centre)[0]

    best, closest = kernel, (yield from reached.under(kernel, finish)).misfit
    width = _log_width(covariance(kernel[None], model.kernel_centre)[0].cpu().double())
    for remaining in reversed(range(config.trials + 1)):
        here = rendered(width)
        trial = yield from reached.under(here, finish)
        if trial.misfit < closest:
            best, closest = here, trial.misfit
        if remaining:
            changes = []
            for way in _WAYS:
                other = yield from reached.under(rendered(width + _DIFFERENCE * way), finish)
                changes.append(other.errors - trial.errors)
            slopes = torch.stack(changes, 1)
            width = width + _step(trial.errors, slopes / _DIFFERENCE)
            reached = trial
    return best


class _Trial:
    """A restoration from the samples that are not left out."""

    def __init__(self, restorer: DiffusionRestorer, data: Tensor, left_out: Tensor) -> None:
        self._restorer = restorer
        self._data = data
        self._left_out = left_out

    def under(
        self, kernel: Tensor, levels: Sequence[Level]
    ) -> Iteration[TrialStep, None, "_Trial"]:
        """Go on from here under a kernel; return what that leads to."""
        restorer = copy(self._restorer)
        restorer.take_up(levels)
        for _ in levels:
            yield TrialStep(kernel, restorer.step(kernel).residual)
        return _Trial(restorer, self._data, self._left_out)

    @cached_property
    def errors(self) -> Tensor:
        """By how much it foretells the samples left out wrong, shape (N,)."""
        error = self._data - self._restorer.evidence().mean
        return error[:, self._left_out].flatten().cpu().double()

    @property
    def misfit(self) -> float:
        """Mean absolute error."""
        return float(self.errors.abs().mean())


def most_steps(config: DiffusionConfig) -> int:
    """Return the image steps that trials take at most."""
    n_trials = 1 + (config.trials + 1) + config.trials * len(_WAYS)
    return len(_NOISE_SHARES) * _START_STEPS + n_trials * _TRIAL_STEPS


def _log_width(covariance: Tensor) -> Tensor:
    """Return ½ ln Σ, a symmetric matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    width: Tensor = vectors @ torch.diag(0.5 * values.clamp_min(_NARROWEST**2).log()) @ vectors.T
    return width


def _step(error: Tensor, slopes: Tensor) -> Tensor:
    """Return the change of ½ ln Σ under which foretold samples are off by least in the mean.

    By reweighted least squares on `error`, shape (N,), and its slopes along `_WAYS`, shape (N, 3):
    the few samples on edges that no one can foretell decide nothing.
    """
    typical = error.abs().median().clamp_min(_TINY)
    change = error.new_zeros(len(_WAYS))
    for _ in range(_REWEIGHTINGS):
        weight = (1 + ((error + slopes @ change) / typical).square()).rsqrt()
        normal = slopes.T @ (weight[:, None] * slopes)
        ridge = (_RIDGE * normal.trace()).clamp_min(_TINY)
        normal += ridge * torch.eye(len(_WAYS)).to(normal)
        change = -torch.linalg.solve(normal, slopes.T @ (weight * error))
    change = change * (_FARTHEST / change.abs().max().clamp_min(_FARTHEST))
    moved: Tensor = torch.tensordot(change, _WAYS, 1)
    return moved


# Wider, longer, and longer along the diagonal.
_WAYS = torch.tensor([[[1, 0], [0, 1]], [[1, 0], [0, -1]], [[0, 1], [1, 0]]], dtype=torch.float64)
# Of ½ ln Σ along each of the ways: of finite differences, and at most in a round.
_DIFFERENCE = 0.08
_FARTHEST = 0.25
_REWEIGHTINGS = 10
_RIDGE = 1e-3
_NARROWEST = 0.3
_TINY = 1e-12
# Of samples; more would be missed, fewer tell little.
_SHARE = 0.15
# Samples left out: fewer tell of themselves more than of the kernel.
_FEWEST = 300
# The variance of those left out, in units of what it would be.
_UNSEEN = 1e4
# Of the variance that is estimated, those that are tried.
_NOISE_SHARES = (1.0, 0.1, 0.01)
_DATA_STEPS = 12
# Noise levels, relative to a range of 2, and the steps from one to the next.
_COARSE, _MIDDLE, _FINE = 1.0, 0.2, 0.03
_START_STEPS, _TRIAL_STEPS = 6, 3
