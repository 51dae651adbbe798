"""What the section "Microscope" asks for where a volume is restored."""

import numpy as np
import pytest
from napari.layers import Image

from napari_dkp._napari.optics_form import OF_VOLUMES, OpticsForm
from napari_dkp.config import OpticsConfig, Settings

XML = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
 <Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.4"/></Instrument>
 <Image ID="Image:0"><ObjectiveSettings ID="Objective:0" RefractiveIndex="1.515"/>
  <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="24" SizeZ="6"
    SizeC="2" SizeT="1" PhysicalSizeX="0.065" PhysicalSizeY="0.065" PhysicalSizeZ="0.3">
   <Channel ID="Channel:0:0" Name="GFP" EmissionWavelength="525" ExcitationWavelength="488"
    AcquisitionMode="SpinningDiskConfocal"/>
   <Channel ID="Channel:0:1" Name="RFP" EmissionWavelength="610" ExcitationWavelength="561"
    AcquisitionMode="SpinningDiskConfocal"/><TiffData/></Pixels></Image>
</OME>"""
OBJECTIVE = {"numerical_aperture": 1.4, "pixel_size": 65.0}
STACK = {"refractive_index": 1.515, "z_step": 300.0, "modality": "confocal"}
GREEN = OpticsConfig(**OBJECTIVE, **STACK, wavelength=525, excitation=488)
RED = OpticsConfig(**OBJECTIVE, **STACK, wavelength=610, excitation=561)


def layer(name="GFP", shape=(6, 24, 30), **options) -> Image:
    labels = ("t", "c", "z", "y", "x")[-len(shape) :]
    known = {"axis_labels": labels, "metadata": {"OME": XML}}
    return Image(np.zeros(shape, np.uint16), name=name, **(known | options))


@pytest.fixture
def chosen(restorer):
    """Return what puts a layer into the viewer, chooses it and has it restored as a volume."""
    viewer, widget = restorer

    def choose(layer: Image) -> OpticsForm:
        widget.image.choose(viewer.add_layer(layer))
        widget.form.volume.check.setChecked(True)
        return widget.form.known["optics"]

    return choose


def test_volumes_of_a_channel_are_told_of(restorer, chosen):
    _, widget = restorer
    chosen(layer("GFP"))
    assert widget.form.settings().optics == GREEN
    chosen(layer("RFP"))
    assert widget.form.settings().optics == RED


def test_volumes_of_all_channels_are_told_of(restorer, chosen):
    _, widget = restorer
    form = chosen(layer("both", (2, 6, 24, 30)))
    assert form.editors["excitation"].text() == "488, 561 nm"
    assert widget.form.settings().optics == (GREEN, RED)


def test_steps_of_the_layer_come_before_the_file(chosen):
    units = ("um", "um", "um")
    form = chosen(layer(scale=(0.25, 0.1, 0.1), units=units))
    assert (form.values()["z_step"], form.values()["pixel_size"]) == (250, 100)
    form = chosen(layer(scale=(0.25, 0.1, 0.1)))
    assert (form.values()["z_step"], form.values()["pixel_size"]) == (300, 65)
    form = chosen(layer(shape=(24, 30), scale=(0.1, 0.1), units=units[1:], metadata={}))
    assert form.values()["z_step"] is None


def test_planes_are_not_asked_for_what_volumes_need(restorer, chosen):
    viewer, widget = restorer
    form = chosen(layer("GFP"))
    widget.form.sections["optics"].expand(animate=False)

    def shown() -> set[str]:
        rows = {name: form.layout_.labelForField(form.editors[name]) for name in form.editors}
        return {
            name
            for name, label in rows.items()
            if not (label.isHidden() or form.editors[name].isHidden())
        }

    planes = {"numerical_aperture", "wavelength", "pixel_size"}
    assert shown() == planes | set(OF_VOLUMES)
    # Nonsense that cannot be seen does not count.
    form.editors["refractive_index"].set_value(1.2)
    with pytest.raises(ValueError, match="refractive_index: expected more than the numerical"):
        widget.form.settings()
    widget.form.volume.check.setChecked(False)
    assert shown() == planes
    assert widget.form.settings().optics == OpticsConfig(**OBJECTIVE, wavelength=525)
    widget.form.volume.check.setChecked(True)
    assert "refractive_index" in shown()
    widget.image.choose(viewer.layers["cells"])
    assert shown() == planes


@pytest.mark.parametrize("optics", [GREEN, (GREEN, RED), (GREEN, None)])
def test_settings_are_shown_as_they_were(restorer, chosen, optics):
    _, widget = restorer
    shape = (6, 24, 30) if optics == GREEN else (2, 6, 24, 30)
    form = chosen(layer("other", shape, metadata={}))
    settings = Settings(volume=True, optics=optics, kernel_family="confocal")
    widget.form.set_settings(settings)
    assert widget.form.settings().optics == optics
    assert widget.form.settings().kernel_family == "confocal"
    form.set_values(None)
    assert form.config() is None
    assert form.values()["modality"] == "auto"


@pytest.mark.parametrize(
    ("light", "laser", "message"),
    [
        ("525", "488, 561", "Excitation: expected one wavelength, as of the light; got 2"),
        ("525, 610", "488, 561, 640", "expected one wavelength, or one for each channel, 2; got 3"),
        ("525", "900", "excitation: expected a finite number from 210 to 525"),
    ],
)
def test_lasers_that_fit_no_light_are_named(chosen, light, laser, message):
    form = chosen(layer("other", metadata={}))
    form.editors["numerical_aperture"].set_value(1.2)
    form.editors["pixel_size"].set_value(65)
    form.editors["wavelength"].setText(light)
    form.editors["excitation"].setText(laser)
    with pytest.raises(ValueError, match=message):
        form.config()


def test_one_laser_may_excite_all_channels(chosen):
    form = chosen(layer("other", (2, 6, 24, 30), metadata={}))
    form.editors["numerical_aperture"].set_value(1.2)
    form.editors["pixel_size"].set_value(65)
    form.editors["wavelength"].setText("525, 610")
    form.editors["excitation"].setText("488")
    assert [one.excitation for one in form.config()] == [488, 488]
