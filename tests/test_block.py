"""Planes that are restored at once: what each of them is handed, whole or in tiles."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from photons import trials_that_find
from tiny import TINY, settings

from napari_dkp import block as block_module
from napari_dkp import parts
from napari_dkp.block import Block
from napari_dkp.config import NoiseConfig, RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_shape import measure
from napari_dkp.optics_trials import AiryIntervals
from napari_dkp.plan import Plan
from napari_dkp.report import Report
from napari_dkp.spectrum import Cutoff
from napari_dkp.state import State, Stop
from napari_dkp.tiling import Tiling

CPU = torch.device("cpu")
MODEL = Degradation((24, 26), (1, 1), (5, 5))
COUNTING = {"method": "richardson-lucy", "kernel_family": "airy", "noise": NoiseConfig(gain=1.0)}
KERNEL = np.full((5, 5), 1 / 25, np.float32)
SPREAD = 0.2


def photons(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.poisson(40 * random.random(shape)).astype(np.float32)


def block_of(*planes: np.ndarray, model: Degradation = MODEL, **changes: object) -> Block:
    return Block(planes, settings(**(COUNTING | changes)).resolve(), model, CPU)


def last(block: Block, plan: Plan | None = None, tiling: Tiling | None = None) -> State:
    *_, state = block.run(plan, tiling)
    return state


def test_colours_of_a_plane_show_one_scene(monkeypatch):
    made = []
    monkeypatch.setattr(block_module, "Parts", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(block_module, "fit", lambda _: iter([]))
    block = block_of(photons(3, 24, 26), photons(3, 24, 26, seed=1))
    with pytest.raises(AttributeError):  # there is no plan to take up
        list(block.run(None))
    ((*_, colours),) = made
    assert colours == 3


# Reports


@pytest.fixture
def optics_found(monkeypatch) -> None:
    """Optics whose width is known but for a spread, whatever the data."""
    monkeypatch.setattr(parts, "find_cutoff", lambda *_: Cutoff(0.25, 0.3))
    intervals = AiryIntervals((0.2, 0.3), (0.5, 1.0), SPREAD)
    monkeypatch.setattr(parts, "try_optics", trials_that_find(intervals))


def report_of(plan: Plan | None = None, **changes: object) -> tuple[Report, np.ndarray]:
    """Return the report of one plane, and its kernel."""
    block = block_of(photons(1, 24, 26), **changes)
    state = last(block, plan)
    (report,) = block.reports(state.kernel)
    return report, state.kernel.numpy()


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
@pytest.mark.parametrize("family", ["airy", "pupil"])
def test_what_trials_leave_open_of_the_optics_is_reported(optics_found, method, family):
    report, kernel = report_of(method=method, kernel_family=family)
    width = math.sqrt(math.prod(measure(kernel).fwhm))
    assert report.kernel_width == pytest.approx(width, rel=1e-6)
    low, high = report.kernel_width_interval
    assert low < width < high
    assert high / low == pytest.approx(math.exp(2 * 1.645 * SPREAD))


def test_where_nothing_is_tried_nothing_is_said_of_how_sure_the_kernel_is(optics_found):
    stated = replace(TINY["rks"], cutoff=(0.2, 0.3))
    for report, _ in (
        report_of(Plan(KERNEL)),
        report_of(kernel_family="gaussian"),
        report_of(rks=stated),
    ):
        assert report.kernel_width_interval is None


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_there_are_reports_once_the_planes_are_complete(optics_found, method):
    block = block_of(photons(1, 24, 26), photons(1, 24, 26, seed=1), method=method)
    for state in block.run(None):
        assert block.reports(state.kernel) == [None, None]
    reports = block.reports(state.kernel)
    assert None not in reports
    assert (reports[0].resolution_before is None) is (method == "dip")


@pytest.mark.parametrize("diagnostics", [False, True])
def test_maps_are_made_where_the_settings_ask_for_them(diagnostics):
    report, _ = report_of(Plan(KERNEL), diagnostics=diagnostics)
    assert (report.residual is not None) is diagnostics
    assert (report.uncertainty is not None) is diagnostics
    assert report.misfit > 0


@pytest.mark.parametrize("colours", [1, 2])
@pytest.mark.parametrize("tiled", [False, True])
def test_each_plane_has_the_report_on_its_own_samples(colours, tiled):
    """Of an image that explains the one plane and not the other, as another fit of both shows."""
    model = Degradation((40, 44), (1, 1), (5, 5))
    tiling = Tiling((40, 44), 32, 10) if tiled else None
    planes = [photons(colours, 40, 44, seed=seed) for seed in (0, 1)]
    block = block_of(*planes, model=model, diagnostics=True, iterations=8)
    state = last(block, Plan(KERNEL), tiling)
    first, second = block.reports(state.kernel)
    assert first.residual.shape == second.residual.shape == (colours, 40, 44)
    assert first.uncertainty.shape == (colours, 40, 44)
    assert (first.uncertainty > 0).all()
    # Where less is left over is where fewer photons came than are usual there.
    for number, report in enumerate((first, second)):
        alike = np.corrcoef(report.residual.ravel(), planes[number].ravel())[0, 1]
        other = np.corrcoef(report.residual.ravel(), planes[1 - number].ravel())[0, 1]
        assert alike > 0.3 > abs(other)


# Several planes


def test_planes_share_scaling_kernel_and_plan():
    low, high = photons(1, 24, 26), photons(1, 24, 26, seed=1) + 100
    block = block_of(low, high, method="dip", kernel_family="gaussian")
    assert (block.scaling.low, block.scaling.range) == (low.min(), high.max() - low.min())
    assert block.plan is None
    state = last(block)
    assert state.kernel.shape == (5, 5)
    np.testing.assert_array_equal(block.plan.kernel, state.kernel.numpy())


@pytest.mark.parametrize("colours", [1, 3])
def test_of_a_plane_are_its_own_channels(colours):
    block = block_of(*(photons(colours, 24, 26, seed=seed) for seed in range(3)))
    values = torch.arange(3 * colours)
    found = [block.of_plane(number, values).tolist() for number in range(3)]
    assert found == values.reshape(3, colours).tolist()


# Tiles


def test_tiles_need_a_plan():
    with pytest.raises(ValueError, match="plan: expected one for tiles; got None"):
        last(block_of(photons(1, 24, 26)), None, Tiling((24, 26), 20, 10))


def test_a_single_tile_is_the_whole_plane():
    images = [
        last(block_of(photons(1, 24, 26)), Plan(KERNEL), tiling).image
        for tiling in (None, Tiling((24, 26), 26, 10))
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
@pytest.mark.parametrize("scale", [1, 2])
def test_steps_of_tiles_go_on_counting_and_only_the_last_completes(method, scale):
    model = Degradation((24, 26), (scale, scale), (5, 5))
    config = RichardsonLucyConfig(strength=0.0, patience=99)
    block = block_of(
        photons(1, 24, 26), model=model, method=method, richardson_lucy=config, scale=scale
    )
    tiling = Tiling((24, 26), 20, 10)
    states = list(block.run(Plan(KERNEL), tiling))
    assert [state.step for state in states] == list(range(1, 6 * len(tiling) + 1))
    assert {state.n_steps for state in states} == {len(states)}
    assert [state.stop for state in states[:-1]] == [Stop.RUNNING] * (len(states) - 1)
    assert states[-1].stop is Stop.COMPLETED
    assert {tuple(state.image.shape) for state in states} == {(1, 24 * scale, 26 * scale)}


def test_what_is_not_yet_restored_is_shown_interpolated_and_states_are_not_written_again():
    block = block_of(photons(1, 24, 26))
    tiling = Tiling((24, 26), 20, 10)
    states, copies = [], []
    for state in block.run(Plan(KERNEL), tiling):
        states.append(state)
        copies.append(state.image.clone())
    for state, copy in zip(states, copies, strict=True):
        assert torch.equal(state.image, copy)
    whole = block.scaling.normalise(photons(1, 24, 26))
    np.testing.assert_allclose(states[0].image.numpy(), whole, atol=1e-6)
    ends = states[5::6]
    assert len(ends) == len(tiling) == 4
    # Rows before columns: the last quarter is untouched until the last tile.
    np.testing.assert_allclose(ends[2].image[:, 20:, 20:].numpy(), whole[:, 20:, 20:], atol=1e-6)
    assert not np.allclose(ends[3].image[:, 20:, 20:].numpy(), whole[:, 20:, 20:], atol=1e-3)


def test_a_tile_that_diverges_ends_the_plane_without_a_report(monkeypatch):
    step = parts.DIPRestorer.step
    calls = iter(range(1, 100))

    def broken(restorer, kernel):
        taken = step(restorer, kernel)
        return taken if next(calls) < 9 else taken._replace(loss=torch.tensor(math.nan))

    monkeypatch.setattr(parts.DIPRestorer, "step", broken)
    block = block_of(photons(1, 24, 26), method="dip")
    states = list(block.run(Plan(KERNEL), Tiling((24, 26), 20, 10)))
    assert [state.stop for state in states] == [Stop.RUNNING] * 8 + [Stop.DIVERGED]
    assert states[-1].image.isfinite().all()
    assert block.reports(states[-1].kernel) == [None]
