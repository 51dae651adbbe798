import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Shapes
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

from napari_dkp import estimate
from napari_dkp._napari import job, worker
from napari_dkp._napari.job import Drawing, Job
from napari_dkp._napari.layers import METADATA_KEY, settings_from_layer
from napari_dkp._napari.live import LiveLayers
from napari_dkp._napari.region import add_region
from napari_dkp._napari.widget import RestoreWidget
from napari_dkp.config import DIPConfig, Settings
from napari_dkp.optics_trials import N_TRIALS

HR, KERNEL = "cells [DKP ×2]", "cells [DKP kernel]"


@pytest.fixture
def notices():
    notification_manager.records.clear()
    yield notification_manager.records
    notification_manager.records.clear()


def begun(viewer):
    return lambda: HR in viewer.layers


def test_form_says_what_the_defaults_are(restorer):
    _, widget = restorer
    widget.form.basic.editors["preset"].set_value("fast")
    widget.form.basic.editors["preset"].set_value("balanced")
    expected = replace(Settings().resolve(), method="auto", iterations=None, dip=None)
    assert widget.form.settings() == expected


def test_a_run_ends_in_two_layers_over_the_source(restorer, idle, fake_run):
    viewer, widget = restorer
    widget.restore()
    assert not widget.panel.restore.isEnabled()
    assert widget.panel.stop.isEnabled()
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells", KERNEL, HR]
    source, image = viewer.layers["cells"], viewer.layers[HR]
    np.testing.assert_allclose(
        image.data_to_world((-0.5, -0.5)), source.data_to_world((-0.5, -0.5))
    )
    np.testing.assert_allclose(
        image.data_to_world((47.5, 59.5)), source.data_to_world((23.5, 29.5))
    )
    np.testing.assert_array_equal(image.data, fake_run.runs[0].enlarged)
    assert image.units == source.units
    assert settings_from_layer(image) == fake_run.runs[0].settings
    assert image.metadata[METADATA_KEY]["stop"] == "COMPLETED"
    assert widget.panel.status.text().startswith("The restoration is complete. 5 steps")
    assert widget.panel.restore.isEnabled()
    assert not widget.panel.stop.isEnabled()
    assert len(widget.panel.plot.curves[0].y) == 5


def test_layers_are_drawn_while_the_run_goes_on(restorer, qtbot, fake_run, monkeypatch):
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.02)
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    fake_run.runs[0].enlarged = fake_run.runs[0].enlarged + 7
    fake_run.runs[0].kernel = np.roll(fake_run.runs[0].kernel, 2)
    image, kernel = viewer.layers[HR], viewer.layers[KERNEL]
    expected = viewer.layers["cells"].data[0, 0] + 7
    qtbot.waitUntil(lambda: image.data[0, 0] == expected)
    qtbot.waitUntil(lambda: np.array_equal(kernel.data, fake_run.runs[0].kernel))
    qtbot.waitUntil(lambda: widget.panel.status.text().startswith("Step "))
    assert "of 10000" in widget.panel.status.text()
    assert len(widget.panel.plot.curves[0].y) > 2
    widget.stop()


def test_the_search_is_told_from_the_restoration(restorer, qtbot, fake_run, idle, monkeypatch):
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.0)
    fake_run.delay = 0.02
    fake_run.search_steps = 20
    said = []
    say = widget.panel.say
    monkeypatch.setattr(widget.panel, "say", lambda text, **options: said.append(text) or say(text))
    widget.form.advanced.editors["iterations"].set_value(20)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    idle()
    numbered = [text for text in said if " of 40, " in text]
    searching = [text for text in numbered if text.startswith("Finding the kernel: step ")]
    assert 0 < len(searching) < len(numbered)
    assert numbered[len(searching)].startswith("Step ")
    # The curve is that of the image that is handed out; a busy machine shows fewer points of it.
    curve = widget.panel.plot.curves[0].y
    assert set(curve) <= {1 / step for step in range(21, 41)}
    assert curve[-1] == 1 / 40
    assert viewer.layers[HR].metadata[METADATA_KEY]["steps"] == 40


@pytest.mark.parametrize("labels", [("c", "y", "x"), ("y", "c", "x"), ("y", "x", "c")])
def test_channels_and_colours_are_drawn_where_they_are(
    restorer, qtbot, fake_run, idle, monkeypatch, labels
):
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.0)
    fake_run.delay = 0.05
    lengths = {"c": 3, "y": 20, "x": 24}
    values = np.random.default_rng(1).random([lengths[axis] for axis in labels])
    widget.image.choose(viewer.add_image(values, name="stack", axis_labels=labels, rgb=False))
    assert widget.planes.isHidden() is (labels[-1] == "c")
    said = []
    say = widget.panel.say
    monkeypatch.setattr(widget.panel, "say", lambda text, **options: said.append(text) or say(text))
    widget.restore()
    idle()
    image, kernel = viewer.layers["stack [DKP ×2]"], viewer.layers["stack [DKP kernel]"]
    np.testing.assert_array_equal(image.data, fake_run.runs[0].enlarged)
    assert kernel.data.shape == tuple(3 if axis == "c" else 11 for axis in labels)
    assert not any("run failed" in text for text in said)
    if labels[-1] != "c":
        planes = [int(text.split()[1]) for text in said if text.startswith("Plane ")]
        assert planes == sorted(planes)
        assert 1 < planes[-1] <= 3


def test_the_channel_shown_may_be_restored_alone(restorer, idle, fake_run):
    viewer, widget = restorer
    values = np.random.default_rng(1).random((2, 3, 20, 24))
    labels = ("c", "z", "y", "x")
    widget.image.choose(viewer.add_image(values, name="stack", axis_labels=labels))
    viewer.dims.set_point(0, 1)
    viewer.dims.set_point(1, 2)
    widget.planes.set_value("shown")
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[0].image, values[1:, 2:])
    viewer.dims.set_point(0, 0)
    widget.load_settings()
    assert viewer.dims.point[:2] == (1, 2)


def test_what_went_otherwise_than_planned_is_said(restorer, qtbot, fake_run, idle, monkeypatch):
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.0)
    fake_run.note = "Memory ran out: tiles are now 64 pixels wide."
    fake_run.delay = 0.01
    said, told = [], []
    say, tell = widget.panel.say, widget.panel.tell
    monkeypatch.setattr(widget.panel, "say", lambda text, **options: said.append(text) or say(text))
    monkeypatch.setattr(widget.panel, "tell", lambda *all: told.append("".join(all)) or tell(*all))
    widget.restore()
    idle()
    assert any(text.startswith("Step ") for text in said)
    assert told[1] == fake_run.note
    assert fake_run.note in widget.panel.report.text()
    assert viewer.layers[HR].metadata[METADATA_KEY]["notes"] == (fake_run.note,)


def test_states_of_one_step_leave_one_residual(restorer, fake_run):
    """Planes that are restored together are done at the same step."""
    _, widget = restorer
    source, settings, kernel, _ = widget._request()
    steps = fake_run.__iter__
    fake_run.__iter__ = lambda run: (each for state in steps(run) for each in (state, state))
    made = Job(source, settings, kernel)
    drawn = []
    events = made.events()
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            drawn += stop.value.residuals
            break
        if isinstance(event, Drawing):
            drawn += event.residuals
    assert drawn == [1 / step for step in range(1, 6)]
    made.release()


def test_states_are_thinned_before_they_cross_to_the_viewer(restorer, fake_run, idle):
    """Four a second at most, and none while the last one is not drawn."""
    _, widget = restorer
    fake_run.delay = 0.002
    widget.form.advanced.editors["iterations"].set_value(300)
    source, settings, kernel, _ = widget._request()
    made = Job(source, settings, kernel)
    sent = list(made.events())
    drawings = [event for event in sent if isinstance(event, Drawing)]
    assert len(drawings) == 1  # nobody said that it was drawn
    assert len([event for event in sent if event is None]) <= 8
    made.release()


def test_stop_keeps_what_was_reached(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    widget.panel.stop.click()
    idle()
    facts = viewer.layers[HR].metadata[METADATA_KEY]
    assert facts["stop"] == "CANCELLED"
    assert facts["steps"] == fake_run.runs[0].done < 10_000
    assert "stopped before its last step" in widget.panel.status.text()
    assert fake_run.runs[0].closed
    assert widget.panel.restore.isEnabled()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "There is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "There is not enough memory"),
        (MemoryError(), "There is not enough memory"),
        (RuntimeError("mat1 and mat2\ndiffer"), "The run failed: mat1 and mat2."),
        (ValueError("image: expected contrast"), "image: expected contrast"),
    ],
)
@pytest.mark.parametrize("step", [1, 3])
def test_errors_are_one_sentence_and_the_widget_works_again(
    restorer, idle, fake_run, notices, error, sentence, step
):
    _, widget = restorer
    fake_run.fail_at, fake_run.error = step, error
    widget.restore()
    idle()
    assert widget.panel.status.text().startswith(sentence)
    assert [str(n.severity) for n in notices] == ["error"]
    assert notices[0].message == widget.panel.status.text()
    assert widget.panel.restore.isEnabled()
    assert not widget.panel.stop.isEnabled()
    fake_run.fail_at = None
    widget.restore()
    idle()
    assert widget.panel.status.text().startswith("The restoration is complete")


def test_a_failed_run_leaves_nothing_in_memory(restorer, idle, fake_run):
    _, widget = restorer
    fake_run.fail_at = 3
    widget.restore()
    idle()
    run = weakref.ref(fake_run.runs.pop())
    gc.collect()
    assert run() is None


def test_a_finished_run_does_not_hold_the_image(restorer, idle, fake_run, qtbot):
    viewer, widget = restorer
    values = np.random.default_rng(1).random((24, 30))
    viewer.layers["cells"].data = values
    image = weakref.ref(values)
    del values
    widget.restore()
    idle()
    fake_run.runs.clear()
    viewer.layers.clear()
    qtbot.wait(50)
    gc.collect()
    assert image() is None


def test_a_run_cut_short_by_the_viewer_leaves_nothing_in_memory(restorer, qtbot, idle, fake_run):
    """Closing napari quits the worker, which then stops without closing its generator."""
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.window._task_status_manager.cancel_all()
    idle()
    assert fake_run.runs[0].closed
    assert widget.panel.restore.isEnabled()
    run = weakref.ref(fake_run.runs.pop())
    gc.collect()
    assert run() is None


def test_a_second_run_is_refused_also_from_another_widget(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    other = RestoreWidget(viewer)
    qtbot.addWidget(other)
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    other.restore()
    assert other.panel.status.text() == worker.BUSY
    assert other.panel.restore.isEnabled()
    qtbot.waitUntil(begun(viewer))
    assert len(fake_run.runs) == 1
    widget.stop()
    idle()
    other.form.advanced.editors["iterations"].set_value(2)
    other.restore()
    idle()
    assert len(fake_run.runs) == 2


def test_source_may_go_while_it_is_restored(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(100)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.layers.remove("cells")
    idle()
    assert viewer.layers[HR].metadata[METADATA_KEY]["stop"] == "COMPLETED"


def test_one_result_layer_may_go(restorer, qtbot, idle, fake_run, notices):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(100)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.layers.remove(KERNEL)
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells", HR]
    assert viewer.layers[HR].metadata[METADATA_KEY]["stop"] == "COMPLETED"
    assert not notices


def test_removing_both_result_layers_stops_the_run(restorer, qtbot, idle, fake_run, notices):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.layers.remove(KERNEL)
    viewer.layers.remove(HR)
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert "layers were removed" in widget.panel.status.text()
    assert not notices


def test_viewer_may_be_closed_during_a_run(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.close()
    idle()
    assert fake_run.runs[0].closed
    assert fake_run.runs[0].done < 10_000


def test_napari_is_told_what_is_under_way(restorer, qtbot, idle, fake_run):
    """It lists it when it asks whether to close."""
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    (task,) = viewer.window._task_status_manager.get_status()
    assert "the restoration of 'cells'" in task
    widget.stop()
    idle()
    assert not viewer.window._task_status_manager.is_busy()


def test_dock_may_be_closed_during_a_run(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    viewer.window.remove_dock_widget(widget)
    del widget
    idle()
    assert fake_run.runs[0].closed
    assert HR in viewer.layers
    again = RestoreWidget(viewer)
    qtbot.addWidget(again)
    again.restore()
    again.stop()
    idle()


def test_progress_is_in_the_activity_dock_and_goes(restorer, qtbot, idle, fake_run):
    from napari.utils import progress

    _, widget = restorer
    before = set(progress._all_instances)
    fake_run.delay = 0.01
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    (bar,) = set(progress._all_instances) - before
    qtbot.waitUntil(lambda: bar.total == 10_000 and bar.n > 0)
    assert bar.desc.startswith("Restoring cells")
    widget.stop()
    idle()
    assert set(progress._all_instances) == before


def test_region_is_restored_alone(restorer, idle, fake_run):
    viewer, widget = restorer
    world = np.array([[4, 6], [4, 12], [11, 12], [11, 6]]) * 0.5 - 0.25
    shapes = viewer.add_shapes([world], name="part", units=("um", "um"))
    widget.region.choose(shapes)
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[0].image, viewer.layers["cells"].data[4:11, 6:12])


def test_drawn_region_lies_in_the_world_of_the_image(restorer):
    viewer, widget = restorer
    widget.draw_region()
    shapes = viewer.layers["cells region"]
    assert isinstance(shapes, Shapes)
    assert shapes.mode == "add_rectangle"
    assert shapes.units == viewer.layers["cells"].units
    assert widget.region.layer is shapes
    widget.restore()
    assert "got none" in widget.panel.status.text()


def test_only_the_plane_shown(restorer, idle, fake_run):
    viewer, widget = restorer
    values = np.random.default_rng(1).random((5, 20, 24))
    stack = viewer.add_image(values, name="stack", scale=(2, 1, 1), translate=(10, 0, 0))
    widget.image.choose(stack)
    assert not widget.planes.isHidden()
    viewer.dims.set_point(0, 16)
    widget.planes.set_value("shown")
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[0].image, values[3:4])
    viewer.dims.set_point(0, 10)
    widget.planes.set_value("all")
    widget.load_settings()
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[1].image, values[3:4])
    widget.planes.set_value("all")
    widget.restore()
    idle()
    assert viewer.layers["stack [DKP ×2] [2]"].data.shape == (5, 40, 48)
    widget.image.choose(viewer.layers["cells"])
    assert widget.planes.isHidden()


def test_networks_of_microscopes_and_volumes_are_fitted_as_from_a_script(restorer):
    viewer, widget = restorer
    form = widget.form
    stack = viewer.add_image(np.ones((8, 20, 24)), axis_labels=("z", "y", "x"), name="stack")
    form.basic.editors["method"].set_value("dip")
    structure = form.configs["dip"].editors["ssim_fraction"]
    # "auto" may find a microscope once the image is looked at.
    assert form.settings().dip is None
    for preset in ("balanced", "fast"):
        form.basic.editors["preset"].set_value(preset)
        form.basic.editors["kernel_family"].set_value("airy")
        assert structure.value() == 0
        script = Settings(method="dip", kernel_family="airy", preset=preset)
        assert form.settings().resolve().dip == script.resolve().dip
        form.basic.editors["kernel_family"].set_value("auto")
        assert structure.value() == 1
    widget.image.choose(stack)
    form.configs["dip"].editors["channels"].set_value(24)
    form.volume.check.setChecked(True)
    assert form.settings().volume
    assert form.settings().dip == replace(
        Settings(volume=True, preset="fast").resolve().dip, channels=24
    )
    structure.set_value(0.5)
    form.volume.check.setChecked(False)
    assert form.settings().dip.ssim_fraction == 0.5, "what was set stays"
    unusual = Settings(kernel_family="airy", method="dip", dip=DIPConfig(ssim_fraction=1.0))
    form.set_settings(unusual)
    assert form.settings().dip == unusual.dip


def test_settings_come_back_from_a_result(restorer, idle, fake_run):
    viewer, widget = restorer
    widget.form.basic.editors["scale"].set_value(3)
    widget.form.basic.editors["kernel_family"].set_value("line")
    widget.form.advanced.editors["seed"].set_value(11)
    widget.form.configs["dip"].editors["channels"].set_value(24)
    shapes = add_region(viewer, viewer.layers["cells"], ((2, 18), (3, 21)))
    widget.region.choose(shapes)
    used = widget.form.settings()
    widget.restore()
    idle()
    viewer.layers.remove(shapes)
    widget.form.set_settings(Settings(preset="fast"))
    widget.load_settings()
    assert widget.form.settings() == used.resolve()
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[0].image, fake_run.runs[1].image)
    assert fake_run.runs[0].settings == fake_run.runs[1].settings


def test_nothing_to_load_or_copy_is_said(restorer, notices):
    _, widget = restorer
    for action in (widget.load_settings, widget.copy_snippet):
        action()
        assert "no result layer yet" in widget.panel.status.text()
    assert len(notices) == 2


def test_layers_offered_follow_the_viewer(restorer):
    viewer, widget = restorer
    second = viewer.add_image(np.zeros((20, 20)), name="second")
    assert widget.image.layer.name == "cells"
    second.name = "renamed"
    assert widget.image.findText("renamed") >= 0
    widget.image.choose(second)
    viewer.layers.remove(second)
    assert widget.image.layer.name == "cells"
    viewer.layers.clear()
    assert widget.image.layer is None
    widget.restore()
    assert "Open an image first" in widget.panel.status.text()


def test_known_psf_is_used(restorer, idle, fake_run):
    viewer, widget = restorer
    psf = np.zeros((5, 5), np.float32)
    psf[2, 1:4] = 1 / 3
    layer = viewer.add_image(psf, name="psf", scale=(0.25, 0.25), units=("um", "um"))
    widget.kernel.choose(layer)
    widget.restore()
    idle()
    np.testing.assert_array_equal(fake_run.runs[0].given, psf)
    np.testing.assert_array_equal(viewer.layers[HR].metadata[METADATA_KEY]["kernel"], psf)
    layer.scale = (0.5, 0.5)
    widget.restore()
    assert "kernel: expected restored pixels" in widget.panel.status.text()


def test_what_is_wrong_is_said_before_the_run(restorer):
    _, widget = restorer
    widget.form.configs["rks"].editors["line_width"].setText("wide")
    widget._ask()
    assert "Motion width" in widget.panel.estimate.text()


def test_a_preset_keeps_the_model_and_brings_its_numbers(restorer):
    _, widget = restorer
    editors = widget.form.configs["diffusion"].editors
    editors["model"].set_value("owner/name")
    editors["class_label"].set_value(3)
    widget.form.basic.editors["preset"].set_value("paper")
    found = widget.form.settings().diffusion
    assert (found.model, found.class_label) == ("owner/name", 3)
    assert (found.sampler, found.data_step, found.first) == ("ddpm", "gradient", 100)


def test_the_model_of_a_result_comes_back(restorer, idle, fake_run):
    _, widget = restorer
    widget.form.basic.editors["method"].set_value("diffusion")
    widget.form.configs["diffusion"].editors["model"].set_value("/models/church")
    widget.form.configs["diffusion"].editors["trust"].set_value(0.5)
    widget.restore()
    idle()
    widget.form.set_settings(Settings())
    assert widget.form.settings().diffusion.model == "small"
    widget.load_settings()
    found = widget.form.settings()
    assert (found.method, found.diffusion.model) == ("diffusion", "/models/church")
    assert found.diffusion.trust == 0.5
    widget.copy_snippet()
    assert "/models/church" in QApplication.clipboard().text()


@pytest.fixture
def diffusing(make_napari_viewer, qtbot):
    """A viewer with a small image, and the widget with the method chosen; nothing is faked."""
    viewer = make_napari_viewer()
    viewer.add_image(np.random.default_rng(0).random((40, 40)), name="cells")
    widget = RestoreWidget(viewer)
    qtbot.addWidget(widget)
    widget.form.basic.editors["method"].set_value("diffusion")
    widget.form.basic.editors["device"].set_value("cpu")
    widget.form.advanced.editors["iterations"].set_value(2)
    return viewer, widget


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("smal", "model: expected 'small', a folder"),
        ("/no/such/folder", "'/no/such/folder', which does not exist"),
        ("", "model: expected a name or a path"),
    ],
)
def test_an_unknown_model_is_said_before_and_refused(diffusing, idle, qtbot, model, sentence):
    _, widget = diffusing
    editor = widget.form.configs["diffusion"].editors["model"]
    editor.names.setCurrentText(model)
    editor.edited.emit()
    qtbot.waitUntil(lambda: sentence in widget.panel.estimate.text(), timeout=60_000)
    assert "color" in widget.panel.estimate.styleSheet()
    widget.restore()
    idle()
    assert sentence in widget.panel.status.text()
    assert widget.panel.restore.isEnabled()


def test_a_model_restores_and_its_cost_is_foretold(diffusing, idle, qtbot, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from tiny_diffusion import saved

    viewer, widget = diffusing
    widget.form.configs["diffusion"].editors["model"].set_value(str(saved(tmp_path)))
    widget._changed()
    qtbot.waitUntil(lambda: widget.panel.estimate.text().startswith("About "), timeout=60_000)
    assert "free memory" in widget.panel.estimate.text()
    widget.restore()
    idle()
    assert viewer.layers[HR].data.shape == (80, 80)
    facts = viewer.layers[HR].metadata[METADATA_KEY]
    assert (facts["stop"], facts["steps"]) == ("COMPLETED", N_TRIALS + 2)


def test_the_viewer_goes_on_while_a_model_is_read(diffusing, idle, qtbot, monkeypatch):
    """Weights are read beside the viewer's thread."""
    from napari_dkp.diffusion import loading

    _, widget = diffusing
    threads = []
    load = loading.load

    def slow(*question):
        threads.append(threading.current_thread())
        return load(*question)

    monkeypatch.setattr("napari_dkp.parts.load", slow)
    estimate._probe.cache_clear()
    widget._changed()
    qtbot.waitUntil(lambda: bool(threads), timeout=60_000)
    widget.restore()
    idle()
    assert threading.main_thread() not in threads


def test_console_snippet_repeats_the_pixels(make_napari_viewer, idle, no_appraisal, qtbot):
    """With the real engine, of a run that was stopped early on a region."""
    viewer = make_napari_viewer()
    values = np.random.default_rng(3).random((40, 40))
    viewer.add_image(values, name="cells")
    widget = RestoreWidget(viewer)
    qtbot.addWidget(widget)
    widget.form.basic.editors["preset"].set_value("fast")
    widget.form.configs["dip"].editors["channels"].set_value(4)
    widget.form.configs["pke"].editors["warm_up"].set_value(3)
    widget.form.advanced.editors["iterations"].set_value(400)
    widget.form.basic.editors["device"].set_value("cpu")
    widget.region.choose(add_region(viewer, viewer.layers["cells"], ((4, 30), (6, 34))))
    widget.restore()
    qtbot.waitUntil(begun(viewer), timeout=60_000)
    widget.stop()
    idle()
    first, kernel = viewer.layers[HR], viewer.layers[KERNEL]
    assert first.metadata[METADATA_KEY]["stop"] == "CANCELLED"
    widget.copy_snippet()
    code = QApplication.clipboard().text()
    exec(code, {})
    np.testing.assert_array_equal(viewer.layers[f"{HR} [1]"].data, first.data)
    np.testing.assert_array_equal(viewer.layers[f"{KERNEL} [1]"].data, kernel.data)
    np.testing.assert_allclose(viewer.layers[f"{HR} [1]"].translate, first.translate)


def test_estimate_is_shown_before_a_run(make_napari_viewer, idle, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(np.random.default_rng(0).random((40, 40)), name="cells")
    widget = RestoreWidget(viewer)
    qtbot.addWidget(widget)
    qtbot.waitUntil(lambda: "free memory" in widget.panel.estimate.text(), timeout=60_000)
    assert widget.panel.estimate.text().startswith("About ")
    assert widget.form.basic.editors["device"].count() >= 2
    assert widget.form.basic.editors["device"].itemText(0).startswith("Automatic (")
    assert widget.form.basic.editors["device"].itemText(1).endswith(" free")
    widget.form.basic.editors["device"].set_value("cuda:9")
    qtbot.waitUntil(
        lambda: "device: expected one of" in widget.panel.estimate.text(), timeout=60_000
    )


def test_an_image_below_the_kernel_size_is_said_before_and_refused(make_napari_viewer, idle, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(np.random.default_rng(0).random((4, 40)), name="cells")
    widget = RestoreWidget(viewer)
    qtbot.addWidget(widget)
    widget.restore()
    idle()
    assert "no smaller than the kernel" in widget.panel.status.text()


def test_pixel_size_is_that_of_the_layer(restorer):
    viewer, widget = restorer
    size = widget.form.known["optics"].editors["pixel_size"]
    assert size.value() == 500
    assert widget.form.settings().optics is None
    viewer.add_image(np.zeros((20, 20)), name="plain")
    widget.image.choose(viewer.layers["plain"])
    assert size.value() is None
    viewer.add_image(np.zeros((20, 20)), name="fine", scale=(90, 40), units=("nm", "nm"))
    widget.image.choose(viewer.layers["fine"])
    assert size.value() == pytest.approx(60)
    assert size.text() == "60 nm"
    widget.form.known["optics"].editors["numerical_aperture"].setValue(1.4)
    with pytest.raises(ValueError, match="Microscope: expected aperture, wavelength and pixel"):
        widget.form.settings()
    widget.form.known["optics"].editors["wavelength"].set_value(600)
    assert widget.form.settings().optics.cutoff == pytest.approx(2 * 1.4 / 600 * 60)


def test_the_switch_for_diagnostics_leads_to_their_layers(restorer, idle, fake_run):
    viewer, widget = restorer
    assert widget.form.settings().diagnostics is False
    widget.form.basic.editors["diagnostics"].set_value(True)
    assert widget.form.settings().diagnostics is True
    widget.restore()
    idle()
    assert fake_run.runs[0].settings.diagnostics is True
    names = ["cells", KERNEL, HR, "cells [DKP residual]", "cells [DKP uncertainty]"]
    assert [layer.name for layer in viewer.layers] == names
    assert [layer.visible for layer in viewer.layers] == [True] * 3 + [False] * 2
    assert viewer.layers.selection.active is viewer.layers[HR]
    residual = viewer.layers["cells [DKP residual]"]
    source = viewer.layers["cells"]
    np.testing.assert_array_equal(residual.data, source.data - 50.0)
    np.testing.assert_allclose(residual.data_to_world((7, 3)), source.data_to_world((7, 3)))
    widget.form.set_settings(Settings())
    viewer.layers.selection.active = residual
    widget.load_settings()
    assert widget.form.settings().diagnostics is True
    widget.copy_snippet()
    assert "diagnostics=True" in QApplication.clipboard().text()


def test_a_run_that_is_stopped_at_once_has_no_diagnostics(restorer, qtbot, idle, fake_run):
    viewer, widget = restorer
    fake_run.delay = 0.01
    widget.form.basic.editors["diagnostics"].set_value(True)
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(begun(viewer))
    widget.stop()
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells", KERNEL, HR]
    assert widget.panel.report.isHidden()


def test_a_run_of_one_step_has_diagnostics(restorer, fake_run, idle):
    viewer, widget = restorer
    widget.form.basic.editors["diagnostics"].set_value(True)
    widget.form.advanced.editors["iterations"].set_value(1)
    made = Job(*widget._request())
    try:
        first = next(made.events())
        live = LiveLayers(viewer, first)
        assert (live.image.name, live.kernel.name) == (HR, KERNEL)
    finally:
        made.release()


def test_the_report_is_shown_once_there_is_one(restorer, idle, fake_run):
    viewer, widget = restorer
    assert widget.panel.report.isHidden()
    widget.restore()
    assert widget.panel.report.isHidden()
    idle()
    assert not widget.panel.report.isHidden()
    assert widget.panel.report.text() == viewer.layers[HR].metadata[METADATA_KEY]["report"]
    assert widget.panel.report.text() == str(fake_run.report)
