"""Trials of a Gaussian kernel: who restores an image from some samples best foretells the others.

How a foretelling changes with the kernel includes how the image does: images are restored under
kernels that differ a little, and a Gauss–Newton step leads to the one that foretells best.
"""

from collections.abc import Generator as Iteration

import torch
from torch import Tensor

from napari_dkp.engine import TrialStep
from napari_dkp.kernels import covariance, gaussian
from napari_dkp.left_out import NOISE_SHARES, LeftOut


def try_gaussians(
    left_out: LeftOut, kernel: Tensor, n_rounds: int
) -> Iteration[TrialStep, None, Tensor]:
    """Find the kernel that foretells samples best: the given one, or the Gaussian of a round.

    Yields image steps, at most `most_steps` of them, and returns that kernel. Rounds go on from the
    image of the one before, which is in favour of later ones a little. Where the plane is small,
    the kernel stays as it is.

    Parameters
    ----------
    left_out : of the plane.
    kernel : to start from, shape (K, K).
    n_rounds : Gauss–Newton steps.
    """
    if not left_out.enough:
        return kernel
    model = left_out.model
    start = left_out.levels(_COARSE, _MIDDLE, _START_STEPS)
    finish = left_out.levels(_MIDDLE, _FINE, _TRIAL_STEPS)
    started = []
    for trial in left_out.trials(start):
        started.append((yield from trial.under(kernel, start)))
    reached = min(started, key=lambda trial: trial.misfit)

    def rendered(width: Tensor) -> Tensor:
        spread = torch.linalg.matrix_exp(2 * width)[None].to(kernel)
        return gaussian(spread, model.kernel_shape, model.kernel_centre)[0]

    best, closest = kernel, (yield from reached.under(kernel, finish)).misfit
    width = _log_width(covariance(kernel[None], model.kernel_centre)[0].cpu().double())
    for remaining in reversed(range(n_rounds + 1)):
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


def most_steps(n_rounds: int) -> int:
    """Return the image steps that trials take at most."""
    n_trials = 1 + (n_rounds + 1) + n_rounds * len(_WAYS)
    return len(NOISE_SHARES) * _START_STEPS + n_trials * _TRIAL_STEPS


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
# Noise levels, relative to a range of 2, and the steps from one to the next.
_COARSE, _MIDDLE, _FINE = 1.0, 0.2, 0.03
_START_STEPS, _TRIAL_STEPS = 6, 3
