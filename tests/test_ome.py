from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from napari_dkp import ome
from napari_dkp.config import OpticsConfig

XML = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
 <Instrument ID="Instrument:0">
  <Objective ID="Objective:0" LensNA="0.45" NominalMagnification="10"/>
  <Objective ID="Objective:1" LensNA="1.4"/>
 </Instrument>
 <Image ID="Image:0" Name="cells">
  <ObjectiveSettings ID="Objective:1"/>
  <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20" SizeZ="1"
    SizeC="2" SizeT="1" PhysicalSizeX="0.065" PhysicalSizeY="65" PhysicalSizeYUnit="nm">
   <Channel ID="Channel:0:0" Name="GFP" EmissionWavelength="525" SamplesPerPixel="1"/>
   <Channel ID="Channel:0:1" Name="561" EmissionWavelength="0.6" EmissionWavelengthUnit="µm"/>
   <TiffData IFD="0" PlaneCount="2"/>
  </Pixels>
 </Image>
</OME>"""
ONE = XML.replace('Name="561" EmissionWavelength="0.6" EmissionWavelengthUnit="µm"', 'Name="561"')


def only(metadata: object) -> ome.Microscope:
    (found,) = ome.parse(metadata)
    return found


def changed(*pairs: tuple[str, str], text: str = XML) -> ome.Microscope:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return only(text)


def test_aperture_is_that_of_the_objective_used_and_lengths_are_nanometres():
    found = only(XML)
    assert found.numerical_aperture == 1.4
    assert found.pixel_size == 65
    assert found.shape == (20, 30)
    assert found.channels == (ome.Channel("GFP", 525), ome.Channel("561", 600))


def test_wavelength_is_that_of_the_channel_or_of_all():
    found = only(XML)
    assert found.wavelength() is None
    assert found.wavelength(["561"]) == 600
    assert found.wavelength(["no such channel"]) is None
    alike = changed(('EmissionWavelength="0.6"', 'EmissionWavelength="0.525"'))
    assert alike.wavelength() == 525
    half_known = only(ONE)
    assert half_known.wavelength() is None
    assert half_known.wavelength(["GFP"]) == 525


def test_objectives_count_together_where_none_is_said_to_be_used():
    assert changed(('<ObjectiveSettings ID="Objective:1"/>', "")).numerical_aperture is None
    alike = changed(('<ObjectiveSettings ID="Objective:1"/>', ""), ("0.45", "1.4"))
    assert alike.numerical_aperture == 1.4


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "oil", "", "63"])
def test_an_aperture_that_cannot_be_is_unknown(value):
    assert changed(('LensNA="1.4"', f'LensNA="{value}"')).numerical_aperture is None


@pytest.mark.parametrize("value", ["0", "-525", "nan", "green", "1e9", "5"])
def test_a_wavelength_that_cannot_be_is_unknown(value):
    found = changed(('EmissionWavelength="525"', f'EmissionWavelength="{value}"'))
    assert [channel.wavelength for channel in found.channels] == [None, 600]


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "li"])
def test_lengths_in_no_unit_are_unknown(unit):
    found = changed(('YUnit="nm"', f'YUnit="{unit}" PhysicalSizeXUnit="{unit}"'))
    assert found.pixel_size is None


def test_pixels_that_are_not_square_have_no_one_size():
    assert changed(('PhysicalSizeY="65"', 'PhysicalSizeY="130"')).pixel_size is None
    assert changed(('PhysicalSizeY="65" PhysicalSizeYUnit="nm"', "")).pixel_size == 65


@pytest.mark.parametrize("mode", ["MultiPhotonMicroscopy", "StructuredIllumination", "STED"])
def test_no_wavelength_where_it_sets_no_cut_off(mode):
    found = changed(('Name="GFP"', f'Name="GFP" AcquisitionMode="{mode}"'))
    assert found.wavelength(["GFP"]) is None
    confocal = changed(('Name="GFP"', 'Name="GFP" AcquisitionMode="SpinningDiskConfocal"'))
    assert confocal.wavelength(["GFP"]) == 525


def test_optics_of_each_channel_where_all_is_known_and_can_be():
    one = ('<Channel ID="Channel:0:1" Name="561"/>', "")
    optics = OpticsConfig(numerical_aperture=1.4, wavelength=525, pixel_size=65)
    assert changed(one, text=ONE).optics() == optics
    assert only(ONE).optics() == (optics, None)
    for gone in (' EmissionWavelength="525"', ' LensNA="1.4"'):
        assert changed(one, (gone, ""), text=ONE).optics() is None
    sizes = ('PhysicalSizeX="0.065" PhysicalSizeY="65" PhysicalSizeYUnit="nm"', "")
    assert changed(one, sizes, text=ONE).optics() is None
    coarse = changed(one, (sizes[0], 'PhysicalSizeX="65"'), text=ONE)
    assert coarse.pixel_size == 65_000
    assert coarse.optics() is None


VOLUME = (
    ('PhysicalSizeX="0.065"', 'PhysicalSizeX="0.065" PhysicalSizeZ="0.2"'),
    ('<ObjectiveSettings ID="Objective:1"/>', '<ObjectiveSettings ID="Objective:1" Medium="Oil"/>'),
    (
        'EmissionWavelength="525"',
        'EmissionWavelength="525" ExcitationWavelength="488" '
        'AcquisitionMode="LaserScanningConfocalMicroscopy"',
    ),
)


def test_what_volumes_need():
    found = changed(*VOLUME)
    assert (found.z_step, found.refractive_index) == (200, 1.518)
    green, red = found.channels
    assert (green.excitation, green.modality) == (488, "confocal")
    assert (red.excitation, red.modality) == (None, "auto")
    known = {"numerical_aperture": 1.4, "pixel_size": 65, "z_step": 200, "refractive_index": 1.518}
    assert found.optics() == (
        OpticsConfig(**known, wavelength=525, excitation=488, modality="confocal"),
        OpticsConfig(**known, wavelength=600),
    )


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ('RefractiveIndex="1.515" Medium="Water"', 1.515),
        ('RefractiveIndex="0" Medium="Glycerin"', 1.47),
        ('RefractiveIndex="15.1"', 1.333),
        ('Medium="Other"', 1.333),
    ],
)
def test_the_index_is_that_of_the_medium_in_use_or_the_one_made_for(said, index):
    found = changed(
        ('LensNA="1.4"', 'LensNA="1.1" Immersion="WaterDipping"'),
        ('<ObjectiveSettings ID="Objective:1"/>', f'<ObjectiveSettings ID="Objective:1" {said}/>'),
    )
    assert found.refractive_index == index


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (('Medium="Oil"', 'RefractiveIndex="1.333"'), "refractive_index"),
        (('ExcitationWavelength="488"', 'ExcitationWavelength="920"'), "excitation"),
        (('PhysicalSizeZ="0.2"', 'PhysicalSizeZ="200"'), "z_step"),
    ],
)
def test_what_cannot_be_of_a_volume_is_left_open_and_the_rest_counts(change, name):
    optics, _ = changed(*VOLUME, change).optics()
    assert optics.numerical_aperture == 1.4
    assert getattr(optics, name) is None
    others = {"refractive_index", "excitation", "z_step"} - {name}
    assert all(getattr(optics, other) for other in others)


def test_every_image_is_told_of():
    start, end = XML.index(" <Image"), XML.index("</OME>")
    image = XML[start:end]
    other = image.replace('"Objective:1"', '"Objective:0"').replace('SizeX="30"', 'SizeX="99"')
    first, second = ome.parse(XML[:end] + other + XML[end:])
    assert (first.numerical_aperture, second.numerical_aperture) == (1.4, 0.45)
    assert (first.shape, second.shape) == ((20, 30), (20, 99))


def test_mappings_of_readers_tell_the_same():
    assert ome.parse(tifffile.xml2dict(XML)) == ome.parse(XML)
    assert ome.parse(tifffile.xml2dict(XML)["OME"]) == ome.parse(XML)


def test_objects_of_ome_types_tell_the_same():
    class Unit(Enum):
        NM = "nm"
        UM = "µm"

    class Mode(Enum):
        CONFOCAL = "LaserScanningConfocalMicroscopy"

    class Medium(Enum):
        OIL = "Oil"

    def channel(name, wavelength, unit, **others):
        return SimpleNamespace(
            name=name, emission_wavelength=wavelength, emission_wavelength_unit=unit, **others
        )

    pixels = SimpleNamespace(
        size_x=30,
        size_y=20,
        physical_size_x=0.065,
        physical_size_x_unit=Unit.UM,
        physical_size_y=65.0,
        physical_size_y_unit=Unit.NM,
        physical_size_z=200.0,
        physical_size_z_unit=Unit.NM,
        channels=[
            channel(
                "GFP", 525.0, Unit.NM, excitation_wavelength=488.0, acquisition_mode=Mode.CONFOCAL
            ),
            channel("561", 0.6, Unit.UM),
        ],
    )
    objectives = [
        SimpleNamespace(id="Objective:0", lens_na=0.45),
        SimpleNamespace(id="Objective:1", lens_na=1.4),
    ]
    used = SimpleNamespace(id="Objective:1", refractive_index=None, medium=Medium.OIL)
    image = SimpleNamespace(objective_settings=used, pixels=pixels)
    root = SimpleNamespace(instruments=[SimpleNamespace(objectives=objectives)], images=[image])
    assert only(root) == changed(*VOLUME)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "",
        "no xml",
        XML[:-20],
        "<OME/>",
        "<OME>" + "<Pixels>" * 5000 + "</Pixels>" * 5000 + "</OME>",
        "<OME>" + " " * 2**24 + "</OME>",
        {},
        {"OME": None},
        {"OME": {"Image": 3}},
        {"Image": [{"Pixels": {"Channel": "GFP"}}]},
        lambda: None,
        np.zeros(3),
        7,
    ],
    ids=lambda metadata: repr(metadata)[:20],
)
def test_what_is_no_ome_tells_nothing(metadata):
    for found in ome.parse(metadata):
        assert found.numerical_aperture is found.pixel_size is found.optics() is None
        assert not any(channel.wavelength for channel in found.channels)


def test_files(tmp_path: Path):
    values = np.zeros((2, 20, 30), np.uint8)
    by_hand, plain, broken = (tmp_path / name for name in ("hand.tif", "plain.tif", "broken.tif"))
    tifffile.imwrite(by_hand, values, description=XML.encode(), metadata=None)
    tifffile.imwrite(plain, values)
    broken.write_bytes(by_hand.read_bytes()[:60])
    assert ome.read(by_hand) == ome.parse(XML)
    usual = tmp_path / "usual.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.1,
        "PhysicalSizeXUnit": "µm",
        "Channel": {"Name": ["a", "b"], "EmissionWavelength": [600, 600]},
    }
    tifffile.imwrite(usual, values, metadata=metadata)
    (found,) = ome.read(usual)
    assert (found.pixel_size, found.wavelength(), found.optics()) == (100, 600, None)
    for path in (plain, broken, tmp_path, tmp_path / "none.tif"):
        assert ome.read(path) == ()
