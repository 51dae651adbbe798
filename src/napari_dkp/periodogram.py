"""Power at the frequencies of a plane, whose borders a taper keeps out of it."""

import numpy as np


def taper(shape: tuple[int, ...]) -> np.ndarray:
    """Return a Hann window of a shape, at most 1, without the zeros at its ends."""
    window = np.ones(())
    for n in shape:
        window = window[..., None] * np.hanning(n + 2)[1:-1]
    return window


def periodogram(planes: np.ndarray) -> np.ndarray:
    """Return the power of planes (..., h, w) without their means, under a taper: same shape.

    It is in squared intensity: white noise has its variance at every frequency.
    """
    window = taper(planes.shape[-2:])
    mean = (planes * window).sum((-2, -1), keepdims=True) / window.sum()
    tapered = (planes - mean) * window
    power: np.ndarray = np.abs(np.fft.fft2(tapered)) ** 2 / (window**2).sum()
    return power


# Neighbouring frequencies share their noise under the taper: values per independent one.
CORRELATION = 2.25
