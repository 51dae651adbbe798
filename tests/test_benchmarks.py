"""The benchmarks measure what their tables say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from napari_dkp.config import DiffusionConfig, Settings
from napari_dkp.degradation import degrade
from napari_dkp.kernel_prior import DynamicKernelPrior

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks import kernel_clock, plot, quality, records, scores, speed
from benchmarks.rows import ABLATIONS, ROWS, Row
from benchmarks.scores import Triple, bicubic

MACHINE = {"processor": "slide rule"}


def smooth(y: np.ndarray, x: np.ndarray, period: int) -> np.ndarray:
    """A smooth image that wraps, at any coordinates."""
    y, x = 2 * np.pi * y / period, 2 * np.pi * x / period
    return 120 + 50 * np.sin(y + 0.3) * np.cos(2 * x) + 40 * np.cos(3 * x - y)


@pytest.fixture
def folder(tmp_path):
    """A triple of 24² LR pixels at scale 2."""
    hr = np.round(smooth(*np.mgrid[:48, :48].astype(float), 48)).astype(np.uint8)
    y, x = np.mgrid[:11, :11] - 5.5
    psf = np.exp(-(y**2 / 2 + (x - 0.3 * y) ** 2 / 5)).astype(np.float32)
    psf /= psf.sum()
    lr = degrade(hr, psf, scale=2, phase="fkp", boundary="circular")
    folder = tmp_path / "waves"
    folder.mkdir()
    Image.fromarray(hr).save(folder / "one_hr.png")
    Image.fromarray(np.round(lr).astype(np.uint8)).save(folder / "one_lr.png")
    np.save(folder / "one_kernel.npy", psf[::-1, ::-1])
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Run in this process; the list grows by one per run."""
    done = []

    def call(function, *args):
        done.append(args)
        return function(*args)

    for module in (quality, speed):
        monkeypatch.setattr(module, "in_fresh_process", call)
        monkeypatch.setattr(module, "code_version", lambda: "abc")
    return done


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_on_the_grid_of_the_protocol(scale):
    n = 24
    hr = smooth(*np.mgrid[: scale * n, : scale * n], scale * n)
    offset = (scale - 1) / 2
    samples = scale * np.mgrid[:n, :n].astype(float)
    right = bicubic(smooth(*(samples - offset), scale * n), scale)
    wrong = bicubic(smooth(*(samples + offset), scale * n), scale)
    assert np.abs(right - hr).max() < 2  # the frame's edges too: it wraps
    assert np.abs(wrong - hr).max() > 10


def test_bicubic_takes_colour_channel_by_channel():
    lr = np.random.default_rng(0).integers(0, 256, (12, 13, 3), dtype=np.uint8)
    image = bicubic(lr, 3)
    assert image.shape == (36, 39, 3)
    np.testing.assert_array_equal(image[..., 1], bicubic(lr[..., 1], 3))


def test_triple_has_the_point_spread_function(folder):
    triple = Triple.load(folder, "one")
    assert triple.protocol["scale"] == 2
    assert triple.protocol["axes"] == "YX"
    lr = degrade(triple.hr, triple.psf, scale=2, phase="fkp", boundary="circular")
    np.testing.assert_array_equal(np.round(lr), triple.lr)


def restored(folder: Path, row: Row, settings: Settings, monkeypatch) -> tuple[np.ndarray, ...]:
    """Measure a row; return the image and the kernel whose figures it reports."""
    kept: list[np.ndarray] = []
    score = scores.score

    def keep(image, triple, kernel=None):
        kept.extend((image, kernel))
        return score(image, triple, kernel)

    with monkeypatch.context() as patch:
        patch.setattr(scores, "score", keep)
        scores.measure(folder, "one", row, settings)
    return tuple(kept)


@pytest.mark.parametrize("method", ["dip", "diffusion", "richardson-lucy"])
@pytest.mark.parametrize("family", ["gaussian", "airy", "line"])
def test_a_blind_run_sees_neither_the_truth_nor_the_true_kernel(
    folder, tmp_path, monkeypatch, method, family
):
    if method == "diffusion":
        from tiny_diffusion import saved

        tiny = TINY | {"diffusion": DiffusionConfig(model=str(saved(tmp_path / "model")))}
    else:
        tiny = TINY
    common = {"method": method, "seed": 0, "kernel_family": family, **tiny, "iterations": 3}
    protocol = Triple.load(folder, "one").protocol | {"kernel_size": 11}
    row, told = Row(precision="float32"), Row(precision="float32", known_kernel=True)
    common.pop("precision")
    settings = row.settings(**(common | protocol))
    before = restored(folder, row, settings, monkeypatch)
    known = restored(folder, told, settings, monkeypatch)
    random = np.random.default_rng(7)
    Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(folder / "one_hr.png")
    np.save(folder / "one_kernel.npy", random.random((11, 11)).astype(np.float32))
    for image, again in zip(before, restored(folder, row, settings, monkeypatch), strict=True):
        np.testing.assert_array_equal(image, again)
    # A run that is told the kernel does change with it.
    assert not np.array_equal(known[0], restored(folder, told, settings, monkeypatch)[0])


@pytest.mark.parametrize("name", ROWS)
def test_rows_build_settings(name):
    settings = ROWS[name].settings(scale=4, kernel_size=19, seed=3, iterations=None)
    assert settings == settings.resolve() == Settings.from_dict(settings.to_dict())
    assert settings.seed == 3


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_change_one_config_of_balanced(name):
    plain, changed = (ROWS[row].settings(scale=4).to_dict() for row in ("balanced", name))
    different = {key for key in plain if plain[key] != changed[key]}
    # The data term has a weight of its own in the search.
    assert len(different) == 1 or (different == {"pke", "search"} and "data term" in name)


def test_without_the_data_term_it_weighs_nothing_anywhere():
    row = ROWS["no PKE data term"].settings(scale=4)
    assert row.pke.data_weight == row.search.data_weight == 0


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name.startswith("motion: ")])
def test_ablations_of_motion_change_the_search(name):
    plain, changed = (ROWS[row].settings(scale=4) for row in ("balanced", name))
    assert replace(changed, search=plain.search) == plain


def test_a_row_of_one_family_keeps_it():
    row = Row(family="gaussian")
    assert row.settings(kernel_family="trajectory").kernel_family == "gaussian"
    assert ROWS["balanced"].settings(kernel_family="trajectory").kernel_family == "trajectory"


def test_options_that_change_a_row_are_in_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "code_version", lambda: "abc")
    monkeypatch.setattr(quality, "in_fresh_process", lambda *_: {"PSNR": 1.0, "seconds": 1.0})
    monkeypatch.setitem(ROWS, "Gaussian family only", Row(family="gaussian"))
    output = tmp_path / "q"
    rows = ["bicubic", "non-blind", "paper", "Gaussian family only"]
    common = ["--data", str(folder), "--device", "cpu", "--output", str(output), "--rows", *rows]
    for options in ([], ["--family", "line"], ["--family", "line", "--iterations", "9"]):
        quality.main([*common, *options])
    stored = json.loads(output.with_suffix(".json").read_text())["runs"]
    assert {run["what"]["row"] for run in stored} == {
        "bicubic",
        "non-blind",
        "non-blind, 9 steps",
        "paper",
        "paper, line",
        "paper, line, 9 steps",
        "Gaussian family only",
        "Gaussian family only, 9 steps",
    }
    # Next to the row that they change.
    text = quality.tables(stored)
    assert text.index("| paper, line |") < text.index("| Gaussian family only |")


def test_quality_resumes_and_writes_both_files(folder, tmp_path, in_process, capsys):
    output = tmp_path / "out" / "q"
    common = ["--data", str(folder), "--iterations", "2", "--device", "cpu"]
    common += ["--output", str(output)]
    quality.main([*common, "--rows", "bicubic", "non-blind", "--seeds", "0", "1"])
    assert len(in_process) == 3  # an interpolation has no seed
    quality.main([*common, "--rows", "bicubic", "fast", "non-blind"])
    assert len(in_process) == 4
    quality.main([*common, "--rows", "fast", "--family", "line"])
    assert "waves  one  bicubic  seed 0  is there" in capsys.readouterr().out
    stored = json.loads(output.with_suffix(".json").read_text())
    runs = {(run["what"]["row"], run["what"]["seed"]): run for run in stored["runs"]}
    known, fast, moved = "non-blind, 2 steps", "fast, 2 steps", "fast, line, 2 steps"
    assert set(runs) == {("bicubic", 0), (known, 0), (known, 1), (fast, 0), (moved, 0)}
    settings = Settings.from_dict(runs[fast, 0]["settings"])
    assert settings.iterations == 2
    assert runs[fast, 0]["figures"]["steps"] == runs[known, 0]["figures"]["steps"] == 2
    # One image, no longer than the run, comes before a motion is restored.
    assert runs[moved, 0]["figures"]["steps"] == (1 + 1) * 2 + 2
    for run in runs.values():
        assert run["figures"]["aligned PSNR"] >= run["figures"]["PSNR"]
    assert runs["bicubic", 0]["figures"]["PSNR"] > 20
    assert "kernel NCC" in runs[fast, 0]["figures"]
    assert "kernel NCC" not in runs[known, 0]["figures"]
    text = output.with_suffix(".md").read_text()
    assert "## waves" in text
    assert "| non-blind, 2 steps | 1 | 2 |" in text
    assert text.count("**mean**") == 4


def run_of(**changes):
    what = {"set": "s", "image": "a", "row": "fast", "seed": 0} | changes
    return {"what": what, "settings": {"size": (3, 3)}, "commit": "abc"}


def test_results_are_read_back(tmp_path):
    def store(machine=MACHINE):
        return records.Results(tmp_path / "r", "quality", machine, lambda runs: f"{len(runs)} runs")

    store().add({**run_of(), "figures": {"PSNR": 1.5}})
    store().add({**run_of(seed=1), "figures": {"PSNR": 2.5}})
    again = store()
    assert run_of() in again
    assert run_of(image="b") not in again
    assert run_of() | {"commit": "def"} not in again
    assert run_of() | {"settings": None} not in again
    again.add({**run_of(), "commit": "def", "figures": {"PSNR": 3.5}})
    assert [run["figures"]["PSNR"] for run in store().runs] == [2.5, 3.5]
    assert "abc, def: processor slide rule.\n\n2 runs" in (tmp_path / "r.md").read_text()
    with pytest.raises(ValueError, match="another kind or machine"):
        store({"processor": "abacus"})


def test_tables_show_medians_over_seeds_and_means_over_images():
    runs = [
        {**run_of(image=image, seed=seed), "figures": {"PSNR": value}}
        for image, values in {"a": (20.0, 21.0, 25.0), "b": (31.0, 30.0, 32.0)}.items()
        for seed, value in enumerate(values)
    ]
    text = quality.tables(runs)
    assert "| fast | a | 3 | 21.00 (5.00) | – |" in text
    assert "| fast | b | 3 | 31.00 (2.00) | – |" in text
    assert "| fast | **mean** |  | 26.00 | – |" in text
    assert "| fast | 2 | 3 | 26.00 | – |" in text


def test_speed_measures_and_plots_draw(folder, tmp_path, in_process):
    output = tmp_path / "out"
    arguments = ["--sides", "32", "--precisions", "float32", "--devices", "cpu", "--scale", "2"]
    arguments += ["--preset", "fast", "--repeats", "1", "--output", str(output / "speed")]
    speed.main(arguments)
    speed.main(arguments)
    assert len(in_process) == 1
    (run,) = json.loads((output / "speed.json").read_text())["runs"]
    figures = run["figures"]
    assert figures["ns per pixel"] == pytest.approx(1e9 * figures["image step"] / 32**2)
    assert figures["share of peak"] > 0
    assert figures["search step"] > 0
    arguments = ["--data", str(folder), "--rows", "bicubic", "fast", "--iterations", "2"]
    quality.main([*arguments, "--device", "cpu", "--output", str(output / "q")])
    plot.main([*map(str, output.glob("*.json")), "--output", str(tmp_path / "images")])
    assert "<svg" in (tmp_path / "images" / "speed.svg").read_text()
    assert "<svg" in (tmp_path / "images" / "q.svg").read_text()


def test_the_kernel_s_share_is_of_all_that_its_prior_does(monkeypatch):
    """Every call takes a second, and so does whoever waits for a kernel that settles."""
    now = [0.0]
    monkeypatch.setattr(kernel_clock, "perf_counter", lambda: now[0])

    def tick(*_):
        now[0] += 1

    def settle(*_):
        for number in range(3):
            tick()
            yield number
        tick()
        return "settled"

    for kind, name in kernel_clock._TIMED:
        monkeypatch.setattr(kind, name, tick)
    monkeypatch.setattr(DynamicKernelPrior, "candidates", settle)
    seen = []

    def watch():
        found = yield from DynamicKernelPrior.candidates(None)
        seen.append(found)

    with kernel_clock.kernel_clock() as clock:
        for number in watch():
            seen.append(number)
            tick()
        assert clock.seconds == 4
        for kind, name in kernel_clock._TIMED:
            getattr(kind, name)(None)
    assert seen == [0, 1, 2, "settled"]
    assert clock.seconds == 4 + len(kernel_clock._TIMED)
    DynamicKernelPrior.step(None)
    assert clock.seconds == 4 + len(kernel_clock._TIMED)


@pytest.mark.parametrize(("row", "counted"), [("fast", True), ("non-blind", False)])
def test_the_kernel_s_share_is_told_of_blind_runs(folder, row, counted):
    protocol = Triple.load(folder, "one").protocol
    settings = ROWS[row].settings(**protocol, iterations=2, device="cpu")
    figures = scores.measure(folder, "one", ROWS[row], settings)
    assert ("kernel share" in figures) is counted
    if counted:
        assert 0 < figures["kernel share"] < 1


def test_peak_memory_is_that_of_a_fresh_process():
    held = np.ones(2**27, np.uint8)
    here = records.peak_memory(torch.device("cpu"))
    there = records.in_fresh_process(records.peak_memory, torch.device("cpu"))
    assert 2**24 < there < here
    assert held.any()
