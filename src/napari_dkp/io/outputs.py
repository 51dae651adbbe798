"""The files of a restoration: restored image, kernel, settings and diagnostics, side by side.

Files appear whole or not at all, and nothing is overwritten unasked.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_dkp.io.claim import Claim, check_folder
from napari_dkp.io.creating import create
from napari_dkp.io.names import is_taken, tidy
from napari_dkp.io.ome_zarr import ZARR_ENDINGS
from napari_dkp.io.picture import Picture, PixelSize
from napari_dkp.io.record import Record
from napari_dkp.io.tiff_target import MAX_IMAGEJ_BYTES, OME_TIFF_ENDINGS, TIFF_ENDINGS
from napari_dkp.layout import looped_axes

if TYPE_CHECKING:
    from napari_dkp.state import Restoration

_ENDINGS = (*TIFF_ENDINGS, *ZARR_ENDINGS)


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
            If the name ends neither like a TIFF nor like a zarr folder.
        """
        image = Path(path)
        ending = next((e for e in _ENDINGS if image.name.lower().endswith(e)), None)
        if ending is None:
            raise ValueError(
                f"output: expected a name ending in {', '.join(_ENDINGS)}; got '{image.name}'"
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

    def claim(self) -> Claim:
        """Keep other runs from writing these files; of the image, its format may be another one.

        Raises
        ------
        BlockingIOError, OSError
            If another run is writing them, or nothing can be written.
        """
        return Claim(self.settings, self.image)

    def tidy(self) -> None:
        """Remove what a process left that died when an image was whole; claim them before."""
        for path in filter(None, (self.image, self.residual, self.uncertainty)):
            with suppress(BlockingIOError), Claim(path):
                tidy(path)

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
        check_folder(folder)
        taken = [path for path in self.paths if is_taken(path, overwrite=overwrite)]
        if taken:
            names = ", ".join(f"'{path}'" for path in taken)
            raise FileExistsError(
                f"output: {names} exists already; choose another name, or pass --overwrite"
            )
        if self.is_plain and n_bytes > MAX_IMAGEJ_BYTES:
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
    def is_plain(self) -> bool:
        """The name asks for ImageJ TIFF."""
        return not self.image.name.lower().endswith((*OME_TIFF_ENDINGS, *ZARR_ENDINGS))


def write(
    outputs: Outputs,
    restoration: "Restoration",
    source: Picture,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write restored image, kernel, settings and what diagnostics there are side by side.

    Image and kernel carry the pixel size of the restored grid. Axes are stored in the order that
    the format asks for, see `create`.

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
    spatial = restoration.settings.spatial
    scales = tuple(restoration.settings.spatial_scales.values())
    size = source.pixel_size.enlarged(scales)
    written = [outputs.image, outputs.kernel, outputs.settings]
    _save(outputs.image, restoration.image, axes, size, source.channels)
    write_kernel(outputs, restoration.kernel, looped_axes(axes, spatial) + spatial, size)
    Record.of(restoration).write(outputs, source)
    for path, values, own in (
        (outputs.residual, restoration.residual, source.pixel_size),
        (outputs.uncertainty, restoration.uncertainty, size),
    ):
        if path is not None and values is not None:
            _save(path, values, axes, own, source.channels)
            written.append(path)
    return written


def write_kernel(outputs: Outputs, kernel: np.ndarray, axes: str, size: PixelSize) -> None:
    """Write the kernels of planes; what they replace was agreed to.

    Parameters
    ----------
    outputs : where to.
    kernel : shape (looped axes ..., *K).
    axes : of the kernels.
    size : of their pixels.
    """
    _save(outputs.kernel, kernel, axes, size)


def _save(
    path: Path, image: np.ndarray, axes: str, size: PixelSize, channels: tuple[str, ...] = ()
) -> None:
    """Write an image that lies in memory; what it replaces was agreed to."""
    writer = create(
        path, shape=image.shape, axes=axes, pixel_size=size, channels=channels, overwrite=True
    )
    looped = writer.layout.looped
    order = looped + "YX" + "".join(axis for axis in axes if axis not in looped + "YX")
    planes = image.transpose([axes.index(axis) for axis in order])
    try:
        for index in writer.layout.indices():
            writer.write(index, planes[index])
        writer.commit()
    except BaseException:
        writer.discard()
        raise
