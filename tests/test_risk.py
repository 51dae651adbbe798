"""Risk of images of two halves against its formula, and against what only the truth tells."""

import numpy as np
import pytest
import torch
from photons import SCENE, clouds, generator, optics, points_and_lines

from napari_dkp.degradation import Degradation
from napari_dkp.restorers.risk import Risk


def weights(model: Degradation, kernel: torch.Tensor) -> np.ndarray:
    """w of all frequencies of the samples, by the sum over taps that a transform is."""
    passed = []
    for axis, (s, taps) in enumerate(zip(model.scale, model.kernel_shape, strict=True)):
        if (s - taps) % 2:  # samples lie half-way between pixels
            zero = torch.zeros_like(kernel.narrow(axis, 0, 1))
            kernel = (torch.cat([zero, kernel], axis) + torch.cat([kernel, zero], axis)) / 2
    for n, s, taps in zip(model.lr_shape, model.scale, model.kernel_shape, strict=True):
        frequency = np.fft.fftfreq(n) / s  # in cycles per HR pixel
        passed.append(np.exp(-2j * np.pi * np.outer(frequency, np.arange(taps + (s - taps) % 2))))
    transfer = passed[0] @ kernel.numpy() @ passed[1].T
    return 1 / (np.abs(transfer) ** 2 + 0.1)


def power(difference: np.ndarray, weight: np.ndarray) -> float:
    """⟨w |·|²⟩ in counts² per sample."""
    spectrum = np.abs(np.fft.fft2(difference)) ** 2
    return float((weight * spectrum).mean() / weight.mean() / weight.size)


def by_formula(
    model: Degradation, photons: torch.Tensor, kernel: torch.Tensor, means: torch.Tensor
) -> float:
    n, m, weight = photons.double().numpy(), means.double().numpy(), weights(model, kernel.double())
    unseen = power(n[::-1] - m, weight)
    return (unseen - 0.25 * power(m[0] - m[1], weight)) / n.mean()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(12, 10), (11, 9), (12, 9), (11, 10)])
def test_the_risk_is_that_of_its_formula(shape, scale, channels):
    model = Degradation(shape, scale, (5, 4))
    kernel = torch.rand(5, 4, generator=generator(1), dtype=torch.float64)
    if shape[0] % 2 == 0:
        # At the limit of the samples either sign is one: T is only told if it is the same for both.
        kernel = kernel + kernel.flip(0)
    kernel = kernel / kernel.sum()
    drawn = torch.rand(2, 2, channels, *shape, generator=generator(2), dtype=torch.float64)
    photons, means = (20 * drawn[0]).round(), 20 * drawn[1]
    found = float(Risk(model, photons, kernel)(means))
    assert found == pytest.approx(by_formula(model, photons, kernel, means), rel=1e-5)


def test_of_lengths_that_are_slow_to_transform_the_last_samples_do_not_count():
    model, whole = Degradation((12, 33), (2, 1), (6, 5)), Degradation((13, 34), (2, 1), (6, 5))
    drawn = torch.rand(2, 2, 1, 13, 34, generator=generator(2), dtype=torch.float64)
    photons, means = (20 * drawn[0]).round(), 20 * drawn[1]
    kernel = optics(0.2, model).double()
    part = (..., slice(12), slice(33))
    # Light is counted on the whole plane.
    light = photons[part].mean() / photons.mean()
    expected = float(light) * by_formula(model, photons[part], kernel, means[part])
    assert float(Risk(whole, photons, kernel)(means)) == pytest.approx(expected, rel=1e-5)


def test_an_image_is_judged_by_the_other_half():
    model = Degradation((12, 10), (1, 1), (5, 5))
    photons = torch.poisson(torch.full((2, 1, 12, 10), 20.0), generator=generator(1))
    risk = Risk(model, photons, optics(0.25, model))
    assert float(risk(photons.flip(0))) < 0 < 0.5 < float(risk(photons))


def test_the_risk_of_a_bright_plane_is_told_to_the_last_digit():
    """Differences of its images are so small beside them that float32 would leave few digits."""
    model = Degradation((30, 32), (1, 1), (5, 5))
    kernel = optics(0.25, model)
    photons = torch.poisson(torch.full((2, 1, 30, 32), 1e6), generator=generator(1))
    risk = Risk(model, photons, kernel)
    means = torch.full_like(photons, 1e6)
    found = risk(means)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(by_formula(model, photons, kernel, means), rel=1e-5)
    shifted = means.clone()
    shifted[0, 0, 3, 4] += 1
    expected = by_formula(model, photons, kernel, shifted) - by_formula(
        model, photons, kernel, means
    )
    assert float(risk(shifted) - found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("photons", [0.3, 30.0, 3000.0])
def test_noise_alone_has_a_risk_of_one(photons, scale):
    """However bright the plane, and however unevenly lit."""
    model = Degradation((60, 54), (scale, scale), (9, 9))
    mean = torch.linspace(0.1, 1.9, 54).expand(2, 2, 60, 54) * photons
    mean = mean * torch.tensor([0.2, 1.8]).reshape(2, 1, 1)
    counts = torch.poisson(mean, generator=generator(1))
    assert float(Risk(model, counts, optics(0.2, model))(mean)) == pytest.approx(1, abs=0.1)


class Plane:
    """Counts of a small plane, whose images are what linear filters make of their halves."""

    def __init__(self, scene: torch.Tensor, kernel: torch.Tensor) -> None:
        self.kernel = kernel
        self.truth = 0.5 * SCENE.forward(scene, kernel).clamp_min(0).double()
        self.weight = weights(SCENE, kernel.double())
        rows, columns = SCENE.lr_shape
        self.frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns))

    def photons(self, seed: int) -> torch.Tensor:
        return torch.poisson(self.truth.expand(2, -1, -1, -1), generator=generator(seed))

    def filtered(self, photons: torch.Tensor, strength: float) -> torch.Tensor:
        spectrum = np.fft.fft2(photons.numpy()) / (1 + strength * self.frequency**4)
        return torch.from_numpy(np.fft.ifft2(spectrum).real)

    def error(self, photons: torch.Tensor, means: torch.Tensor) -> float:
        """What the risk is to estimate, in its unit: that of the mean of both images."""
        away = (means.mean(0) - self.truth[0]).numpy()
        return power(away, self.weight) / float(photons.mean())


@pytest.fixture(params=["clouds", "points and lines"])
def plane(request) -> Plane:
    scene = {"clouds": clouds, "points and lines": points_and_lines}[request.param]
    return Plane(scene(SCENE, 100), optics(0.25, SCENE))


@pytest.mark.parametrize("strength", [0.0, 300.0, 1e5])
def test_the_risk_estimates_the_error_of_the_mean_of_both_images(plane, strength):
    """On average over photons: be the error noise, as at first, or blur, as at last."""
    errors, excesses = [], []
    for seed in range(60):
        photons = plane.photons(seed)
        risk = Risk(SCENE, photons, plane.kernel)
        means = plane.filtered(photons, strength)
        errors.append(plane.error(photons, means))
        excesses.append(float(risk(means) - risk(plane.truth.expand_as(means))))
    off = np.subtract(excesses, errors)
    uncertainty = off.std(ddof=1) / len(off) ** 0.5
    assert uncertainty < 0.05 * np.mean(errors)
    assert abs(off.mean()) < 3 * uncertainty


def test_the_least_risk_among_filters_is_near_the_least_error(plane):
    strengths = np.geomspace(1, 1e6, 61)
    for seed in range(4):
        photons = plane.photons(seed)
        risk = Risk(SCENE, photons, plane.kernel)
        images = [plane.filtered(photons, strength) for strength in strengths]
        errors = [plane.error(photons, means) for means in images]
        chosen = int(np.argmin([float(risk(means)) for means in images]))
        assert errors[chosen] < 1.05 * min(errors)
        assert min(errors) < 0.5 * min(errors[0], errors[-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 3), (5, 4)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_plane_may_be_smaller_than_the_kernel(shape, scale):
    model = Degradation(shape, (scale, scale), (15, 15))
    photons = torch.poisson(torch.full((2, 1, *shape), 20.0), generator=generator(1))
    risk = Risk(model, photons, optics(0.2, model))
    right, wrong = (float(risk(torch.full_like(photons, level))) for level in (20.0, 60.0))
    assert np.isfinite(right)
    assert wrong > right + 1


def test_a_plane_without_light_can_be_judged():
    model = Degradation((12, 10), (1, 1), (5, 5))
    dark = torch.zeros(2, 1, 12, 10)
    risk = Risk(model, dark, optics(0.25, model))
    assert float(risk(dark)) == 0
    assert 0 < float(risk(dark + 0.1)) < float("inf")
