import errno
import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dkp import __version__, io
from napari_dkp.config import Settings
from napari_dkp.report import Report
from napari_dkp.state import Restoration, Stop

MICRON = io.PixelSize({"Y": 0.25, "X": 0.2}, "µm")


def ramp(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def picture(axes: str = "YX", pixel_size: io.PixelSize = MICRON) -> io.Picture:
    shape = {"T": 2, "C": 3, "Z": 4, "Y": 6, "X": 5}
    return io.Picture(ramp(*(shape[axis] for axis in axes)), axes, pixel_size, "cells.tif")


def restoration(source: io.Picture, scale: int | tuple[int, int] = 2) -> Restoration:
    settings = replace(Settings(scale=scale, iterations=3, axes=source.axes).resolve(), seed=7)
    image = source.image.astype(np.float32)
    for axis, times in zip("YX", settings.scales(2), strict=True):
        image = image.repeat(times, axis=source.axes.index(axis))
    coloured = source.axes.endswith("C")
    looped = tuple(
        n
        for n, axis in zip(source.image.shape, source.axes, strict=True)
        if axis in ("TZ" if coloured else "TCZ")
    )
    kernel = np.full((*looped, 3, 3), 1 / 9, np.float32)
    return Restoration(image, kernel, settings, 7, "cpu", 1.5, Stop.COMPLETED, (3.0, 2.0), 12)


def save(
    folder: Path, name: str, source: io.Picture, scale: int | tuple[int, int] = 2
) -> io.Outputs:
    outputs = io.Outputs.beside(folder / name)
    io.write(outputs, restoration(source, scale), source)
    return outputs


REPORT = Report(3.5, (3.2, 3.8), 4.0, 3.4, 0.98, -0.02)


def diagnosed(source: io.Picture, scale: int | tuple[int, int] = 2) -> Restoration:
    """A restoration with a residual of 1, 2, ... and an uncertainty a hundredth of the image."""
    plain = restoration(source, scale)
    return replace(
        plain,
        settings=replace(plain.settings, diagnostics=True),
        reports=(REPORT, None),
        residual=source.image.astype(np.float32) + 1,
        uncertainty=plain.image / 100,
    )


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
@pytest.mark.parametrize("scale", [1, 2, (3, 2)])
def test_round_trip_corrects_the_pixel_size_for_the_scale(tmp_path, name, scale):
    outputs = save(tmp_path, name, picture(), scale=scale)
    back = io.read(outputs.image)
    sy, sx = scale if isinstance(scale, tuple) else (scale, scale)
    assert back.axes == "YX"
    assert back.image.dtype == np.float32
    np.testing.assert_array_equal(back.image, restoration(picture(), scale).image)
    assert back.pixel_size.unit == "µm"
    assert back.pixel_size.sizes["Y"] == pytest.approx(0.25 / sy, rel=1e-6)
    assert back.pixel_size.sizes["X"] == pytest.approx(0.2 / sx, rel=1e-6)


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
@pytest.mark.parametrize("axes", ["YXC", "CYX", "ZYX", "TYX", "TZYX", "CZYX", "TCZYX"])
def test_axes_survive_in_the_order_of_the_format(tmp_path, name, axes):
    source = picture(axes, io.PixelSize({"Z": 0.6, "Y": 0.2, "X": 0.2}, "µm"))
    back = io.read(save(tmp_path, name, source).image)
    assert sorted(back.axes) == sorted(axes)
    order = [back.axes.index(axis) for axis in axes]
    np.testing.assert_array_equal(back.image.transpose(order), restoration(source).image)
    if "Z" in axes:
        assert back.pixel_size.sizes["Z"] == pytest.approx(0.6)


@pytest.mark.parametrize("unit", ["nm", "mm", "Å", "µm", "m"])
@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
def test_units_survive(tmp_path, unit, name):
    source = picture(pixel_size=io.PixelSize({"Y": 3.0, "X": 3.0}, unit))
    assert io.read(save(tmp_path, name, source).image).pixel_size.unit == unit


def test_without_a_pixel_size_none_is_invented(tmp_path):
    for name in ("a.tif", "b.ome.tif"):
        back = io.read(save(tmp_path, name, picture(pixel_size=io.PixelSize({}))).image)
        assert back.pixel_size == io.PixelSize({})


def test_kernel_lies_beside_in_hr_pixels(tmp_path):
    outputs = save(tmp_path, "cells_x2.ome.tif", picture("TYX"))
    assert outputs.kernel == tmp_path / "cells_x2_kernel.tif"
    kernel = io.read(outputs.kernel)
    assert (kernel.axes, kernel.image.shape) == ("TYX", (2, 3, 3))
    assert kernel.pixel_size.sizes["X"] == pytest.approx(0.1)


@pytest.mark.parametrize(("axes", "along"), [("TCYX", "TC"), ("CZYX", "ZC"), ("YXC", "")])
def test_kernels_lie_along_channels_and_colours_share_theirs(tmp_path, axes, along):
    source = picture(axes)
    plain = restoration(source)
    kernels = np.arange(plain.kernel.size, dtype=np.float32).reshape(plain.kernel.shape)
    outputs = io.Outputs.beside(tmp_path / "out.tif")
    io.write(outputs, replace(plain, kernel=kernels), source)
    back = io.read(outputs.kernel)
    assert back.axes == along + "YX"
    looped = [axis for axis in axes if axis in along]
    order = [back.axes.index(axis) for axis in (*looped, "Y", "X")]
    np.testing.assert_array_equal(back.image.transpose(order), kernels)


def test_notes_are_kept_with_the_settings(tmp_path):
    outputs = io.Outputs.beside(tmp_path / "out.tif")
    note = "Memory ran out on cpu: tiles are now 64 pixels wide."
    io.write(outputs, replace(restoration(picture()), notes=(note,)), picture())
    assert json.loads(outputs.settings.read_text(encoding="utf-8"))["notes"] == [note]


def test_kernel_of_one_plane_can_be_given_to_the_next_run(tmp_path):
    outputs = save(tmp_path, "out.tif", picture())
    np.testing.assert_allclose(io.read_kernel(outputs.kernel), np.full((3, 3), 1 / 9), rtol=1e-6)


def test_kernels_of_a_stack_can_be_given_where_they_are_the_same(tmp_path):
    outputs = save(tmp_path, "out.tif", picture("ZYX"))
    np.testing.assert_allclose(io.read_kernel(outputs.kernel), np.full((3, 3), 1 / 9), rtol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape", "spatial", "said"),
    [
        ("CZYX", (2, 3, 5, 5), "YX", "expected one plane, or several that are the same"),
        ("TZYX", (2, 5, 5, 5), "ZYX", "expected one volume, or several that are the same"),
        ("TYX", (2, 5, 5), "ZYX", "expected one volume in 'psf.ome.tif'; got axes TYX of shape"),
    ],
)
def test_kernels_that_differ_are_refused(tmp_path, axes, shape, spatial, said):
    kernels = np.ones(shape, np.float32)
    kernels[-1] += np.eye(5, dtype=np.float32)
    tifffile.imwrite(tmp_path / "psf.ome.tif", kernels, metadata={"axes": axes})
    with pytest.raises(ValueError, match=f"kernel: {said}"):
        io.read_kernel(tmp_path / "psf.ome.tif", spatial)


def test_settings_file_repeats_the_run(tmp_path):
    outputs = save(tmp_path, "out.tif", picture())
    settings, kernel = io.read_settings(outputs.settings)
    assert settings == restoration(picture()).settings
    assert kernel is None
    record = json.loads(outputs.settings.read_text(encoding="utf-8"))
    expected = {
        "napari_dkp": __version__,
        "source": "cells.tif",
        "seed": 7,
        "device": "cpu",
        "seconds": 1.5,
        "stop": "completed",
        "steps": 12,
        "residual": 2.0,
    }
    assert expected.items() <= record.items()


def test_settings_file_of_a_known_kernel_leads_to_it(tmp_path):
    outputs = io.Outputs.beside(tmp_path / "out.tif")
    known = replace(restoration(picture()), known_kernel=True)
    io.write(outputs, known, picture())
    assert io.read_settings(outputs.settings)[1] == outputs.kernel


@pytest.mark.parametrize("text", ["", "[1]", '{"settings": {"scale": 99}, "known_kernel": false}'])
def test_foreign_settings_file_is_refused(tmp_path, text):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"'settings.json' holds no settings"):
        io.read_settings(path)


def test_existing_outputs_are_kept_unless_told_otherwise(tmp_path):
    outputs = io.Outputs.beside(tmp_path / "out.tif")
    outputs.kernel.write_text("precious")
    with pytest.raises(FileExistsError, match=r"out_kernel\.tif' exists already.*--overwrite"):
        io.write(outputs, restoration(picture()), picture())
    assert outputs.kernel.read_text() == "precious"
    assert not outputs.image.exists()
    io.write(outputs, restoration(picture()), picture(), overwrite=True)
    assert io.read(outputs.kernel).image.shape == (3, 3)


def test_input_is_never_replaced(tmp_path):
    path = tmp_path / "cells_kernel.tif"
    tifffile.imwrite(path, ramp(4, 4))
    with pytest.raises(ValueError, match="is an input; choose another name"):
        io.Outputs.beside(tmp_path / "cells.tif").spare(path)


@pytest.mark.parametrize("name", ["out.png", "out", "out.tif.gz"])
def test_output_must_be_a_tiff(name):
    with pytest.raises(ValueError, match="output: expected a name ending in"):
        io.Outputs.beside(name)


def test_outputs_are_checked_ahead(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        io.Outputs.beside(tmp_path / "missing" / "out.tif").check(10)
    with pytest.raises(ValueError, match=r"choose a name ending in \.ome\.tif"):
        io.Outputs.beside(tmp_path / "out.tif").check(2**33)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 10**6))
    with pytest.raises(OSError, match=r"take 10 MB and .* has 1 MB left"):
        io.Outputs.beside(tmp_path / "out.ome.tif").check(10**7)


def test_full_disk_is_said_and_leaves_the_old_file(tmp_path, monkeypatch):
    outputs = save(tmp_path, "out.tif", picture())
    before = outputs.image.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"out\.tif' cannot be written: no space is left"):
        io.write(outputs, restoration(picture()), picture(), overwrite=True)
    assert outputs.image.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.tif",
        "out_kernel.tif",
        "out_settings.json",
    }


@pytest.mark.parametrize("name", ["text.tif", "text.ome.tif", "text.png", "text.dat"])
@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0\x08\0\0\0\0\0\0\0\0\0"])
def test_no_image_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"input: '{name}' (cannot be read|holds no image)"):
        io.read(tmp_path / name)


def test_truncated_tiff_is_one_clear_error(tmp_path):
    tifffile.imwrite(tmp_path / "cut.tif", ramp(64, 64))
    whole = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"input: 'cut\.tif' cannot be read"):
        io.read(tmp_path / "cut.tif")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        io.read(tmp_path / "nothing.tif")
    with pytest.raises(ValueError, match="is a folder"):
        io.read(tmp_path)


def test_reads_ome_with_mixed_units(tmp_path):
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 90.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 90.0,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 0.3,
        "PhysicalSizeZUnit": "µm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", ramp(3, 4, 5), ome=True, metadata=metadata)
    size = io.read(tmp_path / "a.ome.tif").pixel_size
    assert size.unit == "nm"
    assert size.sizes == pytest.approx({"Z": 300.0, "Y": 90.0, "X": 90.0})


def test_reads_centimetres_but_not_dots_per_inch(tmp_path):
    tifffile.imwrite(tmp_path / "cm.tif", ramp(4, 4), resolution=(1e5, 5e4), resolutionunit=3)
    size = io.read(tmp_path / "cm.tif").pixel_size
    assert (size.unit, size.sizes) == ("µm", pytest.approx({"Y": 0.2, "X": 0.1}))
    tifffile.imwrite(tmp_path / "dpi.tif", ramp(4, 4), resolution=(72, 72), resolutionunit=2)
    assert io.read(tmp_path / "dpi.tif").pixel_size == io.PixelSize({})


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 6, 3), "YXC"), ((4, 5, 6), "ZYX"), ((2, 4, 5, 6), "TZYX"), ((5, 6), "YX")],
)
def test_reads_plain_tiff(tmp_path, shape, axes):
    photometric = "rgb" if axes == "YXC" else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", ramp(*shape), photometric=photometric)
    back = io.read(tmp_path / "a.tif")
    assert back.axes == axes
    np.testing.assert_array_equal(back.image, ramp(*shape))


def test_first_of_several_images_is_read_and_the_rest_counted(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tiff:
        tiff.write(ramp(4, 4), metadata={"axes": "YX"})
        tiff.write(ramp(6, 6), metadata={"axes": "YX"})
    back = io.read(tmp_path / "two.ome.tif")
    assert (back.image.shape, back.others) == ((4, 4), 1)


def test_colour_with_channels_is_refused_with_advice(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        np.zeros((2, 8, 8, 3), np.uint8),
        ome=True,
        photometric="rgb",
        metadata={"axes": "CYXS"},
    )
    with pytest.raises(ValueError, match="Save the part you want"):
        io.read(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("mode", "axes"), [("L", "YX"), ("RGB", "YXC"), ("RGBA", "YXC"), ("LA", "YX"), ("I;16", "YX")]
)
def test_reads_pictures_without_their_transparency(tmp_path, mode, axes):
    Image.new(mode, (6, 5)).save(tmp_path / "a.png")
    back = io.read(tmp_path / "a.png")
    assert (back.axes, back.image.shape[:2]) == (axes, (5, 6))
    assert back.image.shape[2:] == (3,) * axes.count("C")


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".ome.tif", ".ome.tiff"])
def test_diagnostics_are_named_after_the_image(tmp_path, ending):
    outputs = io.Outputs.beside(tmp_path / f"a.b{ending}", diagnostics=True)
    assert outputs.residual == tmp_path / f"a.b_residual{ending}"
    assert outputs.uncertainty == tmp_path / f"a.b_uncertainty{ending}"
    assert outputs.paths[-2:] == (outputs.residual, outputs.uncertainty)
    plain = io.Outputs.beside(tmp_path / f"a.b{ending}")
    assert (plain.residual, plain.uncertainty) == (None, None)
    assert plain.paths == outputs.paths[:-2]


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
@pytest.mark.parametrize("axes", ["YX", "YXC", "ZYX", "TYX", "TCZYX"])
def test_diagnostics_lie_on_the_pixels_of_source_and_image(tmp_path, name, axes):
    source = picture(axes, io.PixelSize({"Z": 0.6, "Y": 0.25, "X": 0.2}, "µm"))
    outputs = io.Outputs.beside(tmp_path / name, diagnostics=True)
    whole = diagnosed(source, (3, 2))
    assert io.write(outputs, whole, source) == list(outputs.paths)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in outputs.paths}
    for path, values, (y, x) in (
        (outputs.residual, whole.residual, (0.25, 0.2)),
        (outputs.uncertainty, whole.uncertainty, (0.25 / 3, 0.1)),
    ):
        back = io.read(path)
        order = [back.axes.index(axis) for axis in axes]
        np.testing.assert_array_equal(back.image.transpose(order), values)
        assert back.image.dtype == np.float32
        assert [back.pixel_size.sizes[axis] for axis in "ZYX"] == pytest.approx([0.6, y, x])
        assert back.pixel_size.unit == "µm"


def test_planes_without_a_report_stay_empty_in_the_file(tmp_path):
    source = picture("ZYX")
    whole = diagnosed(source)
    whole.residual[1:] = np.nan
    outputs = io.Outputs.beside(tmp_path / "out.tif", diagnostics=True)
    io.write(outputs, whole, source)
    np.testing.assert_array_equal(io.read(outputs.residual).image, whole.residual)


def test_only_diagnostics_that_are_there_and_have_a_name_are_written(tmp_path):
    source = picture()
    outputs = io.Outputs.beside(tmp_path / "a.tif", diagnostics=True)
    without = replace(diagnosed(source), uncertainty=None)
    expected = [outputs.image, outputs.kernel, outputs.settings, outputs.residual]
    assert io.write(outputs, without, source) == expected
    assert not outputs.uncertainty.exists()
    plain = io.Outputs.beside(tmp_path / "b.tif")
    assert io.write(plain, diagnosed(source), source) == list(plain.paths)
    assert {path.name for path in tmp_path.glob("b*")} == {path.name for path in plain.paths}


@pytest.mark.parametrize("name", ["out_residual.tif", "out_uncertainty.tif"])
def test_existing_diagnostics_are_kept_unless_told_otherwise(tmp_path, name):
    (tmp_path / name).write_text("precious")
    outputs = io.Outputs.beside(tmp_path / "out.tif", diagnostics=True)
    with pytest.raises(FileExistsError, match=rf"{name}' exists already"):
        outputs.check(10)
    with pytest.raises(ValueError, match="is an input"):
        outputs.spare(tmp_path / name)
    io.Outputs.beside(tmp_path / "out.tif").check(10)
    io.write(outputs, diagnosed(picture()), picture(), overwrite=True)
    assert io.read(tmp_path / name).axes == "YX"


def test_the_settings_file_holds_the_figures_of_every_plane(tmp_path):
    outputs = io.Outputs.beside(tmp_path / "out.tif", diagnostics=True)
    io.write(outputs, diagnosed(picture()), picture())
    record = json.loads(outputs.settings.read_text(encoding="utf-8"))
    assert record["reports"] == [
        {
            "kernel_width": 3.5,
            "kernel_width_interval": [3.2, 3.8],
            "resolution_before": 4.0,
            "resolution_after": 3.4,
            "misfit": 0.98,
            "correlation": -0.02,
            "lone_pixels": 0,
        },
        None,
    ]
    assert io.read_settings(outputs.settings)[0].diagnostics is True
