"""Results in files: written while the run goes on, and read from there by their layers."""

import gc
import shutil
import time
import weakref
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from at_once import events
from napari.layers import Image, Layer
from qtpy.QtWidgets import QFileDialog

import napari_dkp as dkp
from napari_dkp import io
from napari_dkp._napari import job
from napari_dkp._napari.job import Begun, Drawing, Ended, Job
from napari_dkp._napari.layers import METADATA_KEY, restore_layer
from napari_dkp._napari.source import settings_for, source_of
from napari_dkp._napari.work import RunFailed
from napari_dkp.stack import Run
from napari_dkp.streaming import Stream

PSF = np.full((3, 3), 1 / 9, np.float32)
QUICK = {"method": "richardson-lucy", "iterations": 2, "device": "cpu"}
ENDINGS = [".ome.zarr", ".ome.tif", ".tif"]


def layer(*shape: int, name: str = "stack", **options: object) -> Image:
    values = np.random.default_rng(0).poisson(50, shape).astype(np.uint16)
    labels = ("t", "c", "z", "y", "x")[-len(shape) :]
    return Image(values, name=name, **({"axis_labels": labels} | options))


def colours(*shape: int) -> Image:
    return Image(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8), rgb=True)


@pytest.fixture
def make_job(monkeypatch):
    monkeypatch.setattr(job, "INTERVAL", 0.0)

    def make(of: Image, out: Path, **settings: object) -> Job:
        source = source_of(of)
        chosen = settings_for(source, dkp.Settings(**(QUICK | settings)))
        return Job(source, chosen, PSF, out)

    return make


# What comes out


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("given", "part"),
    [
        (layer(3, 20, 24), {}),
        (layer(20, 24), {}),
        (layer(3, 20, 24), {"plane": (1,)}),
        (layer(2, 2, 3, 20, 24), {"ranges": {"T": (1, 2)}, "region": ((2, 18), (0, 20))}),
        (layer(2, 20, 24, 3, axis_labels=("c", "y", "x", "z")), {}),
        (colours(2, 20, 24, 3), {}),
        (colours(20, 24, 4), {}),
    ],
    ids=["stack", "image", "plane", "part", "order", "rgb", "rgba"],
)
def test_a_file_shows_what_memory_would(tmp_path, ending, given, part):
    options = {**QUICK, **part, "kernel": PSF, "diagnostics": True}
    in_memory = restore_layer(given, **options)
    in_file = restore_layer(given, out=tmp_path / f"out{ending}", **options)
    assert len(in_memory) == len(in_file) == 4
    for (wanted, as_before, _), (found, now, _) in zip(in_memory, in_file, strict=True):
        assert now["name"] == as_before["name"]
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(found), wanted)
        np.testing.assert_array_equal(now["scale"], as_before["scale"])
        np.testing.assert_array_equal(now["translate"], as_before["translate"])
        facts, before = (each["metadata"][METADATA_KEY] for each in (now, as_before))
        for told in ("settings", "stop", "steps", "report", "figures", "residuals"):
            assert facts[told] == before[told]
    assert isinstance(in_file[0][0], da.Array)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_file_knows_axes_sizes_units_and_times(tmp_path, ending):
    options = {"units": ("min", "pixel", "nm", "um", "um"), "scale": (2, 1, 300, 0.2, 0.2)}
    given = layer(2, 2, 3, 20, 24, translate=(0, 0, 600, 5, 7), **options)
    restore_layer(given, kernel=PSF, out=tmp_path / f"out{ending}", **QUICK)
    picture = io.open(tmp_path / f"out{ending}")
    assert set(picture.axes) == set("TCZYX")
    size = picture.pixel_size
    assert size.unit == "µm"
    assert size.sizes == pytest.approx({"Z": 0.3, "Y": 0.1, "X": 0.1})
    assert size.interval == pytest.approx(120)
    if ending == ".ome.zarr":  # TIFF does not tell where a grid begins
        assert size.origin == pytest.approx({"Z": 0.6, "Y": 4.95, "X": 6.95})


def test_a_layer_that_is_turned_is_said_to_be(tmp_path):
    given = layer(20, 24, rotate=30)
    (_, options, _), _ = restore_layer(given, kernel=PSF, out=tmp_path / "out.ome.zarr", **QUICK)
    assert "not how it is turned" in options["metadata"][METADATA_KEY]["notes"][0]


def test_a_volume_is_read_by_planes(tmp_path):
    psf = np.full((3, 3, 3), 1 / 27, np.float32)
    options = {**QUICK, "kernel": psf, "volume": True, "scale": (2, 1, 1)}
    given = layer(2, 6, 16, 18, axis_labels=("t", "z", "y", "x"))
    (wanted, _, _), (kernel, _, _) = restore_layer(given, **options)
    (found, _, _), (again, _, _) = restore_layer(given, out=tmp_path / "out.ome.zarr", **options)
    np.testing.assert_array_equal(np.asarray(found), wanted)
    np.testing.assert_array_equal(again, kernel)
    assert found.chunks[1] == (1,) * 12


# While it grows


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("given", [layer(4, 20, 24), colours(4, 20, 24, 4)], ids=["grey", "rgba"])
def test_planes_are_read_from_the_unfinished_file(make_job, tmp_path, ending, given):
    out = tmp_path / f"out{ending}"
    (wanted, _, _), _ = restore_layer(given, kernel=PSF, **QUICK)
    steps = events(make_job(given, out))
    image = next(event for event in steps if isinstance(event, Begun)).layers[0][0]
    assert not isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == (wanted.shape, wanted.dtype)
    done = io.begun(out)
    assert done is not None, "the file is there from the first step on"
    seen = set()
    for event in steps:
        assert not isinstance(event, Drawing) or not out.exists()
        if isinstance(event, Drawing) and event.progress.startswith("Plane"):
            number = int(event.progress.removeprefix("Plane ").split(" ")[0]) - 1
            seen.add(number)
            np.testing.assert_array_equal(image[:number], wanted[:number])
            waits = image[number + 1 :]
            assert np.isnan(waits).all() if wanted.dtype.kind == "f" else not waits.any()
            if event.step % 2:
                assert np.isfinite(image[number]).all()
        if isinstance(event, Ended):
            assert isinstance(event.layers[0][0], da.Array)
            assert event.out == out
    assert seen == {0, 1, 2, 3}
    np.testing.assert_array_equal(image[...], wanted)  # what the layer has until it is told
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [out.name, "out_kernel.tif", "out_settings.json"]
    )


def test_nothing_of_the_run_is_kept(make_job, tmp_path, monkeypatch):
    runs: list[weakref.ref[Run]] = []
    planes: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Watched(Run):
        def iterate(self, **options):
            nonlocal most
            runs.append(weakref.ref(self))
            for state in super().iterate(**options):
                if state.done:
                    planes.append(weakref.ref(state.image))
                yield state
                del state
                gc.collect()
                most = max(most, sum(each() is not None for each in planes))

    monkeypatch.setattr("napari_dkp.streaming.stream.Run", Watched)
    made = make_job(layer(8, 20, 24), tmp_path / "out.ome.zarr")
    kept = list(events(made))
    assert len(planes) == 8
    assert most <= 2, "the plane that was drawn, and the one that is done"
    made.release()
    gc.collect()
    assert not any(each() is not None for each in runs), "the layers hold no run"
    assert np.isfinite(np.asarray(kept[-1].layers[0][0])).all()


def test_a_stopped_run_is_whole_in_its_file(make_job, tmp_path):
    given = layer(4, 20, 24)
    (wanted, _, _), _ = restore_layer(given, kernel=PSF, **QUICK)
    out = tmp_path / "out.ome.zarr"
    made = make_job(given, out)
    for event in events(made):
        if isinstance(event, Drawing) and event.progress.startswith("Plane 3"):
            made.stop()
    (image, options, _), _ = event.layers
    image = np.asarray(image)
    np.testing.assert_array_equal(image[:2], wanted[:2])
    assert np.isfinite(image).all()
    facts = options["metadata"][METADATA_KEY]
    assert facts["stop"] == "CANCELLED"
    assert "hold the interpolated source" in facts["notes"][-1]
    assert io.read_record(tmp_path / "out_settings.json")["stop"] == "cancelled"
    np.testing.assert_array_equal(io.read(out).image, image)


# Ended by something else


def test_a_run_that_failed_goes_on_where_it_was(make_job, tmp_path, monkeypatch):
    given = layer(4, 20, 24)
    (wanted, _, _), _ = restore_layer(given, kernel=PSF, **QUICK)
    out = tmp_path / "out.ome.zarr"

    class Failing(Run):
        def iterate(self, **options):
            for state in super().iterate(**options):
                if state.plane == (2,):
                    raise OSError("the cable")
                yield state

    with monkeypatch.context() as patched:
        patched.setattr("napari_dkp.streaming.stream.Run", Failing)
        with pytest.raises(RunFailed, match="cable"):
            list(events(make_job(given, out)))
    assert not out.exists()
    with pytest.raises(ValueError, match=r"out: 'out.ome.zarr' was begun from another input"):
        restore_layer(layer(4, 20, 24, name="other"), kernel=PSF, out=out, **QUICK)
    steps = list(events(make_job(given, out)))
    said = next(event.progress for event in steps if isinstance(event, Drawing))
    assert said.startswith("Plane 3 of 4")
    (image, options, _), _ = steps[-1].layers
    np.testing.assert_array_equal(np.asarray(image), wanted)
    assert "2 of 4 planes were done before." in options["metadata"][METADATA_KEY]["notes"]
    assert len(options["metadata"][METADATA_KEY]["figures"]) == 4


def test_a_run_of_which_all_was_done_shows_its_layers(make_job, tmp_path, monkeypatch):
    given, out = layer(2, 20, 24), tmp_path / "out.ome.zarr"

    def killed(_: Stream) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "finish", killed)
        with pytest.raises(MemoryError):
            restore_layer(given, kernel=PSF, out=out, **QUICK)
    begun, ended = events(make_job(given, out))
    assert isinstance(begun, Begun)
    (wanted, _, _), _ = restore_layer(given, kernel=PSF, **QUICK)
    np.testing.assert_array_equal(np.asarray(ended.layers[0][0]), wanted)


def test_a_run_that_did_nothing_leaves_nothing(make_job, tmp_path, monkeypatch):
    class Failing(Run):
        def iterate(self, **options):
            yield next(super().iterate(**options))
            raise ValueError("image: expected another one")

    monkeypatch.setattr("napari_dkp.streaming.stream.Run", Failing)
    with pytest.raises(ValueError, match="expected another one"):
        restore_layer(layer(4, 20, 24), kernel=PSF, out=tmp_path / "out.ome.tif", **QUICK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "taken", "said"),
    [
        ("out.ome.zarr", "out_kernel.tif", "out: '.*out_kernel.tif' exists already"),
        ("out.ome.tif", "out.ome.tif", "exists already; choose another name$"),
        ("out.png", None, "out: expected a name ending in .ome.tif"),
        ("no/out.ome.zarr", None, "out: the folder .* does not exist"),
    ],
)
def test_what_is_in_the_way_is_said_before_any_work(tmp_path, monkeypatch, name, taken, said):
    monkeypatch.setattr("napari_dkp.streaming.stream.Run", None)  # calling it would be a TypeError
    if taken:
        (tmp_path / taken).write_text("precious")
    with pytest.raises(ValueError, match=said):
        restore_layer(layer(20, 24), kernel=PSF, out=tmp_path / name, **QUICK)
    assert not taken or (tmp_path / taken).read_text() == "precious"


# In the widget


@pytest.fixture
def writer(restorer, monkeypatch, tmp_path):
    """The widget, with real runs of a small stack under a known kernel."""
    viewer, widget = restorer
    monkeypatch.setattr("napari_dkp.stack.Run", Run)
    psf = viewer.add_image(PSF, name="psf")
    stack = viewer.add_layer(layer(4, 40, 50))
    widget.image.choose(stack)
    widget.kernel.choose(psf)
    widget.form.basic.editors["method"].set_value("richardson-lucy")
    widget.form.advanced.editors["iterations"].set_value(3)
    return viewer, widget


def test_the_widget_writes_and_shows_what_is_written(writer, idle, tmp_path):
    viewer, widget = writer
    assert widget.result.value() is None
    out = tmp_path / "sharp.ome.zarr"
    widget.result.set_value(out)
    widget.restore()
    idle()
    shown = viewer.layers["stack [DKP ×2]"]
    assert isinstance(shown.data, da.Array)
    np.testing.assert_array_equal(np.asarray(shown.data), io.read(out).image)
    assert str(out) in widget.panel.status.text()
    viewer.dims.set_point(0, 2)
    np.testing.assert_array_equal(shown._data_view, io.read(out).image[2])
    assert widget.result.value() == tmp_path / "sharp_2.ome.zarr"
    assert not widget.panel.estimate.text().startswith("Result")


def test_the_widget_lets_a_run_go_on_that_was_killed_at_its_end(
    writer, idle, tmp_path, monkeypatch
):
    """Kernel and settings are there, the image is not, and the disk has no room for another."""
    _, widget = writer
    out = tmp_path / "sharp.ome.zarr"
    widget.result.set_value(out)
    commit = io.PlaneWriter.commit

    def killed(writer: io.PlaneWriter) -> Path:
        if writer.path == out:
            raise OSError("the cable")
        return commit(writer)

    with monkeypatch.context() as patched:
        patched.setattr(io.PlaneWriter, "commit", killed)
        widget.restore()
        idle()
    assert "run failed" in widget.panel.status.text()
    assert (tmp_path / "sharp_settings.json").exists()
    assert not out.exists()
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("napari_dkp.io.outputs.shutil.disk_usage", lambda _: full)
    widget.restore()
    idle()
    assert "It lies in" in widget.panel.status.text()
    assert io.read(out).image.shape == (4, 80, 100)


@pytest.fixture
def slow(writer, monkeypatch):
    """The widget at work on a stack that takes a while."""

    class Slow(Run):
        def iterate(self, **options):
            for state in super().iterate(**options):
                time.sleep(0.05)
                yield state

    monkeypatch.setattr("napari_dkp.streaming.stream.Run", Slow)
    _, widget = writer
    widget.form.advanced.editors["iterations"].set_value(20)
    return writer


def under_way(out: Path) -> bool:
    notes = io.partial_of(out) / "notes.jsonl"
    return notes.exists() and bool(notes.read_text())


@pytest.mark.parametrize("how", ["napari is closed", "layers are removed"])
def test_a_run_that_is_left_goes_on_another_time(slow, qtbot, idle, tmp_path, how):
    viewer, widget = slow
    out = tmp_path / "sharp.ome.zarr"
    widget.result.set_value(out)
    widget.restore()
    qtbot.waitUntil(lambda: under_way(out) and len(viewer.layers) == 5, timeout=30_000)
    if how == "napari is closed":
        viewer.close()
    else:
        for layer in viewer.layers[-2:]:
            viewer.layers.remove(layer)
    idle()
    assert [path.name for path in tmp_path.iterdir()] == [".sharp.ome.zarr.partial"]
    if how == "layers are removed":
        assert "layers were removed. With the same" in widget.panel.status.text()
        widget.restore()
        idle()
        assert "of 4 planes were done before" in widget.panel.report.text()
        assert out.exists()


def test_a_run_that_is_stopped_is_whole(slow, qtbot, idle, tmp_path):
    """Also where the widget goes right after: it was asked for."""
    viewer, widget = slow
    out = tmp_path / "sharp.ome.zarr"
    widget.result.set_value(out)
    widget.restore()
    qtbot.waitUntil(lambda: under_way(out) and len(viewer.layers) == 5, timeout=30_000)
    widget.stop()
    viewer.close()
    idle()
    assert out.exists()


def test_a_taken_name_is_said_before_restore_is_pressed(writer, tmp_path):
    viewer, widget = writer
    out = tmp_path / "sharp.ome.tif"
    out.write_text("precious")
    widget.result.set_value(out)
    assert "sharp.ome.tif' exists already; choose another name" in widget.panel.estimate.text()
    widget.restore()
    assert widget._running.job is None
    assert "exists already" in widget.panel.status.text()
    widget.result.file.line.setText("")
    widget.restore()
    assert "Name a file for the result" in widget.panel.status.text()
    assert out.read_text() == "precious"
    assert len(viewer.layers) == 3


def test_a_result_layer_of_a_file_can_be_restored_and_saved(writer, idle, tmp_path):
    viewer, widget = writer
    widget.result.set_value(tmp_path / "sharp.ome.zarr")
    widget.restore()
    idle()
    shown = viewer.layers["stack [DKP ×2]"]
    entries = restore_layer(shown, kernel=PSF, plane=(1,), scale=1, **QUICK)
    assert entries[0][0].shape == (1, 80, 100)
    assert Layer.create(*shown.as_layer_data_tuple()).data.shape == (4, 80, 100)


@pytest.mark.parametrize(
    ("picked", "form", "named"),
    [
        ("a", "OME-Zarr (*.ome.zarr)", "a.ome.zarr"),
        ("a", "OME-TIFF (*.ome.tif)", "a.ome.tif"),
        ("a.tif", "OME-Zarr (*.ome.zarr)", "a.tif"),
    ],
)
def test_a_file_is_browsed_for(writer, tmp_path, monkeypatch, picked, form, named):
    _, widget = writer
    answer = (str(tmp_path / picked), form)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: answer)
    widget.result.way.set_value("file")
    widget.result.file.folder.click()
    assert widget.result.value() == tmp_path / named
