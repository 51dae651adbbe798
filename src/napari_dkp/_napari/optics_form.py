"""The form of the optics: one microscope, and the wavelengths of its channels."""

from collections.abc import Collection
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_dkp._napari.editors import show
from napari_dkp._napari.form import Form
from napari_dkp.config import OpticsConfig

Optics = OpticsConfig | tuple[OpticsConfig | None, ...] | None

OF_VOLUMES = ("refractive_index", "z_step", "modality", "excitation", "pinhole", "model")


class OpticsForm(Form):
    """Asks for `Settings.optics`: of the image, or, where wavelengths differ, of each channel.

    What only volumes need is asked for, and counts, once `ask_for_volumes` says so.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(OpticsConfig, parent=parent)
        self.ask_for_volumes(False)

    def ask_for_volumes(self, asked: bool) -> None:
        """Show or hide what planes do without."""
        self._asked = asked
        self.show_rows(OF_VOLUMES, asked)

    def config(self) -> Optics:
        """Return the optics that the form says, or None if they are not known.

        Raises
        ------
        ValueError, TypeError
            Naming what cannot be used.
        """
        values = self.values()
        if not self._asked:
            values = {name: value for name, value in values.items() if name not in OF_VOLUMES}
        if any(value is None and self._needed(name) for name, value in values.items()):
            return None
        lights = values.pop("wavelength")
        lasers = values.pop("excitation", None)
        if not isinstance(lights, tuple):
            return OpticsConfig(wavelength=lights, excitation=_one(lasers), **values)
        if not isinstance(lasers, tuple):
            lasers = (lasers,) * len(lights)
        if len(lasers) != len(lights):
            raise ValueError(
                f"Excitation: expected one wavelength, or one for each channel, {len(lights)}; "
                f"got {len(lasers)}"
            )
        return tuple(
            light and OpticsConfig(wavelength=light, excitation=laser, **values)
            for light, laser in zip(lights, lasers, strict=True)
        )

    def set_values(self, config: Any, *, but: Collection[str] = ()) -> None:
        """Show optics, those of channels too."""
        each = config if isinstance(config, tuple) else (config,)
        super().set_values(next(filter(None, each), None), but=but)
        if len(each) > 1:
            for name in ("wavelength", "excitation"):
                lines = tuple(one and getattr(one, name) for one in each)
                show(self.editors[name], lines if any(lines) else None)

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


def _one(lasers: float | tuple[float | None, ...] | None) -> float | None:
    if isinstance(lasers, tuple):
        raise ValueError(f"Excitation: expected one wavelength, as of the light; got {len(lasers)}")
    return lasers
