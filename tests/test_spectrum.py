"""The optical cut-off in spectra of scenes that are known, and its likelihood by brute force."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from napari_dkp import spectrum
from napari_dkp.degradation import degrade
from napari_dkp.noise import Noise
from napari_dkp.optics import airy
from napari_dkp.spectrum import Cutoff, find_cutoff, reaches_noise, usual_cutoff

SIDE = 192
DEVIATION = 1e-3
NOISE = Noise(1e-9, DEVIATION**2)


def kernel(cutoff: float, damping: float = 1.0, taps: int = 41) -> np.ndarray:
    parameters = torch.tensor([cutoff]), torch.tensor([damping])
    return airy(*parameters, (taps, taps), ((taps - 1) / 2,) * 2)[0].numpy()


def power_law(slope: float, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Random image in [0, 1] whose power falls as frequency to the -slope."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency)
    radius[0, 0] = radius[0, 1]
    white = np.fft.fft2(rng.normal(size=(side, side)))
    image = np.fft.ifft2(white * radius ** (-slope / 2)).real
    return (image - image.min()) / np.ptp(image)


def imaged(
    cutoff: float, damping: float = 1.0, slope: float = 1.0, scale: int = 1, seed: int = 0
) -> np.ndarray:
    sharp = power_law(slope, scale * SIDE, seed)
    blur = kernel(cutoff, damping)
    return degrade(sharp, blur, scale=scale, noise=DEVIATION, seed=seed)[None].astype(np.float64)


def noise_alone(seed: int, shape: tuple[int, ...] = (1, 128, 128)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, DEVIATION, shape)


@pytest.mark.parametrize(
    ("scale", "cutoff", "slope", "damping"),
    [
        (1, 0.15, 1.0, 1.0),
        (1, 0.2, 2.0, 0.6),
        (1, 0.3, 1.0, 0.6),
        (1, 0.4, 2.0, 1.0),
        (2, 0.15, 2.0, 1.0),
        (2, 0.2, 1.0, 0.6),
        (2, 0.3, 2.0, 0.6),
    ],
)
def test_the_cutoff_is_found_at_high_light(scale, cutoff, slope, damping):
    plane = imaged(cutoff, damping, slope, scale)
    found = find_cutoff(plane, (scale,) * 2, NOISE, usual_cutoff(scale))
    assert found.frequency == pytest.approx(cutoff, rel=0.1)
    assert 0 < found.spread < 0.1


def test_the_cutoff_of_several_channels_is_better_known_than_that_of_one():
    scene = np.concatenate([imaged(0.25, 0.6, seed=seed) for seed in range(4)])[:, :64, :64]
    noise = Noise(1e-9, 0.05**2)
    noisy = scene + np.random.default_rng(0).normal(0, 0.05, scene.shape)
    expected = usual_cutoff(1)
    one = find_cutoff(noisy[:1], (1, 1), noise, expected)
    all_four = find_cutoff(noisy, (1, 1), noise, expected)
    assert all_four.spread < one.spread < expected.spread


@pytest.mark.parametrize("expected", [Cutoff(0.3, 0.35), Cutoff(0.2, 0.2), Cutoff(0.15, 0.1)])
def test_noise_alone_leaves_the_expectation_as_it_was(expected):
    found = find_cutoff(noise_alone(0), (1, 1), NOISE, expected)
    assert found.frequency == pytest.approx(expected.frequency, rel=0.05)
    assert found.spread == pytest.approx(expected.spread, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 3, 40), (1, 40, 1), (2, 2, 2)])
def test_planes_of_no_width_leave_the_expectation_as_it_was(shape):
    expected = Cutoff(0.3, 0.4)
    assert find_cutoff(np.ones(shape), (1, 1), NOISE, expected) == expected


def test_the_softness_of_a_scene_is_not_put_down_to_the_optics():
    deviation, off = 0.03, []
    for seed in range(3):
        soft = gaussian_filter(power_law(1.0, seed=seed), 2, mode="wrap")
        soft = (soft - soft.min()) / np.ptp(soft)
        plane = degrade(soft, kernel(0.3), scale=1, noise=deviation, seed=seed)[None]
        found = find_cutoff(plane.astype(float), (1, 1), Noise(1e-9, deviation**2), usual_cutoff(1))
        off.append(np.log(found.frequency / 0.3))
    assert abs(np.mean(off)) < 0.05


def test_a_narrow_expectation_is_respected():
    plane = imaged(0.3) + np.random.default_rng(0).normal(0, 0.1, (1, SIDE, SIDE))
    noise = Noise(1e-9, 0.1**2)
    found = find_cutoff(plane, (1, 1), noise, Cutoff(0.2, 0.02))
    assert found.frequency == pytest.approx(0.2, rel=0.05)
    assert 0 < found.spread < 0.05


def test_the_expectation_pulls_the_more_the_darker_it_is():
    scene = imaged(0.3, 0.6)
    rng = np.random.default_rng(3)
    found = []
    for deviation in (0.002, 0.2):
        noisy = scene + rng.normal(0, deviation, scene.shape)
        noise = Noise(1e-9, deviation**2 + DEVIATION**2)
        found.append(find_cutoff(noisy, (1, 1), noise, Cutoff(0.2, 0.2)).frequency)
    bright, dark = found
    assert bright == pytest.approx(0.3, rel=0.1)
    assert 0.15 < dark < 0.9 * bright


def test_the_cutoff_does_not_depend_on_the_unit_of_intensity():
    unit = 3e3
    plane = imaged(0.25, 0.7)
    expected = usual_cutoff(1)
    plain = find_cutoff(plane, (1, 1), NOISE, expected)
    scaled = find_cutoff(unit * (plane + 7), (1, 1), NOISE.rescaled(-7, 1 / unit), expected)
    assert scaled.frequency == pytest.approx(plain.frequency, rel=1e-4)
    assert scaled.spread == pytest.approx(plain.spread, rel=1e-3)


def test_the_usual_cutoff_falls_with_the_pixels_of_the_restored_image():
    assert usual_cutoff(4).frequency == pytest.approx(usual_cutoff(1).frequency / 2)
    assert usual_cutoff(4).spread == usual_cutoff(1).spread > 0


@pytest.mark.parametrize("cutoff", [0.15, 0.25, 0.35])
def test_a_blurred_scene_falls_to_its_noise(cutoff):
    assert reaches_noise(imaged(cutoff), NOISE)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_a_sharp_scene_does_not_fall_to_its_noise(slope):
    assert not reaches_noise(power_law(slope)[None], NOISE)


def test_a_scene_whose_detail_is_folded_back_does_not_fall_to_its_noise():
    assert not reaches_noise(imaged(0.4, scale=2), NOISE)


@pytest.mark.parametrize("shape", [(31, 64), (64, 31)])
def test_small_planes_are_not_told_to_fall_to_their_noise(shape):
    assert not reaches_noise(noise_alone(0, (1, *shape)), NOISE)
    assert reaches_noise(noise_alone(0, (1, 64, 64)), NOISE)


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_is_that_of_the_best_amounts(seed):
    """Whittle's likelihood, profiled over the amounts by a general minimiser."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 14)
    parts = np.stack([np.ones_like(x), np.exp(-6 * x), np.exp(-40 * (x - 0.5) ** 2)])
    count = rng.integers(3, 60, x.size).astype(float)
    level = 0.4
    true = np.array([[0.7, 30.0, 0.0], [0.0, 5.0, 2.0], [3.0, 0.0, 0.5]])[seed]
    power = (true @ parts + level) * rng.gamma(count) / count

    def negative(logarithms: np.ndarray) -> float:
        model = np.exp(logarithms) @ parts + level
        return float((count * (np.log(model) + power / model)).sum())

    best = min(
        minimize(negative, start, method="Nelder-Mead", options={"maxiter": 4000}).fun
        for start in (np.zeros(3), np.array([-8.0, 0.0, 0.0]), np.array([0.0, -8.0, -8.0]))
    )
    found = spectrum._log_likelihood(*map(torch.from_numpy, (parts, power, count)), level)
    assert -float(found) / spectrum._TRUST == pytest.approx(best, abs=0.02)


def test_the_likelihood_of_many_sums_is_that_of_each():
    rng = np.random.default_rng(0)
    parts = torch.from_numpy(rng.random((4, 2, 3, 9)))
    power, count = (torch.from_numpy(rng.random(9) * 5 + 1) for _ in range(2))
    together = spectrum._log_likelihood(parts, power, count, 0.3)
    assert together.shape == (4, 2)
    for place in np.ndindex(4, 2):
        alone = spectrum._log_likelihood(parts[place], power, count, 0.3)
        torch.testing.assert_close(together[place], alone)
