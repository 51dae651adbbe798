"""An image written plane by plane to OME-TIFF or ImageJ TIFF.

All headers are written first, then planes each to its place; what is not yet written takes no space
where the file system knows sparse files.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_dkp.io.durable import sync
from napari_dkp.io.journal import Span
from napari_dkp.io.layout import Layout
from napari_dkp.layout import Index

OME_TIFF_ENDINGS = (".ome.tif", ".ome.tiff")
TIFF_ENDINGS = (*OME_TIFF_ENDINGS, ".tif", ".tiff")
MAX_IMAGEJ_BYTES = 2**32 - 2**24  # offsets of 32 bit, less what the headers take


class TiffTarget:
    """A TIFF file with all its headers, to be filled with planes."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._order = _looped(path, layout)
        with tifffile.TiffFile(path) as tiff:
            self._offset = tiff.pages.first.dataoffsets[0]
            self._dtype = np.dtype(np.float32).newbyteorder(tiff.byteorder)
        self._file = open(path, "r+b", buffering=0)

    @staticmethod
    def begin(path: Path, layout: Layout) -> None:
        """Write all headers, and leave room for the pixels."""
        options = _ome(layout) if is_ome(path) else _imagej(layout)
        _imwrite(path, **options)
        sync(path)

    def put(self, index: Index, plane: np.ndarray) -> None:
        """Write a plane to its place."""
        for page, values in self._pages(index, plane):
            self._file.seek(self._offset + page * values.nbytes)
            rest = np.ascontiguousarray(values, self._dtype).view(np.uint8).reshape(-1).data
            while rest:
                rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def finish(self, spans: Mapping[Index, Span]) -> None:
        """Nothing is left to write."""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _pages(self, index: Index, plane: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the pages that a plane is, with their numbers; ImageJ has one for each colour."""
        position = self._layout.position(index)
        if plane.ndim == 2 or "C" not in self._order:
            yield self._number(position), plane
            return
        for colour in range(plane.shape[2]):
            yield self._number({**position, "C": colour}), plane[..., colour]

    def _number(self, position: Mapping[str, int]) -> int:
        number = 0
        for axis in self._order:
            number = number * self._layout.length(axis) + position[axis]
        return number


def is_ome(path: Path) -> bool:
    """Tell whether a name asks for OME-TIFF."""
    return path.name.lower().endswith(OME_TIFF_ENDINGS)


def _looped(path: Path, layout: Layout) -> str:
    """Return the axes that run over pages, slowest first."""
    order = "TCZ" if is_ome(path) else "TZC"
    samples = "C" if is_ome(path) and layout.colours else ""
    return "".join(axis for axis in order if axis in layout.axes and axis not in samples)


def _ome(layout: Layout) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    size = layout.pixel_size
    if size.unit != "pixel":
        for axis, value in size.sizes.items():
            metadata[f"PhysicalSize{axis}"] = value
            metadata[f"PhysicalSize{axis}Unit"] = size.unit
    if size.interval is not None and "T" in layout.axes:
        metadata |= {"TimeIncrement": size.interval, "TimeIncrementUnit": "s"}
    if layout.channels and layout.colours is None:
        metadata["Channel"] = {"Name": list(layout.channels)}
    looped = _looped(Path("a.ome.tif"), layout)
    shape = (*(layout.length(axis) for axis in looped), *layout.plane_shape)
    samples = "S" * (layout.colours is not None)
    return {
        "shape": shape,
        "ome": True,
        "bigtiff": layout.nbytes > MAX_IMAGEJ_BYTES,
        "photometric": "rgb" if layout.colours == 3 else "minisblack",
        "planarconfig": "contig" if samples else None,
        "metadata": metadata | {"axes": looped + "YX" + samples},
    }


def _imagej(layout: Layout) -> dict[str, Any]:
    if layout.nbytes > MAX_IMAGEJ_BYTES:
        raise ValueError(
            f"output: the restored image takes {layout.nbytes / 1e9:.1f} GB and a plain TIFF holds "
            "4 GB; choose a name ending in .ome.tif"
        )
    looped = _looped(Path("a.tif"), layout)
    metadata: dict[str, Any] = {"axes": looped + "YX"}
    size, resolution = layout.pixel_size, None
    if size.unit != "pixel":
        resolution = (1 / size.sizes["X"], 1 / size.sizes["Y"])
        metadata["unit"] = "".join(
            letter if letter.isascii() else f"\\u{ord(letter):04X}" for letter in size.unit
        )
        if "Z" in size.sizes:
            metadata["spacing"] = size.sizes["Z"]
    if size.interval is not None and "T" in layout.axes:
        metadata["finterval"] = size.interval
    shape = (*(layout.length(axis) for axis in looped), layout.length("Y"), layout.length("X"))
    return {"shape": shape, "imagej": True, "resolution": resolution, "metadata": metadata}


def _imwrite(path: Path, **options: Any) -> None:
    write: Callable[..., object] = tifffile.imwrite  # its overloads take no dict of options
    write(path, dtype=np.float32, **options)
