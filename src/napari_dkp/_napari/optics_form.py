"""The form of the optics: one microscope, and the wavelengths of its channels."""

from collections.abc import Collection
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_dkp._napari.editors import show
from napari_dkp._napari.form import Form
from napari_dkp.config import OpticsConfig

Optics = OpticsConfig | tuple[OpticsConfig | None, ...] | None


class OpticsForm(Form):
    """Asks for `Settings.optics`: of the image, or, where wavelengths differ, of each channel."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(OpticsConfig, parent=parent)

    def config(self) -> Optics:
        """Return the optics that the form says, or None if they are not known.

        Raises
        ------
        ValueError, TypeError
            Naming what cannot be used.
        """
        values = self.values()
        lights = values.pop("wavelength")
        if not isinstance(lights, tuple):
            optics: OpticsConfig | None = super().config()
            return optics
        if None in values.values():
            return None
        return tuple(light and OpticsConfig(wavelength=light, **values) for light in lights)

    def set_values(self, config: Any, *, but: Collection[str] = ()) -> None:
        """Show optics, those of channels too."""
        each = config if isinstance(config, tuple) else (config,)
        super().set_values(next(filter(None, each), None), but=but)
        if len(each) > 1:
            show(self.editors["wavelength"], tuple(one and one.wavelength for one in each))

    def note(self) -> str:
        """Return which optics count, in short; empty where none do."""
        try:
            optics = self.config()
        except (ValueError, TypeError):
            return ""
        each = optics if isinstance(optics, tuple) else (optics,)
        known = next(filter(None, each), None)
        if known is None:
            return ""
        lights = ", ".join("?" if one is None else f"{one.wavelength:g}" for one in each)
        return f"NA {known.numerical_aperture:g}, {lights} nm"
