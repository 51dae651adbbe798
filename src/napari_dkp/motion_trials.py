"""Trials of kernels of motion: what those have in common that foretell samples best.

Searches for a bent path end in different places: some at a line of its size, whose image fits the
data as well. But it does not foretell as well what it has not seen. Of kernels that foretell alike,
the mean is nearer to the truth than each: part of their errors is their own.
"""

from collections.abc import Generator as Iteration
from collections.abc import Sequence

import torch
from torch import Tensor

from napari_dkp.engine import TrialStep
from napari_dkp.left_out import NOISE_SHARES, LeftOut


def try_motions(
    left_out: LeftOut | None, kernels: Sequence[Tensor]
) -> Iteration[TrialStep, None, Tensor]:
    """Find the mean of those kernels that foretell samples about as well as the best one.

    Yields image steps, `most_steps` of them at most, and returns that mean. Where the plane is too
    small to tell, the mean is that of all.

    Parameters
    ----------
    left_out : of the plane; None where there is no model to foretell with: the mean is of all then.
    kernels : each of shape (K, K).
    """
    mean = torch.stack(list(kernels)).mean(0)
    if left_out is None or not left_out.enough:
        return mean
    levels = left_out.levels(_FIRST, _LAST, _STEPS)
    misfits = []
    beginnings = left_out.trials(levels)
    for trial in beginnings:
        misfits.append((yield from trial.under(mean, levels)).misfit)
    begun = beginnings[misfits.index(min(misfits))]
    ends = []
    for kernel in kernels:
        ends.append((yield from begun.under(kernel, levels)))
    most = _ALIKE * min(end.misfit for end in ends)
    alike = [kernel for kernel, end in zip(kernels, ends, strict=True) if end.misfit <= most]
    return torch.stack(alike).mean(0)


def most_steps(n_kernels: int) -> int:
    """Return the image steps that trials of so many kernels take at most."""
    return (len(NOISE_SHARES) + n_kernels) * _STEPS if n_kernels > 1 else 0


# Noise levels, relative to a range of 2, and the steps from one to the other.
_FIRST, _LAST = 1.0, 0.03
_STEPS = 9
# Times the least mean error. A kernel that is a fifth wider foretells 5 % better, right or wrong.
_ALIKE = 1.06
