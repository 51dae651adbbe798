"""What the power spectrum of a plane says of its optics: where it falls to the noise, and why.

An objective passes no frequency beyond its cut-off 2 NA / λ. What is imaged has a spectrum too, and
the two multiply: only the shape of the fall tells one from the other. So the spectrum is explained
by both together, and the likelihood of the cut-off is what is left when everything else that is
not known has had its say (Whittle 1953).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_dkp.noise import Noise
from napari_dkp.optics import transfer
from napari_dkp.periodogram import CORRELATION, periodogram, taper


@dataclass(frozen=True)
class Cutoff:
    """Optical cut-off frequency and how well it is known.

    Attributes
    ----------
    frequency : cycles per HR pixel.
    spread : standard deviation of its natural logarithm.
    """

    frequency: float
    spread: float


def usual_cutoff(scale: float) -> Cutoff:
    """Return what is to be expected where nothing is known of a microscope.

    Cameras are chosen so that two to five pixels, enlarged by the scale rather more, lie under the
    bright disc of a point.
    """
    return Cutoff(_USUAL / math.sqrt(scale), _USUAL_SPREAD)


def find_cutoff(
    plane: np.ndarray, scale: tuple[int, ...], noise: Noise, expected: Cutoff
) -> Cutoff:
    """Find the optical cut-off in the spectrum of a plane.

    Parameters
    ----------
    plane : shape (C, h, w), intensity in any unit.
    scale : HR pixels per LR sample, along each axis.
    noise : of the plane, in its unit.
    expected : before the plane is looked at.

    Returns
    -------
    Cutoff, mean and standard deviation of the logarithm under the posterior; `expected` where fewer
    than 4 pixels along an axis tell nothing.
    """
    power, count, folding, level = _binned(plane, scale, noise)
    if len(power) == 0:
        return expected
    frequency = (torch.arange(_FINE_BINS, dtype=torch.float64) + 0.5) * (_DIAGONAL / _FINE_BINS)
    cutoffs = torch.logspace(math.log10(_LOWEST), math.log10(_HIGHEST), _N_CUTOFFS).double()
    blurs = torch.tensor(_BLURS, dtype=torch.float64)
    dampings = torch.tensor(_DAMPINGS, dtype=torch.float64)
    optics = torch.stack([transfer(frequency, cutoffs[:, None], d) for d in dampings], 1) ** 2
    soft = torch.exp(-4 * math.pi**2 * blurs[:, None] ** 2 * frequency**2)
    slopes = (frequency / frequency[1]) ** -torch.tensor(_SLOPES, dtype=torch.float64)[:, None]
    # Cut-offs, dampings, blurs of the object, slopes of its spectrum, bins.
    parts = (optics[:, :, None, None] * (soft[:, None] * slopes)) @ folding.T
    fit = _log_likelihood(parts, power, count, level)
    fit = fit - 0.5 * ((dampings - _USUAL_DAMPING) / _DAMPING_SPREAD)[:, None] ** 2
    fit = fit - blurs / _USUAL_BLUR
    evidence = torch.logsumexp(fit, (1, 2))
    offset = (cutoffs / expected.frequency).log()
    weights = torch.softmax(evidence - 0.5 * (offset / expected.spread) ** 2, 0)
    mean = (weights * offset).sum()
    spread = (weights * (offset - mean) ** 2).sum().sqrt()
    return Cutoff(float(expected.frequency * mean.exp()), max(float(spread), _LEAST_SPREAD))


def reaches_noise(plane: np.ndarray, noise: Noise) -> bool:
    """Return whether a plane's spectrum falls to its noise before the sampling's own limit.

    Optics that are sampled finely do; in photographs, and whatever else was made small, power
    that belongs to finer detail is folded back to these frequencies.

    Parameters
    ----------
    plane : shape (C, h, w); one of fewer than `SMALLEST` pixels along an axis tells nothing, and
        counts as a photograph.
    noise : of the plane, in its unit.
    """
    if min(plane.shape[1:]) < SMALLEST or np.ptp(plane) == 0:
        return False
    power, frequency, level = _power(plane, noise)
    near = (frequency > _NEAR_LIMIT[0]) & (frequency < _NEAR_LIMIT[1])
    return bool(power[near].mean() < _NOISE_LIKE * level)


def _power(plane: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray, float]:
    """Return power per frequency, mean over channels, the radial frequencies, and the noise's."""
    power = np.zeros(plane.shape[1:])
    for channel in plane:
        power += periodogram(channel)
    weight = taper(plane.shape[1:]) ** 2
    level = float((noise.variance(plane) * weight).mean(0).sum() / weight.sum())
    frequency = np.hypot(*_grid(plane.shape[1:]))
    return power / len(plane), frequency, level


def _binned(
    plane: np.ndarray, scale: tuple[int, ...], noise: Noise
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the mean power in rings, how many independent values each has, and how HR power folds.

    The third is the matrix from power in fine rings of HR frequencies to that in the rings.
    """
    power, radius, level = _power(plane, noise)
    rows, columns = _grid(plane.shape[1:])
    # The axes hold what differs between opposite borders.
    kept = (radius > _LOWEST_KEPT) & (np.abs(rows) > 1.5 / len(rows))
    kept &= np.abs(columns) > 1.5 / columns.shape[1]
    ring = _ring(radius[kept], _BINS)
    count = np.bincount(ring, minlength=_BINS)
    mean = np.bincount(ring, power[kept], minlength=_BINS) / np.maximum(count, 1)
    folding = np.zeros(_BINS * _FINE_BINS)
    for shift in np.ndindex(*(2 * s - 1 for s in scale)):
        y, x = (
            (axis[kept] + turn - s + 1) / s
            for axis, turn, s in zip((rows, columns), shift, scale, strict=True)
        )
        inside = (np.abs(y) <= 0.5) & (np.abs(x) <= 0.5)
        pixel = (np.sinc(y[inside]) * np.sinc(x[inside])) ** 2
        place = ring[inside] * _FINE_BINS + _ring(np.hypot(y[inside], x[inside]), _FINE_BINS)
        folding += np.bincount(place, pixel, minlength=folding.size)
    folding = folding.reshape(_BINS, _FINE_BINS) / np.maximum(count, 1)[:, None]
    filled = count > 0
    as_tensor = torch.from_numpy
    return (
        as_tensor(mean[filled]),
        as_tensor(len(plane) * count[filled] / CORRELATION),
        as_tensor(folding[filled]),
        level,
    )


def _log_likelihood(parts: Tensor, power: Tensor, count: Tensor, level: float) -> Tensor:
    """Return the log-likelihood of each sum of parts under its best non-negative amounts.

    Parameters
    ----------
    parts : shape (..., J, R) over J parts and R rings.
    power, count : shape (R,).
    level : power of the noise.
    """
    parts = parts / parts.mean(-1, keepdim=True).clamp_min(1e-30)
    amount = torch.full_like(parts[..., 0], max(float(power.mean()) - level, 1e-3 * level))
    for _ in range(_MULTIPLICATIVE_STEPS):
        model = (amount.unsqueeze(-2) @ parts).squeeze(-2) + level
        up = (parts @ (count * power / model**2).unsqueeze(-1)).squeeze(-1)
        down = (parts @ (count / model).unsqueeze(-1)).squeeze(-1)
        amount = amount * (up / down.clamp_min(1e-30)).sqrt()  # Itakura–Saito, monotone
    model = (amount.unsqueeze(-2) @ parts).squeeze(-2) + level
    return -_TRUST * (count * (model.log() + power / model)).sum(-1)


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    return rows, columns


def _ring(radius: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((radius * (bins / _DIAGONAL)).astype(np.int64), bins - 1)


# Largest radial frequency, cycles per pixel, a little over √½.
_DIAGONAL = 0.7072
_BINS, _FINE_BINS = 90, 180
_LOWEST_KEPT = 0.02
# Pixels along an axis, of planes that can be judged.
SMALLEST = 32

_USUAL, _USUAL_SPREAD = 0.3, 0.35
_LOWEST, _HIGHEST, _N_CUTOFFS = 0.06, 0.6, 46
_LEAST_SPREAD = 0.02
# What is imaged: a mixture of power laws from points (0) over lines and faces on, all softened by
# a Gaussian of so many pixels. Much is soft by one or two: were that held to be rare, the softness
# would be put down to the optics, and a kernel too wide costs more than one as much too narrow.
_SLOPES = (0.0, 1.0, 2.0, 3.0, 4.0)
_BLURS = (0.0, 0.5, 0.8, 1.2, 1.6, 2.2, 3.0)
_USUAL_BLUR = 1.0
_DAMPINGS = (1.0, 0.7, 0.5, 0.35)
_USUAL_DAMPING, _DAMPING_SPREAD = 0.7, 0.25
# Of the log-likelihood: no mixture of power laws is quite what is imaged. Over drawn filaments,
# rings, nets, points, nuclei, tubes and membranes, spreads are then as large as the errors; with
# twice the trust errors are twice the spread, all but a few of them where everything is soft.
_TRUST = 0.05
_MULTIPLICATIVE_STEPS = 200

_NEAR_LIMIT = (0.40, 0.45)
# Times the noise: microscopes 1 to 2, photographs 7 to 270.
_NOISE_LIKE = 3.0
