"""Files: pictures in, restorations out, pixel sizes kept true.

Reads TIFF (OME, ImageJ, plain) and the picture formats that Pillow knows; writes OME-TIFF or
ImageJ TIFF. Files appear whole or not at all, and nothing is overwritten unasked.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_dkp import __version__
from napari_dkp.config import Settings
from napari_dkp.layout import looped_axes
from napari_dkp.ome import METRES, unit_name
from napari_dkp.state import Restoration

TIFF_ENDINGS = (".ome.tif", ".ome.tiff", ".tif", ".tiff")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")

_MAX_IMAGEJ_BYTES = 2**32 - 2**24  # offsets of 32 bit, less what the headers take


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Size of a pixel along the spatial axes, in `unit`.

    Attributes
    ----------
    sizes : axis letter ("Z", "Y", "X") to size; axes whose size is not known are left out.
    unit : "µm", "nm", "mm", …; "pixel" where the file names none.
    """

    sizes: Mapping[str, float]
    unit: str = "pixel"

    def enlarged(self, scale: tuple[int, int]) -> "PixelSize":
        """Return the pixel size after Y and X were enlarged by `scale`; 1 pixel where unknown."""
        finer = {axis: self.sizes.get(axis, 1) / s for axis, s in zip("YX", scale, strict=True)}
        return replace(self, sizes={**self.sizes, **finer})

    def __str__(self) -> str:
        y, x = (self.sizes.get(axis, 1.0) for axis in "YX")
        return f"{x:.4g} {self.unit}" if y == x else f"{y:.4g} × {x:.4g} {self.unit} (Y × X)"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as a file holds it.

    Attributes
    ----------
    image : any real dtype, one axis per letter of `axes`.
    axes : letters out of T, C, Z, Y, X.
    pixel_size : of the spatial axes.
    name : file name without its folder.
    others : further images in the file, which were not read.
    """

    image: np.ndarray
    axes: str
    pixel_size: PixelSize
    name: str
    others: int = 0


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of a restoration; they lie side by side."""

    image: Path
    kernel: Path
    settings: Path
    residual: Path | None = None
    uncertainty: Path | None = None

    @classmethod
    def beside(cls, path: str | os.PathLike[str], *, diagnostics: bool = False) -> "Outputs":
        """Name the others after the image, with diagnostics also residual and uncertainty.

        Raises
        ------
        ValueError
            If the name does not end like a TIFF.
        """
        image = Path(path)
        ending = _ending(image, TIFF_ENDINGS)
        if ending is None:
            raise ValueError(
                f"output: expected a name ending in {', '.join(TIFF_ENDINGS)}; got '{image.name}'"
            )
        stem = image.name[: -len(ending)]
        return cls(
            image,
            image.with_name(f"{stem}_kernel.tif"),
            image.with_name(f"{stem}_settings.json"),
            image.with_name(f"{stem}_residual{ending}") if diagnostics else None,
            image.with_name(f"{stem}_uncertainty{ending}") if diagnostics else None,
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that may be written."""
        every = (self.image, self.kernel, self.settings, self.residual, self.uncertainty)
        return tuple(path for path in every if path is not None)

    def check(self, n_bytes: int, *, overwrite: bool = False) -> None:
        """Find out before a long run whether its result could be written.

        Parameters
        ----------
        n_bytes : size of the restored image.
        overwrite : existing files may be replaced.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError, OSError
            If an output exists, its folder does not or is closed, or the disk is too full.
        ValueError
            If the format does not hold an image of that size.
        """
        folder = self.image.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"output: the folder '{folder}' does not exist")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"output: the folder '{folder}' may not be written to")
        taken = [path for path in self.paths if path.is_dir() or (path.exists() and not overwrite)]
        if taken:
            names = ", ".join(f"'{path}'" for path in taken)
            raise FileExistsError(
                f"output: {names} exists already; choose another name, or pass --overwrite"
            )
        if not self.is_ome and n_bytes > _MAX_IMAGEJ_BYTES:
            raise ValueError(
                f"output: the restored image takes {n_bytes / 1e9:.1f} GB and a plain TIFF holds "
                f"4 GB; choose a name ending in .ome.tif"
            )
        free = shutil.disk_usage(folder).free
        # The residual is no larger than the image, and the uncertainty as large.
        total = n_bytes * (1 + len([path for path in (self.residual, self.uncertainty) if path]))
        if free < total:
            raise OSError(
                f"output: the results take {total / 1e6:.3g} MB and '{folder}' has "
                f"{free / 1e6:.3g} MB left"
            )

    def spare(self, source: Path) -> None:
        """Refuse outputs that would replace a file they are made from."""
        for path in self.paths:
            if path.exists() and source.exists() and path.samefile(source):
                raise ValueError(f"output: '{path}' is an input; choose another name")

    @property
    def is_ome(self) -> bool:
        """The name asks for OME-TIFF."""
        return _ending(self.image, TIFF_ENDINGS[:2]) is not None


def read(path: str | os.PathLike[str]) -> Picture:
    """Read the first image of a file.

    Parameters
    ----------
    path : TIFF, OME-TIFF, ImageJ TIFF, PNG, JPEG or BMP.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no image, or axes that cannot be told apart.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"input: there is no file '{path}'")
    if path.is_dir():
        raise ValueError(f"input: '{path}' is a folder; expected an image file")
    load = _load_picture if _ending(path, PICTURE_ENDINGS) else _load_tiff
    try:
        picture = load(path)
    except (OSError, ValueError, EOFError, IndexError, KeyError, SyntaxError) as error:
        raise ValueError(f"input: '{path.name}' cannot be read as an image: {error}") from error
    if not picture.image.size:
        raise ValueError(f"input: '{path.name}' holds no image")
    return _with_our_axes(picture)


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a point spread function: one plane, shape (K, K)."""
    picture = read(path)
    kernel = np.squeeze(picture.image)
    if kernel.ndim != 2:
        raise ValueError(
            f"kernel: expected one plane in '{picture.name}'; got axes {picture.axes} of shape "
            f"{picture.image.shape}"
        )
    return kernel


def read_settings(path: str | os.PathLike[str]) -> tuple[Settings, Path | None]:
    """Read the settings of an earlier run, and where its kernel lies if that was given to it.

    Parameters
    ----------
    path : a `_settings.json` that `write` made.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, or is not one of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"settings: there is no file '{path}'")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings.from_dict(record["settings"])
        kernel = path.with_name(record["kernel"]) if record["known_kernel"] else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"settings: '{path.name}' holds no settings of a run: {error}") from error
    return settings, kernel


def write(
    outputs: Outputs,
    restoration: Restoration,
    source: Picture,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write restored image, kernel, settings and what diagnostics there are side by side.

    Image and kernel carry the pixel size of the restored grid. Axes are stored in the order that
    the format asks for: T, C, Z, Y, X in OME-TIFF, T, Z, C, Y, X for ImageJ.

    Parameters
    ----------
    outputs : where to.
    restoration : what to write; `restoration.settings.axes` names its axes.
    source : the image it came from.
    overwrite : replace existing files.

    Returns
    -------
    What was written.

    Raises
    ------
    FileExistsError, OSError
        If an output exists, or cannot be written.
    """
    outputs.check(restoration.image.nbytes, overwrite=overwrite)
    axes = restoration.settings.axes or source.axes
    y_scale, x_scale = restoration.settings.scales(2)
    pixel_size = source.pixel_size.enlarged((y_scale, x_scale))
    kernel_axes = looped_axes(axes) + "YX"

    record = {
        "napari_dkp": __version__,
        "source": source.name,
        "image": outputs.image.name,
        "kernel": outputs.kernel.name,
        "known_kernel": restoration.known_kernel,
        "settings": restoration.settings.to_dict(),
        "seed": restoration.seed,
        "device": restoration.device,
        "seconds": round(restoration.seconds, 3),
        "stop": restoration.stop.name.lower(),
        "steps": restoration.steps,
        "choice": restoration.choice,
        "notes": list(restoration.notes),
        "reports": [None if r is None else r.figures() for r in restoration.reports],
        "residual": _finite_or_none(restoration.history[-1]) if restoration.history else None,
        "pixel_size": {**pixel_size.sizes, "unit": pixel_size.unit},
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    save = _write_ome if outputs.is_ome else _write_imagej
    with _whole(outputs.image) as part:
        save(part, restoration.image, axes, pixel_size)
    with _whole(outputs.kernel) as part:
        _write_imagej(part, restoration.kernel, kernel_axes, pixel_size)
    with _whole(outputs.settings) as part:
        part.write_text(text, encoding="utf-8")
    written = [outputs.image, outputs.kernel, outputs.settings]
    for path, values, size in (
        (outputs.residual, restoration.residual, source.pixel_size),
        (outputs.uncertainty, restoration.uncertainty, pixel_size),
    ):
        if path is not None and values is not None:
            with _whole(path) as part:
                save(part, values, axes, size)
            written.append(path)
    return written


def _ending(path: Path, endings: tuple[str, ...]) -> str | None:
    return next((ending for ending in endings if path.name.lower().endswith(ending)), None)


# --- reading -------------------------------------------------------------------------------------


def _load_picture(path: Path) -> Picture:
    from PIL import Image

    with Image.open(path) as opened:
        picture: Image.Image = opened
        if opened.mode not in ("L", "RGB", "F") and not opened.mode.startswith("I"):
            # palettes and bilevel pictures have no grey levels to restore, alpha is no channel
            picture = opened.convert("L" if opened.mode in ("1", "LA") else "RGB")
        image = np.asarray(picture)
    return Picture(image, "YXC" if image.ndim == 3 else "YX", PixelSize({}), path.name)


def _load_tiff(path: Path) -> Picture:
    with tifffile.TiffFile(path) as tiff:
        if not tiff.pages:
            raise ValueError("it holds no page")
        series = tiff.series[0]
        if tiff.is_ome:
            pixel_size = _ome_pixel_size(tiff.ome_metadata or "")
        else:
            pixel_size = _tag_pixel_size(series.pages[0], tiff.imagej_metadata or {})
        others = len(tiff.series) - 1
        return Picture(series.asarray(), series.axes, pixel_size, path.name, others)


def _with_our_axes(picture: Picture) -> Picture:
    """Translate tifffile's letters; what it calls unknown (I, Q) is Z, then T."""
    given = "".join(
        axis
        for axis, n in zip(picture.axes, picture.image.shape, strict=True)
        if n > 1 or axis in "YX"
    )
    axes = given.replace("S", "C")
    free = (axis for axis in "ZT" if axis not in given)
    axes = "".join(next(free, a) if a in "IQ" else a for a in reversed(axes))[::-1]
    if set(axes) - set("TCZYX") or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(
            f"input: '{picture.name}' has axes {picture.axes!r} of shape {picture.image.shape}; "
            "expected at most one each of T, C, Z, Y, X. Save the part you want as its own file"
        )
    single = tuple(i for i, axis in enumerate(picture.axes) if axis not in given)
    return replace(picture, image=picture.image.squeeze(single), axes=axes)


def _ome_pixel_size(xml: str) -> PixelSize:
    images = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    first = images[0] if isinstance(images, list) else images
    pixels: Mapping[str, Any] = first.get("Pixels", {})
    found = {
        axis: (
            float(pixels[f"PhysicalSize{axis}"]),
            unit_name(pixels.get(f"PhysicalSize{axis}Unit", "µm")),
        )
        for axis in "ZYX"
        if f"PhysicalSize{axis}" in pixels
    }
    if not found:
        return PixelSize({})
    unit = found.get("X", next(iter(found.values())))[1]
    sizes = {
        axis: size * METRES[given] / METRES[unit]
        if given != unit and {given, unit} <= METRES.keys()
        else size
        for axis, (size, given) in found.items()
    }
    return _sized(sizes, unit)


def _tag_pixel_size(page: Any, imagej: Mapping[str, Any]) -> PixelSize:
    """Read the resolution tags, which mean pixels per unit.

    Without a word from ImageJ only centimetres are believed: dots per inch are for printing.
    """
    if imagej:
        unit, length = unit_name(str(imagej.get("unit", "pixel"))), 1.0
    elif page.resolutionunit == tifffile.RESUNIT.CENTIMETER:
        unit, length = "µm", 1e4
    else:
        return PixelSize({})
    x, y = (float(value) for value in page.resolution)
    if unit == "pixel" or (not imagej and (x, y) == (1.0, 1.0)):  # the tags' default
        return PixelSize({})
    sizes = {"Y": length / y if y else 0.0, "X": length / x if x else 0.0}
    if "spacing" in imagej:
        sizes["Z"] = float(imagej["spacing"])
    return _sized(sizes, unit)


def _sized(sizes: Mapping[str, float], unit: str) -> PixelSize:
    """Drop sizes that cannot be; a pixel known along one of Y and X is taken as square."""
    known = {axis: size for axis, size in sizes.items() if np.isfinite(size) and size > 0}
    if not {"Y", "X"} & known.keys():
        return PixelSize({})
    known.setdefault("Y", known.get("X", 1.0))
    known.setdefault("X", known["Y"])
    return PixelSize(known, unit)


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Lend a temporary file in the same folder that becomes `path` if all goes well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        # numpy reports a short write without an error number
        full = error.errno == errno.ENOSPC or shutil.disk_usage(path.parent).free < 4096
        reason = "no space is left" if full else error.strerror or str(error)
        raise OSError(f"output: '{path}' cannot be written: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def _in_order(image: np.ndarray, axes: str, order: str) -> tuple[np.ndarray, str]:
    ordered = "".join(axis for axis in order if axis in axes)
    return image.transpose([axes.index(axis) for axis in ordered]), ordered


def _write_ome(path: Path, image: np.ndarray, axes: str, pixel_size: PixelSize) -> None:
    image, axes = _in_order(image, axes, "TCZYX")
    metadata: dict[str, Any] = {"axes": axes}
    if pixel_size.unit != "pixel":
        for axis, size in pixel_size.sizes.items():
            metadata[f"PhysicalSize{axis}"] = size
            metadata[f"PhysicalSize{axis}Unit"] = pixel_size.unit
    _imwrite(path, image, ome=True, bigtiff=image.nbytes > _MAX_IMAGEJ_BYTES, metadata=metadata)


def _write_imagej(path: Path, image: np.ndarray, axes: str, pixel_size: PixelSize) -> None:
    image, axes = _in_order(image, axes, "TZCYX")
    metadata: dict[str, Any] = {"axes": axes}
    resolution = None
    if pixel_size.unit != "pixel":
        resolution = (1 / pixel_size.sizes["X"], 1 / pixel_size.sizes["Y"])
        metadata["unit"] = "".join(
            letter if letter.isascii() else f"\\u{ord(letter):04X}" for letter in pixel_size.unit
        )
        if "Z" in pixel_size.sizes:
            metadata["spacing"] = pixel_size.sizes["Z"]
    _imwrite(path, image, imagej=True, resolution=resolution, metadata=metadata)


_imwrite: Callable[..., object] = tifffile.imwrite  # its overloads do not take a dict of metadata


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
