"""The report: its figures against known errors, and its sentences."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dkp.noise import Noise
from napari_dkp.report import Report, examine, summary, uncertainty
from napari_dkp.resolution import resolution
from napari_dkp.restorers.evidence import Evidence, Halves

GOOD = Report(
    kernel_width=3.5,
    kernel_width_interval=(3.2, 3.8),
    resolution_before=4.0,
    resolution_after=3.4,
    misfit=0.98,
    correlation=-0.02,
)


def gaussian(sigma: float, taps: int = 25) -> np.ndarray:
    y, x = np.indices((taps, taps)) - taps // 2
    kernel = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    return kernel / kernel.sum()


def scene(seed: int = 0, shape=(1, 128, 128)) -> np.ndarray:
    """Structure of every size, every octave of frequency with the same energy; positive."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=shape))
    radius = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.fft.rfftfreq(shape[2]))
    image = np.fft.irfft2(spectrum / np.maximum(radius, 0.01), s=shape[1:])
    return 100 * (image - image.min() + 0.1)


def report_of(data, mean, noise, *, sigma=2, halves=None, width_spread=None, maps=True) -> Report:
    tensors = None if halves is None else Halves(*map(torch.from_numpy, halves))
    return examine(
        torch.from_numpy(data),
        Evidence(torch.from_numpy(mean), tensors),
        noise,
        torch.from_numpy(gaussian(sigma)),
        width_spread=width_spread,
        maps=maps,
    )


def test_a_residual_of_noise_alone_is_white_and_of_unit_variance():
    mean, noise = scene(), Noise(2.0, -40.0)
    rng = np.random.default_rng(1)
    data = mean + np.sqrt(noise.variance(mean)) * rng.normal(size=mean.shape)
    report = report_of(data, mean, noise)
    assert report.misfit == pytest.approx(1, abs=0.05)
    assert report.correlation == pytest.approx(0, abs=0.03)
    assert report.residual.std() == pytest.approx(1, abs=0.03)
    assert report.warnings == ()


def test_structure_that_is_left_over_is_told_of():
    mean, noise = scene(), Noise(2.0, 0.0)
    rng = np.random.default_rng(1)
    data = mean + np.sqrt(noise.variance(mean)) * rng.normal(size=mean.shape)
    counted = {"halves": (np.stack([data, data]),) * 3, "maps": False}
    report = report_of(data + 0.3 * (mean - mean.mean()), mean, noise, **counted)
    assert report.misfit > 1.5
    assert report.correlation > 0.3
    assert "more than noise" in " ".join(report.warnings)
    assert report_of(data, mean, noise, **counted).warnings == ()
    # A photograph's noise is too little known to be held against anything.
    assert report_of(data + 0.3 * (mean - mean.mean()), mean, noise).warnings == ()
    checkerboard = np.indices(mean.shape).sum(0) % 2 * 2 - 1
    assert report_of(mean + checkerboard, mean, noise).correlation == pytest.approx(-1, abs=0.05)


def test_the_kernel_is_measured_and_its_spread_becomes_an_interval():
    report = report_of(scene(), scene(), Noise(1.0, 0.0), width_spread=0.1)
    assert report.kernel_width == pytest.approx(2 * 2.355, rel=0.02)
    low, high = report.kernel_width_interval
    assert low * high == pytest.approx(report.kernel_width**2)
    assert high / low == pytest.approx(np.exp(2 * 1.645 * 0.1))
    assert report.warnings == ()
    loose = report_of(scene(), scene(), Noise(1.0, 0.0), width_spread=0.35)
    assert "hardly determine the kernel" in " ".join(loose.warnings)
    assert report_of(scene(), scene(), Noise(1.0, 0.0)).kernel_width_interval is None


def test_the_resolution_is_that_of_the_photons_and_of_what_tells_them():
    rng = np.random.default_rng(0)
    seen = 1000 + 10 * gaussian_filter(scene(), (0, 1.5, 1.5))
    photons = seen + 30 * rng.normal(size=(2, *seen.shape))
    perfect = (photons, np.stack([seen, seen]), photons)
    report = report_of(seen, seen, Noise(1.0, 1.0), halves=perfect)
    assert report.resolution_before == resolution(*photons)
    assert 2 <= report.resolution_after < report.resolution_before


@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_the_uncertainty_covers_errors_that_are_noise(strength):
    """Halves whose errors are independent: the mean is off by half their difference's spread."""
    truth = np.full((1, 128, 128), 1000.0)  # nothing fine is missing from it
    rng = np.random.default_rng(1)
    errors = strength * gaussian_filter(rng.normal(size=(2, *truth.shape)), (0, 0, 1, 1))
    interval = uncertainty(truth + errors, 4.0, 0.1)
    covered = np.abs(errors.mean(0)) <= interval
    assert 0.9 < covered.mean() < 0.999
    assert interval.mean() < 8 * np.abs(errors.mean(0)).mean()


def test_the_uncertainty_covers_what_lies_beyond_the_optics():
    truth = scene()
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
    restored = np.fft.irfft2(np.fft.rfft2(truth) * (radius < 0.18), s=(128, 128))
    interval = uncertainty(np.stack([restored, restored]), 2 * 2.355, 0.1)
    covered = np.abs(restored - truth) <= interval
    assert 0.8 < covered.mean() < 0.99


def spots_on_dark_ground() -> tuple[np.ndarray, np.ndarray]:
    """Sharp spots and what a microscope's passband leaves of them, negative values set to none."""
    rng = np.random.default_rng(0)
    points = np.zeros((1, 128, 128))
    points[0, rng.integers(20, 108, 60), rng.integers(20, 108, 60)] = rng.uniform(0.5, 1, 60)
    truth = 1e4 * gaussian_filter(points, (0, 0.8, 0.8))
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
    passed = np.exp(-((radius / 0.25) ** 4))
    return truth, np.fft.irfft2(np.fft.rfft2(truth) * passed, s=(128, 128)).clip(0)


def test_nothing_is_hidden_in_the_dark():
    """Where there is no light, none can be missing: what is fine near by does not count there."""
    truth, restored = spots_on_dark_ground()
    interval = uncertainty(np.stack([restored, restored]), 5.0, 1.0)
    light = gaussian_filter(restored, (0, 1.5, 1.5))
    assert (interval <= 1.8 * light + 1e-3 * light.max()).all()
    bright = light > 0.2 * light.max()
    assert 0.8 < (np.abs(restored - truth) <= interval)[bright].mean()
    # In the same picture over a bright ground there is light to hide in.
    over_ground = np.concatenate([restored + 1e5, np.zeros_like(restored)], -1)
    more = uncertainty(np.stack([over_ground, over_ground]), 5.0, 1.0)[..., :128]
    inside = (slice(None), slice(16, -16), slice(16, -16))
    assert more[inside].mean() > 2 * interval[inside].mean()


def test_the_uncertainty_has_the_unit_of_the_image_and_knows_no_offset():
    rng = np.random.default_rng(3)
    images = scene() + rng.normal(size=(2, 1, 128, 128))
    interval = uncertainty(images, 4.0, 0.1)
    assert np.allclose(uncertainty(3 * images + 700, 4.0, 0.3), 3 * interval, rtol=1e-4)


def test_a_photon_may_be_missing_in_the_dark():
    """It would have come to the kernel's width along each axis."""
    dark = np.zeros((2, 1, 12, 14, 16))
    assert np.allclose(uncertainty(dark, (5.0, 2.0, 2.0), 40.0), 1.645 * 40 / (5 * 2 * 2))


def test_maps_are_kept_only_where_they_are_asked_for():
    halves = np.stack([scene(), scene()])
    kept = report_of(scene(), scene(), Noise(1.0, 0.0), halves=(halves, halves, halves), maps=True)
    assert kept.residual.shape == kept.uncertainty.shape == (1, 128, 128)
    assert kept.residual.dtype == kept.uncertainty.dtype == np.float32
    left = report_of(scene(), scene(), Noise(1.0, 0.0), halves=(halves, halves, halves), maps=False)
    assert left.residual is None
    assert left.uncertainty is None
    assert left.figures() == kept.figures()


def test_figures_survive_json():
    figures = GOOD.figures()
    assert set(json.loads(json.dumps(figures))) == set(figures)
    assert "residual" not in figures


def test_the_words_name_every_figure():
    text = str(GOOD)
    for figure in ("3.5", "3.2 to 3.8", "4.0", "3.4", "0.98", "−0.02"):
        assert figure in text
    assert "confidence" not in str(replace(GOOD, kernel_width_interval=None))
    assert "detail" not in str(replace(GOOD, resolution_before=None))


def test_a_summary_of_planes_counts_their_warnings():
    loose = replace(GOOD, kernel_width=5.0, kernel_width_interval=(2.0, 9.0))
    assert summary([]) == summary([None, None]) == ""
    assert summary([GOOD]) == str(GOOD)
    assert "1 of 2 planes" in summary([None, GOOD])
    text = summary([GOOD, loose, None, loose])
    assert "3 of 4 planes" in text
    assert "3.5 to 5.0" in text
    assert "In 2 of 3 planes: The data hardly determine the kernel" in text
