"""What the section "Microscope" is filled with."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from napari.layers import Image
from napari.layers._source import layer_source

from napari_dkp import ome
from napari_dkp._napari import microscope
from napari_dkp.config import OpticsConfig, Settings

XML = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
 <Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="{na}"/></Instrument>
 <Image ID="Image:0"><ObjectiveSettings ID="Objective:0"/>
  <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="24" SizeZ="1"
    SizeC="{n}" SizeT="1" PhysicalSizeX="{size}" PhysicalSizeY="{size}">{channels}<TiffData/>
  </Pixels>
 </Image>
</OME>"""
UNKNOWN = (None, None, None)


def xml(na="1.4", size="0.065", **wavelengths: str) -> str:
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" Name="{name}" EmissionWavelength="{nm}"/>'
        for n, (name, nm) in enumerate(wavelengths.items())
    )
    return XML.format(na=na, size=size, channels=channels, n=len(wavelengths))


def layer(name="image", path=None, shape=(24, 30), **options) -> Image:
    """Return a layer as a reader would make it."""
    with layer_source(path=None if path is None else str(path)):
        return Image(np.zeros(shape, np.uint16), name=name, **options)


@pytest.fixture
def file(tmp_path) -> Callable[..., object]:
    """Write a TIFF file with a description, and return its path."""

    def write(description: str, name="image.ome.tif", shape=(24, 30)):
        values = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint16)
        text = description.encode()
        tifffile.imwrite(tmp_path / name, values, description=text, metadata=None)
        return tmp_path / name

    return write


@pytest.fixture
def optics(restorer):
    """Return what puts a layer into the viewer, chooses it, and returns what the form says."""
    viewer, widget = restorer

    def choose(layer: Image) -> tuple[float | None, ...]:
        if layer not in viewer.layers:
            viewer.add_layer(layer)
        widget.image.choose(layer)
        assert widget.image.layer is layer
        return of_planes(widget)

    return choose


def of_planes(widget) -> tuple[float | None, ...]:
    """Return aperture, wavelength and pixel size, as the form says."""
    values = widget.form.known["optics"].values()
    return tuple(values[name] for name in ("numerical_aperture", "wavelength", "pixel_size"))


def title(widget) -> str:
    return str(widget.form.sections["optics"].toggleButton().text())


def test_a_file_that_napari_reads_fills_all_three(restorer, file):
    viewer, widget = restorer
    assert title(widget) == "▸ Microscope"
    (opened,) = viewer.open(file(xml(GFP="525")), plugin="napari")
    widget.image.choose(opened)
    expected = OpticsConfig(numerical_aperture=1.4, wavelength=525, pixel_size=65)
    assert widget.form.settings().optics == expected
    assert title(widget) == "▸ Microscope: NA 1.4, 525 nm"
    widget.form.sections["optics"].expand()
    assert title(widget) == "▾ Microscope: NA 1.4, 525 nm"
    widget.form.known["optics"].editors["wavelength"].set_value(600)
    assert title(widget).endswith("NA 1.4, 600 nm")


def test_a_widget_that_opens_on_such_a_layer_is_filled(make_napari_viewer, no_appraisal, file):
    from napari_dkp._napari.widget import RestoreWidget

    viewer = make_napari_viewer()
    viewer.open(file(xml(GFP="525")), plugin="napari")
    widget = RestoreWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Restore")
    assert of_planes(widget) == (1.4, 525, 65)
    assert title(widget) == "▸ Microscope: NA 1.4, 525 nm"


def test_units_of_the_layer_come_before_the_file(optics, file):
    path = file(xml(GFP="525"))
    assert optics(layer(path=path, scale=(0.1, 0.1), units=("um", "um"))) == (1.4, 525, 100)
    assert optics(layer(path=path, scale=(0.1, 0.1))) == (1.4, 525, 65)


def test_nothing_stays_of_another_layer(restorer, optics, file):
    viewer, widget = restorer
    assert optics(layer("a", file(xml(GFP="525")))) == (1.4, 525, 65)
    assert optics(layer("b", file(xml(na="0.8", size="0.2", DAPI="460"), "b.tif"))) == (
        0.8,
        460,
        200,
    )
    assert optics(layer("none")) == UNKNOWN
    assert title(widget) == "▸ Microscope"
    assert optics(viewer.layers["a"]) == (1.4, 525, 65)
    viewer.layers.clear()
    assert of_planes(widget) == UNKNOWN


def test_what_is_typed_stays_with_its_layer(restorer, optics, file):
    viewer, widget = restorer
    editors = widget.form.known["optics"].editors
    first, plain = layer("a", file(xml(GFP="525"))), layer("plain")
    optics(first)
    editors["numerical_aperture"].set_value(1.2)
    assert optics(first) == (1.2, 525, 65)
    assert optics(plain) == UNKNOWN
    editors["pixel_size"].set_value(100)
    viewer.layers.move(viewer.layers.index(first), len(viewer.layers))
    assert optics(first) == (1.2, 525, 65)
    editors["wavelength"].set_value(None)
    optics(plain)
    assert optics(first) == (1.2, None, 65)
    assert optics(plain) == (None, None, 100)
    # What was not typed follows the layer.
    first.units, first.scale = ("um", "um"), (0.08, 0.08)
    assert optics(first) == (1.2, None, 80)


def test_half_of_it_is_shown_and_does_not_stand_in_the_way(restorer, optics, file):
    _, widget = restorer
    assert optics(layer(path=file(xml(na="", GFP="525")))) == (None, 525, 65)
    assert widget.form.settings().optics is None
    assert title(widget) == "▸ Microscope"
    widget.form.known["optics"].editors["numerical_aperture"].set_value(1.2)
    assert widget.form.settings().optics.numerical_aperture == 1.2
    widget.form.known["optics"].editors["numerical_aperture"].set_value(None)
    widget.form.known["optics"].editors["wavelength"].set_value(600)
    with pytest.raises(ValueError, match="Microscope: expected aperture, wavelength and pixel"):
        widget.form.settings()


def test_what_no_microscope_does_is_not_filled(restorer, optics, file):
    _, widget = restorer
    assert optics(layer(path=file(xml(size="65", GFP="525")))) == (None, None, 65_000)
    assert widget.form.settings().optics is None


@pytest.mark.parametrize(
    ("name", "wavelength"),
    [
        ("GFP", 525),
        ("RFP", 600),
        ("RFP [1]", 600),
        ("RFP :: cells.ome", 600),
        ("cells", None),
        ("RFP 2", None),
    ],
)
def test_a_layer_of_one_channel_has_its_wavelength(optics, file, name, wavelength):
    path = file(xml(GFP="525", RFP="600"), shape=(2, 24, 30))
    assert optics(layer(name, path)) == (1.4, wavelength, 65)


def test_a_layer_of_all_channels_has_the_wavelength_they_share(optics, file):
    path = file(xml(GFP="525", RFP="600"), shape=(2, 24, 30))
    labels = {"axis_labels": ("c", "y", "x")}
    assert optics(layer("a", path, (2, 24, 30), **labels)) == (1.4, (525, 600), 65)
    path = file(xml(a="525", b="525"), "alike.tif", (2, 24, 30))
    assert optics(layer("b", path, (2, 24, 30), **labels)) == (1.4, 525, 65)


def objects(text: str) -> object:
    """Return OME-XML as objects like those of ome_types, as far as they are looked at."""
    (found,) = ome.parse(text)
    channels = [
        SimpleNamespace(name=channel.name, emission_wavelength=channel.wavelength)
        for channel in found.channels
    ]
    pixels = SimpleNamespace(channels=channels, physical_size_x=found.pixel_size / 1000)
    objective = SimpleNamespace(id="Objective:0", lens_na=found.numerical_aperture)
    return SimpleNamespace(
        instruments=[SimpleNamespace(objectives=[objective])],
        images=[SimpleNamespace(pixels=pixels)],
    )


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("ome_metadata", tifffile.xml2dict),  # napari-tiff
        ("ome_types", objects),  # napari-aicsimageio
        ("ome_metadata", objects),  # ndevio
        ("OME", str),
    ],
)
def test_metadata_that_readers_leave_in_the_layer(optics, key, read):
    metadata = {"other": 1, key: read(xml(GFP="525", RFP="600"))}
    assert optics(layer("RFP", metadata=metadata)) == (1.4, 600, 65)


def test_metadata_that_says_nothing_leaves_it_to_the_file(optics, file):
    path = file(xml(GFP="525"))
    for n, odd in enumerate(({"ome": 3}, {"ome_types": lambda: None}, {"OME": "no xml"})):
        assert optics(layer(str(n), path, metadata=odd)) == (1.4, 525, 65)


def test_a_layer_that_is_not_the_image_of_its_file_is_told_nothing(optics, file):
    assert optics(layer(path=file(xml(GFP="525")), shape=(12, 15))) == UNKNOWN


@pytest.mark.parametrize("content", [None, b"", b"II*\0", b"no picture", "<OME>", "<OME/>"])
def test_files_that_tell_nothing(optics, file, tmp_path, content, caplog):
    path = tmp_path / "odd.ome.tif"
    if isinstance(content, str):
        path = file(content)
    elif content is not None:
        path.write_bytes(content)
    assert optics(layer("odd", path)) == UNKNOWN
    assert optics(layer("folder", tmp_path)) == UNKNOWN


def test_no_file_is_asked_for_what_lies_elsewhere(optics, monkeypatch):
    monkeypatch.setattr(microscope.ome, "read", lambda path: pytest.fail(f"asked for {path}"))
    for n, path in enumerate((None, "https://example.org/a.ome.tif", "s3://bucket/a.zarr")):
        assert optics(layer(str(n), path)) == UNKNOWN


def test_a_file_that_does_not_answer_is_not_waited_for(optics, monkeypatch, file):
    answer, asked = threading.Event(), []

    def read(path):
        asked.append(path)
        answer.wait(20)
        return ome.parse(xml(GFP="525"))

    monkeypatch.setattr(microscope.ome, "read", read)
    monkeypatch.setattr(microscope, "_PATIENCE", 0.05)
    slow, plain = layer("slow", file(xml(GFP="525"))), layer("plain")
    began = time.monotonic()
    assert optics(slow) == UNKNOWN
    assert time.monotonic() - began < 10
    answer.set()
    optics(plain)
    assert optics(slow) == UNKNOWN
    assert len(asked) == 1


def test_loaded_settings_are_those_of_the_run_not_of_the_layer(
    restorer, optics, idle, fake_run, file
):
    viewer, widget = restorer
    told = layer("told", file(xml(GFP="525")))
    optics(told)
    widget.form.known["optics"].editors["wavelength"].set_value(600)
    used = widget.form.settings()
    widget.restore()
    idle()
    optics(viewer.layers["cells"])
    assert widget.form.settings().optics is None
    widget.load_settings()
    assert widget.image.layer is told
    assert widget.form.settings().optics == used.optics
    widget.form.set_settings(Settings())
    assert widget.form.settings().optics is None
    assert widget.form.known["optics"].values()["pixel_size"] == 65
