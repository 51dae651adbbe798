"""Scores of restored images and kernels, by the protocol of the published benchmark."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, optimize, signal
from skimage.metrics import structural_similarity

Array = np.ndarray


def luma(image: Array) -> Array:
    """Return the BT.601 luma of an 8-bit RGB image, on the scale 16 to 235.

    Parameters
    ----------
    image : values 0 to 255, shape (H, W, 3); rounded and clipped first, as a saved PNG would be.
        A grey image, shape (H, W), is returned rounded and clipped.
    """
    image = np.clip(np.round(image), 0, 255).astype(np.float64)
    if image.ndim == 2:
        return image
    return np.asarray(16 + image @ np.array([65.481, 128.553, 24.966]) / 255)


def psnr(image: Array, truth: Array, border: int = 0, peak: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in dB; `border` pixels are left out on every side."""
    error = _inner(image, border) - _inner(truth, border)
    mean_square = float(np.mean(error**2))
    return float("inf") if mean_square == 0 else 10 * np.log10(peak**2 / mean_square)


def aligned_psnr(
    image: Array, truth: Array, border: int = 0, peak: float = 255.0, reach: float = 1.5
) -> tuple[float, tuple[float, float]]:
    """Return the PSNR after the one shift of the whole image that serves it best, and that shift.

    A blind method cannot tell an image and its kernel from the two shifted against each other;
    this score does not charge for it. The image is interpolated by cubic splines; the shift is
    sought on a grid of half pixels, then refined.

    Parameters
    ----------
    image, truth : shape (H, W).
    border : pixels left out on every side; from `reach` on, none that is compared was made up.
    reach : largest shift in pixels along each axis.

    Returns
    -------
    float, (float, float)
        PSNR in dB, never below the raw one, and the shift applied along (Y, X) in pixels.
    """
    splines = ndimage.spline_filter(image.astype(np.float64), mode="mirror")

    def mean_square(shift: Sequence[float]) -> float:
        moved = ndimage.shift(splines, shift, mode="mirror", prefilter=False)
        return float(np.mean((_inner(moved, border) - _inner(truth, border)) ** 2))

    steps = np.linspace(-reach, reach, 2 * round(2 * reach) + 1)
    start = min(itertools.product(steps, steps), key=mean_square)
    found = optimize.minimize(
        mean_square, start, method="Powell", bounds=[(-reach, reach)] * 2, options={"xtol": 1e-3}
    )
    raw = psnr(image, truth, border, peak)
    aligned = float("inf") if found.fun == 0 else 10 * np.log10(peak**2 / found.fun)
    if aligned <= raw:
        return raw, (0.0, 0.0)
    return float(aligned), (float(found.x[0]), float(found.x[1]))


def ssim(image: Array, truth: Array, border: int = 0, peak: float = 255.0) -> float:
    """Return the structural similarity with an 11-tap Gaussian window of sigma 1.5, valid part."""
    _, local = structural_similarity(
        _inner(image, border),
        _inner(truth, border),
        data_range=peak,
        gaussian_weights=True,
        sigma=1.5,
        truncate=3.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(_inner(local, 5).mean())


def kernel_psnr(kernel: Array, truth: Array) -> float:
    """Return the kernel's PSNR in dB with peak 1, as published; no alignment."""
    return psnr(kernel, truth, peak=1.0)


def kernel_ncc(kernel: Array, truth: Array) -> float:
    """Return the largest normalised cross-correlation over shifts of whole pixels, 0 to 1."""
    correlation = signal.correlate(kernel.astype(float), truth.astype(float))
    return float(correlation.max() / np.sqrt((kernel**2).sum() * (truth**2).sum(dtype=float)))


def _inner(image: Array, border: int) -> Array:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]
