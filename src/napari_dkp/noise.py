"""Noise of a camera: photons that are counted, and an amplifier that reads them (Poisson–Gaussian).

A pixel of mean m, in intensity units, has the variance v(m) = gain · m + intercept. With an offset
μ and a read noise σ the intercept is σ² - gain · μ: of one image alone, offset and read noise are
not told apart, and a likelihood needs only their sum. In *counts* n = (y + intercept / gain) / gain
the variance equals the mean, so that n is Poisson to its first two moments, read noise included
(shifted Poisson; Snyder, Hammoud and White 1993).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import (
    convolve1d,
    gaussian_filter,
    maximum_filter,
    minimum_filter,
    uniform_filter,
)
from torch import Generator, Tensor
from torch.nn import functional

from napari_dkp.config import NoiseConfig


@dataclass(frozen=True)
class Noise:
    """Variance as a line in the mean.

    Attributes
    ----------
    gain : intensity units per count, positive.
    intercept : variance at intensity zero, intensity units squared; below zero with an offset.
    calm : standard deviation in the calmest places of the plane that it was estimated of; infinite
        where that is not known. Far below the others', they may well be fine structure.
    """

    gain: float
    intercept: float
    calm: float = math.inf

    @property
    def least_variance(self) -> float:
        """Variance to count on where no light is expected: one photon is no wonder there."""
        return _FAINTEST * self.gain**2

    def variance(self, mean: np.ndarray) -> np.ndarray:
        """Return the variance at a mean intensity, never negative."""
        return np.maximum(self.gain * mean + self.intercept, 0.0)

    def weights(self, data: Tensor) -> Tensor:
        """Return the inverse of the variance at each sample, on average one.

        Under these, squares are the Poisson–Gaussian likelihood about the mean.

        Parameters
        ----------
        data : shape (C, *spatial).
        """
        weights = 1 / self.variances(data)
        return weights / weights.mean()

    def variances(self, data: Tensor) -> Tensor:
        """Return the variance at each sample, greater than 0.

        For its mean, that of its neighbours stands in: a sample's own value would pull fits to what
        is too dark.

        Parameters
        ----------
        data : shape (C, *spatial).
        """
        return (self.gain * local_mean(data) + self.intercept).clamp_min(self.least_variance)

    def counts(self, data: Tensor) -> Tensor:
        """Return data as counts, whose variance is their mean; never negative."""
        return (data / self.gain + self.intercept / self.gain**2).clamp_min(0)

    def intensity(self, counts: Tensor) -> Tensor:
        """Undo `counts`."""
        return self.gain * counts - self.intercept / self.gain

    def rescaled(self, low: float, span: float) -> "Noise":
        """Return the same noise for data (y - low) / span."""
        intercept = (self.intercept + self.gain * low) / span**2
        return Noise(self.gain / span, intercept, self.calm / span)


def split(counts: Tensor, generator: Generator) -> Tensor:
    """Deal each count to one of two halves by the toss of a coin.

    Halves of Poisson counts are Poisson and independent (binomial thinning): what one half's fit
    says of the other is not told by noise.

    Returns
    -------
    Tensor, shape (2, *counts.shape), whole numbers; their sum is that of the rounded counts.
    """
    whole = counts.round().cpu().double()  # float32 blurs a million
    first = torch.binomial(whole, torch.full_like(whole, 0.5), generator=generator)
    return torch.stack([first, whole - first]).to(counts)


def local_mean(data: Tensor) -> Tensor:
    """Return the mean over five pixels along each of two or three spatial axes, (C, *spatial).

    At borders it is over those that are there; along an axis of fewer than five over three or one.
    """
    pool = functional.avg_pool3d if data.ndim == 4 else functional.avg_pool2d
    width = [min(5, n - (n + 1) % 2) for n in data.shape[1:]]
    half = [n // 2 for n in width]
    mean: Tensor = pool(data[None], width, 1, half, count_include_pad=False)
    return mean[0]


def of_plane(plane: np.ndarray, config: NoiseConfig | None) -> Noise:
    """Return the noise that a user states, or else what `estimate` and `in_calm_places` say.

    Raises
    ------
    ValueError
        If a stated noise cannot be that of the plane.
    """
    if config is None:
        return replace(estimate(plane), calm=in_calm_places(plane))
    noise = Noise(config.gain, config.read_noise**2 - config.gain * config.offset)
    mean = (float(plane.mean(dtype=np.float64)) + noise.intercept / noise.gain) / noise.gain
    if not _FEWEST_COUNTS <= mean <= _MOST_COUNTS:
        raise ValueError(
            f"noise: expected {_FEWEST_COUNTS:g} to {_MOST_COUNTS:g} counts per pixel; got "
            f"{mean:.3g}, (intensity - offset) / gain + (read_noise / gain)² over the plane"
        )
    return noise


def estimate(plane: np.ndarray) -> Noise:
    """Estimate the noise from one plane: the line through variances of pixels of like brightness.

    What no optics passes is noise: the fourth difference along every axis at once takes away all
    that is smooth over two pixels or so. Medians keep edges out of it.

    Parameters
    ----------
    plane : shape (C, *spatial), at least 16 pixels along Y and X; smaller ones, and planes of no
        noise at all, get a small Gaussian noise. A stack of few planes is judged plane by plane.

    Returns
    -------
    Noise, with a gain and a standard deviation no smaller than what float32 data can show; for a
    plane without contrast any.
    """
    plane = plane.astype(np.float64)
    span = float(plane.max() - plane.min())
    floor = (_LEAST_NOISE * span) ** 2
    if span == 0:
        return Noise(1.0, 1.0 - float(plane.min()))
    plane = _judged_together(plane)
    if min(plane.shape[-2:]) < _SMALLEST:
        return _with_floors(Noise(0.0, floor), plane.min(), plane.max(), floor)
    means, variances = _mean_variance(plane)
    if len(means) == 0:
        return _with_floors(Noise(0.0, floor), plane.min(), plane.max(), floor)
    # The spread of an estimated variance is in proportion to it.
    weights = 1 / np.maximum(variances, floor)
    gain = 0.0
    if np.ptp(means) > _LEAST_RANGE * span:
        gain, intercept = np.polyfit(means, variances, 1, w=weights)
    if gain <= 0:
        gain, intercept = 0.0, float(np.average(variances, weights=weights))
    noise = Noise(float(gain), float(intercept))
    return _with_floors(noise, float(means.min()), float(means.max()), floor)


def in_calm_places(plane: np.ndarray) -> float:
    """Return the standard deviation that noise has where a plane is calmest.

    Fine structure passes for noise, but not everywhere: photographs without noise have places that
    are smooth.

    Parameters
    ----------
    plane : shape (C, *spatial). A stack of few planes is judged plane by plane.

    Returns
    -------
    float, in the plane's unit; of white noise its standard deviation. Infinite where there are too
    few places to tell. Places that are saturated or hold no photons do not count.
    """
    plane = _judged_together(plane.astype(np.float64))
    if min(plane.shape[-2:]) < _SMALLEST:
        return math.inf
    axes = tuple(range(1, plane.ndim))
    place = (1, *(_PLACE for _ in axes))
    extreme = (plane == plane.min(axes, keepdims=True)) | (plane == plane.max(axes, keepdims=True))
    n_extreme = uniform_filter(extreme.astype(np.float64), place) * _PLACE ** len(axes)
    # Sums that run over a plane leave rounding where it is flat, of either sign.
    variance = uniform_filter(_rough(plane) ** 2, place).clip(min=0)
    border = 2 + _PLACE // 2
    inside = (slice(None), *(slice(border, -border) for _ in axes))
    variances = variance[inside][n_extreme[inside] < 1.5]
    if variances.size < _FEWEST_PLACES:
        return math.inf
    return math.sqrt(np.quantile(variances, _CALM_SHARE) / _CALM_OF_NOISE[len(axes)])


def _judged_together(plane: np.ndarray) -> np.ndarray:
    """Return a stack (C, Z, Y, X) of few planes as planes; others as they are."""
    few = min(plane.shape[1:]) < _SMALLEST_DEPTH
    return plane.reshape(-1, *plane.shape[-2:]) if few else plane


def _rough(plane: np.ndarray) -> np.ndarray:
    """Return fourth differences along every spatial axis; white noise keeps its variance."""
    for axis in range(1, plane.ndim):
        plane = convolve1d(plane, _FOURTH_DIFFERENCE, axis)
    return plane


def _mean_variance(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of some groups of pixels of like brightness, and their noise variance."""
    rough, level = _rough(plane), plane
    axes = range(1, plane.ndim)
    for axis in axes:
        # The mean that goes with the variance of what differences make of noise.
        level = convolve1d(level, _FOURTH_DIFFERENCE**2, axis)
    smooth = gaussian_filter(plane, (0, *(2.0 for _ in axes)))
    # No camera makes these: padding, a saturated region, a channel that is not there.
    around = (1, *(5 for _ in axes))
    blank = maximum_filter(plane, around) == minimum_filter(plane, around)
    inside = (slice(None), *(slice(2, -2) for _ in axes))
    seen = ~blank[inside]
    rough, level, smooth = (image[inside][seen] for image in (rough, level, smooth))
    n_groups = min(_GROUPS, smooth.size // 100)
    groups = np.array_split(np.argsort(smooth), n_groups) if n_groups else []
    means = np.array([level[group].mean() for group in groups])
    deviations = np.array([np.median(np.abs(rough[group])) for group in groups])
    return means, (deviations / _MEDIAN_OF_HALF_NORMAL) ** 2


def _with_floors(noise: Noise, low: float, high: float, floor: float) -> Noise:
    """Keep the variance positive from `low` to `high`, and the gain large: counts are finite."""
    gain, intercept = noise.gain, max(noise.intercept, floor - noise.gain * low)
    # Gaussian noise of one variance: counts so many that it grows by a tenth over the plane.
    least = _LEAST_GROWTH * (gain * low + intercept) / (high - low) if high > low else 1.0
    if gain < least:
        intercept += (gain - least) * 0.5 * (low + high)
        gain = least
    return Noise(gain, intercept)


# Counts.
_FAINTEST = 0.25
_FEWEST_COUNTS, _MOST_COUNTS = 1e-3, 1e8
_FOURTH_DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70.0)
_MEDIAN_OF_HALF_NORMAL = 0.6745
_GROUPS = 24
_SMALLEST = 16
# Pixels along a place's sides, its share of places that counts as calm, and the fewest places.
_PLACE, _CALM_SHARE, _FEWEST_PLACES = 5, 0.02, 100
# The variance of places at that share, of white noise of variance one in so many dimensions.
_CALM_OF_NOISE = {2: 0.223, 3: 0.408}
# Planes of a stack below which differences along Z leave too few.
_SMALLEST_DEPTH = 8
# Standard deviation, as a share of the plane's range.
_LEAST_NOISE = 1e-3
_LEAST_GROWTH = 0.1
# Of the plane's range: brightness so much alike tells nothing of a gain.
_LEAST_RANGE = 1e-3
