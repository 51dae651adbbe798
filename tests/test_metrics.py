"""Scores against their formulas and known answers."""

import math

import numpy as np
import pytest
from scipy import ndimage

from napari_dkp.metrics import aligned_psnr, kernel_ncc, kernel_psnr, luma, psnr, ssim


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_luma_of_known_colours():
    """BT.601 studio swing: black 16, white 235, primaries as in the standard."""
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    np.testing.assert_allclose(luma(colours)[0], [16, 235, 81.481, 144.553, 40.966], atol=1e-9)


def test_luma_rounds_and_clips_first():
    np.testing.assert_allclose(luma(np.full((1, 1, 3), 300.0)), 235, atol=0.01)
    np.testing.assert_allclose(luma(np.full((1, 1, 3), -9.0)), 16)
    np.testing.assert_array_equal(luma(np.array([[3.4, 260.0, -1.0]])), [[3, 255, 0]])


def test_psnr_of_a_known_error():
    truth = noise(20, 20) * 200
    assert psnr(truth + 5, truth) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(truth + 0.5, truth, peak=1.0) == pytest.approx(20 * math.log10(2))
    assert psnr(truth, truth) == math.inf


def test_psnr_leaves_out_the_border():
    truth = noise(20, 22)
    image = truth + 1
    image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 99
    assert psnr(image, truth, border=4) == pytest.approx(20 * math.log10(255))
    assert psnr(image, truth) < psnr(image, truth, border=4)


def test_psnr_does_not_wrap_integers():
    low, high = np.full((4, 4), 10, np.uint8), np.full((4, 4), 20, np.uint8)
    assert psnr(low, high) == psnr(high, low) == pytest.approx(20 * math.log10(25.5))


@pytest.mark.parametrize("shift", [(0.4, -1.2), (-0.75, 0.0)])
def test_aligned_psnr_undoes_a_shift_of_a_fraction_of_a_pixel(shift):
    truth = 255 * ndimage.gaussian_filter(noise(48, 52), 2, mode="wrap")
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(truth), shift)).real
    score, found = aligned_psnr(moved, truth, border=4)
    assert found == pytest.approx((-shift[0], -shift[1]), abs=0.01)
    assert score > psnr(moved, truth, 4) + 10


@pytest.mark.parametrize("reach", [0.5, 1.5])
def test_aligned_psnr_is_never_below_the_raw_one_and_stays_in_reach(reach):
    truth = noise(24, 24) * 255
    for image in (noise(24, 24, seed=1) * 255, np.roll(truth, 3, 1)):
        score, found = aligned_psnr(image, truth, 2, reach=reach)
        assert score >= psnr(image, truth, 2)
        assert max(map(abs, found)) <= reach
    assert aligned_psnr(truth, truth) == (math.inf, (0.0, 0.0))


@pytest.mark.parametrize("border", [0, 3])
def test_ssim_is_the_formula_over_the_valid_part(border):
    truth, image = noise(30, 34) * 255, noise(30, 34, seed=1) * 255
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    inner = slice(border, -border or None)

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.correlate(values[inner, inner], window)[5:-5, 5:-5]

    ma, mb = mean(image), mean(truth)
    va, vb = mean(image**2) - ma**2, mean(truth**2) - mb**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    local = (2 * ma * mb + c1) * (2 * (mean(image * truth) - ma * mb) + c2)
    local /= (ma**2 + mb**2 + c1) * (va + vb + c2)
    assert ssim(image, truth, border) == pytest.approx(local.mean(), rel=1e-6)
    assert ssim(truth, truth, border) == pytest.approx(1)


def test_kernel_psnr_has_peak_one_and_no_alignment():
    truth = np.zeros((5, 5))
    truth[2, 2] = 1
    assert kernel_psnr(np.full((5, 5), 0.04), truth) == pytest.approx(
        -10 * math.log10((24 * 0.04**2 + 0.96**2) / 25)
    )
    assert kernel_psnr(np.roll(truth, 1, 0), truth) == pytest.approx(-10 * math.log10(2 / 25))


def test_kernel_ncc_ignores_shifts_and_scale_but_not_shape():
    kernel = np.pad(noise(5, 5), 4)
    assert kernel_ncc(kernel, kernel) == pytest.approx(1)
    assert kernel_ncc(7 * np.roll(kernel, (2, -1), (0, 1)), kernel) == pytest.approx(1)
    assert kernel_ncc(kernel[::-1], kernel) < 0.99
    first, second = np.zeros((2, 5, 5))
    first[2, 2] = second[2, 1] = second[2, 3] = 1
    assert kernel_ncc(first, second) == pytest.approx(1 / math.sqrt(2))


def test_kernel_ncc_compares_kernels_of_unequal_size():
    kernel = noise(5, 5)
    assert kernel_ncc(np.pad(kernel, 3), kernel) == pytest.approx(1)
