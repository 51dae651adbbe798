import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks import microscopy


def spots(side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.zeros((side, side))
    image[tuple(rng.integers(0, side, (2, side)))] = rng.uniform(50, 200, side)
    return gaussian_filter(image, 1.2).astype(np.float32)


def test_a_shift_and_a_line_of_intensities_cost_nothing():
    truth = spots(96)
    moved = np.roll(truth, (1, -2), (0, 1))
    same = microscopy.registered(5 + 3 * moved, truth)
    blurred = microscopy.registered(gaussian_filter(truth, 2), truth)
    assert same["nrmse"] < 0.1 < 0.3 < blurred["nrmse"]
    assert same["ssim"] > 0.95 > blurred["ssim"]


def test_the_oracle_stops_at_its_best():
    sharp = partial(microscopy.normalised, spots(64))
    camera, truth, kernel = microscopy.Simulation(sharp, 0.25, 1, 100).render(0)
    assert kernel.sum() == pytest.approx(1)
    assert camera.shape == truth.shape == (64, 64)
    best = microscopy.oracle(camera, truth, kernel, 1)
    assert best > microscopy.psnr(camera, truth) + 1
    assert microscopy.oracle(camera, truth, np.eye(1, dtype=np.float32), 1) < best


def test_cases_are_measured_once_and_tabled(tmp_path, capsys):
    sharp = spots(48)
    tifffile.imwrite(tmp_path / "sharp.tif", sharp)
    tifffile.imwrite(tmp_path / "blurred.tif", gaussian_filter(sharp, 1.5))
    arguments = [
        *("--pair", str(tmp_path / "blurred.tif"), str(tmp_path / "sharp.tif")),
        *("--sharp", str(tmp_path / "sharp.tif"), "--cutoffs", "0.25", "--scales", "2"),
        *("--drawn", "puncta"),
        *("--photons", "200", "--commit", "here", "--output", str(tmp_path / "out")),
    ]
    microscopy.main(arguments)
    assert "is there" not in capsys.readouterr().out
    microscopy.main(arguments)
    assert capsys.readouterr().out.count("is there") == 3
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["what"]["case"] for run in runs] == ["blurred", "sharp", "puncta"]
    text = (tmp_path / "out.md").read_text()
    assert "Over 1 simulations of images" in text
    assert "Over 1 simulations of drawn structures" in text
    assert "| blurred | unknown | balanced |" in text
