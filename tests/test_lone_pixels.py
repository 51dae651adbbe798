"""Pixels that stand alone: those that are planted are found, and nothing that is light."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from skimage import data

from napari_dkp import lone_pixels, restore
from napari_dkp.choice import choose
from napari_dkp.config import Settings
from napari_dkp.degradation import degrade
from napari_dkp.lone_pixels import mended
from napari_dkp.optics import airy
from napari_dkp.report import Report, summary
from napari_dkp.state import Stop


def microscope(side: int = 128, seed: int = 0, offset: int = 100) -> np.ndarray:
    """Points under a finely sampled Airy pattern, as photons that are counted."""
    rng = np.random.default_rng(seed)
    points = (rng.random((side, side)) < 0.02) * rng.exponential(1, (side, side)) + 0.02
    kernel = airy(torch.tensor([0.25]), torch.tensor([0.8]), (21, 21), (10.0, 10.0))[0].numpy()
    blurred = degrade(points, kernel, scale=1).clip(0)
    return (rng.poisson(300 * blurred / blurred.max()) + offset).astype(np.uint16)[None]


def spots(width: float, count: int, photons: float, seed: int, side: int = 128) -> np.ndarray:
    """Gaussians of so many pixels at half their height, in the middle of pixels, counted."""
    rng = np.random.default_rng(seed)
    edges = np.arange(side + 1) - 0.5
    image = np.full((side, side), 0.005)
    for centre in rng.integers(5, side - 5, (count, 2)):
        along = (np.diff(erf((edges - c) / (width / 2.3548 * np.sqrt(2)))) / 2 for c in centre)
        image += rng.lognormal(0, 0.6) * np.outer(*along)
    return rng.poisson(photons * image).astype(np.uint16)[None]


def planted(plane: np.ndarray, values: list[int], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A plane with these values in pixels that lie apart, and where."""
    rng = np.random.default_rng(seed)
    where = np.zeros(plane.shape, bool)
    places = [(8 * y, 8 * x) for y in range(plane.shape[-2] // 8) for x in range(3)]
    rng.shuffle(places)
    result = plane.copy()
    for value, (y, x) in zip(values, places, strict=False):
        result[..., y, x] = value
        where[..., y, x] = True
    return result, where


@pytest.mark.parametrize("seed", range(3))
def test_hot_and_dead_pixels_are_found_and_nothing_else_is_touched(seed):
    clean = microscope(seed=seed, offset=2000)
    plane, where = planted(clean, [60000] * 6 + [5000] * 4 + [0] * 4)
    result, count = mended(plane)
    assert count == where.sum() == 14
    assert np.array_equal(result[~where], clean[~where])
    assert result.dtype == plane.dtype
    # What is put there is as near as photon noise lets it be.
    error = result[where].astype(float) - clean[where]
    assert np.sqrt(np.mean(error**2)) < 2 * np.sqrt(np.mean(clean[where] - 2000.0))


def test_a_plane_without_such_pixels_is_handed_back():
    plane = microscope()
    assert mended(plane).plane is plane
    assert mended(plane).n_lone == 0


def test_every_picture_of_a_volume_and_every_colour_is_judged_by_itself():
    pictures = np.stack([microscope(seed=seed)[0] for seed in range(3)])
    hot, where = planted(pictures[1], [60000] * 5)
    volume = pictures.copy()
    volume[1] = hot
    for plane in (volume, volume[None]):
        result, count = mended(plane)
        assert count == where.sum()
        assert np.array_equal(result.reshape(volume.shape)[::2], pictures[::2])


@pytest.mark.parametrize("count", [3, 30, 200])
@pytest.mark.parametrize("photons", [100, 1000, 20000])
@pytest.mark.parametrize("width", [1.0, 1.5])
def test_spots_one_pixel_wide_are_light(width, photons, count):
    for seed in range(3):
        assert mended(spots(width, count, photons, seed)).n_lone == 0


@pytest.mark.parametrize("mean", [0.001, 0.03, 1.0])
def test_a_photon_in_the_dark_is_light(mean):
    for seed in range(3):
        photons = np.random.default_rng(seed).poisson(mean, (1, 128, 128)).astype(np.uint8)
        assert mended(photons).n_lone == 0


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
def test_photographs_stay_as_they_are(name):
    image = np.atleast_3d(getattr(data, name)()).transpose(2, 0, 1)
    assert mended(image).plane is image
    # There, a pixel can be all that there is of a thing.
    with_dots, _ = planted(image, [255] * 5 + [0] * 5)
    assert mended(with_dots).plane is with_dots


def test_what_is_frequent_is_no_exception():
    plane = microscope()
    some, _ = planted(plane, [60000] * 12)
    assert mended(some).n_lone == 12
    many, _ = planted(plane, [60000] * 40)
    assert mended(many).n_lone == 0


def test_neighbours_foretell_cubics():
    y, x = np.mgrid[:12, :12] - 5.5
    cubic = x**3 - 2 * x**2 * y + 3 * x * y**2 - y**3 + 4 * x * y - x + 2
    inside = (slice(2, -2),) * 2
    assert np.allclose(lone_pixels._foretold(cubic)[inside], cubic[inside], rtol=0, atol=1e-9)


def test_hot_pixels_change_neither_the_choice_nor_the_kernel_and_the_report_tells_of_them():
    clean = microscope()
    hot, _ = planted(clean, [60000] * 10)
    assert choose(lambda: hot, Settings()).settings.method == "richardson-lucy"
    before, after = (restore(each[0], scale=1, seed=0) for each in (clean, hot))
    assert after.stop is Stop.COMPLETED
    assert after.choice == before.choice
    widths = [result.reports[0].kernel_width for result in (before, after)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert before.reports[0].lone_pixels == 0
    assert after.reports[0].lone_pixels == 10
    assert "10 pixels stand alone" in str(after.reports[0])
    assert "alone" not in str(before.reports[0])


def test_reports_on_lone_pixels_are_summed_kept_and_read_where_there_are_none():
    report = Report(3.5, (3.2, 3.8), 4.0, 3.4, 0.98, -0.02, lone_pixels=1)
    assert "1 pixel stands alone" in str(report)
    assert "3 pixels stand alone" in summary([report, report, report])
    figures = report.figures()
    assert Report.from_figures(figures).figures() == figures
    del figures["lone_pixels"]
    assert Report.from_figures(figures).lone_pixels == 0
