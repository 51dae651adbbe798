"""What a layer tells of its microscope, and how the form of the optics follows the layer.

Told is what the layer's units say, the metadata that its reader left in it, and the OME-XML of the
file that it was read from.
"""

import re
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari_dkp import ome
from napari_dkp._napari.editors import show
from napari_dkp._napari.form import Form
from napari_dkp._napari.source import layer_axes, pixel_size, z_step
from napari_dkp.layout import is_coloured

if TYPE_CHECKING:
    from napari.layers import Image

Values = dict[str, Any]

# Where readers leave OME metadata in a layer: napari-tiff and ndevio, napari-aicsimageio, others.
_KEYS = ("ome_metadata", "ome_types", "ome", "OME")
# Seconds that the viewer waits for a file, which may lie on a drive that is gone.
_PATIENCE = 1.0


class OpticsFilling:
    """Fills a form of `OpticsConfig` with what a layer tells; what is typed stays with its layer.

    Parameters
    ----------
    form : to fill, nothing typed yet.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._layer: ref[Image] | None = None
        self._blank: Values = form.values()
        self._told = self._blank
        self._typed: WeakKeyDictionary[Image, Values] = WeakKeyDictionary()
        self._known: WeakKeyDictionary[Image, tuple[ome.Microscope, ...]] = WeakKeyDictionary()

    @property
    def typed(self) -> Values:
        """What the form says other than what it was filled with."""
        values = self._form.values()
        return {name: value for name, value in values.items() if value != self._told[name]}

    def fill(self, layer: "Image | None") -> None:
        """Show what is told of a layer, and what was typed for it before."""
        before = None if self._layer is None else self._layer()
        if before is not None:
            with suppress(ValueError):  # what cannot be read is no loss
                self._typed[before] = self.typed
        self._layer = None if layer is None else ref(layer)
        self._show(self._blank | ({} if layer is None else told(layer, self._of(layer))))
        self._told = self._form.values()  # rounded as the form does
        if layer is not None:
            self._show(self._typed.get(layer, {}))

    def show_pixel_size(self) -> None:
        """Show the pixel size that is told, which by itself says nothing of the optics."""
        self._show({"pixel_size": self._told["pixel_size"]})

    def _of(self, layer: "Image") -> tuple[ome.Microscope, ...]:
        # Once per layer: a file that did not answer in time would not the next time either.
        if layer not in self._known:
            self._known[layer] = _in_metadata(layer) or _in_file(layer)
        return self._known[layer]

    def _show(self, values: Values) -> None:
        # Half of the new layer's and half of the old one's make no sense to whom it is told.
        blocked = self._form.blockSignals(True)
        for name, value in values.items():
            show(self._form.editors[name], value)
        self._form.blockSignals(blocked)


def told(layer: "Image", microscopes: Sequence[ome.Microscope]) -> Values:
    """Return what is known of the optics; names as of `OpticsConfig`, lengths in nanometres.

    Parameters
    ----------
    layer : whose units come first, and whose name may be a channel's.
    microscopes : of every image that the layer may be.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    same = [one for one in microscopes if one.shape is None or set(one.shape) <= set(data.shape)]
    names = _names(layer.name)
    aperture = ome.common(one.numerical_aperture for one in same)
    size = pixel_size(layer) or ome.common(one.pixel_size for one in same)
    of_volumes = {
        "refractive_index": ome.common(one.refractive_index for one in same),
        "z_step": z_step(layer) or ome.common(one.z_step for one in same),
    }
    lights = _lights(same, names, _n_channels(layer))
    if aperture and size and any(wavelength for wavelength, _ in lights):
        each = [
            ome.plausible(aperture, wavelength, size, excitation=excitation, **of_volumes)
            for wavelength, excitation in lights
        ]
        lights = [(one.wavelength, one.excitation) if one else (None, None) for one in each]
        known = next(filter(None, each), None)
        aperture = aperture if known else None
        of_volumes = {name: getattr(known, name, None) for name in of_volumes}
    wavelengths, excitations = (
        lines[0] if len(lines) == 1 else lines if any(lines) else None
        for lines in zip(*lights, strict=True)
    )
    modes = (ome.common(light.modality for light in one.named(names)) for one in same)
    return {
        "numerical_aperture": aperture,
        "wavelength": wavelengths,
        "pixel_size": size,
        "excitation": excitations,
        "modality": ome.common(modes) or "auto",
        **of_volumes,
    }


def _lights(
    microscopes: Sequence[ome.Microscope], names: Collection[str], n_channels: int
) -> Sequence[tuple[float | None, float | None]]:
    """Return wavelength and excitation: of the channel that a layer is, or of each that it has."""
    wavelength = ome.common(one.wavelength(names) for one in microscopes)
    if wavelength is not None:
        lines = (ome.common(light.excitation for light in one.named(names)) for one in microscopes)
        return [(wavelength, ome.common(lines))]
    each = ome.common(
        tuple((light.wavelength, light.excitation) for light in one.channels) for one in microscopes
    )
    return each if each and len(each) == n_channels else [(None, None)]


def _n_channels(layer: "Image") -> int:
    """Return the channels that a layer holds side by side; 1 where it has no axis of them."""
    try:
        axes = layer_axes(layer)
    except ValueError:
        return 1
    data = layer.data[0] if layer.multiscale else layer.data
    return int(data.shape[axes.index("C")]) if "C" in axes and not is_coloured(axes) else 1


def _names(name: str) -> set[str]:
    """Return the channels that a layer's name may mean.

    Readers that split channels call layers by them, alone or before " :: "; napari numbers names
    that it has already.
    """
    plain = re.sub(r" \[\d+\]$", "", name)
    return {name, plain, plain.split(" :: ")[0]}


def _in_metadata(layer: "Image") -> tuple[ome.Microscope, ...]:
    metadata: dict[str, Any] = layer.metadata
    found = (ome.parse(metadata[key]) for key in _KEYS if key in metadata)
    return next(filter(None, found), ())


def _in_file(layer: "Image") -> tuple[ome.Microscope, ...]:
    path = layer.source.path
    if not path or "://" in str(path):
        return ()
    found: list[ome.Microscope] = []
    # Not waited for when the viewer closes.
    reading = threading.Thread(target=lambda: found.extend(ome.read(path)), daemon=True)
    reading.start()
    reading.join(_PATIENCE)
    return tuple(found)
