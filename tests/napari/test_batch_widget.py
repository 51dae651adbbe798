import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QFileDialog

from napari_dkp import io
from napari_dkp._napari import batch_job, worker
from napari_dkp._napari.batch_widget import BatchWidget
from napari_dkp._napari.layers import settings_from_layer, snippet
from napari_dkp._napari.paths_choice import PathsChoice
from napari_dkp.stack import Run
from napari_dkp.streaming import stream

PSF = np.outer([1, 2, 4, 2, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 100


def save(path: Path, *shape: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).poisson(100, shape).astype(np.uint16)
    tifffile.imwrite(path, values, imagej=True, metadata={"axes": "ZYX"[-len(shape) :]})
    return path


@pytest.fixture
def folder(tmp_path):
    """Return a folder with two images, the second one a stack."""
    save(tmp_path / "in" / "a.tif", 20, 24)
    save(tmp_path / "in" / "b.tif", 3, 20, 24, seed=1)
    return tmp_path / "in"


@pytest.fixture
def batch(make_napari_viewer, idle, no_appraisal, folder, monkeypatch):
    """Return a viewer and the widget, its form filled for runs that take next to no time."""
    monkeypatch.setattr(batch_job, "INTERVAL", 0.0)
    viewer = make_napari_viewer()
    psf = viewer.add_image(PSF, name="psf")
    widget = BatchWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Restore a folder")
    editors = widget.form.basic.editors
    for name, value in {"method": "richardson-lucy", "scale": 2, "device": "cpu"}.items():
        editors[name].set_value(value)
    widget.form.advanced.editors["iterations"].set_value(2)
    widget.kernel.choose(psf)
    widget.images.set_value(folder)
    return viewer, widget


@pytest.fixture
def said(batch, monkeypatch):
    """Return what the status line said."""
    _, widget = batch
    texts: list[str] = []
    say = widget.panel.say
    monkeypatch.setattr(
        widget.panel, "say", lambda text, **options: texts.append(text) or say(text, **options)
    )
    return texts


class Gate:
    """Holds runs before a step until it is told to let them go on."""

    def __init__(self, monkeypatch, step: int) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        gate = self

        class Held(Run):
            def iterate(self, done=()):
                states = super().iterate(done=done)
                for state in states:
                    yield state
                    if state.step == step:
                        gate.reached.set()
                        assert gate.go_on.wait(20)

        monkeypatch.setattr(stream, "Run", Held)


def wait_for(qtbot, gate):
    qtbot.waitUntil(gate.reached.is_set, timeout=20_000)
    qtbot.wait(50)


def test_a_folder_is_restored(batch, folder, idle, said):
    _, widget = batch
    assert widget.out.value() == folder / "restored"
    widget.restore()
    assert not widget.panel.restore.isEnabled()
    assert widget.panel.stop.isEnabled()
    idle()
    assert [text.split(" in ")[0] for text in widget.files.texts] == ["done", "done"]
    assert said[0] == "Looking for images …"
    assert said[-1] == "2 files: 2 done."
    assert any(text.startswith("File 2 of 2, plane 3 of 3, step ") for text in said)
    assert all(text.endswith(" left") for text in said if "step" in text)
    assert widget.panel.report.text() == f"More in {folder / 'restored' / 'batch.md'}"
    assert (folder / "restored" / "batch.md").exists()
    assert io.open(folder / "restored" / "b.ome.tif").image.shape == (3, 40, 48)
    assert widget.panel.restore.isEnabled()
    assert not widget.panel.stop.isEnabled()


def test_a_bad_file_is_told_and_stops_no_other(batch, folder, idle):
    _, widget = batch
    (folder / "a.tif").write_bytes(b"no image")
    widget.restore()
    idle()
    failed, done = widget.files.texts
    assert failed.startswith("failed: input: 'a.tif' cannot be read as an image")
    assert done.startswith("done in ")
    assert widget.panel.status.text() == "2 files: 1 done, 1 failed."
    widget.files.choose(0)
    assert widget.panel.estimate.text() == failed
    assert not widget.open.isEnabled()
    assert widget.open_result() == []
    widget.files.choose(1)
    assert widget.panel.estimate.text() == ""


def test_it_can_be_stopped_and_gone_on_with(batch, folder, idle, qtbot, monkeypatch):
    _, widget = batch
    gate = Gate(monkeypatch, step=3)
    widget.restore()
    wait_for(qtbot, gate)
    assert widget.files.texts[1].startswith("plane 2 of 3")
    widget.stop()
    assert not widget.panel.stop.isEnabled()
    gate.go_on.set()
    idle()
    assert widget.files.texts[0].startswith("done in ")
    assert widget.files.texts[1].startswith("stopped, ")
    assert widget.panel.status.text() == (
        "2 files: 1 done, 1 stopped. It was stopped; Restore goes on with it."
    )
    widget.restore()
    idle()
    assert widget.files.texts[0] == "done before"
    assert widget.files.texts[1].startswith("done in ")
    assert widget.panel.status.text() == "2 files: 1 done, 1 skipped."


def test_it_can_be_halted(batch, idle, qtbot, monkeypatch):
    _, widget = batch
    gate = Gate(monkeypatch, step=1)
    widget.restore()
    wait_for(qtbot, gate)
    widget.panel.pause.click()
    gate.go_on.set()
    qtbot.waitUntil(lambda: widget.panel.status.text().startswith("Paused. File 1 of 2"))
    qtbot.wait(100)
    assert widget.files.texts[1] == "waiting"
    widget.panel.pause.click()
    idle()
    assert widget.panel.status.text() == "2 files: 2 done."


def test_one_run_at_a_time_in_all_widgets(batch, restorer, idle, fake_run, qtbot, monkeypatch):
    _, widget = batch
    _, other = restorer
    gate = Gate(monkeypatch, step=1)
    widget.restore()
    wait_for(qtbot, gate)
    other.restore()
    assert other.panel.status.text() == worker.BUSY
    gate.go_on.set()
    idle()
    assert widget.panel.status.text() == "2 files: 2 done."
    assert not fake_run.runs


def test_nothing_is_replaced_unasked(batch, folder, idle):
    _, widget = batch
    widget.restore()
    idle()
    before = (folder / "restored" / "a.ome.tif").read_bytes()
    widget.form.advanced.editors["iterations"].set_value(3)
    widget.restore()
    idle()
    for text in widget.files.texts:
        assert text.startswith("failed: ")
        assert text.endswith("choose another folder, or tick 'Replace'")
    assert (folder / "restored" / "a.ome.tif").read_bytes() == before
    widget.overwrite.set_value(True)
    widget.restore()
    idle()
    assert widget.panel.status.text() == "2 files: 2 done."
    assert (folder / "restored" / "a.ome.tif").read_bytes() != before


def test_subfolders_are_looked_into_when_asked(batch, folder, idle):
    _, widget = batch
    save(folder / "day 2" / "a.tif", 20, 24, seed=2)
    widget.recursive.set_value(True)
    widget.format.set_value("ome-zarr")
    widget.restore()
    idle()
    names = [widget.files.topLevelItem(row).text(0) for row in range(3)]
    assert names == ["a.tif", "b.tif", str(Path("day 2") / "a.tif")]
    assert (folder / "restored" / "b.ome.zarr").is_dir()


def test_what_is_wrong_in_the_form_is_said(batch, folder, monkeypatch):
    _, widget = batch
    shown = []
    monkeypatch.setattr("napari_dkp._napari.run_widget.show_error", shown.append)
    for images, out, sentence in (
        ("", "x", "Choose a folder of images first."),
        ("/nowhere", "x", "Images: there is no '/nowhere'."),
        (folder, "", "Choose a folder for the results."),
        (folder, folder, "Results: choose another folder than that of the images."),
    ):
        widget.images.set_value(images)
        widget.out.set_value(out)
        widget.restore()
        assert widget.panel.status.text() == shown[-1] == sentence
        assert widget.panel.restore.isEnabled()


def test_a_folder_without_images_is_said(batch, tmp_path, idle, monkeypatch):
    _, widget = batch
    shown = []
    monkeypatch.setattr("napari_dkp._napari.run_widget.show_error", shown.append)
    (tmp_path / "empty").mkdir()
    widget.images.set_value(tmp_path / "empty")
    widget.restore()
    idle()
    assert widget.panel.status.text() == (
        f"There is no image in '{tmp_path / 'empty'}'. Tick 'Subfolders' to look into its folders."
    )
    assert not (tmp_path / "empty" / "restored").exists()


def test_a_result_opens_where_its_pixels_lie(batch, folder, idle):
    viewer, widget = batch
    tifffile.imwrite(
        folder / "b.ome.tif",
        np.random.default_rng(3).poisson(100, (2, 3, 20, 24)).astype(np.uint16),
        metadata={
            "axes": "TZYX",
            "PhysicalSizeX": 0.2,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.2,
            "PhysicalSizeYUnit": "µm",
            "PhysicalSizeZ": 0.5,
            "PhysicalSizeZUnit": "µm",
        },
    )
    widget.images.set_files([folder / "b.ome.tif"])
    widget.restore()
    idle()
    assert not widget.open.isEnabled()
    widget.files.choose(0)
    assert widget.open.isEnabled()
    widget.files.itemDoubleClicked.emit(widget.files.topLevelItem(0), 0)
    kernel, image = list(viewer.layers)[-2:]
    assert (image.name, kernel.name) == ("b [DKP ×2]", "b [DKP kernel]")
    assert image.data.shape == (2, 3, 40, 48)
    assert not isinstance(image.data, np.ndarray)
    np.testing.assert_allclose(image.scale, (1, 0.5, 0.1, 0.1))
    np.testing.assert_allclose(image.translate[-2:], -0.05)
    assert [str(unit) for unit in image.units] == ["pixel", *["micrometer"] * 3]
    assert image.axis_labels == ("t", "z", "y", "x")
    np.testing.assert_allclose(kernel.scale, image.scale)
    assert kernel.data.shape == (2, 3, 5, 5)
    assert kernel.extent.world[0, -1] > image.extent.world[1, -1]
    np.testing.assert_allclose(kernel.extent.world[0, -2], image.extent.world[0, -2])
    viewer.dims.set_point(0, 1)
    np.testing.assert_array_equal(
        image.data[1, 2].compute(), io.read(folder / "restored" / "b.ome.tif").image[1, 2]
    )


def test_colours_open_as_colours_over_their_source(batch, folder, idle):
    viewer, widget = batch
    values = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    tifffile.imwrite(folder / "c.tif", values, photometric="rgb")
    source = viewer.add_image(values, name="c", rgb=True)
    widget.images.set_files([folder / "c.tif"])
    widget.restore()
    idle()
    widget.files.choose(0)
    kernel, image = widget.open_result()
    assert image.rgb
    assert not kernel.rgb
    np.testing.assert_allclose(
        np.asarray(image.data),
        np.clip(io.read(folder / "restored" / "c.ome.tif").image / 255, 0, 1),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        image.data_to_world((-0.5, -0.5)), source.data_to_world((-0.5, -0.5))
    )
    assert settings_from_layer(image).scale == 2
    assert "method='richardson-lucy'" in snippet(image)


def test_the_viewer_hears_of_a_long_run_now_and_then(batch, folder, idle, said, monkeypatch):
    _, widget = batch
    monkeypatch.setattr(batch_job, "INTERVAL", 0.25)
    widget.form.advanced.editors["iterations"].set_value(60)
    began = time.monotonic()
    widget.restore()
    idle()
    assert len(said) <= 4 * (time.monotonic() - began) + 4


def test_it_ends_when_the_widget_goes(batch, idle, qtbot, monkeypatch):
    viewer, widget = batch
    gate = Gate(monkeypatch, step=1)
    widget.restore()
    wait_for(qtbot, gate)
    job = widget._running.job
    viewer.window.remove_dock_widget(widget)
    assert job.is_ending
    gate.go_on.set()


def test_files_and_folders_are_picked(qtbot, folder, monkeypatch):
    choice = PathsChoice("Images")
    qtbot.addWidget(choice)
    picked = [str(folder / "a.tif"), str(folder / "b.tif")]
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *args: (picked, ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(folder))
    choice.files.click()
    assert choice.line.text() == f"2 files in {folder}"
    assert choice.values() == (folder / "a.tif", folder / "b.tif")
    assert choice.place == folder
    choice.folder.click()
    assert choice.values() == (folder,)
    assert choice.place == folder
