"""The form that asks for all settings of a run."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_dkp._napari.form import Form, add_row, form_layout
from napari_dkp._napari.microscope import OpticsFilling
from napari_dkp._napari.optics_form import OpticsForm
from napari_dkp._napari.section import Section
from napari_dkp._napari.volume_choice import VolumeChoice
from napari_dkp.config import (
    OF_THE_MODEL,
    DiffusionConfig,
    DIPConfig,
    NoiseConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)

if TYPE_CHECKING:
    from napari.layers import Image

BASIC = ("scale", "kernel_family", "method", "preset", "diagnostics", "device")
ADVANCED = (
    "iterations",
    "kernel_size",
    "axes",
    "share_kernel",
    "tile",
    "phase",
    "boundary",
    "precision",
    "seed",
)
KNOWN = {"optics": "Microscope", "noise": "Camera noise"}
CONFIGS: dict[str, tuple[str, type]] = {
    "rks": ("Kernel sampling", RKSConfig),
    "pke": ("Kernel network", PKEConfig),
    "search": ("Search for motion", SearchConfig),
    "dip": ("Image network", DIPConfig),
    "diffusion": ("Diffusion model", DiffusionConfig),
    "richardson_lucy": ("Richardson–Lucy", RichardsonLucyConfig),
}


class SettingsForm(QWidget):
    """Asks for `Settings`: the few that matter, what is known of the microscope, and the rest.

    Parameters
    ----------
    known_kernel : choice of a known point spread function, to stand among the advanced settings.
    """

    edited = Signal()

    def __init__(self, known_kernel: QWidget) -> None:
        super().__init__()
        self.basic = Form(Settings, BASIC)
        self.volume = VolumeChoice()
        self.advanced = Form(Settings, ADVANCED)
        optics = OpticsForm()
        self.known: dict[str, Form] = {"optics": optics, "noise": Form(NoiseConfig)}
        self.configs = {name: Form(kind) for name, (_, kind) in CONFIGS.items()}
        self._usual = Settings().resolve()  # what the form last showed where nothing was set
        self._optics = OpticsFilling(optics)
        self._note = optics.note
        self.volume.switched.connect(optics.ask_for_volumes)
        self.volume.switched.connect(self._follow)
        self._arrange(known_kernel)
        self._fill_from_preset()
        self.basic.editors["preset"].edited.connect(self._fill_from_preset)
        for form in (self.basic, self.advanced, *self.known.values(), *self.configs.values()):
            form.edited.connect(self._changed)
        self.volume.edited.connect(self._changed)

    def settings(self) -> Settings:
        """Return what the form says.

        Raises
        ------
        ValueError, TypeError
            Naming what cannot be used.
        """
        configs = {name: form.config() for name, form in (self.known | self.configs).items()}
        if configs["dip"] == self._now_usual().dip:
            configs["dip"] = None  # "auto" may yet find a microscope, for which it is another
        typed = self._optics.typed
        half = typed.get("numerical_aperture") or typed.get("wavelength")
        if configs["optics"] is None and half:
            raise ValueError(
                "Microscope: expected aperture, wavelength and pixel size, or neither aperture "
                "nor wavelength."
            )
        basic = self.basic.values()
        volume = self.volume.values(basic.pop("scale"))
        return Settings(**basic, **volume, **self.advanced.values(), **configs)

    def set_settings(self, settings: Settings) -> None:
        """Show settings."""
        resolved = settings.resolve()
        self.basic.set_values(settings, but=("scale",))
        self.basic.editors["scale"].set_value(self.volume.set_values(settings))  # type: ignore[arg-type]
        self.advanced.set_values(settings)
        for name, form in (self.known | self.configs).items():
            form.set_values(getattr(resolved, name))
        self._usual = self._now_usual()
        if settings.optics is None:
            self._optics.show_pixel_size()

    def fill_from(self, layer: "Image | None") -> None:
        """Take the optics from a layer; those of another one would be wrong."""
        self._optics.fill(layer)
        self._note_optics()

    def _fill_from_preset(self) -> None:
        self._usual = self._now_usual()
        self.advanced.editors["iterations"].set_value(None)  # type: ignore[arg-type]
        for name, form in self.configs.items():
            form.set_values(getattr(self._usual, name), but=OF_THE_MODEL)

    def _now_usual(self) -> Settings:
        """Return the settings where no number is set: blur and volume decide on some."""
        chosen: dict[str, Any] = {
            name: self.basic.editors[name].value() for name in ("preset", "kernel_family")
        }
        try:
            return Settings(**chosen, volume=self.volume.values(1)["volume"]).resolve()
        except ValueError:  # what does not go together is said once it is asked for
            return Settings(preset=chosen["preset"]).resolve()

    def _follow(self) -> None:
        """Show the numbers of another blur, or of volumes, where none has been set."""
        before, self._usual = self._usual, self._now_usual()
        if before.dip == self._usual.dip:
            return
        form = self.configs["dip"]
        with suppress(ValueError):  # what cannot be read is said once it is asked for
            own = [
                name for name, value in form.values().items() if value != getattr(before.dip, name)
            ]
            form.set_values(self._usual.dip, but=own)

    def _changed(self) -> None:
        self._follow()
        self._note_optics()
        self.edited.emit()

    def _note_optics(self) -> None:
        """Say which optics count, which need not be typed."""
        self.sections["optics"].set_note(self._note())

    def _arrange(self, known_kernel: QWidget) -> None:
        known = QWidget()
        add_row(form_layout(known), "Known PSF", known_kernel)
        more = Section("Advanced", known, self.advanced)
        for name, (title, _) in CONFIGS.items():
            more.addWidget(Section(title, self.configs[name]))
        self.sections = {name: Section(title, self.known[name]) for name, title in KNOWN.items()}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (self.volume, self.basic, *self.sections.values(), more):
            layout.addWidget(part)
