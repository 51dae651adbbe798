"""What a layer tells of its microscope, and how the form of the optics follows the layer.

Told is what the layer's units say, the metadata that its reader left in it, and the OME-XML of the
file that it was read from.
"""

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari_dkp import ome
from napari_dkp._napari.editors import show
from napari_dkp._napari.form import Form
from napari_dkp._napari.source import layer_axes, pixel_size
from napari_dkp.layout import is_coloured

if TYPE_CHECKING:
    from napari.layers import Image

Values = dict[str, float | tuple[float | None, ...] | None]

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
        self._told: Values = form.values()
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
        self._show(dict.fromkeys(self._told) if layer is None else told(layer, self._of(layer)))
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
    aperture = ome.common(one.numerical_aperture for one in same)
    names = _names(layer.name)
    wavelength = ome.common(one.wavelength(names) for one in same)
    size = pixel_size(layer) or ome.common(one.pixel_size for one in same)
    if wavelength is not None:
        if aperture and size and ome.plausible(aperture, wavelength, size) is None:
            aperture = wavelength = None
        return {"numerical_aperture": aperture, "wavelength": wavelength, "pixel_size": size}
    each = ome.common(tuple(light.wavelength for light in one.channels) for one in same) or ()
    if len(each) != _n_channels(layer):
        each = ()
    if aperture and size:
        each = tuple(
            light if light and ome.plausible(aperture, light, size) else None for light in each
        )
    return {
        "numerical_aperture": aperture,
        "wavelength": each if any(each) else None,
        "pixel_size": size,
    }


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
