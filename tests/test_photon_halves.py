"""Halves of photons against formulas in numpy: each tells how far the other's image is off."""

import numpy as np
import pytest
import torch
from photons import PHOTONS, generator, halves_of

from napari_dkp.degradation import Degradation
from napari_dkp.noise import Noise
from napari_dkp.restorers.deviance import Deviance

MODEL = Degradation((40, 50), (1, 1), (5, 5))
CAMERA = Noise(1.3, 2.0)


def recorded(channels: int = 1, photons: float = 20.0, model: Degradation = MODEL) -> torch.Tensor:
    """Poisson counts over a slope, as a camera without offset has them."""
    slope = torch.linspace(0.2, 1, model.lr_shape[1], dtype=torch.float64)
    mean = photons * slope.expand(channels, *model.lr_shape)
    return torch.poisson(mean, generator=generator(2))


def deviance(counts: np.ndarray, mean: np.ndarray) -> float:
    counts, mean = counts.astype(np.float64), mean.astype(np.float64)
    logarithm = np.log(np.where(counts > 0, counts, 1) / np.where(counts > 0, mean, 1))
    return 2 * float((counts * logarithm - counts + mean).mean())


@pytest.mark.parametrize("channels", [1, 2])
def test_the_halves_add_up_to_the_whole_counts(channels):
    data = recorded(channels)
    halves = halves_of(data, MODEL, CAMERA)
    assert halves.counts.shape == (2, channels, 40, 50)
    assert torch.equal(halves.counts.sum(0), CAMERA.counts(data).round())
    assert (halves.counts >= 0).all()
    assert torch.equal(halves.counts, halves.counts.round())


def test_photons_are_dealt_fairly_and_by_the_seed():
    data = recorded()
    first, again, other = (halves_of(data, MODEL, PHOTONS, seed).counts for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Halves of Poisson counts are Poisson, so that their difference has the variance of their sum.
    difference = (first[0] - first[1]).flatten()
    assert float(difference.square().sum() / data.sum()) == pytest.approx(1, abs=0.1)
    assert abs(float(difference.sum())) < 4 * float(data.sum()) ** 0.5


@pytest.mark.parametrize("shape", [(12, 15), (60, 58)])
def test_the_background_is_the_least_of_means_over_pixels(shape):
    model = Degradation(shape, (1, 1), (5, 5))
    data = 30 + recorded(2, 10, model)
    data[0, :2, :3] = 3.4
    halves = halves_of(data, model, CAMERA)
    counts = CAMERA.counts(data).numpy()
    rows, columns = shape
    means = [
        channel[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].mean()
        for channel in counts
        for row in range(rows)
        for column in range(columns)
    ]
    place = max(1, round(1e-3 * len(means)))
    background = 0.5 * np.sort(means)[place - 1]
    assert float(halves.background) == pytest.approx(background, rel=1e-9)
    level = float(halves.counts.mean()) - background
    assert float(halves.level) == pytest.approx(level, rel=1e-9)


def test_the_deviance_of_an_image_is_that_of_the_other_half():
    halves = halves_of(recorded(2), MODEL, CAMERA)
    means = 5 + 10 * torch.rand(halves.counts.shape, generator=generator(3), dtype=torch.float64)
    counts = halves.counts.numpy()
    expected = deviance(counts[::-1], means.numpy())
    assert float(Deviance(halves.counts)(means)) == pytest.approx(expected, rel=1e-9)
    assert abs(expected - deviance(counts, means.numpy())) > 1e-3


def test_the_right_mean_has_a_deviance_of_about_one():
    halves = halves_of(recorded(), MODEL)
    slope = torch.linspace(0.2, 1, 50, dtype=torch.float64)
    truth = (10 * slope).expand(halves.counts.shape)
    right, *wrong = (float(Deviance(halves.counts)(share * truth)) for share in (1, 0.8, 1.2))
    assert right == pytest.approx(1, abs=0.12)
    assert min(wrong) > right


def test_the_deviance_of_a_bright_plane_is_told_to_the_last_digit():
    """Its terms are so much larger than it is that float32 would leave few digits."""
    halves = halves_of(recorded(photons=1e6).float(), MODEL)
    means = halves.counts.flip(0) + 3
    expected = deviance(halves.counts.flip(0).numpy(), means.numpy())
    assert float(Deviance(halves.counts)(means)) == pytest.approx(expected, rel=1e-6)


def test_means_of_nothing_and_less_deviate_as_next_to_nothing():
    halves = halves_of(recorded(photons=3), MODEL)
    expected = deviance(halves.counts.numpy(), np.full((2, 1, 40, 50), 1e-3))
    for means in (0 * halves.counts, 0 * halves.counts - 1):
        assert float(Deviance(halves.counts)(means)) == pytest.approx(expected, rel=1e-9)


def test_the_estimate_is_the_light_of_both_halves_in_the_unit_of_the_data():
    halves = halves_of(10 + recorded(), MODEL, CAMERA)
    images = torch.rand(2, 1, *MODEL.domain_shape, generator=generator(4), dtype=torch.float64)
    background = float(halves.background)
    assert background > 1
    counts = images.numpy().sum(0) + 2 * background
    expected = CAMERA.gain * counts - CAMERA.intercept / CAMERA.gain
    np.testing.assert_allclose(halves.estimate(images).numpy(), expected, rtol=1e-12)


def test_the_residual_is_what_the_blurred_image_leaves_of_the_data():
    data = recorded(2)
    halves = halves_of(data, MODEL, PHOTONS)
    means = 10 * torch.rand(halves.counts.shape, generator=generator(3), dtype=torch.float64)
    expected = np.sqrt(((data.numpy() - means.numpy().sum(0)) ** 2).mean())
    assert float(halves.residual(means)) == pytest.approx(expected, rel=1e-12)
    camera = halves_of(2 * data + 100, MODEL, Noise(2.0, -200.0))
    torch.testing.assert_close(camera.counts, halves.counts)
    assert float(camera.residual(means)) == pytest.approx(2 * expected, rel=1e-12)


def test_the_evidence_is_in_the_unit_of_the_data():
    model = Degradation((10, 12), (2, 2), (5, 5))
    halves = halves_of(10 + recorded(2, 20.0, model), model, CAMERA)
    images = torch.rand(2, 2, *model.domain_shape, generator=generator(4), dtype=torch.float64)
    means = 9 * torch.rand(halves.counts.shape, generator=generator(3), dtype=torch.float64)
    found = halves.evidence(images, means)
    assert found.halves is not None
    assert found.halves.images.shape == (2, 2, 20, 24)
    torch.testing.assert_close(found.halves.images.mean(0), model.crop(halves.estimate(images)))
    apart = CAMERA.gain * 2 * model.crop(images[0] - images[1])
    torch.testing.assert_close(found.halves.images[0] - found.halves.images[1], apart)
    torch.testing.assert_close(found.mean, CAMERA.intensity(means[0] + means[1]))
    assert torch.equal(found.halves.means, means)
    assert torch.equal(found.halves.photons, halves.counts)


def test_a_plane_without_light_has_a_level_to_divide_by():
    halves = halves_of(torch.zeros(1, 40, 50), MODEL)
    assert float(halves.background) == 0
    assert float(halves.level) == pytest.approx(1e-3)
