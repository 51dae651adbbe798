import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from napari_dkp import cli, io
from napari_dkp.config import OpticsConfig
from napari_dkp.durations import duration
from napari_dkp.stack import Run
from napari_dkp.state import State
from napari_dkp.streaming import stream

QUICK = ("--preset", "fast", "--iterations", "3", "--kernel-size", "5", "--device", "cpu")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(result: Result) -> str:
    """Return the one line on stderr of a run that was refused."""
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 100.0, (20, 16)).astype(np.uint16)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(
        path, image, imagej=True, resolution=(5.0, 5.0), metadata={"axes": "YX", "unit": "micron"}
    )
    return path


def test_restore_writes_image_kernel_and_settings(cells, tmp_path):
    result = invoke("restore", cells, tmp_path / "out.ome.tif", *QUICK, "--seed", 4)
    assert result.exit_code == 0, result.output
    image = io.read(tmp_path / "out.ome.tif")
    assert (image.image.shape, image.image.dtype, image.axes) == ((40, 32), np.float32, "YX")
    assert image.pixel_size.unit == "µm"
    assert image.pixel_size.sizes == pytest.approx({"Y": 0.1, "X": 0.1})
    kernel = io.read_kernel(tmp_path / "out_kernel.tif")
    assert kernel.shape == (5, 5)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-4)
    record = json.loads((tmp_path / "out_settings.json").read_text(encoding="utf-8"))
    assert record["settings"]["seed"] == record["seed"] == 4
    assert record["settings"]["axes"] == "YX"
    assert record["stop"] == "completed"
    assert record["source"] == "cells.tif"
    for shown in ("40 × 32 pixels", "residual", "kernel FWHM", "µm", "out_kernel.tif"):
        assert shown in result.stdout


def test_settings_file_repeats_a_run_and_options_still_count(cells, tmp_path):
    invoke("restore", cells, tmp_path / "a.tif", *QUICK, "--seed", 4, "--scale", "3")
    settings = tmp_path / "a_settings.json"
    assert invoke("restore", cells, tmp_path / "b.tif", "--settings", settings).exit_code == 0
    again = io.read(tmp_path / "b.tif").image
    np.testing.assert_array_equal(io.read(tmp_path / "a.tif").image, again)
    result = invoke("restore", cells, tmp_path / "c.tif", "--settings", settings, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert not np.array_equal(io.read(tmp_path / "c.tif").image, again)
    assert io.read_settings(tmp_path / "c_settings.json")[0].scale == 3


def test_another_preset_replaces_the_numbers_of_the_repeated_one(cells, tmp_path):
    invoke("restore", cells, tmp_path / "a.tif", *QUICK)
    options = ("--settings", tmp_path / "a_settings.json", "--preset", "balanced")
    invoke("restore", cells, tmp_path / "b.tif", *options, "--iterations", 2)
    first, _ = io.read_settings(tmp_path / "a_settings.json")
    second, _ = io.read_settings(tmp_path / "b_settings.json")
    assert second.iterations == 2
    assert first.rks != second.rks


def test_known_kernel_is_used_and_found_again(cells, tmp_path):
    psf = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    options = (*QUICK[:4], "--device", "cpu", "--kernel", tmp_path / "psf.tif")
    result = invoke("restore", cells, tmp_path / "a.tif", *options)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(io.read_kernel(tmp_path / "a_kernel.tif"), psf, atol=1e-6)
    (tmp_path / "psf.tif").unlink()
    settings = tmp_path / "a_settings.json"
    result = invoke("restore", cells, tmp_path / "b.tif", "--settings", settings)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(
        io.read(tmp_path / "a.tif").image, io.read(tmp_path / "b.tif").image
    )


def test_scale_per_axis_and_colour_pictures(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (16, 14, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    result = invoke("restore", tmp_path / "photo.png", tmp_path / "o.tif", *QUICK, "--scale", "2,1")
    assert result.exit_code == 0, result.output
    back = io.read(tmp_path / "o.tif")
    assert (back.axes, back.image.shape) == ("CYX", (3, 32, 14))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with an untrained diffusion model."""
    from tiny_diffusion import saved

    return saved(tmp_path_factory.mktemp("model"))


DIFFUSION = ("--iterations", "3", "--kernel-size", "5", "--device", "cpu")


@pytest.mark.parametrize("method", [(), ("--method", "diffusion")], ids=["implied", "named"])
def test_a_diffusion_model_restores(cells, tmp_path, model, method):
    out = tmp_path / "out.tif"
    result = invoke("restore", cells, out, *DIFFUSION, *method, "--model", model)
    assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "out_settings.json")
    assert (stored.method, stored.iterations) == ("diffusion", 3)
    assert stored.diffusion.model == str(model)
    assert stored.diffusion.download is False
    assert io.read(out).image.shape == (40, 32)
    assert "diffusion model (diffusion)" in result.stderr


def test_a_settings_file_repeats_the_model_and_its_numbers(cells, tmp_path, model):
    a, b, c = (tmp_path / f"{name}.tif" for name in "abc")
    invoke("restore", cells, a, *DIFFUSION, "--model", model, "--seed", 3)
    file = tmp_path / "a_settings.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["settings"]["diffusion"]["trust"] = 0.25
    file.write_text(json.dumps(record), encoding="utf-8")
    for out in (b, c):
        result = invoke("restore", cells, out, "--settings", file)
        assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "b_settings.json")
    assert stored.diffusion.model == str(model)
    assert stored.diffusion.trust == 0.25
    np.testing.assert_array_equal(io.read(b).image, io.read(c).image)
    assert not np.array_equal(io.read(a).image, io.read(b).image)


def test_another_model_keeps_the_numbers_of_a_repeated_run(cells, tmp_path, model):
    from tiny_diffusion import saved

    other = saved(tmp_path / "other", channels=1)
    invoke("restore", cells, tmp_path / "a.tif", *DIFFUSION, "--model", model)
    file = tmp_path / "a_settings.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["settings"]["diffusion"]["trust"] = 0.25
    file.write_text(json.dumps(record), encoding="utf-8")
    result = invoke("restore", cells, tmp_path / "b.tif", "--settings", file, "--model", other)
    assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "b_settings.json")
    assert (stored.diffusion.model, stored.diffusion.trust) == (str(other), 0.25)
    assert stored.iterations == 3


def test_a_model_with_the_published_preset_keeps_its_numbers(cells, tmp_path, model):
    options = (*DIFFUSION, "--model", model, "--preset", "paper")
    result = invoke("restore", cells, tmp_path / "out.tif", *options)
    assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "out_settings.json")
    assert (stored.diffusion.sampler, stored.diffusion.first) == ("ddpm", 100.0)


def test_another_preset_keeps_the_model_of_a_repeated_run(cells, tmp_path, model):
    invoke("restore", cells, tmp_path / "a.tif", *DIFFUSION, "--model", model)
    options = ("--settings", tmp_path / "a_settings.json", "--preset", "fast")
    result = invoke("restore", cells, tmp_path / "b.tif", *options, "--iterations", "2")
    assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "b_settings.json")
    assert (stored.method, stored.preset) == ("diffusion", "fast")
    assert stored.diffusion.model == str(model)


@pytest.mark.parametrize("name", ["smal", "no/such/folder", "owner/name"])
def test_an_unknown_model_is_one_sentence(cells, tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket.connect", None)  # calling it would be a TypeError
    message = error_of(invoke("restore", cells, tmp_path / "out.tif", "--model", name))
    assert message.startswith("napari-dkp: model: ")
    assert repr(name) in message
    assert not (tmp_path / "out.tif").exists()


def test_a_download_is_asked_for_by_name(cells, tmp_path, model, monkeypatch):
    asked = []

    def fetch(name: str, **options: object) -> str:
        asked.append((name, options["local_files_only"]))
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    options = (*DIFFUSION, "--model", "owner/name", "--download")
    result = invoke("restore", cells, tmp_path / "out.tif", *options)
    assert result.exit_code == 0, result.output
    assert asked
    assert set(asked) == {("owner/name", False)}


@pytest.mark.parametrize("method", ["dip", "richardson-lucy"])
def test_a_model_for_another_method_is_refused(cells, tmp_path, model, method):
    options = (*QUICK, "--model", model, "--method", method)
    message = error_of(invoke("restore", cells, tmp_path / "out.tif", *options))
    assert f"model: expected none with method {method!r}" in message


def interrupting(after: int, times: int = 1) -> type[Run]:
    class Interrupted(Run):
        def iterate(self, **options: object) -> Iterator[State[np.ndarray]]:
            for state in super().iterate(**options):
                if state.step > after:
                    for _ in range(times):
                        signal.raise_signal(signal.SIGINT)
                yield state

    return Interrupted


def test_interrupt_keeps_the_last_state(cells, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)  # a shell has background jobs ignore it
    monkeypatch.setattr(stream, "Run", interrupting(after=1))
    result = invoke("restore", cells, tmp_path / "out.tif", *QUICK)
    assert result.exit_code == 0, result.output
    assert "stopped before its last step" in result.stderr
    record = json.loads((tmp_path / "out_settings.json").read_text(encoding="utf-8"))
    assert (record["stop"], record["steps"]) == ("cancelled", 2)
    assert np.isfinite(io.read(tmp_path / "out.tif").image).all()
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_stack_says_what_the_other_planes_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "Run", interrupting(after=1))
    image = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    tifffile.imwrite(tmp_path / "stack.tif", image, photometric="minisblack")
    result = invoke("restore", tmp_path / "stack.tif", tmp_path / "out.tif", *QUICK)
    assert result.exit_code == 0, result.output
    assert "did not reach hold the interpolated source" in result.stderr
    assert io.read(tmp_path / "out.tif").image.shape == (3, 32, 32)


@pytest.mark.parametrize(("after", "times"), [(0, 1), (1, 2)])
def test_interrupt_without_a_result_writes_nothing(cells, tmp_path, monkeypatch, after, times):
    monkeypatch.setattr(stream, "Run", interrupting(after, times))
    result = invoke("restore", cells, tmp_path / "out.tif", *QUICK)
    assert result.exit_code == 130
    assert "Stopped before the result was complete" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cells.tif"]


def test_existing_output_is_refused_before_the_run(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "Run", None)  # calling it would be a TypeError
    (tmp_path / "out_kernel.tif").write_text("precious")
    assert "exists already" in error_of(invoke("restore", cells, tmp_path / "out.tif", *QUICK))


def test_overwrite_replaces_results_but_never_the_input(cells, tmp_path):
    before = cells.read_bytes()
    message = error_of(invoke("restore", cells, cells, *QUICK, "--overwrite"))
    assert "is an input" in message
    assert cells.read_bytes() == before
    psf = tmp_path / "out_kernel.tif"
    tifffile.imwrite(psf, np.ones((3, 3), np.uint16))
    measured = psf.read_bytes()
    out = tmp_path / "out.tif"
    assert "is an input" in error_of(
        invoke("restore", cells, out, *QUICK, "--kernel", psf, "--overwrite")
    )
    assert psf.read_bytes() == measured
    (tmp_path / "out.tif").write_text("old")
    result = invoke("restore", cells, tmp_path / "out.tif", *QUICK, "--overwrite")
    assert result.exit_code == 0, result.output
    assert io.read(tmp_path / "out.tif").image.shape == (40, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scale", "9"), "scale: expected an integer from 1 to 8; got 9"),
        (("--scale", "big"), "scale: expected N or N,N; got 'big'"),
        (("--axes", "ZYX"), "axes"),
        (("--kernel-size", "4"), "kernel_size: expected odd"),
        (("--kernel-size", "99"), "kernel"),
        (("--preset", "slow"), "preset: expected one of"),
        (("--device", "tpu"), "device: expected one of"),
        (("--kernel", "missing.tif"), "there is no file 'missing.tif'"),
        (("--settings", "missing.json"), "there is no file 'missing.json'"),
    ],
)
def test_wrong_options_are_one_sentence_without_traceback(cells, tmp_path, options, message):
    result = invoke("restore", cells, tmp_path / "out.tif", *options)
    assert message in error_of(result)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("name", ["missing.tif", "text.tif", "text.png"])
def test_input_that_is_no_image_is_one_sentence(tmp_path, name):
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "text.png").write_text("no image")
    assert name in error_of(invoke("restore", tmp_path / name, tmp_path / "out.tif"))


def test_image_with_nan_is_one_sentence_with_their_number(tmp_path):
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    image[:2, :3] = np.nan
    tifffile.imwrite(tmp_path / "holes.tif", image)
    message = error_of(invoke("restore", tmp_path / "holes.tif", tmp_path / "out.tif", *QUICK))
    assert "6 NaN" in message


def test_out_of_memory_is_one_sentence(cells, tmp_path, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(stream, "Run", exhausted)
    message = error_of(invoke("restore", cells, tmp_path / "out.tif", *QUICK))
    assert "more memory than the device has left" in message


def test_demo_draws_its_picture(tmp_path, monkeypatch):
    from napari_dkp import demo
    from napari_dkp.config import Settings

    short = Settings(scale=2, axes="YX", preset="fast", iterations=2, device="cpu")
    monkeypatch.setattr(demo, "SETTINGS", short)
    result = invoke("demo", "--out", tmp_path / "demo", "--no-viewer")
    assert result.exit_code == 0, result.output
    picture = np.asarray(Image.open(tmp_path / "demo" / "microaneurysms.png"))
    paper = picture == picture[0, 0]
    columns = np.flatnonzero(np.diff((~paper[100:400]).mean(axis=0) > 0.5))
    assert len(columns) == 6, "three panels side by side"
    assert "204 × 204 pixels" in result.stdout


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.42 s"), (80, "80 s"), (150, "2.5 min"), (9000, "2.5 h")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_too_little_memory_is_foretold(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_dkp.device.free_memory", lambda _: 1000)
    result = invoke("restore", cells, tmp_path / "out.tif", *QUICK)
    assert result.exit_code == 0
    assert "more memory than the device has left" in result.stderr


def test_info_names_versions_and_devices():
    result = invoke("info")
    assert result.exit_code == 0, result.output
    for expected in ("napari-dkp", "torch", "cpu", "GiB free", "(auto)"):
        assert expected in result.stdout


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from napari_dkp.cli import app\n"
        "assert CliRunner().invoke(app, ['restore', '--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_microscope_and_camera_are_taken_as_given(cells, tmp_path):
    out = tmp_path / "out.tif"
    known = ("--optics", "1.4,525,65", "--noise", "2.5,100", "--method", "richardson-lucy")
    result = invoke("restore", cells, out, *QUICK, *known)
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "out_settings.json").read_text(encoding="utf-8"))["settings"]
    assert stored["optics"] == OPTICS
    assert stored["noise"] == {"gain": 2.5, "offset": 100.0, "read_noise": 0.0}
    assert stored["kernel_family"] == "airy"
    assert "airy" in result.stderr


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--optics", "1.4,525", "optics: expected numerical_aperture, wavelength, pixel_size"),
        ("--optics", "1.4,525,65,depth=3", "optics: expected numerical_aperture, wavelength"),
        ("--optics", "1.4,525,65,z_step=0.2", "z_step: expected 0.002 to 5 waves"),
        ("--optics", "1.4,z_step=200,525,65", "as N,N,..., then NAME=VALUE,...; got"),
        ("--optics", "1.4,525,65,modality=1", "modality: expected one of 'auto', 'widefield'"),
        ("--noise", "much", "noise: expected gain, offset, read_noise as N,N,..., then NAME"),
        ("--noise", "-1", "gain: expected a finite number"),
    ],
)
def test_half_a_microscope_is_refused(cells, tmp_path, option, text, message):
    assert message in error_of(invoke("restore", cells, tmp_path / "out.tif", f"{option}={text}"))


def optics_of(aperture: float, wavelength: float, pixel: float, **of_volumes: Any) -> dict:
    given = {"numerical_aperture": aperture, "wavelength": wavelength, "pixel_size": pixel}
    return asdict(OpticsConfig(**given, **of_volumes))


OPTICS = optics_of(1.4, 525.0, 65.0)


@pytest.fixture
def ome_cells(cells: Path) -> Path:
    """The same image in a file that tells its optics."""
    description = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.4"/></Instrument>
<Image ID="Image:0"><ObjectiveSettings ID="Objective:0"/><Pixels ID="Pixels:0" Type="uint16"
DimensionOrder="XYZCT" SizeX="16" SizeY="20" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="0.065"
PhysicalSizeY="0.065"><Channel ID="Channel:0:0" EmissionWavelength="525"/><TiffData/></Pixels>
</Image></OME>"""
    path = cells.with_name("cells.ome.tif")
    tifffile.imwrite(path, tifffile.imread(cells), description=description, metadata=None)
    return path


def stored_optics(out: Path) -> dict[str, float] | None:
    record = json.loads(out.with_name(f"{out.stem}_settings.json").read_text(encoding="utf-8"))
    return record["settings"]["optics"]


def test_optics_come_from_the_file_and_it_is_said(ome_cells, tmp_path):
    out = tmp_path / "out.tif"
    result = invoke("restore", ome_cells, out, *QUICK)
    assert result.exit_code == 0, result.output
    assert stored_optics(out) == OPTICS
    (line,) = [line for line in result.stderr.splitlines() if "Optics as the file" in line]
    for said in ("NA 1.4", "525 nm", "pixels of 65 nm", "--optics none"):
        assert said in line


@pytest.mark.parametrize(
    ("options", "optics"),
    [
        (("--optics", "none"), None),
        (
            ("--optics", "1.2,0.6,0.1"),
            optics_of(1.2, 0.6, 0.1),
        ),
        (("--kernel-family", "gaussian"), None),
        (("--scale", "2,1"), None),
        (("--kernel", "psf.tif"), None),
    ],
)
def test_optics_of_the_file_give_way(ome_cells, tmp_path, monkeypatch, options, optics):
    monkeypatch.chdir(tmp_path)
    psf = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    tifffile.imwrite("psf.tif", psf)
    quick = QUICK[:4] + QUICK[6:] if "--kernel" in options else QUICK
    result = invoke("restore", ome_cells, "out.tif", *quick, *options)
    assert result.exit_code == 0, result.output
    assert stored_optics(tmp_path / "out.tif") == optics
    assert "Optics as the file" not in result.stderr


def test_volumes_have_optics_in_three_dimensions(tmp_path):
    path, out = tmp_path / "volume.ome.tif", tmp_path / "out.tif"
    counts = np.random.default_rng(0).poisson(5, (8, 16, 16)).astype(np.uint16)
    description = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.4" Immersion="Oil"/>
</Instrument><Image ID="Image:0"><ObjectiveSettings ID="Objective:0"/><Pixels ID="Pixels:0"
Type="uint16" DimensionOrder="XYZCT" SizeX="16" SizeY="16" SizeZ="8" SizeC="1" SizeT="1"
PhysicalSizeX="0.065" PhysicalSizeY="0.065" PhysicalSizeZ="0.2"><Channel ID="Channel:0:0"
EmissionWavelength="525" AcquisitionMode="SpinningDiskConfocal"/><TiffData/></Pixels></Image>
</OME>"""
    tifffile.imwrite(path, counts, description=description, metadata=None)
    given = ("--volume", "--scale", "1", "--iterations", "1", "--kernel-size", "7")
    result = invoke("restore", path, out, *given)
    assert result.exit_code == 0, result.output
    told = {"refractive_index": 1.518, "z_step": 200.0, "modality": "confocal"}
    assert stored_optics(out) == optics_of(1.4, 525.0, 65.0, **told)
    assert "planes 200 nm apart" in result.stderr
    record = json.loads((tmp_path / "out_settings.json").read_text(encoding="utf-8"))
    assert record["settings"]["kernel_family"] == "confocal"
    typed = "1.2,525,65, z_step=300,modality=widefield,pinhole=0.5"
    result = invoke("restore", path, tmp_path / "typed.tif", *given, "--optics", typed)
    assert result.exit_code == 0, result.output
    of_volumes = {"z_step": 300.0, "modality": "widefield", "pinhole": 0.5}
    assert stored_optics(tmp_path / "typed.tif") == optics_of(1.2, 525.0, 65.0, **of_volumes)


def test_repeated_runs_have_the_optics_they_had(ome_cells, tmp_path):
    a, b, c, d = (tmp_path / f"{name}.tif" for name in "abcd")
    invoke("restore", ome_cells, a, *QUICK)
    invoke("restore", ome_cells, b, *QUICK, "--optics", "none")
    result = invoke("restore", ome_cells, c, "--settings", tmp_path / "b_settings.json")
    assert result.exit_code == 0, result.output
    assert stored_optics(c) is None
    options = ("--settings", tmp_path / "a_settings.json", "--optics", "none")
    result = invoke("restore", ome_cells, d, *options)
    assert result.exit_code == 0, result.output
    assert stored_optics(d) is None


def test_half_of_the_optics_in_a_file_do_not_count(ome_cells, tmp_path):
    half = tmp_path / "half.ome.tif"
    half.write_bytes(ome_cells.read_bytes().replace(b'LensNA="1.4"', b'LensNA="0.0"'))
    out = tmp_path / "out.tif"
    result = invoke("restore", half, out, *QUICK)
    assert result.exit_code == 0, result.output
    assert stored_optics(out) is None
    assert "Optics as the file" not in result.stderr


@pytest.fixture
def counting(tmp_path: Path) -> tuple[object, ...]:
    """Options that count photons under a known kernel."""
    offsets = np.arange(5) - 2
    psf = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2)).astype(np.float32)
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    method = ("--method", "richardson-lucy", "--iterations", "3", "--device", "cpu")
    return (*method, "--kernel", tmp_path / "psf.tif")


def test_diagnostics_are_written_listed_and_stored(cells, counting, tmp_path):
    result = invoke("restore", cells, tmp_path / "out.ome.tif", *counting, "--diagnostics")
    assert result.exit_code == 0, result.output
    names = ["kernel.tif", "settings.json", "residual.ome.tif", "uncertainty.ome.tif"]
    paths = [tmp_path / f"out_{name}" for name in names]
    assert result.stdout.splitlines()[-5:] == [str(tmp_path / "out.ome.tif"), *map(str, paths)]
    for path, shape, size in ((paths[2], (20, 16), 0.2), (paths[3], (40, 32), 0.1)):
        back = io.read(path)
        assert (back.image.shape, back.axes) == (shape, "YX")
        assert back.pixel_size.sizes == pytest.approx({"Y": size, "X": size})
        assert back.pixel_size.unit == "µm"
    record = json.loads(paths[1].read_text(encoding="utf-8"))
    assert record["settings"]["diagnostics"] is True
    (figures,) = record["reports"]
    residual = io.read(paths[2]).image
    assert figures["misfit"] == pytest.approx(np.mean(residual.astype(float) ** 2), rel=1e-4)
    assert f"Residual: {figures['misfit']:.2f} times the variance of the noise" in result.stderr
    assert f"Kernel {figures['kernel_width']:.1f} pixels wide" in result.stderr


def test_without_the_flag_there_is_a_report_and_no_diagnostics(cells, counting, tmp_path):
    result = invoke("restore", cells, tmp_path / "out.tif", *counting)
    assert result.exit_code == 0, result.output
    assert "times the variance of the noise" in result.stderr
    names = {"out.tif", "out_kernel.tif", "out_settings.json"}
    assert {path.name for path in tmp_path.glob("out*")} == names
    record = json.loads((tmp_path / "out_settings.json").read_text(encoding="utf-8"))
    assert record["reports"][0]["misfit"] > 0


def test_photons_that_are_not_counted_leave_no_uncertainty(cells, tmp_path):
    result = invoke("restore", cells, tmp_path / "out.tif", *QUICK, "--diagnostics")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out_residual.tif").exists()
    assert not (tmp_path / "out_uncertainty.tif").exists()
    assert "uncertainty" not in result.stdout


def test_a_settings_file_repeats_the_diagnostics_too(cells, counting, tmp_path):
    invoke("restore", cells, tmp_path / "a.tif", *counting, "--diagnostics")
    settings = tmp_path / "a_settings.json"
    result = invoke("restore", cells, tmp_path / "b.tif", "--settings", settings)
    assert result.exit_code == 0, result.output
    for name in ("residual", "uncertainty"):
        first, again = (io.read(tmp_path / f"{run}_{name}.tif").image for run in "ab")
        np.testing.assert_array_equal(first, again)
        assert str(tmp_path / f"b_{name}.tif") in result.stdout


@pytest.mark.parametrize("name", ["out_residual.tif", "out_uncertainty.tif"])
def test_existing_diagnostics_are_refused_before_the_run(cells, tmp_path, monkeypatch, name):
    monkeypatch.setattr(stream, "Run", None)  # calling it would be a TypeError
    (tmp_path / name).write_text("precious")
    message = error_of(invoke("restore", cells, tmp_path / "out.tif", *QUICK, "--diagnostics"))
    assert name in message
    assert "exists already" in message
    assert (tmp_path / name).read_text() == "precious"
