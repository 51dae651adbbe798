"""Fourier ring correlation against known answers: shared bands, noise of known strength."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_dkp.resolution import foretold_resolution, resolution, ring_correlation


def white(seed: int, shape=(128, 128)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def band_limited(image: np.ndarray, cutoff: float) -> np.ndarray:
    rows, columns = image.shape[-2:]
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    return np.fft.irfft2(np.fft.rfft2(image) * (radius < cutoff), s=(rows, columns))


def test_an_image_correlates_with_itself_and_not_with_another():
    frequency, same, count = ring_correlation(white(0), 3 * white(0) + 5)
    np.testing.assert_allclose(same, 1)
    _, other, _ = ring_correlation(white(0), white(1))
    assert np.abs(other[4:]).max() < 0.35
    assert np.abs(other[4:]).mean() < 0.12
    assert (np.diff(frequency) > 0).all()
    assert 0 < frequency[0] < frequency[-1] < 0.5
    # Chance correlations are as large as so many coefficients allow.
    assert np.mean(other[4:] ** 2 * count[4:]) == pytest.approx(1, abs=0.5)


def test_the_correlation_is_that_of_signal_and_noise():
    """White signal under white noise of the same power: S / (S + N) = 1/2 in every ring."""
    signal = white(0, (256, 256))
    _, found, _ = ring_correlation(signal + white(1, (256, 256)), signal + white(2, (256, 256)))
    assert found[5:].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("cutoff", [0.1, 0.2, 0.35])
def test_the_resolution_is_where_what_is_shared_ends(cutoff):
    signal = band_limited(white(0, (320, 384)), cutoff)
    first, second = (signal + 0.3 * signal.std() * white(seed, signal.shape) for seed in (1, 2))
    assert resolution(first, second) == pytest.approx(1 / cutoff, rel=0.15)


def test_a_scale_apart_of_pixels_makes_the_same_period_longer():
    signal = band_limited(white(0), 0.3)
    halves = [signal + 0.3 * signal.std() * white(seed) for seed in (1, 2)]
    enlarged = [np.kron(half, np.ones((2, 2))) for half in halves]
    assert resolution(*enlarged) == pytest.approx(2 * resolution(*halves), rel=0.1)


def test_the_ends_of_the_scale():
    assert resolution(white(0), white(0)) == 2.0
    assert resolution(white(0), -white(0)) is None


def test_channels_are_more_of_the_same():
    signal = np.stack([band_limited(white(seed, (256, 256)), 0.2) for seed in (0, 1, 2)])
    first, second = (signal + 0.3 * signal.std() * white(seed, signal.shape) for seed in (3, 4))
    assert resolution(first, second) == pytest.approx(5, rel=0.1)


def test_what_both_restorations_make_up_is_not_taken_for_resolution():
    """Restorations right up to 0.1, and beyond it alike but wrong."""
    shape = (256, 256)
    thing = band_limited(white(0, shape), 0.2)
    photons = np.stack([thing + 0.3 * thing.std() * white(seed, shape) for seed in (1, 2)])
    true = band_limited(thing, 0.1)
    made_up = white(3, shape) - band_limited(white(3, shape), 0.1)
    means = np.stack([true + 0.3 * made_up] * 2)
    assert resolution(*means) == 2.0
    assert foretold_resolution(means, photons) == pytest.approx(10, rel=0.15)


def test_a_restoration_without_noise_tells_more_than_photons_do():
    shape = (256, 256)
    thing = gaussian_filter(white(0, shape), 1.5)
    photons = np.stack([thing + 0.3 * thing.std() * white(seed, shape) for seed in (1, 2)])
    before = resolution(*photons)
    assert foretold_resolution(photons, photons) == pytest.approx(before, rel=0.1)
    assert foretold_resolution(np.stack([thing, thing]), photons) < 0.95 * before
    unlike = np.stack([gaussian_filter(white(5, shape), 1.5)] * 2)
    assert (foretold_resolution(unlike, photons) or 99) > 30
