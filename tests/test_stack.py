"""Whole runs: axes, planes, units, seeds, stopping, and what cannot be used."""

import gc
import inspect
import json
import math
import weakref
from collections.abc import Collection
from dataclasses import fields, replace
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import TINY, settings

from napari_dkp import block, iter_restore, restore, stack, tile_size
from napari_dkp.config import (
    DIPConfig,
    NoiseConfig,
    OpticsConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.degradation import degrade
from napari_dkp.kernel_prior import DynamicKernelPrior
from napari_dkp.kernel_shape import measure
from napari_dkp.kernels import line
from napari_dkp.layout import Index, guess_axes
from napari_dkp.metrics import kernel_ncc, psnr
from napari_dkp.plan import Plan, Route
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.stack import Run
from napari_dkp.state import State, Stop
from napari_dkp.tile_size import bytes_per_pixel
from napari_dkp.tiling import Tiling

STEPS = 6
MOTION = TINY | {"kernel_family": "line"}
# Image steps of the search, per plane: three images, as nothing is known of a motion before.
SEARCH = 3 * 4

both_ways = pytest.mark.parametrize(
    ("tiny", "search"), [(TINY, 0), (MOTION, SEARCH)], ids=["optics", "motion"]
)


def picture(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Smooth blobs with values from 10 to 200."""
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, [0] * (len(shape) - 2) + [1, 1])
    return (10 + 190 * (smooth - smooth.min()) / np.ptp(smooth)).astype(dtype)


def settles(state: State[np.ndarray]) -> bool:
    """Whether a state is of a kernel that settles before there is an image: that is no step."""
    return state.searching and state.own_step == 0 and math.isnan(state.residual)


def finished(run: Run) -> Run:
    for _ in run:
        pass
    return run


# Axes


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 6), "YX"),
        ((40, 50, 3), "YXC"),
        ((40, 50, 4), "YXC"),
        ((40, 50, 5), "ZYX"),
        ((3, 40, 50), "ZYX"),
        ((20, 50, 3), "ZYX"),
        ((2, 3, 40, 50), "TZYX"),
        ((2, 2, 3, 40, 50), "TCZYX"),
    ],
)
def test_axes_are_guessed_from_the_shape(shape, axes):
    assert guess_axes(shape) == axes


@pytest.mark.parametrize("shape", [(), (7,), (2,) * 6])
def test_axes_of_too_few_or_too_many_dimensions_are_not_guessed(shape):
    with pytest.raises(ValueError, match="image: expected 2 to 5 axes"):
        guess_axes(shape)


@both_ways
@pytest.mark.parametrize(
    ("axes", "shape", "looped"),
    [
        ("YX", (9, 12), ()),
        ("XY", (12, 9), ()),
        ("YXC", (9, 12, 3), ()),
        ("XYC", (12, 9, 3), ()),
        ("CYX", (2, 9, 12), (2,)),
        ("YCX", (9, 2, 12), (2,)),
        ("ZYX", (2, 9, 12), (2,)),
        ("YXZ", (9, 12, 2), (2,)),
        ("TZYX", (2, 3, 9, 12), (2, 3)),
        ("CZYX", (2, 3, 9, 12), (2, 3)),
        ("ZYXC", (2, 9, 12, 3), (2,)),
        ("TCZYX", (2, 3, 1, 9, 12), (2, 3, 1)),
    ],
)
def test_every_layout_keeps_its_axes(axes, shape, looped, tiny, search):
    image = picture(*shape)
    run = Run(image, settings(tiny, axes=axes, share_kernel=False))
    states = list(run)
    result = run.result()
    enlarged = {"Y": 18, "X": 24}
    expected = tuple(enlarged.get(a, n) for a, n in zip(axes, shape, strict=True))
    assert result.image.shape == expected
    assert result.image.dtype == result.kernel.dtype == np.float32
    assert result.kernel.shape == (*looped, 5, 5)
    per_plane = search + STEPS
    assert run.n_planes == math.prod(looped)
    assert run.n_steps == len(states) == per_plane * run.n_planes
    assert [state.step for state in states] == list(range(1, run.n_steps + 1))
    letters = "".join(a for a in axes if a in ("TZ" if axes.endswith("C") else "TCZ"))
    # Channel after channel.
    channel = letters.index("C") if "C" in letters else None
    in_turn = sorted(np.ndindex(*looped), key=lambda index: channel is not None and index[channel])
    assert [state.plane for state in states[::per_plane]] == in_turn
    assert [state.stop for state in states[:-1]] == [Stop.RUNNING] * (run.n_steps - 1)
    assert states[-1].stop is result.stop is Stop.COMPLETED
    plane_axes = axes.translate(str.maketrans("", "", letters))
    for state in states:
        assert state.n_steps == run.n_steps
        assert state.image.shape == tuple(
            enlarged.get(a, n) for a, n in zip(axes, shape, strict=True) if a in plane_axes
        )
    # Each plane of the result is the last state of that plane, where the input has it.
    for state in states[per_plane - 1 :: per_plane]:
        where = [slice(None)] * len(shape)
        for axis, index in zip(letters, state.plane, strict=True):
            where[axes.index(axis)] = index
        np.testing.assert_array_equal(result.image[tuple(where)], state.image)
        np.testing.assert_array_equal(result.kernel[state.plane], state.kernel)


@pytest.mark.parametrize(
    ("axes", "others"), [("CYX", "YCX"), ("YXC", "XYC"), ("ZYX", "YXZ"), ("ZYXC", "YZXC")]
)
def test_layouts_of_the_same_data_give_the_same_pixels(axes, others):
    lengths = {"C": 3, "Z": 2, "Y": 10, "X": 12}
    image = picture(*(lengths[axis] for axis in axes))
    order = [axes.index(axis) for axis in others]
    first = restore(image, **TINY, axes=axes).image
    last = restore(image.transpose(order), **TINY, axes=others).image
    np.testing.assert_array_equal(last, first.transpose(order))


@both_ways
def test_planes_are_restored_independently_with_the_same_seed(tiny, search):
    image = picture(2, 10, 12)
    stack = restore(image, **tiny, axes="ZYX", share_kernel=False)
    alone = restore(image[1], **tiny)
    np.testing.assert_array_equal(stack.image[1], alone.image)
    np.testing.assert_array_equal(stack.kernel[1], alone.kernel)


def test_colours_share_one_kernel_and_keep_their_order():
    image = picture(3, 12, 12)
    config = TINY | {"iterations": 80, "dip": DIPConfig(channels=32)}
    point = np.zeros((5, 5))
    point[2, 2] = 1
    colours = np.moveaxis(image, 0, -1)
    result = restore(colours, **config, axes="YXC", scale=1, kernel=point)
    flat = image.reshape(3, -1)
    restored = np.moveaxis(result.image, -1, 0)
    alike = np.corrcoef(restored.reshape(3, -1), flat)[:3, 3:]
    np.testing.assert_allclose(alike, np.corrcoef(flat), atol=0.1)
    assert result.kernel.shape == (5, 5)


@pytest.mark.parametrize(("scale", "shape"), [(1, (10, 12)), (3, (30, 36)), ((1, 3), (10, 36))])
def test_scales_enlarge_their_axes(scale, shape):
    assert restore(picture(10, 12), **TINY, scale=scale).image.shape == shape


@pytest.mark.parametrize("phase", ["area", "fkp"])
@pytest.mark.parametrize("boundary", ["free", "circular"])
def test_every_grid_and_boundary_runs(phase, boundary):
    result = restore(picture(9, 11), **TINY, phase=phase, boundary=boundary)
    assert result.image.shape == (18, 22)
    assert np.isfinite(result.image).all()


# Inputs


def test_torch_and_dask_arrays_give_what_numpy_gives():
    image = picture(2, 10, 12)
    expected = restore(image, **TINY, axes="ZYX").image
    for same in (torch.from_numpy(image), da.from_array(image, chunks=(1, 5, 12)), image.tolist()):
        np.testing.assert_allclose(restore(same, **TINY, axes="ZYX").image, expected, atol=1e-3)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">u2", ">f4"]
)
def test_every_integer_and_float_type_is_taken(dtype):
    image = np.round(picture(10, 12)).astype(dtype)
    result = restore(image, **TINY)
    reference = restore(np.round(picture(10, 12)), **TINY)
    assert result.image.dtype == np.float32
    if image.dtype.kind == "f":
        np.testing.assert_array_equal(result.image, reference.image)
    else:  # the limits of the type bound the image
        np.testing.assert_allclose(result.image, reference.image, atol=40)


def test_nothing_passes_the_limits_of_an_integer_type():
    image = np.where(np.indices((12, 12)).sum(0) % 5 < 2, 255, 0).astype(np.uint8)
    config = TINY | {"iterations": 40, "dip": DIPConfig(channels=4, learning_rate=0.1)}
    result = restore(image, **config)
    assert result.image.min() >= 0
    assert result.image.max() <= 255
    free = restore(image.astype(np.float32), **config)
    assert free.image.max() > 255


@pytest.mark.parametrize(("factor", "offset"), [(8.0, 0.0), (0.001, 5.0), (300.0, -1000.0)])
def test_the_result_follows_the_intensity_units(factor, offset):
    image = picture(12, 12).astype(np.float64)
    plain = restore(image, **(TINY | {"iterations": 4}))
    scaled = restore(factor * image + offset, **(TINY | {"iterations": 4}))
    np.testing.assert_allclose(
        scaled.image, factor * plain.image + offset, atol=0.01 * factor * np.ptp(image)
    )
    np.testing.assert_allclose(scaled.kernel, plain.kernel, atol=1e-3)
    np.testing.assert_allclose(scaled.history, factor * np.array(plain.history), rtol=0.02)


@pytest.mark.parametrize("offset", [1e9, 2.0**40])
def test_a_small_contrast_on_a_large_level_is_restored(offset):
    """float32 alone cannot hold it: normalise first."""
    image = picture(12, 12).astype(np.float64)
    result = restore(image + offset, **TINY)
    assert np.isfinite(result.image).all()
    assert np.isfinite(result.kernel).all()
    assert result.stop is Stop.COMPLETED
    np.testing.assert_allclose(result.history, restore(image, **TINY).history, rtol=0.02)


@pytest.mark.parametrize("factor", [1e-300, 1e-44, 1e39])
def test_intensities_beyond_single_precision_are_refused(factor):
    with pytest.raises(ValueError, match=r"image: expected values up to 1e\+37"):
        iter_restore(picture(12, 12).astype(np.float64) * factor, **TINY)


def test_masked_values_are_refused_with_a_way_to_fill_them():
    image = np.ma.masked_greater(picture(12, 12), 0.9 * picture(12, 12).max())
    with pytest.raises(ValueError, match=r"image: expected no masked values.*filled"):
        iter_restore(image, **TINY)


def test_states_cannot_be_written_to():
    state = next(iter_restore(picture(12, 12), **TINY))
    for array in (state.image, state.kernel):
        with pytest.raises(ValueError, match="read-only"):
            array *= 2


def test_a_run_works_whatever_the_callers_grad_mode():
    with torch.no_grad():
        result = restore(picture(12, 12), **TINY)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(result.image, restore(picture(12, 12), **TINY).image)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_intensities_far_from_one_stay_finite(factor):
    result = restore(picture(12, 12).astype(np.float64) * factor, **TINY)
    assert np.isfinite(result.image).all()
    assert np.isfinite(result.kernel).all()
    assert result.stop is Stop.COMPLETED


class Lazy:
    """An array that only knows how to give slices, and remembers them."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.shape, self.dtype = values.shape, values.dtype
        self.read: list[tuple[object, ...]] = []

    def __getitem__(self, where: tuple[object, ...]) -> np.ndarray:
        self.read.append(where)
        return self._values[where]


def test_lazy_arrays_are_read_plane_by_plane_as_they_are_reached():
    lazy = Lazy(picture(2, 3, 10, 12))
    chosen = {"method": "dip", "kernel_family": "gaussian", "share_kernel": False}
    run = Run(lazy, settings(axes="TZYX", iterations=2, **chosen))
    assert lazy.read == []
    states = iter(run)
    for _ in range(2 + 1):
        next(states)
    everything = slice(None)
    assert lazy.read == [(0, 0, everything, everything), (0, 1, everything, everything)]


def test_what_is_automatic_is_decided_by_the_plane_in_the_middle():
    lazy = Lazy(picture(2, 3, 10, 12))
    Run(lazy, settings(axes="TZYX"))
    assert lazy.read == [(1, 1, slice(None), slice(None))]


# Results


@both_ways
def test_a_stopped_run_keeps_its_last_state(tiny, search):
    run = Run(picture(10, 12), settings(tiny))
    states = iter(run)
    for _ in range(3):
        state = next(states)
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    np.testing.assert_array_equal(result.image, state.image)
    np.testing.assert_array_equal(result.kernel, state.kernel)
    assert result.steps == len(result.history) == 3
    assert result.history[-1] == state.residual


@pytest.mark.parametrize("family", ["gaussian", "line"])
def test_a_run_may_stop_while_its_kernel_settles(family):
    run = Run(picture(40, 36), settings(MOTION | {"kernel_family": family}, method="dip"))
    states = iter(run)
    first, second = next(states), next(states)
    assert settles(first)
    assert settles(second)
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    assert result.steps == 0
    assert result.history == ()
    np.testing.assert_allclose(result.image, run.interpolated(()), rtol=1e-5)
    np.testing.assert_array_equal(result.kernel, second.kernel)
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)


def test_the_history_is_that_of_the_restoration_once_it_has_begun():
    run = Run(picture(10, 12), settings(MOTION))
    states = iter(run)
    residuals = [next(states).residual for _ in range(SEARCH + 2)]
    states.close()
    assert run.result().history == tuple(residuals[SEARCH:])
    assert run.result().steps == SEARCH + 2


def test_a_result_may_be_asked_for_while_the_run_goes_on():
    run = Run(picture(10, 12), settings())
    states = iter(run)
    first = next(states)
    np.testing.assert_array_equal(run.result().image, first.image)
    *_, last = states
    np.testing.assert_array_equal(run.result().image, last.image)
    assert run.result().stop is Stop.COMPLETED


@both_ways
def test_states_are_not_written_again(tiny, search):
    states, copies = [], []
    for state in Run(picture(10, 12), settings(tiny)):
        states.append(state)
        copies.append((state.image.copy(), state.kernel.copy()))
    for state, (image, kernel) in zip(states, copies, strict=True):
        np.testing.assert_array_equal(state.image, image)
        np.testing.assert_array_equal(state.kernel, kernel)


@pytest.fixture
def fetched(monkeypatch) -> list[int]:
    """Count the states whose arrays leave the device, by their step."""
    steps: list[int] = []
    fetch = stack.fetched
    monkeypatch.setattr(
        stack, "fetched", lambda state, *how: steps.append(state.step) or fetch(state, *how)
    )
    return steps


def test_a_run_that_nobody_watches_leaves_its_arrays_on_the_device(fetched):
    restore(picture(2, 10, 12), **TINY, axes="ZYX", progress=lambda state: state.residual)
    assert fetched == [STEPS] * 2


def test_the_arrays_of_a_state_leave_the_device_when_they_are_looked_at(fetched):
    states = list(Run(picture(10, 12), settings()))
    assert fetched == [STEPS]
    assert states[3].image.shape == (20, 24)
    assert states[3].kernel.shape == (5, 5)
    assert fetched == [STEPS, 4]


@both_ways
def test_a_stopped_run_is_freed_with_its_last_reference(tiny, search):
    run = Run(picture(10, 12), settings(tiny))
    states = iter(run)
    state = next(states)
    states.close()
    reference = weakref.ref(run)
    gc.disable()
    try:
        del run, states
        assert reference() is None
    finally:
        gc.enable()
    assert state.image.shape == (20, 24)


def test_there_is_no_result_before_the_first_step():
    run = Run(picture(10, 12), settings())
    with pytest.raises(ValueError, match="result"):
        run.result()
    iter(run)
    with pytest.raises(ValueError, match="result"):
        run.result()


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_can_be_run_again(shared):
    run = Run(picture(2, 10, 12), settings(axes="ZYX", share_kernel=shared))
    first = finished(run).result()
    states = iter(run)
    next(states)
    assert run.result().stop is Stop.CANCELLED
    again = finished(run).result()
    np.testing.assert_array_equal(first.image, again.image)
    assert first.history == again.history


def interpolated(image: np.ndarray, scale: int, phase: str) -> np.ndarray:
    """Bilinear reading of LR samples at the HR grid; the border repeats."""
    sign = 1 if phase == "area" else -1
    axes = [(np.arange(scale * n) - sign * (scale - 1) / 2) / scale for n in image.shape]
    return ndimage.map_coordinates(
        image, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest"
    )


@pytest.mark.parametrize("phase", ["area", "fkp"])
def test_planes_not_reached_hold_their_source_on_the_right_grid(phase):
    image = picture(3, 10, 12)
    run = Run(image, settings(axes="ZYX", scale=3, phase=phase, share_kernel=False))
    states = iter(run)
    for _ in range(STEPS + 2):
        state = next(states)
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    np.testing.assert_array_equal(result.image[1], state.image)
    np.testing.assert_allclose(result.image[2], interpolated(image[2], 3, phase), rtol=1e-4)
    np.testing.assert_array_equal(result.kernel[2], state.kernel)


@pytest.mark.parametrize("phase", ["area", "fkp"])
def test_a_run_that_diverges_at_once_hands_out_its_source_on_the_right_grid(phase, monkeypatch):
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=1))
    image = picture(10, 12)
    result = restore(image, **TINY, scale=3, phase=phase)
    assert result.stop is Stop.DIVERGED
    np.testing.assert_allclose(result.image, interpolated(image, 3, phase), rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_plane_without_contrast_loses_nothing_of_the_others(shared):
    """An empty plane at the end of a stack passes through, and the others are restored."""
    image = picture(3, 10, 12)
    image[2] = 7
    run = Run(image, settings(axes="ZYX", share_kernel=shared))
    states = iter(run)
    first = next(states)
    assert run.result().stop is Stop.CANCELLED
    np.testing.assert_array_equal(run.result().image[0], first.image)
    last = list(states)[-1]
    assert last.stop is Stop.COMPLETED and last.step == last.n_steps
    result = run.result()
    assert result.stop is Stop.COMPLETED
    np.testing.assert_allclose(result.image[2], 7)
    assert result.kernel[2].max() == 1
    alone = restore(image[:2], **TINY, axes="ZYX", share_kernel=shared)
    np.testing.assert_array_equal(result.image[:2], alone.image)


@both_ways
def test_the_residual_is_in_intensity_units(tiny, search):
    """Recomputed from the states of the restoration proper by the forward model."""
    image = picture(12, 12)
    run = Run(image, settings(tiny, boundary="circular"))
    for state in list(run)[search:]:
        predicted = degrade(state.image, state.kernel, boundary="circular")
        assert state.residual == pytest.approx(np.sqrt(np.mean((predicted - image) ** 2)), rel=1e-3)


def test_progress_is_told_of_every_state():
    seen = []
    restore(picture(10, 12), **TINY, progress=seen.append)
    assert [state.step for state in seen] == list(range(1, STEPS + 1))


def test_iter_restore_is_the_same_loop():
    *_, last = iter_restore(picture(10, 12), **TINY)
    np.testing.assert_array_equal(last.image, restore(picture(10, 12), **TINY).image)


# Repeatability


@both_ways
def test_the_seed_alone_decides(tiny, search):
    image = picture(10, 12)
    torch.manual_seed(1)
    first = restore(image, **tiny, seed=5)
    torch.manual_seed(2)
    same, other = restore(image, **tiny, seed=5), restore(image, **tiny, seed=6)
    np.testing.assert_array_equal(first.image, same.image)
    np.testing.assert_array_equal(first.kernel, same.kernel)
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.kernel, other.kernel)
    assert (first.seed, other.seed) == (5, 6)


@both_ways
def test_a_run_leaves_the_global_random_state_alone(tiny, search):
    before = torch.get_rng_state()
    restore(picture(10, 12), **tiny)
    assert torch.equal(torch.get_rng_state(), before)


def test_stored_settings_repeat_the_run():
    image = picture(2, 10, 12)
    first = restore(image, **TINY, scale=(2, 1), kernel_family="line", axes="ZYX", seed=9)
    stored = json.loads(json.dumps(first.settings.to_dict()))
    again = finished(Run(image, Settings.from_dict(stored))).result()
    np.testing.assert_array_equal(first.image, again.image)
    assert again.settings == first.settings
    assert first.settings.axes == "ZYX"
    assert first.settings.iterations == 6


def test_a_preset_is_stored_as_its_numbers():
    run = Run(picture(10, 12), Settings(preset="best", kernel_size=5, device="cpu"))
    resolved = run.settings
    assert resolved.axes == "YX"
    assert None not in (resolved.iterations, resolved.rks, resolved.pke)
    assert None not in (resolved.search, resolved.dip)
    assert run.n_steps == 600
    motion = Run(picture(10, 12), replace(resolved, kernel_family="trajectory"))
    assert motion.n_steps == 2 * 200 + 6 * 200 + 600


# A known kernel


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (4, 6)])
def test_a_known_kernel_is_handed_back_normalised(shape):
    kernel = np.random.default_rng(0).random(shape) * 17
    run = Run(picture(10, 12), settings(), kernel)
    for state in run:
        np.testing.assert_allclose(state.kernel, kernel / kernel.sum(), rtol=1e-6)
    result = run.result()
    assert result.known_kernel
    np.testing.assert_allclose(result.kernel, kernel / kernel.sum(), rtol=1e-6)
    assert not restore(picture(10, 12), **TINY).known_kernel


def test_a_known_kernel_is_used():
    image = picture(10, 12)
    narrow, wide = np.zeros((5, 5)), np.ones((5, 5))
    narrow[2, 2] = 1
    results = [restore(image, **TINY, kernel=kernel).image for kernel in (narrow, wide)]
    assert not np.allclose(*results)


# Input that cannot be used


def good() -> np.ndarray:
    return picture(10, 12)


def broken(value: float, count: int) -> np.ndarray:
    image = good()
    image.ravel()[:count] = value
    return image


UNUSABLE = {
    "boolean": ({"image": good() > 100}, TypeError, "image.*boolean"),
    "complex": ({"image": good() * 1j}, TypeError, "image.*complex.*abs"),
    "object": ({"image": good().astype(object)}, TypeError, "image.*object"),
    "text": ({"image": np.full((10, 12), "x")}, TypeError, "image"),
    "one axis": ({"image": good()[0]}, ValueError, "image.*2 to 5 axes"),
    "six axes": ({"image": good()[None, None, None, None]}, ValueError, "image.*2 to 5 axes"),
    "too few axes": ({"axes": "ZYX"}, ValueError, "axes.*3.*|axes.*2 letters"),
    "axes without X": ({"axes": "ZY"}, ValueError, "axes"),
    "axes twice": ({"axes": "YXX"}, ValueError, "axes"),
    "axes in lower case": ({"axes": "yx"}, ValueError, "axes"),
    "axes not a string": ({"axes": ("Y", "X")}, TypeError, "axes"),
    "empty": ({"image": np.ones((0, 12))}, ValueError, "image.*at least one pixel"),
    "no plane": ({"image": np.ones((0, 10, 12)), "axes": "ZYX"}, ValueError, "image.*pixel"),
    "smaller than the kernel": ({"kernel_size": 21}, ValueError, "image.*smaller.*kernel"),
    "smaller than the PSF": ({"kernel": np.ones((25, 5))}, ValueError, "image.*smaller.*kernel"),
    "NaN": ({"image": broken(np.nan, 3)}, ValueError, "image.*3 NaN.*isfinite"),
    "infinity": ({"image": broken(-np.inf, 2)}, ValueError, "image.*2 infinite"),
    "constant": ({"image": np.full((10, 12), 4)}, ValueError, "image.*contrast.*4"),
    "scale 0": ({"scale": 0}, ValueError, "scale"),
    "scale 9": ({"scale": 9}, ValueError, "scale"),
    "scale 1.5": ({"scale": 1.5}, TypeError, "scale"),
    "scale True": ({"scale": True}, TypeError, "scale"),
    "three scales": ({"scale": (2, 2, 2)}, ValueError, "scale"),
    "even kernel_size": ({"kernel_size": 6}, ValueError, "kernel_size.*odd"),
    "three kernel_sizes": ({"kernel_size": (5, 5, 5)}, ValueError, "kernel_size"),
    "negative PSF": ({"kernel": np.array([[1.0, -1.0]])}, ValueError, "kernel.*1 negative"),
    "NaN in PSF": ({"kernel": np.array([[1.0, np.nan]])}, ValueError, "kernel.*finite"),
    "dark PSF": ({"kernel": np.zeros((3, 3))}, ValueError, "kernel.*sum"),
    "empty PSF": ({"kernel": np.zeros((0, 3))}, ValueError, "kernel"),
    "PSF of one axis": ({"kernel": np.ones(3)}, ValueError, "kernel.*axes"),
    "complex PSF": ({"kernel": np.ones((3, 3), complex)}, TypeError, "kernel"),
    "device": ({"device": "abacus"}, ValueError, "device.*'cpu'.*'abacus'"),
    "absent device": ({"device": "cuda:77"}, ValueError, "device.*'cpu'.*'cuda:77'"),
    "method": ({"method": "magic"}, ValueError, "method.*'dip'"),
    "family": ({"kernel_family": "box"}, ValueError, "kernel_family.*'gaussian'"),
    "preset": ({"preset": "slow"}, ValueError, "preset.*'fast'"),
    "phase": ({"phase": "pixel"}, ValueError, "phase.*'area'"),
    "boundary": ({"boundary": "zero"}, ValueError, "boundary.*'free'"),
    "precision": ({"precision": "float16"}, ValueError, "precision.*'float32'"),
    "iterations": ({"iterations": 0}, ValueError, "iterations"),
    "seed": ({"seed": -1}, ValueError, "seed"),
    "config": ({"dip": {"channels": 4}}, TypeError, "dip.*DIPConfig"),
}


@pytest.mark.parametrize(("change", "error", "message"), UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("call", [restore, iter_restore])
def test_what_cannot_be_used_is_named_at_the_call(call, change, error, message):
    arguments = TINY | {"image": good()} | change
    with pytest.raises(error, match=message):
        call(arguments.pop("image"), **arguments)


def test_a_bad_plane_of_a_lazy_stack_is_named_when_it_is_reached():
    image = picture(3, 10, 12)
    image[1, 4, 4] = np.nan
    with pytest.raises(ValueError, match=r"image.*1 NaN"):
        iter_restore(image, **TINY, axes="ZYX")
    with pytest.raises(ValueError, match=r"plane \(1,\).*1 NaN"):
        iter_restore(da.from_array(image), **TINY, axes="ZYX")  # the plane all are judged by
    named = {**TINY, "method": "dip", "kernel_family": "gaussian", "share_kernel": False}
    states = iter_restore(da.from_array(image), **named, axes="ZYX")
    assert next(states).plane == (0,)
    with pytest.raises(ValueError, match=r"plane \(1,\).*1 NaN"):
        list(states)


# Divergence


def diverging(step, at: int):
    """A step that turns the image network's last weights into NaN at the `at`-th call."""
    calls = iter(range(1, 10**6))

    def broken_step(self: DIPRestorer, kernel: torch.Tensor):
        if next(calls) == at:
            with torch.no_grad():
                self._network.head.weight.fill_(math.nan)
        return step(self, kernel)

    return broken_step


@both_ways
def test_divergence_hands_out_the_last_finite_image(monkeypatch, tiny, search):
    expected = [state.image for state in iter_restore(picture(10, 12), **tiny)]
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=search + 4))
    run = Run(picture(10, 12), settings(tiny))
    states = list(run)
    result = run.result()
    assert [state.stop for state in states] == [Stop.RUNNING] * (search + 3) + [Stop.DIVERGED]
    assert result.stop is Stop.DIVERGED
    np.testing.assert_array_equal(result.image, expected[search + 2])
    assert np.isfinite(result.kernel).all()
    assert np.isfinite(result.history).all()


@both_ways
def test_an_absurd_learning_rate_never_hands_out_nan(monkeypatch, tiny, search):
    def absurd(self: DIPRestorer) -> None:
        for optimiser in self._optimisers:
            optimiser.rate = 1e30

    monkeypatch.setattr(DIPRestorer, "_set_learning_rate", absurd)
    run = Run(picture(10, 12), settings(tiny, iterations=20))
    for state in run:
        assert np.isfinite(state.image).all()
        assert np.isfinite(state.kernel).all()
    assert run.result().stop is Stop.DIVERGED


@both_ways
def test_a_plane_that_diverges_does_not_end_the_stack(monkeypatch, tiny, search):
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=search + 2))
    run = Run(picture(2, 10, 12), settings(tiny, axes="ZYX", share_kernel=False))
    states = list(run)
    per_plane = search + STEPS
    reached = range(1, search + 3), range(per_plane + 1, 2 * per_plane + 1)
    assert [state.step for state in states] == [*reached[0], *reached[1]]
    assert [state.stop for state in states[:-1]] == [Stop.RUNNING] * (len(states) - 1)
    assert states[-1].stop is run.result().stop is Stop.DIVERGED
    np.testing.assert_array_equal(run.result().image[1], states[-1].image)
    assert np.isfinite(run.result().image).all()


@pytest.mark.parametrize("at", range(1, SEARCH + 1))
def test_a_fit_that_diverges_in_the_search_does_not_end_the_run(at, monkeypatch):
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=at))
    run = Run(picture(10, 12), settings(MOTION))
    states = list(run)
    assert [state.stop for state in states[:-1]] == [Stop.RUNNING] * (len(states) - 1)
    assert states[-1].stop is run.result().stop is Stop.COMPLETED
    assert states[-1].step == run.n_steps
    assert len(run.result().history) == STEPS
    for state in states:
        assert np.isfinite(state.image).all()
        assert state.kernel.sum() == pytest.approx(1, abs=1e-4)


def test_a_run_whose_search_finds_no_kernel_says_that_it_diverged(monkeypatch):
    step = DIPRestorer.step
    monkeypatch.setattr(
        DIPRestorer,
        "step",
        lambda self, kernel: step(self, kernel)._replace(loss=torch.tensor(math.nan)),
    )
    run = Run(picture(10, 12), settings(MOTION))
    states = list(run)
    assert all(state.searching for state in states)
    assert states[-1].stop is run.result().stop is Stop.DIVERGED
    assert np.isfinite(run.result().image).all()
    assert run.result().kernel.sum() == pytest.approx(1, abs=1e-4)


# The search for motion


def test_the_search_comes_first_and_its_kernel_stands():
    states = list(iter_restore(picture(10, 12), **MOTION))
    assert [state.searching for state in states] == [True] * SEARCH + [False] * STEPS
    assert [state.step for state in states] == list(range(1, SEARCH + STEPS + 1))
    assert {state.n_steps for state in states} == {SEARCH + STEPS}
    for state in states[SEARCH:]:
        np.testing.assert_array_equal(state.kernel, states[SEARCH].kernel)
    # Of all images but the first, the kernels of the second half count.
    counted = np.mean([states[place].kernel for place in (6, 7, 10, 11)], 0)
    np.testing.assert_allclose(states[SEARCH].kernel, counted, atol=1e-7)
    assert not np.allclose(states[SEARCH].kernel, states[0].kernel, atol=1e-5)


def test_every_plane_is_searched():
    states = list(iter_restore(picture(2, 10, 12), **MOTION, axes="ZYX", share_kernel=False))
    assert [state.searching for state in states] == ([True] * SEARCH + [False] * STEPS) * 2


def test_until_an_image_has_formed_the_interpolated_source_is_shown():
    image = picture(10, 12)
    states = list(iter_restore(image, **MOTION))
    for state in states[:4]:
        np.testing.assert_allclose(state.image, interpolated(image, 2, "area"), rtol=1e-4)
    for first in (4, 8):
        np.testing.assert_array_equal(states[first].image, states[first + 3].image)
        assert not np.allclose(states[first].image, states[first - 1].image)


# Both directions of a path and two more images, or as many steps of what is followed.
PATHS = SearchConfig(rounds=1, steps=3, channels=4)


@pytest.mark.parametrize(
    ("change", "searched"),
    [
        ({}, 0),
        ({"kernel_family": "auto"}, 0),
        ({"kernel_family": "gaussian"}, 0),
        ({"kernel_family": "line"}, SEARCH),
        # Both directions of a path, or as many steps of what is followed.
        (
            {"kernel_family": "trajectory", "search": SearchConfig(rounds=1, steps=4, channels=4)},
            12,
        ),
        ({"kernel": np.ones((5, 5))}, 0),
        ({"kernel": np.ones((5, 5)), "kernel_family": "line"}, 0),
        ({"rks": RKSConfig(sampler="paper", every=2)}, 0),
        ({"rks": RKSConfig(sampler="paper", every=2), "kernel_family": "line"}, 0),
        ({"kernel_family": "line", "search": SearchConfig(rounds=3, steps=2, channels=4)}, 4 * 2),
        ({"kernel_family": "line", "search": SearchConfig(rounds=1, channels=4)}, 2 * STEPS),
    ],
)
def test_only_a_motion_that_is_not_known_is_searched_for(change, searched):
    """And no image of the search takes more steps than the restoration."""
    change = dict(change)
    kernel = change.pop("kernel", None)
    run = Run(picture(10, 12), settings(**change), kernel)
    states = list(run)
    assert run.n_steps == len(states) == searched + STEPS
    assert [state.step for state in states] == list(range(1, run.n_steps + 1))
    assert [state.searching for state in states] == [True] * searched + [False] * STEPS
    moves = not np.array_equal(states[searched].kernel, states[-1].kernel)
    assert moves is (kernel is None and searched == 0)


# The kernel of optics


@pytest.fixture
def updates(monkeypatch) -> list[str]:
    """Grow by one per kernel update."""
    done: list[str] = []
    step = DynamicKernelPrior.step

    def watched(prior, image):
        if image is not None:
            done.append("update")
        return step(prior, image)

    monkeypatch.setattr(DynamicKernelPrior, "step", watched)
    return done


def kernels_of(**rks: object) -> list[np.ndarray]:
    config = RKSConfig(particles=16, **rks)
    return [state.kernel for state in Run(picture(10, 12), settings(iterations=12, rks=config))]


def test_the_kernel_of_optics_stands_once_it_has_been_updated_enough(updates):
    """At the mean of the last third of six: of the fifth and of the sixth."""
    kernels = kernels_of(every=1, updates=6)
    assert len(updates) == 6
    moving = kernels_of(every=1, updates=10**6)
    assert len(updates) == 6 + 11
    for kernel, free in zip(kernels[:6], moving[:6], strict=True):
        np.testing.assert_array_equal(kernel, free)
    np.testing.assert_allclose(kernels[6], (moving[5] + moving[6]) / 2, atol=1e-7)
    for kernel in kernels[7:]:
        np.testing.assert_array_equal(kernel, kernels[6])
    assert not any(np.array_equal(*pair) for pair in pairwise(moving))


def test_a_kernel_as_published_never_stands(updates):
    kernels = kernels_of(sampler="paper", every=1, updates=2)
    assert len(updates) == 11
    assert not any(np.array_equal(*pair) for pair in pairwise(kernels))


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_the_kernel_of_a_preset_stands_before_the_run_ends(preset):
    resolved = Settings(preset=preset).resolve()
    assert resolved.rks.updates * resolved.rks.every < resolved.iterations


# What it is for


def isotropic(variance: float) -> np.ndarray:
    offsets = np.arange(15) - 7
    kernel = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / variance)
    return kernel / kernel.sum()


@pytest.fixture(scope="module")
def simulated() -> tuple[np.ndarray, np.ndarray]:
    """Winding bright bands, 48 x 48, and what a Gaussian of variance 3 leaves of them at x2."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).random((48, 48)), 1.5, mode="wrap")
    bands = np.where(field > field.mean(), 200.0, 20.0)
    hr = ndimage.gaussian_filter(bands, 0.7, mode="wrap")
    return hr, degrade(hr, isotropic(3.0), noise=0.5, boundary="circular")


QUICK = {"device": "cpu", "precision": "float32", "iterations": 150, "dip": DIPConfig(channels=16)}


def test_blind_super_resolution_beats_interpolation_and_finds_the_width(simulated):
    hr, lr = simulated
    result = restore(lr, **QUICK, kernel_size=15)
    grid = (np.arange(48) - 0.5) / 2
    bicubic = ndimage.map_coordinates(
        lr, np.meshgrid(grid, grid, indexing="ij"), order=3, mode="grid-wrap"
    )
    assert psnr(result.image, hr, 4) > psnr(bicubic, hr, 4) + 3
    widths = np.arange(0.5, 8, 0.25)
    alike = [kernel_ncc(result.kernel, isotropic(width)) for width in widths]
    assert widths[np.argmax(alike)] == pytest.approx(3.0, rel=0.35)
    assert max(alike) > 0.96


def test_the_kernel_turns_to_an_oblique_one_while_the_image_forms(simulated):
    hr, _ = simulated
    offsets = np.stack(np.mgrid[-7:8, -7:8], -1)
    form = np.linalg.inv([[5.0, 2.5], [2.5, 2.0]])
    oblique = np.exp(-0.5 * np.einsum("...i,ij,...j", offsets, form, offsets))
    lr = degrade(hr, oblique, noise=0.5, boundary="circular")
    brief = QUICK | {
        "pke": PKEConfig(hidden=(200,), warm_up=100),
        "rks": RKSConfig(particles=128, updates=24),
    }
    states = list(iter_restore(lr, **brief, kernel_size=15))
    first, found = (kernel_ncc(state.kernel, oblique) for state in (states[0], states[-1]))
    assert found > first + 0.03
    assert found > 0.92


def test_the_search_finds_a_straight_motion_better_than_its_start(simulated):
    hr, _ = simulated
    moved = line(*(torch.tensor([value]) for value in (9.0, 0.6, 0.6)), (15, 15), (7.0, 7.0))[0]
    lr = degrade(hr, moved.numpy(), noise=0.5, boundary="circular")
    brief = QUICK | {
        "iterations": 50,
        "kernel_family": "line",
        "search": SearchConfig(channels=16),
        "pke": PKEConfig(hidden=(200,), warm_up=100),
        "rks": RKSConfig(particles=128),
        "seed": 3,
    }
    states = list(iter_restore(lr, **brief, kernel_size=15))
    first, found = (kernel_ncc(state.kernel, moved.numpy()) for state in (states[0], states[-1]))
    assert found > first + 0.1
    assert found > 0.8


def test_a_known_kernel_helps(simulated):
    hr, lr = simulated
    right, wrong = (restore(lr, **QUICK, kernel=isotropic(variance)) for variance in (3.0, 0.5))
    assert psnr(right.image, hr, 4) > psnr(wrong.image, hr, 4) + 3


def test_a_result_records_how_it_came_about():
    run = Run(picture(10, 12), replace(settings(), seed=3))
    result = finished(run).result()
    assert result.device == "cpu"
    assert result.seed == 3
    assert result.seconds > 0
    assert result.steps == len(result.history) == STEPS


def test_restore_shows_every_setting_as_a_keyword():
    shown = inspect.signature(restore).parameters
    assert next(iter(shown)) == "image"
    assert set(shown) == {
        "image",
        "kernel",
        "progress",
        *(field.name for field in fields(Settings)),
    }
    for field in fields(Settings):
        assert shown[field.name].default == field.default
        assert shown[field.name].kind is inspect.Parameter.KEYWORD_ONLY


# What there is to trust in it

GAIN, OFFSET = 2.0, 100.0
COUNTING = {
    "method": "richardson-lucy",
    "scale": 1,
    "boundary": "circular",
    "device": "cpu",
    "iterations": 12,
    "noise": NoiseConfig(gain=GAIN, offset=OFFSET),
    "diagnostics": True,
}
# Of which every image is the very one that is blurred again for the report.
PLAIN = COUNTING | {"richardson_lucy": RichardsonLucyConfig(strength=0.0)}
BLUR = isotropic(2.25)


def bands(*shape: int) -> np.ndarray:
    """Winding bright bands along the last two axes, 30 and 200 photons, softened."""
    field = np.random.default_rng(0).random(shape)
    last = [0] * (len(shape) - 2)
    field = ndimage.gaussian_filter(field, [*last, 2, 2], mode="wrap")
    light = np.where(field > field.mean(), 200.0, 30.0)
    return ndimage.gaussian_filter(light, [*last, 0.7, 0.7], mode="wrap")


def exposed(light: np.ndarray) -> np.ndarray:
    """Return what a camera makes of light behind `BLUR`."""
    mean = ndimage.convolve(light, BLUR[(None,) * (light.ndim - 2)], mode="wrap")
    return OFFSET + GAIN * np.random.default_rng(1).poisson(mean)


def left_over(image: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    return (image - fitted) / np.sqrt(GAIN * (fitted - OFFSET))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_the_residual_is_what_is_left_over_in_units_of_the_noise(method, scale):
    image = exposed(bands(40, 44))
    config = TINY | PLAIN | {"method": method, "scale": scale}
    result = restore(image, **config, kernel=BLUR)
    fitted = degrade(result.image, result.kernel, scale=scale, boundary="circular")
    expected = left_over(image, fitted)
    assert result.residual.dtype == np.float32
    np.testing.assert_allclose(result.residual, expected, atol=2e-3)
    (report,) = result.reports
    assert report.misfit == pytest.approx(np.mean(expected**2), rel=1e-3)
    square = np.mean(expected**2)
    down, right = expected[1:] * expected[:-1], expected[:, 1:] * expected[:, :-1]
    assert report.correlation == pytest.approx((down.mean() + right.mean()) / 2 / square, abs=1e-3)
    assert report.kernel_width == pytest.approx(2.355 * 1.5, rel=0.02)


@pytest.mark.parametrize(
    ("axes", "planes"),
    [
        ("YX", 1),
        ("XY", 1),
        ("YXC", 1),
        ("CYX", 2),
        ("YCX", 2),
        ("TYX", 3),
        ("ZYX", 3),
        ("YXZ", 3),
        ("TCYX", 6),
        ("TYXC", 3),
    ],
)
def test_diagnostics_lie_along_the_axes_of_source_and_image(axes, planes):
    """Recomputed for all axes at once."""
    canonical = "".join(axis for axis in "TZCYX" if axis in axes)
    lengths = {"T": 3, "Z": 3, "C": 2, "Y": 40, "X": 44}
    order = [canonical.index(axis) for axis in axes]
    image = exposed(bands(*(lengths[axis] for axis in canonical))).transpose(order)
    result = restore(image, **PLAIN, axes=axes, kernel=BLUR)
    blur = BLUR[(None,) * (len(axes) - 2)].transpose(order)
    fitted = ndimage.convolve(result.image, blur, mode="wrap")
    assert result.residual.shape == image.shape
    np.testing.assert_allclose(result.residual, left_over(image, fitted), atol=2e-3)
    assert result.uncertainty.shape == result.image.shape
    assert result.uncertainty.dtype == np.float32
    assert (result.uncertainty > 0).all()
    assert len(result.reports) == planes
    assert all(report.resolution_after is not None for report in result.reports)


def test_each_plane_has_the_report_that_it_has_alone():
    image = exposed(bands(2, 40, 44))
    whole = restore(image, **COUNTING, axes="ZYX", kernel=BLUR, share_kernel=False)
    for number, plane in enumerate(image):
        alone = restore(plane, **COUNTING, kernel=BLUR)
        assert whole.reports[number].figures() == alone.reports[0].figures()
        np.testing.assert_array_equal(whole.residual[number], alone.residual)
        np.testing.assert_array_equal(whole.uncertainty[number], alone.uncertainty)
    first, second = whole.reports
    assert first.figures() != second.figures()


def test_of_an_enlarged_image_the_residual_has_source_pixels_and_the_uncertainty_its_own():
    image = exposed(bands(2, 40, 44))
    result = restore(image, **COUNTING | {"scale": (2, 1)}, axes="ZYX", kernel=BLUR)
    assert result.residual.shape == (2, 40, 44)
    assert result.uncertainty.shape == result.image.shape == (2, 80, 44)


def test_the_uncertainty_is_in_intensity_units_and_the_residual_in_none():
    image = exposed(bands(40, 44))
    plain = restore(image, **COUNTING, kernel=BLUR)
    tenfold = COUNTING | {"noise": NoiseConfig(gain=10 * GAIN, offset=10 * OFFSET)}
    scaled = restore(10 * image, **tenfold, kernel=BLUR)
    np.testing.assert_allclose(scaled.uncertainty, 10 * plain.uncertainty, rtol=1e-3)
    np.testing.assert_allclose(scaled.residual, plain.residual, atol=1e-3)


def test_most_of_the_truth_lies_within_the_uncertainty():
    light = bands(48, 48)
    result = restore(exposed(light), **COUNTING | {"iterations": 160}, kernel=BLUR)
    off = np.abs(result.image - (OFFSET + GAIN * light))
    assert np.mean(off <= result.uncertainty) > 0.9
    assert result.uncertainty.mean() < 8 * off.mean()


def test_without_diagnostics_there_are_reports_and_no_maps():
    image = exposed(bands(2, 40, 44))
    kept, left = (
        restore(image, **COUNTING | {"diagnostics": asked}, axes="ZYX", kernel=BLUR)
        for asked in (True, False)
    )
    assert left.residual is None
    assert left.uncertainty is None
    assert len(left.reports) == 2
    for report, same in zip(left.reports, kept.reports, strict=True):
        assert report.figures() == same.figures()
        assert report.residual is None
        assert report.uncertainty is None
    np.testing.assert_array_equal(left.image, kept.image)


@both_ways
def test_an_image_whose_photons_are_not_counted_has_no_resolution(tiny, search):
    run = Run(picture(2, 10, 12), settings(tiny, axes="ZYX", diagnostics=True, share_kernel=False))
    states = list(run)
    result = run.result()
    assert result.residual.shape == (2, 10, 12)
    assert np.isfinite(result.residual).all()
    assert result.uncertainty is None
    per_plane = search + STEPS
    for number, state in enumerate(states, start=1):
        assert (state.report is not None) is (number % per_plane == 0)
    assert result.reports == (states[per_plane - 1].report, states[-1].report)
    for report in result.reports:
        assert report.resolution_before is report.resolution_after is None
        assert report.misfit > 0
        assert "Residual" in str(report)


def test_planes_that_a_stopped_run_did_not_finish_have_no_report():
    run = Run(exposed(bands(3, 40, 44)), Settings(**COUNTING, axes="ZYX"), BLUR)
    states = iter(run)
    while next(states).plane != (1,):
        pass
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    assert [report is None for report in result.reports] == [False, True, True]
    for values in (result.residual, result.uncertainty):
        assert values.shape == (3, 40, 44)
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1:]).all()


def test_a_run_that_is_stopped_in_its_first_plane_has_no_report_at_all():
    run = Run(picture(2, 10, 12), settings(axes="ZYX", diagnostics=True))
    states = iter(run)
    next(states)
    states.close()
    assert run.result().reports == (None, None)


def test_a_plane_that_diverges_has_no_report(monkeypatch):
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=3))
    result = restore(picture(2, 10, 12), **TINY, axes="ZYX", diagnostics=True, share_kernel=False)
    assert result.stop is Stop.DIVERGED
    assert result.reports[0] is None
    assert np.isnan(result.residual[0]).all()
    assert result.reports[1] is not None
    assert np.isfinite(result.residual[1]).all()


def test_planes_without_contrast_have_no_report():
    image = exposed(bands(3, 40, 44))
    image[1] = 130
    result = restore(image, **COUNTING, axes="ZYX", kernel=BLUR)
    assert result.stop is Stop.COMPLETED
    assert [report is None for report in result.reports] == [False, True, False]
    for values in (result.residual, result.uncertainty):
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[::2]).all()


def test_darkness_does_not_spoil_the_misfit():
    """A photon too many where hardly any is expected is a few standard deviations off."""
    light = np.zeros((48, 48))
    light[8::16, 8::16] = 700
    image = (exposed(light) - OFFSET) / GAIN
    config = PLAIN | {"noise": NoiseConfig(gain=1.0), "iterations": 40}
    result = restore(image, **config, kernel=BLUR)
    assert result.reports[0].misfit < 3
    assert np.abs(result.residual).max() < 100


@pytest.mark.parametrize("shape", [(1, 12), (12, 1)])
def test_a_line_of_pixels_has_a_report(shape):
    result = restore(picture(*shape), **TINY, kernel=np.ones((1, 1)))
    assert np.isfinite(result.reports[0].correlation)


# What planes share


CHANNEL_WIDTHS = (1.2, 2.2)
SHARED = COUNTING | {
    "kernel_family": "gaussian",
    "kernel_size": 15,
    "boundary": "free",
    "pke": PKEConfig(hidden=(200,), warm_up=100),
    "rks": RKSConfig(particles=128, updates=24),
}


@pytest.fixture(scope="module")
def two_channels() -> np.ndarray:
    """Two channels of two planes: bands, each channel behind a Gaussian of its own."""
    light = bands(4, 48, 48).reshape(2, 2, 48, 48)
    blurred = [
        ndimage.gaussian_filter(channel, [0, width, width], mode="wrap")
        for channel, width in zip(light, CHANNEL_WIDTHS, strict=True)
    ]
    return OFFSET + GAIN * np.random.default_rng(1).poisson(blurred)


def test_planes_of_a_channel_share_a_kernel_that_is_near_the_true_one(two_channels):
    result = restore(two_channels, **SHARED, axes="CZYX")
    assert result.kernel.shape == (2, 2, 15, 15)
    assert result.stop is Stop.COMPLETED
    for kernels, width in zip(result.kernel, CHANNEL_WIDTHS, strict=True):
        np.testing.assert_array_equal(kernels[0], kernels[1])
        assert kernel_ncc(kernels[0], isotropic(width**2)) > 0.92
    narrow, wide = (np.sqrt(math.prod(measure(kernel).fwhm)) for kernel in result.kernel[:, 0])
    assert narrow < wide


def test_planes_restored_together_share_a_kernel_that_is_near_the_true_one():
    light = ndimage.gaussian_filter(bands(3, 48, 48), [0, 0.5, 0.5], mode="wrap")
    images = [degrade(plane, isotropic(3.0), noise=0.5, boundary="circular") for plane in light]
    chosen = SHARED | QUICK | {"method": "dip", "iterations": 100, "scale": 2, "noise": None}
    result = restore(np.stack(images), **chosen, axes="ZYX")
    assert result.stop is Stop.COMPLETED
    np.testing.assert_array_equal(result.kernel, result.kernel[[0, 0, 0]])
    assert kernel_ncc(result.kernel[0], isotropic(3.0)) > 0.96


def test_the_search_for_a_shared_kernel_is_shown_and_stopped_like_any(two_channels):
    run = Run(two_channels, Settings(**SHARED, axes="CZYX"))
    states = list(run)
    pilots = [state.plane for state in states if state.searching]
    assert set(pilots) == {(0, 0), (1, 0)}
    assert len([state for state in states if state.done]) == 4
    assert set(run.plans) == {0, 1}
    for state in run.iterate(done=()):  # what was found before is not sought again
        assert not state.searching
    run.plans.clear()
    states = iter(run)
    state = next(states)
    assert state.searching
    np.testing.assert_allclose(state.image, two_channels[0, 0], rtol=1e-6)
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    np.testing.assert_array_equal(result.kernel[1, 1], state.kernel)


def done_by(run: Run, done: Collection[Index] = ()) -> dict[Index, State[np.ndarray]]:
    return {state.plane: state for state in run.iterate(done) if state.done}


MANY = {  # planes, and those that are left out
    "richardson-lucy": (4, {(0,), (2,)}),
    "dip": (14, {(number,) for number in range(12)}),
}


@pytest.mark.parametrize("method", MANY)
@pytest.mark.parametrize("told", [True, False])
def test_planes_do_not_depend_on_those_that_are_left_out(method, told):
    n_planes, out = MANY[method]
    image = exposed(bands(n_planes, 24, 26))
    config = settings(
        method=method, axes="ZYX", scale=1, kernel_family="gaussian", noise=COUNTING["noise"]
    )
    whole = Run(image, config)
    expected = done_by(whole)
    assert set(expected) == {(number,) for number in range(n_planes)}
    part = Run(image, config)
    if told:
        part.plans.update(whole.plans)
    found = done_by(part, out)
    assert set(found) == set(expected) - out
    for index, state in found.items():
        np.testing.assert_array_equal(state.image, expected[index].image)
        np.testing.assert_array_equal(state.kernel, expected[index].kernel)
        assert state.report.figures() == expected[index].report.figures()
    assert part.result().stop is Stop.CANCELLED
    assert done_by(whole, expected) == {}


def test_planes_that_are_restored_together_are_unless_all_are_done():
    image = picture(3, 10, 12)
    expected = done_by(Run(image, settings(axes="ZYX")))
    found = done_by(Run(image, settings(axes="ZYX")), {(0,), (2,)})
    assert set(found) == set(expected)
    np.testing.assert_array_equal(found[1,].image, expected[1,].image)


def test_planes_restored_together_are_done_at_the_same_step():
    run = Run(picture(3, 10, 12), settings(axes="ZYX"))
    *states, _, _ = run
    assert [state.step for state in states] == list(range(1, STEPS + 1))
    assert {state.plane for state in states} == {(0,)}
    *_, first, second, third = run
    assert [state.plane for state in (first, second, third)] == [(0,), (1,), (2,)]
    assert first.step == second.step == third.step == STEPS
    assert first.stop is second.stop is Stop.RUNNING
    assert third.stop is Stop.COMPLETED
    assert len(run.result().history) == STEPS


@pytest.mark.parametrize("taken", [3, STEPS, STEPS + 1])
def test_planes_restored_together_are_all_kept_where_the_run_is_stopped(taken):
    """Also while they are handed out."""
    image = picture(3, 10, 12)
    run = Run(image, settings(axes="ZYX"))
    states = iter(run)
    for _ in range(taken):
        state = next(states)
    states.close()
    result = run.result()
    assert result.stop is Stop.CANCELLED
    for number in range(3):
        assert not np.allclose(result.image[number], interpolated(image[number], 2, "area"))
        np.testing.assert_array_equal(result.kernel[number], state.kernel)
    if taken >= STEPS:
        whole = finished(run).result()
        np.testing.assert_array_equal(result.image, whole.image)


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_run_that_does_not_keep_holds_no_planes(method, keep):
    image = exposed(bands(15, 24, 26))
    chosen = settings(method=method, axes="ZYX", scale=1, kernel_family="gaussian", iterations=3)
    run = Run(image, chosen, keep=keep)
    alive = []
    for state in run:
        if state.done:
            alive.append(weakref.ref(state.image))
    del state
    gc.collect()
    assert len(alive) == 15
    assert [reference() is not None for reference in alive] == [keep] * 15
    if keep:
        assert run.result().stop is Stop.COMPLETED
    else:
        with pytest.raises(ValueError, match=r"result: expected a run .* that keeps its planes"):
            run.result()


# Tiles, memory


TILED = COUNTING | {"boundary": "free", "iterations": 60, "axes": "YX"}
# What Richardson–Lucy may take on these images.
ROUTE = Route(((0.0, 0.0),) * 2 + ((0.6, 0.6),) * 10, ((0.02, 4),))


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_of_a_plane_join_to_what_it_is_as_a_whole(scale):
    light = bands(150, 140)
    image = exposed(light)
    plan = Plan(BLUR[3:-3, 3:-3].astype(np.float32) / BLUR[3:-3, 3:-3].sum(), ROUTE)
    results = []
    for tile in (None, 64):
        run = Run(image, Settings(**TILED | {"scale": scale, "tile": tile}), plan.kernel)
        run.plans[0] = plan
        results.append(finished(run).result())
    whole, tiled = results
    assert tiled.settings.tile == 64
    assert whole.settings.tile is None
    off = tiled.image - whole.image
    span = np.ptp(whole.image)
    assert 10 * np.log10(span**2 / np.mean(off**2)) > 45
    np.testing.assert_allclose(tiled.residual, whole.residual, atol=0.2)
    np.testing.assert_allclose(tiled.uncertainty, whole.uncertainty, rtol=0.2)
    # Against the truth, and at every seam.
    truth = OFFSET + GAIN * light.repeat(scale, 0).repeat(scale, 1)
    wrong = tiled.image - truth
    tiling = Tiling((150, 140), 64, 18)
    for axis in range(2):
        spans = sorted({(tile.window[axis].start, tile.window[axis].stop) for tile in tiling})
        assert len(spans) > 2
        near = np.zeros(wrong.shape[axis], bool)
        for (_, stop), (start, _) in pairwise(spans):
            seam = scale * (start + stop) // 2
            near[seam - 3 * scale : seam + 3 * scale] = True
        at, elsewhere = (
            np.sqrt(np.mean(np.compress(which, wrong, axis) ** 2)) for which in (near, ~near)
        )
        assert at < 1.3 * elsewhere
        steps = np.abs(np.diff(off, axis=axis)).mean(1 - axis)
        assert steps.max() < 0.02 * np.abs(np.diff(whole.image, axis=axis)).mean()


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_a_blind_plane_is_restored_in_tiles_under_one_kernel(method):
    image = exposed(bands(70, 64))
    small = {"kernel_size": 7, "tile": 40, "iterations": 20, "dip": DIPConfig(channels=4)}
    run = Run(image, Settings(**SHARED | small | {"method": method}))
    states = list(run)
    result = run.result()
    assert result.stop is Stop.COMPLETED
    assert result.image.shape == (70, 64)
    assert result.settings.tile == 40
    assert states[0].searching
    searching = [state.searching for state in states]
    assert searching == sorted(searching, reverse=True)
    assert len({state.kernel.tobytes() for state in states if not state.searching}) == 1
    (report,) = result.reports
    assert report.residual.shape == (70, 64)
    assert 0.5 < report.misfit < (3 if method == "richardson-lucy" else 100)
    again = finished(Run(image, result.settings)).result()
    np.testing.assert_array_equal(again.image, result.image)


def test_tiles_cannot_wrap():
    with pytest.raises(ValueError, match="tile: expected none with boundary 'circular'"):
        Run(picture(70, 64), settings(tile=40, boundary="circular"))


def test_a_circular_image_that_is_large_for_the_memory_is_not_taken_apart(monkeypatch):
    monkeypatch.setattr(tile_size, "_SURELY_FREE", 0)
    monkeypatch.setattr(tile_size, "free_memory", lambda _: 10**6)
    chosen = settings(boundary="circular")
    assert Run(picture(70, 64), chosen).settings.tile is None
    assert Run(picture(70, 64), settings()).settings.tile == 32


def test_a_plane_whose_pilot_diverges_is_left_as_it_was_where_it_needs_tiles(monkeypatch):
    monkeypatch.setattr(DIPRestorer, "step", diverging(DIPRestorer.step, at=1))
    image = picture(70, 64)
    run = Run(image, settings(tile=40, scale=1))
    states = list(run)
    assert [state.done for state in states] == [False] * (len(states) - 1) + [True]
    result = run.result()
    assert states[-1].stop is result.stop is Stop.DIVERGED
    np.testing.assert_allclose(result.image, image, rtol=1e-5)
    assert result.reports == (None,)


def out_of_memory_beyond(monkeypatch, most: int, error: Exception, after: int = 0) -> list[int]:
    """Let memory run out after some steps on what has more samples; return what was done."""
    done: list[int] = []
    fit = block.fit

    def limited(parts):
        samples = parts.start().shape[-2] * parts.start().shape[-1]
        for number, state in enumerate(fit(parts)):
            if samples > most and number >= after:
                raise error
            yield state
        done.append(samples)

    monkeypatch.setattr(block, "fit", limited)
    return done


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ((100, 90), {"method": "richardson-lucy"}),
        ((100, 90), {"method": "dip"}),
        ((100, 90), {"method": "dip", "kernel": np.ones((5, 5))}),
        ((3, 100, 90), {"method": "richardson-lucy", "kernel": np.ones((5, 5))}),
        ((3, 100, 90), {"method": "richardson-lucy"}),
        ((3, 100, 90), {"method": "dip"}),
        ((2, 100, 90), {"method": "dip", "share_kernel": False}),
    ],
    ids=["photons", "network", "known", "known stack", "stack", "block", "each by itself"],
)
def test_where_memory_runs_out_tiles_become_smaller(monkeypatch, shape, change, after):
    most = 60 * 60
    done = out_of_memory_beyond(monkeypatch, most, NO_MEMORY[0], after)
    kernel = change.pop("kernel", None) if (change := dict(change)) else None
    chosen = settings(scale=1, iterations=3, kernel_family="gaussian", **change)
    run = Run(exposed(bands(*shape)), chosen, kernel)
    states = list(run)
    result = run.result()
    assert result.stop is states[-1].stop is Stop.COMPLETED
    assert np.isfinite(result.image).all()
    assert done and max(done) <= most
    note = "Memory ran out on cpu: tiles are now 50 pixels wide."
    assert run.notes == [note]
    assert result.notes == (note,)
    assert [state.note for state in states if state.note] == [note]
    assert run.settings.tile == result.settings.tile == 50
    steps = [state.step for state in states]
    assert steps == sorted(steps)
    assert all(state.step <= state.n_steps for state in states)
    assert None not in result.reports


def test_channels_of_one_plane_take_the_memory_of_one_plane(monkeypatch):
    monkeypatch.setattr(tile_size, "_SURELY_FREE", 0)
    chosen = settings(scale=1, axes="CYX", method="dip")
    resolved = Run(picture(90, 80), replace(chosen, axes="YX")).settings
    # Of one plane with a margin, of which planes take at most six tenths.
    memory = int(bytes_per_pixel(resolved, 1) * 110 * 100 / 0.6)
    assert Run(picture(12, 90, 80), chosen, memory=memory).settings.tile is None
    assert Run(picture(90, 80), replace(chosen, axes="YX"), memory=memory // 3).settings.tile


@pytest.mark.parametrize("shape", [(90, 80), (2, 90, 80)])
@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_the_plan_counts_tiles_while_what_they_share_is_sought(method, shape):
    chosen = settings(scale=1, iterations=3, tile=40, share_kernel=False, method=method)
    run = Run(exposed(bands(*shape)), chosen)
    planned = run.n_steps
    assert next(run.iterate()).n_steps == planned


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_every_way_to_run_out_of_memory_is_known(monkeypatch, error):
    out_of_memory_beyond(monkeypatch, 60 * 60, error)
    run = Run(picture(70, 64), settings(scale=1, iterations=2))
    assert finished(run).result().stop is Stop.COMPLETED
    assert run.settings.tile == 35


def test_where_nothing_smaller_is_left_it_is_said_that_memory_ran_out(monkeypatch):
    out_of_memory_beyond(monkeypatch, 100, torch.OutOfMemoryError("out of memory"))
    run = Run(picture(140, 90), settings(scale=1))
    with pytest.raises(torch.OutOfMemoryError):
        list(run)
    assert run.settings.tile == 35
    assert len(run.notes) == 2


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    out_of_memory_beyond(monkeypatch, 100, RuntimeError("broken"))
    run = Run(picture(140, 90), settings(scale=1))
    with pytest.raises(RuntimeError, match="broken"):
        list(run)
    assert run.notes == []


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", ["gaussian", "line"])
@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_steps_never_fall_and_never_pass_the_plan(method, family, shared, tile):
    image = exposed(bands(4, 34, 40)).reshape(2, 2, 34, 40)
    image[0, 1] = 130  # without contrast
    chosen = settings(
        method=method,
        kernel_family=family,
        share_kernel=shared,
        tile=tile,
        iterations=3,
        scale=1,
        axes="CZYX",
        noise=COUNTING["noise"],
    )
    run = Run(image, chosen)
    before = 0
    for state in run:
        assert before <= state.step <= state.n_steps == run.n_steps
        assert state.step > before or state.done or settles(state)
        before = state.step
    assert state.stop is run.result().stop is Stop.COMPLETED
    assert [report is None for report in run.result().reports] == [
        index == (0, 1) for index in np.ndindex(2, 2)
    ]


def test_planes_without_contrast_have_the_kernel_of_their_channel():
    stack = np.stack([picture(24, 20, seed=seed) for seed in range(4)])
    stack[1] = 7
    chosen = settings(axes="ZYX", scale=1, method="richardson-lucy", kernel_family="gaussian")
    run = Run(stack, chosen)
    for state in run:
        if state.done and state.plane == (1,):
            break
    stopped = run.result()
    assert stopped.kernel[0].max() < 0.9
    for kernel in stopped.kernel[1:]:
        np.testing.assert_array_equal(kernel, stopped.kernel[0])


def test_a_stack_whose_planes_share_no_kernel_says_so():
    stack = np.full((40, 24, 20), 5, np.uint16)
    stack[3] = picture(24, 20)  # of those that are looked at, none has contrast
    run = Run(
        stack, settings(axes="ZYX", scale=1, method="richardson-lucy", kernel_family="gaussian")
    )
    result = finished(run).result()
    assert any("kernels of their own" in note for note in result.notes)
    assert result.kernel[3].max() < 0.9 and result.kernel[4].max() == 1


def test_a_channel_without_contrast_says_nothing_of_the_method():
    counts = np.random.default_rng(0).poisson(picture(3, 64, 64)).astype(np.uint16)
    flat = np.full_like(counts, 100)
    kinds = {
        Run(np.stack(pair), Settings(axes="CTYX")).choice
        for pair in ((counts, flat), (flat, counts))
    }
    assert kinds == {Run(counts[1], Settings(axes="YX")).choice}


def test_optics_are_given_for_all_channels_or_none():
    known = OpticsConfig(numerical_aperture=1.4, wavelength=525, pixel_size=65)
    stack = picture(2, 24, 20)
    Run(stack, settings(axes="CYX", optics=(known, None)))
    with pytest.raises(ValueError, match="optics: expected one, or one for each channel, 2; got 3"):
        Run(stack, settings(axes="CYX", optics=(known, None, known)))
