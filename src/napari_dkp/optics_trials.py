"""Trials of a microscope's optics: who restores one half of the photons best foretells the other.

A kernel that is sought in the very image it has formed confirms itself; photons that this image has
not seen do not. Richardson–Lucy is fast enough to try several.

They tell two errors. The risk, that of the sharp image, decides between cut-offs: in the deviance,
which is of blurred images, the fine detail by which cut-offs differ counts next to nothing. The
deviance decides between dampings: they change what can be restored too little for the risk to tell.
"""

import math
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_dkp.config import Interval
from napari_dkp.degradation import Degradation
from napari_dkp.engine import TrialStep
from napari_dkp.kernel_shape import measure
from napari_dkp.noise import Noise
from napari_dkp.optics import airy
from napari_dkp.randomness import make_generator
from napari_dkp.restorers.deviance import Deviance
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.restorers.risk import Risk
from napari_dkp.spectrum import Cutoff
from napari_dkp.windows import liveliest


@dataclass(frozen=True)
class AiryIntervals:
    """Where trials leave the parameters of an Airy pattern.

    Attributes
    ----------
    cutoff : interval of the optical cut-off, cycles per HR pixel.
    damping : interval of the transfer function's factor at the cut-off.
    spread : standard deviation of the logarithm of the pattern's width, spectrum and trials
        together.
    """

    cutoff: Interval
    damping: Interval
    spread: float


def try_optics(
    model: Degradation,
    data: Tensor,
    noise: Noise,
    cutoff: Cutoff,
    damping: Interval,
    seed: int,
) -> Iteration[TrialStep, None, AiryIntervals]:
    """Try Airy patterns on a piece of a plane; yield each of `N_TRIALS`.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (C, h, w).
    noise : of that data.
    cutoff : of the optics, as the spectrum has it.
    damping : lowest and highest to be tried.
    seed : of the photons' halves, the same for all.

    Returns
    -------
    AiryIntervals, about one posterior standard deviation to either side of the mean.
    """
    window = liveliest(data, _WINDOW)
    piece = data[(slice(None), *window)]
    if piece.shape != data.shape:  # a piece does not wrap
        model = replace(model, lr_shape=tuple(piece.shape[1:]), boundary="free")
    spread = min(max(cutoff.spread, _LEAST_SPREAD), _LARGEST_SPREAD)
    offsets = spread * torch.tensor(_OFFSETS, dtype=torch.float64)
    dampings = torch.linspace(damping[1], damping[0], _N_DAMPINGS, dtype=torch.float64)
    kernels = airy(
        (cutoff.frequency * offsets.exp()).repeat_interleave(len(dampings)).to(data),
        dampings.repeat(len(offsets)).to(data),
        model.kernel_shape,
        model.kernel_centre,
    )
    halves = PhotonHalves(model, piece, noise, make_generator(seed))
    # Comparable only in one passband: that of the kernel in the middle.
    deviance_of = Deviance(halves.counts)
    risk_of = Risk(model, halves.counts, kernels[len(kernels) // 2])
    least = []
    for kernel in kernels:
        restorer = RichardsonLucyRestorer(model, halves, _PATIENCE, risk_of)
        least.append(_least_errors(restorer, deviance_of, kernel))
        yield TrialStep(kernel, halves.residual(restorer.best.means))
    risk, deviance, steps = torch.tensor(least, dtype=torch.float64).T.reshape(
        3, len(offsets), len(dampings)
    )
    # Where noise sets an end to the first few steps, a kernel only smooths, and wide ones do best.
    trust = _TRUST * min(1.0, (float(steps.max()) / _TELLING_STEPS) ** 4)
    log_prior = -0.5 * (offsets / cutoff.spread) ** 2
    log_likelihood = torch.logsumexp(-trust * piece.numel() * risk, 1)
    of_cutoff = torch.softmax(log_likelihood + log_prior, 0)
    of_damping = torch.softmax(-trust * piece.numel() * deviance, 1)  # given the cut-off
    weight = of_cutoff[:, None] * of_damping
    shift, width = _moments(offsets, of_cutoff)
    level, breadth = _moments(dampings, weight.sum(0))
    low, high = damping
    # Contrast that is lost makes a pattern wider.
    middle = kernels.reshape(*weight.shape, *model.kernel_shape)[len(offsets) // 2]
    widths = [measure(kernel.cpu().numpy()).fwhm[0] for kernel in (middle[0], middle[-1])]
    slope = math.log(widths[1] / widths[0]) / (high - low) if high > low else 0.0
    return AiryIntervals(
        (
            cutoff.frequency * math.exp(shift - width),
            min(cutoff.frequency * math.exp(shift + width), 1.0),
        ),
        (max(level - breadth, low), min(level + breadth, high)),
        math.hypot(_spread(cutoff.spread, offsets, log_prior, of_cutoff), slope * breadth),
    )


def _least_errors(
    restorer: RichardsonLucyRestorer, deviance_of: Deviance, kernel: Tensor
) -> tuple[float, float, int]:
    """Return the least risk and deviance under a kernel, and after how many steps the latter."""
    deviances: list[float] = []
    while len(deviances) < _STEPS and not restorer.done:
        restorer.advance(kernel)
        deviances.append(float(deviance_of(restorer.latest.means)))
    least = min(deviances)
    return restorer.best.risk, least, 1 + deviances.index(least)


def _spread(before: float, offsets: Tensor, log_prior: Tensor, weight: Tensor) -> float:
    """Return the standard deviation of the logarithm of the cut-off after trials.

    Three candidates may reach less far than the spectrum leaves open: what they say is by how much
    they narrow it, and that no finer than they lie. They say nothing where an outer one does best.
    """
    if int(weight.argmax()) != len(offsets) // 2:
        return before
    _, width_before = _moments(offsets, torch.softmax(log_prior, 0))
    _, width = _moments(offsets, weight)
    step = float(offsets[1] - offsets[0]) / math.sqrt(12)
    return min(math.hypot(before * width / width_before, step), before)


def _moments(values: Tensor, weights: Tensor) -> tuple[float, float]:
    mean = (values * weights).sum()
    return float(mean), float((weights * (values - mean) ** 2).sum().sqrt())


_WINDOW = 192
_STEPS = 250
_PATIENCE = 6
_OFFSETS = (-1.2, 0.0, 1.2)
_N_DAMPINGS = 3
N_TRIALS = len(_OFFSETS) * _N_DAMPINGS
_LEAST_SPREAD, _LARGEST_SPREAD = 0.04, 0.15
_TELLING_STEPS = 50
# Of the likelihood of held-out photons: an image that is cut off early has errors of its own.
_TRUST = 0.02
