"""Results that are computed as they are looked at."""

import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
from napari.layers import Image
from napari.settings import get_settings

import napari_dkp as dkp
from napari_dkp import restore, tasks
from napari_dkp._napari.layers import METADATA_KEY, settings_from_layer
from napari_dkp.stack import Run

PSF = np.full((3, 3), 1 / 9, np.float32)
QUICK = {"method": "richardson-lucy", "iterations": 3, "device": "cpu"}


def stack(*shape: int, **options: object) -> Image:
    values = np.random.default_rng(0).poisson(50, shape).astype(np.uint16)
    return Image(values, name="stack", **options)


@pytest.fixture
def restored(monkeypatch):
    """Collect the planes that tasks restore, and the plans that they find."""
    found = {"planes": [], "plans": 0, "threads": set()}
    planes, plan = tasks.restore_planes, Run.find_plan

    def restore_planes(job, channel, numbers, *rest):
        found["planes"] += numbers
        found["threads"].add(threading.current_thread())
        return planes(job, channel, numbers, *rest)

    def find_plan(run, channel):
        found["plans"] += 1
        return plan(run, channel)

    monkeypatch.setattr(tasks, "restore_planes", restore_planes)
    monkeypatch.setattr(Run, "find_plan", find_plan)
    return found


@pytest.fixture
def at_leisure(make_napari_viewer):  # which starts from the usual settings
    """Let napari look at layers in a thread of its own."""
    experimental = get_settings().experimental
    before, experimental.async_ = experimental.async_, True
    yield
    experimental.async_ = before


@pytest.fixture
def looking(at_leisure, restorer, monkeypatch):
    viewer, widget = restorer
    monkeypatch.setattr("napari_dkp.stack.Run", Run)
    psf = viewer.add_image(PSF, name="psf")

    def choose(layer: Image) -> None:
        widget.image.choose(viewer.add_layer(layer))
        widget.kernel.choose(psf)
        widget.form.basic.editors["method"].set_value("richardson-lucy")
        widget.form.basic.editors["device"].set_value("cpu")
        widget.form.advanced.editors["iterations"].set_value(3)
        widget.result.way.set_value("lazy")

    return viewer, widget, choose


def shown(layer: Image) -> np.ndarray:
    return np.asarray(layer._slice.image.raw)


def test_planes_are_computed_when_the_slider_comes_to_them(looking, restored, idle, qtbot):
    viewer, widget, choose = looking
    layer = stack(5, 40, 50, axis_labels=("z", "y", "x"))
    choose(layer)
    viewer.dims.set_point(0, 1)
    widget.restore()
    idle()
    image = viewer.layers["stack [DKP ×2]"]
    assert isinstance(image.data, da.Array)
    assert "computed as you look" in widget.panel.status.text()
    wanted = restore(layer.data, kernel=PSF, axes="ZYX", **QUICK).image
    for n in (1, 3, 0, 3):
        viewer.dims.set_point(0, n)
        qtbot.waitUntil(lambda n=n: np.array_equal(shown(image), wanted[n]), timeout=10_000)
    assert {2, 4}.isdisjoint(restored["planes"]), "nobody looked at those"
    assert restored["plans"] == 1, "what planes share is found once"
    assert threading.main_thread() not in restored["threads"]
    kernel = viewer.layers["stack [DKP kernel]"]
    assert kernel.data.shape == (5, 3, 3)
    assert not (kernel.data != PSF).any()
    assert settings_from_layer(image).scale == 2


def test_the_viewer_does_not_wait(looking, idle, qtbot, monkeypatch):
    viewer, widget, choose = looking
    choose(stack(5, 40, 50, axis_labels=("z", "y", "x")))
    widget.restore()
    idle()
    image = viewer.layers["stack [DKP ×2]"]
    qtbot.waitUntil(lambda: image.loaded, timeout=10_000)
    go_on = threading.Event()
    planes = image.data

    def slow(chunk: np.ndarray) -> np.ndarray:
        go_on.wait(10)
        return chunk

    image.data = planes.map_blocks(slow, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    began = time.monotonic()
    viewer.dims.set_point(0, 3)
    viewer.dims.set_point(0, 4)
    assert time.monotonic() - began < 5
    assert not image.loaded
    go_on.set()
    qtbot.waitUntil(lambda: image.loaded, timeout=10_000)


def test_a_stopped_search_adds_nothing(looking, idle, monkeypatch):
    viewer, widget, choose = looking
    choose(stack(5, 40, 50, axis_labels=("z", "y", "x")))
    planes, begun = tasks.restore_planes, threading.Event()

    def waiting(*given):
        begun.set()
        while widget._running.job is None or not widget._running.job.is_ending:
            time.sleep(0.01)
        return planes(*given)

    monkeypatch.setattr(tasks, "restore_planes", waiting)
    before = list(viewer.layers)
    widget.restore()
    assert begun.wait(20)
    widget.stop()
    idle()
    assert list(viewer.layers) == before
    assert widget.panel.status.text() == "The run was stopped before there was a result."


def test_kernels_of_their_own_are_not_passed_off_as_shared(looking, idle):
    viewer, widget, choose = looking
    choose(stack(3, 40, 50, axis_labels=("z", "y", "x")))
    widget.form.advanced.editors["share_kernel"].set_value(False)
    widget.restore()
    idle()
    facts = viewer.layers["stack [DKP kernel]"].metadata[METADATA_KEY]
    assert "kernels of their own" in facts["notes"][1]


def test_colours_and_parts_lie_where_they_should(looking, idle):
    viewer, widget, choose = looking
    values = np.random.default_rng(0).integers(0, 255, (4, 40, 50, 3)).astype(np.uint8)
    choose(Image(values, rgb=True, name="stack"))
    viewer.dims.set_point(0, 0)
    widget.planes.set_value("range")
    widget.planes.rows["Z"].first.setValue(2)
    widget.restore()
    idle()
    image = viewer.layers["stack [DKP ×2]"]
    assert (image.rgb, image.data.dtype, image.data.shape) == (True, np.uint8, (2, 80, 100, 3))
    wanted = restore(values[2:], kernel=PSF, axes="ZYXC", **QUICK).image
    np.testing.assert_array_equal(np.asarray(image.data), np.rint(wanted).clip(0, 255))
    assert image.data_to_world((0, 0, 0))[0] == 2
    assert "Save the layer" in image.metadata[METADATA_KEY]["notes"][0]


def test_it_is_refused_where_napari_would_stand_still(restorer, qtbot):
    viewer, widget = restorer
    widget.result.way.set_value("lazy")
    assert "Render Layers Asynchronously" in widget.panel.estimate.text()
    widget.restore()
    assert widget._running.job is None
    assert "Render Layers Asynchronously" in widget.panel.status.text()
    assert len(viewer.layers) == 1
    widget.result.way.set_value("memory")
    qtbot.waitUntil(lambda: "Render" not in widget.panel.estimate.text())


def test_a_lazy_array_can_be_added_from_the_console(
    at_leisure, make_napari_viewer, restored, qtbot
):
    """As docs/stacks.md says; napari remembers what tasks returned."""
    viewer = make_napari_viewer()
    values = stack(4, 40, 50).data
    with dask.config.set(scheduler="threads"):
        lazy = dkp.restore_dask(values, kernel=PSF, axes="ZYX", **QUICK)
        layer = viewer.add_image(lazy, scale=(1, 0.5, 0.5), contrast_limits=(0, 150))
        wanted = restore(values, kernel=PSF, axes="ZYX", **QUICK).image
        for n in (0, 3, 0, 1):
            viewer.dims.set_point(0, n)
            qtbot.waitUntil(lambda n=n: np.array_equal(shown(layer), wanted[n]), timeout=10_000)
    assert restored["plans"] == 1
