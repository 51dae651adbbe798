"""The noise estimate against simulated cameras, and counts against what Poisson noise is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dkp.config import NoiseConfig
from napari_dkp.noise import Noise, estimate, in_calm_places, local_mean, of_plane, split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    sparse = (rng.random(shape) < 0.02) * rng.exponential(1, shape)
    blurred = gaussian_filter(sparse, (0, sigma, sigma))
    return blurred / blurred.max()


def scene(seed: int = 0, channels: int = 1, sigma: float = 2.0) -> np.ndarray:
    """Small and large bright spots over a background, from 0.1 to 1.1."""
    rng = np.random.default_rng(seed)
    shape = (channels, 256, 256)
    light = points(rng, shape, sigma) + points(rng, shape, 12.0)
    return 0.1 + (light - light.min()) / np.ptp(light)


def recorded(
    mean: np.ndarray, gain: float, offset: float, read: float, seed: int = 7
) -> np.ndarray:
    """Mean photon numbers as a camera with Poisson and read noise has them."""
    rng = np.random.default_rng(seed)
    return gain * rng.poisson(mean) + offset + rng.normal(0, read, mean.shape)


CAMERAS = [
    (1.0, 0.0, 0.0, 400),
    (2.3, 100.0, 3.0, 200),
    (0.4, -50.0, 5.0, 1000),
    (7.0, 1000.0, 1.0, 60),
    (3.0, 100.0, 30.0, 500),
    (1.0, 0.0, 0.0, 30),
]


@pytest.mark.parametrize(("gain", "offset", "read", "photons"), CAMERAS)
def test_estimate_recovers_gain_and_variance_of_a_camera(gain, offset, read, photons):
    gains, ratios = [], []
    for seed in range(4):
        mean = photons * scene(seed)
        found = estimate(recorded(mean, gain, offset, read, seed))
        light = np.quantile(mean, [0.02, 0.5, 0.98])
        gains.append(found.gain / gain)
        ratios.append(found.variance(gain * light + offset) / (gain**2 * light + read**2))
    np.testing.assert_allclose(gains, 1, atol=0.25)
    np.testing.assert_allclose(np.mean(gains), 1, atol=0.1)
    np.testing.assert_allclose(ratios, 1, atol=0.25)
    np.testing.assert_allclose(np.mean(ratios, 0), 1, atol=0.1)


def test_estimate_takes_all_channels_together():
    mean = 300 * scene(channels=3)
    found = estimate(recorded(mean, 1.5, 20.0, 0.0))
    assert found.gain == pytest.approx(1.5, rel=0.1)
    assert found.intercept == pytest.approx(-30, abs=0.1 * 1.5**2 * mean.mean())


def test_estimate_finds_the_gain_where_all_light_is_in_fine_structure():
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        mean = 500 * (0.1 + points(rng, (1, 256, 256), 1.2))
        found.append(estimate(recorded(mean, 1.0, 0.0, 0.0, seed)).gain)
    assert np.mean(found) == pytest.approx(1, abs=0.17)


@pytest.mark.parametrize("sigma", [0.5, 5.0])
def test_estimate_of_gaussian_noise_alone_hardly_grows_over_the_plane(sigma):
    mean = 100 * scene()
    noisy = mean + np.random.default_rng(1).normal(0, sigma, mean.shape)
    found = estimate(noisy)
    assert found.variance(mean.mean()) == pytest.approx(sigma**2, rel=0.15)
    low, high = found.variance(np.quantile(mean, [0.02, 0.98]))
    assert low < high < 1.5 * low


def test_estimate_of_a_plane_without_noise_is_small_and_finite():
    plane = 100 * scene(sigma=3.0)
    found = estimate(plane)
    deviation = np.sqrt(found.variance(plane))
    assert 0 < deviation.min() <= deviation.max() < 2e-3 * np.ptp(plane)
    assert found.gain > 0
    counts = found.counts(torch.from_numpy(plane))
    assert counts.isfinite().all()
    assert counts.max() < 1e9


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 40), (2, 15, 200), (1, 16, 16)])
def test_estimate_of_a_tiny_plane_is_a_usable_noise(shape):
    plane = np.random.default_rng(0).random(shape) + 5
    found = estimate(plane)
    assert np.isfinite([found.gain, found.intercept]).all()
    assert found.gain > 0
    assert (found.variance(plane) >= 0).all()
    assert found.counts(torch.from_numpy(plane)).isfinite().all()


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 15, 64)])
def test_planes_too_small_to_tell_get_a_thousandth_of_their_range(shape):
    plane = np.random.default_rng(0).random(shape)
    deviation = np.sqrt(estimate(plane).variance(plane.mean()))
    assert deviation == pytest.approx(1e-3 * np.ptp(plane), rel=0.05)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_estimate_of_a_constant_plane_is_a_usable_noise(value):
    found = estimate(np.full((1, 64, 64), value))
    assert np.isfinite([found.gain, found.intercept]).all()
    assert found.gain > 0


def test_estimate_takes_integers_and_does_not_overflow_them():
    plane = recorded(400 * scene(), 60.0, 5000.0, 0.0).round().clip(0, 65535)
    found = estimate(plane.astype(np.uint16))
    assert found == estimate(plane)
    assert found.gain == pytest.approx(60, rel=0.25)


def test_estimate_follows_an_affine_change_of_the_data():
    plane = recorded(200 * scene(), 2.0, 100.0, 3.0)
    changed = estimate((plane - 30) / 500)
    expected = estimate(plane).rescaled(30, 500)
    assert changed.gain == pytest.approx(expected.gain, rel=1e-6)
    assert changed.intercept == pytest.approx(expected.intercept, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 90, 120), (3, 60, 60), (1, 16, 40, 40), (2, 4, 60, 60)])
def test_white_noise_is_the_same_in_calm_places(shape):
    noise = 3 * np.random.default_rng(1).normal(size=shape)
    slope = np.linspace(0, 500, shape[-1])
    assert in_calm_places(noise) == pytest.approx(3, rel=0.12)
    assert in_calm_places(noise + slope) == pytest.approx(3, rel=0.12)


def test_calm_places_tell_fine_structure_from_noise():
    """Grains of one pixel, at every brightness, on all but a third of a slope."""
    plane = np.tile(np.linspace(0, 1, 80), (1, 60, 1))
    plane[:, 20:] += 0.1 * np.random.default_rng(2).normal(size=(1, 40, 80))
    rounded = np.round(255 * plane) / 255
    assert float(estimate(rounded).variances(torch.from_numpy(plane)).mean()) > 0.03**2
    assert in_calm_places(rounded) < 0.4 / 255


def test_a_plane_says_how_calm_it_is_and_what_is_stated_holds_throughout():
    plane = 100 + 20 * np.random.default_rng(4).normal(size=(2, 40, 50))
    estimated = of_plane(plane, None)
    assert estimated.calm == in_calm_places(plane) == pytest.approx(20, rel=0.15)
    assert estimated.rescaled(50, 200).calm == pytest.approx(in_calm_places(plane / 200))
    assert of_plane(plane, NoiseConfig(gain=4.0)).calm == np.inf


def test_saturated_places_are_not_calm():
    noisy = 0.5 + 0.1 * np.random.default_rng(3).normal(size=(1, 60, 80))
    noisy[..., :30] += np.linspace(1, 0, 30)
    noisy[..., 50:] -= np.linspace(0, 1, 30)
    assert in_calm_places(noisy.clip(0, 1)) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("shape", [(1, 15, 40), (1, 17, 17), (3, 1, 1)])
def test_a_plane_with_too_few_places_has_no_calm_ones(shape):
    assert in_calm_places(np.random.default_rng(0).random(shape)) == np.inf


def test_a_drawing_is_calm():
    plane = np.full((1, 80, 80), 0.3)
    plane[:, 5:9, 5:9] = 1.0
    plane[:, 70:74, 70:74] = 0.0
    plane[:, 20:60, 20:30] = 0.7123
    plane[:, 40, 5:70] = 0.913
    assert in_calm_places(plane) == pytest.approx(0, abs=1e-6)


def test_a_constant_plane_has_no_calm_places():
    assert in_calm_places(np.full((1, 40, 40), 7)) == np.inf


def test_variance_is_a_line_that_never_falls_below_zero():
    noise = Noise(2.0, -100.0)
    np.testing.assert_allclose(noise.variance(np.array([0.0, 50.0, 80.0])), [0, 0, 60])


def test_rescaled_noise_is_that_of_the_rescaled_data():
    noise = Noise(2.0, -30.0)
    mean = np.linspace(20, 500, 7)
    rescaled = noise.rescaled(20, 480)
    np.testing.assert_allclose(rescaled.variance((mean - 20) / 480), noise.variance(mean) / 480**2)
    data = torch.from_numpy(mean)
    torch.testing.assert_close(rescaled.counts((data - 20) / 480), noise.counts(data))


@pytest.mark.parametrize("light", [20.0, 200.0])
def test_counts_have_their_mean_as_variance_read_noise_included(light):
    gain, offset, read = 2.5, 100.0, 6.0
    noise = of_plane(
        np.full((1, 4, 4), 150.0), NoiseConfig(gain=gain, offset=offset, read_noise=read)
    )
    counts = noise.counts(torch.from_numpy(recorded(np.full(200_000, light), gain, offset, read)))
    assert counts.mean() == pytest.approx(light + (read / gain) ** 2, rel=0.01)
    assert counts.var().item() == pytest.approx(counts.mean().item(), rel=0.02)


def test_counts_are_never_negative():
    assert Noise(1.0, -50.0).counts(torch.tensor([0.0, 60.0])).tolist() == [0.0, 10.0]


def test_intensity_undoes_counts():
    noise = Noise(2.3, -40.0)
    data = torch.linspace(20, 500, 9, dtype=torch.float64)
    torch.testing.assert_close(noise.intensity(noise.counts(data)), data)


def test_stated_noise_is_taken_as_it_is():
    plane = recorded(200 * scene(), 1.0, 0.0, 0.0)
    stated = of_plane(plane, NoiseConfig(gain=2.0, offset=10.0, read_noise=3.0))
    assert stated == Noise(2.0, 3.0**2 - 2.0 * 10.0)
    assert of_plane(plane, None) == replace(estimate(plane), calm=in_calm_places(plane))


@pytest.mark.parametrize(
    "impossible", [{"gain": 1.0, "offset": 1e6}, {"gain": 1e9}, {"gain": 1e-12}]
)
def test_stated_noise_that_cannot_be_the_planes_is_refused(impossible):
    plane = recorded(200 * scene(), 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"noise: expected 0.001 to 1e\+08 counts per pixel"):
        of_plane(plane, NoiseConfig(**impossible))


@pytest.mark.parametrize("rows", [5, 40])
def test_rows_without_data_do_not_count(rows):
    plane = recorded(200 * scene(), 1.0, 100.0, 2.0)
    padded = plane.copy()
    padded[:, :rows] = 0
    found, expected = estimate(padded), estimate(plane)
    assert found.gain == pytest.approx(expected.gain, rel=0.2)


def test_a_channel_without_data_does_not_count():
    plane = recorded(200 * scene(), 1.0, 100.0, 2.0)[:1]
    found = estimate(np.concatenate([np.zeros_like(plane), plane]))
    assert found.gain == pytest.approx(estimate(plane).gain, rel=1e-6)


def test_halves_are_whole_numbers_that_sum_to_the_rounded_counts():
    counts = 30 * torch.rand(2, 40, 50, generator=generator())
    halves = split(counts, generator())
    assert halves.shape == (2, 2, 40, 50)
    assert halves.dtype == counts.dtype
    assert (halves >= 0).all()
    torch.testing.assert_close(halves, halves.round())
    torch.testing.assert_close(halves.sum(0), counts.round())


@pytest.mark.parametrize("light", [2.0, 50.0])
def test_halves_of_poisson_counts_are_poisson_and_uncorrelated(light):
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.poisson(light, 200_000).astype(np.float64))
    first, second = split(counts, generator())
    for half in (first, second):
        assert half.mean() == pytest.approx(light / 2, rel=0.01)
        assert half.var() == pytest.approx(light / 2, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.01


def test_halves_are_those_of_the_generator():
    counts = torch.full((1, 20, 20), 9.0)
    assert torch.equal(split(counts, generator(1)), split(counts, generator(1)))
    assert not torch.equal(split(counts, generator(1)), split(counts, generator(2)))


def test_weights_are_the_inverse_of_the_variance():
    noise = Noise(2.0, -150.0)  # offset 100, read noise √50
    mean = np.full((2, 60, 60), 120.0)
    mean[:, :, 30:] = 900.0
    data = recorded((mean - 100) / 2, 2.0, 100.0, np.sqrt(50.0))
    weights = noise.weights(torch.from_numpy(data)).numpy()
    assert weights.shape == data.shape
    assert weights.mean() == pytest.approx(1)
    dark, bright = weights[:, :, 3:27].mean(), weights[:, :, 33:57].mean()
    assert dark / bright == pytest.approx(noise.variance(900.0) / noise.variance(120.0), rel=0.05)
    # Neighbours stand in for the mean: a pixel that is dark by chance gets no more say.
    fluctuation = data[0, 5:25, 5:25] - 120
    assert abs(np.corrcoef(fluctuation.ravel(), weights[0, 5:25, 5:25].ravel())[0, 1]) < 0.4


def test_weights_are_finite_in_the_dark():
    weights = Noise(1.0, 0.0).weights(torch.zeros(1, 20, 20))
    torch.testing.assert_close(weights, torch.ones(1, 20, 20))


@pytest.mark.parametrize("planes", range(1, 7))
def test_means_are_local_also_where_a_volume_has_few_planes(planes):
    volume = torch.zeros(1, planes, 9, 9)
    volume[0, planes // 2, 4, 4] = 1.0
    means = local_mean(volume)
    assert means.shape == volume.shape
    assert float(means.max()) > 0
    torch.testing.assert_close(local_mean(torch.ones(2, planes, 9, 9)), torch.ones(2, planes, 9, 9))
