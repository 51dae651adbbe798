"""Resolution by Fourier ring correlation: the finest detail that two images of one thing share."""

from functools import reduce
from typing import NamedTuple

import numpy as np


class Rings(NamedTuple):
    """Correlation of two images over rings of their spectra; arrays of shape (n_rings,).

    Attributes
    ----------
    frequency : mean of the ring, cycles per pixel, ascending up to 0.5.
    correlation : of the two spectra, -1 to 1.
    n_modes : independent coefficients in the ring.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    n_modes: np.ndarray


def ring_correlation(first: np.ndarray, second: np.ndarray, ndim: int = 2) -> Rings:
    """Correlate two images ring by ring (Saxton and Baumeister 1982).

    Parameters
    ----------
    first, second : shape (..., *spatial), noise independent; further axes count as more of the
        same.
    ndim : number of spatial axes; in three, rings are shells.
    """
    axes = tuple(range(-ndim, 0))
    lengths = first.shape[-ndim:]
    window = reduce(np.multiply.outer, (np.hanning(n) for n in lengths))

    def spectrum(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float64)
        return np.asarray(
            np.fft.rfftn((image - image.mean(axes, keepdims=True)) * window, axes=axes)
        )

    one, other = spectrum(first), spectrum(second)
    frequencies = [*(np.fft.fftfreq(n) for n in lengths[:-1]), np.fft.rfftfreq(lengths[-1])]
    radius = reduce(np.hypot.outer, frequencies)
    n_rings = max(2, min(_RINGS, min(lengths) // 4))
    ring = np.floor(radius * 2 * n_rings).astype(int).ravel()
    inside = ring < n_rings
    # The real transform holds one of each pair of opposite frequencies, but of its first column.
    share = np.where(np.arange(radius.shape[-1]) == 0, 0.5, 1.0) + np.zeros_like(radius)

    def total(values: np.ndarray) -> np.ndarray:
        flat = (values * share).reshape(-1, ring.size).sum(0)
        return np.bincount(ring[inside], flat[inside], n_rings)

    cross = total((one * other.conj()).real)
    power = np.sqrt(total(np.abs(one) ** 2) * total(np.abs(other) ** 2))
    each = np.maximum(total(np.ones_like(radius)), 1e-300)
    n_modes = np.maximum(_INDEPENDENT**ndim * total(np.ones(one.shape)), 1.0)
    return Rings(total(radius) / each, cross / np.maximum(power, 1e-300), n_modes)


def resolution(first: np.ndarray, second: np.ndarray, ndim: int = 2) -> float | None:
    """Return the period, in pixels, at which two noisy images of one thing cease to agree.

    Their ring correlation falls below 1/7: there the mean of both correlates with the thing itself
    by one half (Rosenthal and Henderson 2003).

    Parameters
    ----------
    first, second : shape (..., *spatial), from one half of the data each.
    ndim : number of spatial axes.

    Returns
    -------
    float; 2 where they agree up to the limit of their sampling, None where nowhere.
    """
    rings = ring_correlation(first, second, ndim)
    return _period(rings.frequency, rings.correlation - _SHARED)


def foretold_resolution(means: np.ndarray, halves: np.ndarray, ndim: int = 2) -> float | None:
    """Return the period, in pixels, up to which one half's restoration tells the other half.

    Two restorations also share what a method makes up, so that they agree beyond what either knows.
    Photons that a restoration has not seen share nothing with it but the thing itself. They are
    noisy: correlated with the other half they show the root of what that half does of itself. What
    is left is the correlation of the restoration with the thing, and the period is where that falls
    below that of one half at its `resolution`. Where the halves hardly correlate, twice what chance
    alone would make stands in for what they do.

    Parameters
    ----------
    means : restorations of the halves, blurred and sampled as the data is, shape (2, ...,
        *spatial).
    halves : of the photons, same shape.
    ndim : number of spatial axes.

    Returns
    -------
    float or None, as of `resolution`.
    """
    frequency, of_halves, n_modes = ring_correlation(halves[0], halves[1], ndim)
    told = 0.5 * sum(
        ring_correlation(mean, half, ndim).correlation
        for mean, half in zip(means, halves[::-1], strict=True)
    )
    certain = np.maximum(of_halves, 2 / np.sqrt(n_modes))
    return _period(frequency, told - np.sqrt(_SHARED * certain))


def _period(frequency: np.ndarray, excess: np.ndarray) -> float | None:
    """Return the period at which an excess over a threshold first ends."""
    below = np.flatnonzero(excess < 0)
    if len(below) == 0:
        return 2.0
    ring = int(below[0])
    if ring == 0:
        return None
    share = excess[ring - 1] / (excess[ring - 1] - excess[ring])
    return float(1 / (frequency[ring - 1] + share * (frequency[ring] - frequency[ring - 1])))


_RINGS = 32
_SHARED = 1 / 7
# A Hann window makes neighbouring coefficients along an axis depend on one another.
_INDEPENDENT = 2 / 3
