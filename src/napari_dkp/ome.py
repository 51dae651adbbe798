"""What OME metadata tells of a microscope: its objective, its light, and the size of a voxel.

It comes as OME-XML, as the nested mappings that readers make of it, or as objects of `ome_types`.
What is missing, odd or cannot be true counts as unknown; nothing here is an error.
"""

import math
import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from xml.etree import ElementTree

import tifffile

from napari_dkp.config import Modality, OpticsConfig

METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "pm": 1e-12, "Å": 1e-10}

_MICRON = ("micron", "microns", "um", "\u03bcm")
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an image.

    Attributes
    ----------
    name : empty if it has none.
    wavelength : of the emitted light, nm; None where it is unknown, or sets no cut-off.
    excitation : wavelength of the light that excites, nm; None is unknown.
    modality : "auto" where it is unknown, or neither of the two.
    """

    name: str
    wavelength: float | None
    excitation: float | None = None
    modality: Modality = "auto"


@dataclass(frozen=True, slots=True)
class Microscope:
    """What is told of one image; None is unknown.

    Attributes
    ----------
    numerical_aperture : of the objective.
    channels : in the order of the image's.
    pixel_size : side of a pixel, nm; None also where pixels are not square.
    shape : rows and columns of the image.
    refractive_index : of the immersion medium.
    z_step : from plane to plane, nm.
    """

    numerical_aperture: float | None
    channels: tuple[Channel, ...]
    pixel_size: float | None
    shape: tuple[int, int] | None
    refractive_index: float | None = None
    z_step: float | None = None

    def named(self, names: Collection[str] = ()) -> tuple[Channel, ...]:
        """Return the channels called one of `names`, or all where none is."""
        named = tuple(channel for channel in self.channels if channel.name in names)
        return named or self.channels

    def wavelength(self, names: Collection[str] = ()) -> float | None:
        """Return the wavelength, nm, of the channel called one of `names`.

        Where none is, that of all channels, if they share one.
        """
        return common(channel.wavelength for channel in self.named(names))

    def optics(self) -> OpticsConfig | tuple[OpticsConfig | None, ...] | None:
        """Return what a run can be told: for all channels, or for each where they differ.

        None unless aperture, pixel size and some wavelength are known.
        """
        each = tuple(
            plausible(
                self.numerical_aperture,
                light.wavelength,
                self.pixel_size,
                refractive_index=self.refractive_index,
                z_step=self.z_step,
                excitation=light.excitation,
                modality=light.modality,
            )
            for light in self.channels
        )
        return common(each) or (each if any(each) else None)


def plausible(
    aperture: float | None, wavelength: float | None, pixel_size: float | None, **of_volumes: Any
) -> OpticsConfig | None:
    """Return the optics; None where one is missing or no microscope is set up like that.

    Lengths are in nm. What counts in volumes only is left open where it cannot be.
    """
    if aperture is None or wavelength is None or pixel_size is None:
        return None
    try:
        optics = OpticsConfig(
            numerical_aperture=aperture, wavelength=wavelength, pixel_size=pixel_size
        )
    except ValueError:
        return None
    for name, value in of_volumes.items():
        with suppress(ValueError):
            optics = replace(optics, **{name: value})
    return optics


def common(values: Iterable[_Value | None]) -> _Value | None:
    """Return the value that all have in common."""
    different = set(values)
    return different.pop() if len(different) == 1 else None


def read(path: str | os.PathLike[str]) -> tuple[Microscope, ...]:
    """Return what a TIFF file tells of each of its images; nothing if it holds no OME-XML.

    Only the first page's header is read.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return parse(tiff.ome_metadata)
    except Exception:  # files can be odd in more ways than tifffile has errors for
        return ()


def parse(metadata: object) -> tuple[Microscope, ...]:
    """Return what OME metadata tells of each image; nothing if it is none.

    Parameters
    ----------
    metadata : OME-XML, a mapping with its elements and attributes as keys, or `ome_types.OME`.
    """
    try:
        root = _root(metadata)
        objectives = [
            objective
            for instrument in _nodes(root, "Instrument")
            for objective in _nodes(instrument, "Objective")
        ]
        return tuple(_microscope(image, objectives) for image in _nodes(root, "Image"))
    except Exception:  # what readers leave in a layer can be anything
        return ()


def unit_name(name: str) -> str:
    """Undo ImageJ's escapes and its names for the micrometre."""
    name = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), name)
    return "µm" if name in _MICRON else name


def _microscope(image: Any, objectives: Sequence[Any]) -> Microscope:
    settings = _nodes(image, "ObjectiveSettings")
    names = [_get(setting, "ID") for setting in settings]
    used = [one for one in objectives if _get(one, "ID") in names] or objectives
    pixels: Any = next(iter(_nodes(image, "Pixels")), {})
    sizes = [_length(pixels, f"PhysicalSize{axis}", "µm") for axis in "YX"]
    known = [size for size in sizes if size is not None]
    square = bool(known) and max(known) <= _SQUARE * min(known)
    shape = [_number(_get(pixels, f"Size{axis}"), 1, math.inf) for axis in "YX"]
    rows, columns = (None if n is None else int(n) for n in shape)
    return Microscope(
        numerical_aperture=common(_number(_get(one, "LensNA"), *_APERTURES) for one in used),
        channels=tuple(_channel(channel) for channel in _nodes(pixels, "Channel")),
        pixel_size=float(f"{math.prod(known) ** (1 / len(known)):.6g}") if square else None,
        shape=None if rows is None or columns is None else (rows, columns),
        refractive_index=_index(settings, used),
        z_step=_length(pixels, "PhysicalSizeZ", "µm"),
    )


def _index(settings: Sequence[Any], objectives: Sequence[Any]) -> float | None:
    """Return the refractive index of what the objective dips into, or is made for."""
    stated = [_number(_get(one, "RefractiveIndex"), *_INDICES) for one in settings]
    media = [_MEDIA.get(str(_get(one, "Medium"))) for one in settings]
    made_for = [_MEDIA.get(str(_get(one, "Immersion"))) for one in objectives]
    return common(stated) or common(media) or common(made_for)


def _channel(channel: Any) -> Channel:
    wavelength = _number(_length(channel, "EmissionWavelength", "nm"), *_WAVELENGTHS)
    mode = str(_get(channel, "AcquisitionMode"))
    if mode in _OTHER_CUTOFFS:
        wavelength = None
    name = _get(channel, "Name")
    return Channel(
        name="" if name is None else str(name),
        wavelength=wavelength,
        excitation=_number(_length(channel, "ExcitationWavelength", "nm"), *_WAVELENGTHS),
        modality=_MODALITIES.get(mode, "auto"),
    )


def _root(metadata: object) -> Any:
    if isinstance(metadata, str):
        if not 0 < len(metadata) <= _MOST_XML:
            return {}
        return _mapping(ElementTree.fromstring(metadata))
    if isinstance(metadata, Mapping):
        return metadata.get("OME", metadata)
    return metadata


def _mapping(element: ElementTree.Element) -> dict[str, Any]:
    """Return the attributes of an element, and those of its parts that are looked at."""
    found: dict[str, Any] = dict(element.attrib)
    for part in element:
        name = part.tag.rpartition("}")[2]
        if name in _PARTS:
            found.setdefault(name, []).append(_mapping(part))
    return found


def _get(node: Any, name: str) -> Any:
    """Return an attribute; `ome_types` writes LensNA as lens_na, and units as enumerations."""
    if isinstance(node, Mapping):
        return node.get(name)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[XYZ])(?=Unit)", "_", name)
    value = getattr(node, words.lower(), None)
    return getattr(value, "value", value)


def _nodes(node: Any, name: str) -> list[Any]:
    """Return the parts of a name; what can occur twice is a plural in `ome_types`."""
    found = node.get(name) if isinstance(node, Mapping) else getattr(node, _PARTS[name], None)
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _length(node: Any, name: str, unit: str) -> float | None:
    """Return a length in nm; `unit` is the one that counts where none is named."""
    given = unit_name(str(_get(node, f"{name}Unit") or unit))
    size = _number(_get(node, name), 0, math.inf)
    if size is None or given not in METRES:
        return None
    return float(f"{size * METRES[given] / METRES['nm']:.6g}")


def _number(value: Any, low: float, high: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    # Instruments write 0 for what they do not know.
    return number if math.isfinite(number) and number > 0 and low <= number <= high else None


# To the names that they have in `ome_types`.
_PARTS = {
    "Instrument": "instruments",
    "Objective": "objectives",
    "Image": "images",
    "ObjectiveSettings": "objective_settings",
    "Pixels": "pixels",
    "Channel": "channels",
}
_APERTURES = (0.01, 2.0)
_WAVELENGTHS = (200.0, 2000.0)  # nm
_INDICES = (1.0, 2.5)
_MEDIA = {
    "Air": 1.0,
    "Water": 1.333,
    "WaterDipping": 1.333,
    "Glycerol": 1.47,
    "Glycerin": 1.47,
    "Oil": 1.518,
}
_MODALITIES: dict[str, Modality] = {
    "WideField": "widefield",
    "LaserScanningConfocalMicroscopy": "confocal",
    "SpinningDiskConfocal": "confocal",
}
# Sides of pixels that differ by so little are rounded, or measured.
_SQUARE = 1.02
# Characters: a hundred thousand planes, each with its place and time, take half a second.
_MOST_XML = 2**24
# Ways to acquire whose cut-off is not 2 NA / wavelength of what is emitted.
_OTHER_CUTOFFS = frozenset(
    {
        "MultiPhotonMicroscopy",
        "NearFieldScanningOpticalMicroscopy",
        "PALM",
        "SecondHarmonicGenerationImaging",
        "SingleMoleculeImaging",
        "STED",
        "STORM",
        "StructuredIllumination",
    }
)
