"""An image written plane by plane to OME-Zarr 0.5, on zarr 3."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_dkp.io.durable import sync, sync_folder
from napari_dkp.io.journal import Span, span_of
from napari_dkp.io.layout import Layout
from napari_dkp.io.ome_zarr import LENGTHS, OURS, load_zarr
from napari_dkp.layout import Index

_SIDE = 512  # of a chunk, pixels
_COLOURS = ("FF0000", "00FF00", "0000FF")


class ZarrTarget:
    """A zarr group with all its metadata, to be filled with planes."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._path = path
        self._looped = "".join(axis for axis in "TCZ" if axis in layout.axes)
        for stray in path.rglob("*.partial"):  # chunks that were being written when a process died
            stray.unlink()
        self._group = load_zarr().open_group(path, mode="r+")
        self._array = self._group["0"]

    @staticmethod
    def begin(path: Path, layout: Layout) -> None:
        """Write the metadata; chunks follow as planes do."""
        axes = "".join(axis for axis in "TCZYX" if axis in layout.axes)
        chunks = {"Y": min(_SIDE, layout.length("Y")), "X": min(_SIDE, layout.length("X"))}
        if layout.colours is not None:
            chunks["C"] = layout.colours
        ours = {OURS: {"colours": True}} if layout.colours else {}
        group = load_zarr().create_group(
            path, zarr_format=3, attributes={"ome": _ome(layout, axes), **ours}
        )
        group.create_array(
            "0",
            shape=tuple(layout.length(axis) for axis in axes),
            chunks=tuple(chunks.get(axis, 1) for axis in axes),
            dtype=np.float32,
            dimension_names=tuple(axes.lower()),
        )
        for file in path.rglob("zarr.json"):
            sync(file)
            sync_folder(file.parent)

    def put(self, index: Index, plane: np.ndarray) -> None:
        """Write the chunks of a plane."""
        position = self._layout.position(index)
        where = tuple(position.get(axis, slice(None)) for axis in self._looped)
        self._array[where] = plane if plane.ndim == 2 else np.moveaxis(plane, -1, 0)
        chunks = self._path / "0" / "c"
        for axis in self._looped:
            chunks /= str(position.get(axis, 0))
        if not chunks.exists():  # nothing but zeros
            return
        for chunk in chunks.rglob("*"):
            if chunk.is_file():
                sync(chunk)
            else:
                sync_folder(chunk)
        for folder in (chunks, *chunks.parents[: len(self._looped) + 1]):
            sync_folder(folder)

    def finish(self, spans: Mapping[Index, Span]) -> None:
        """Tell viewers of channels, and of the range of their values."""
        layout = self._layout
        ome = dict(self._group.attrs["ome"])
        ome["omero"] = {"channels": _channels(layout, spans)}
        self._group.attrs["ome"] = ome
        sync(self._path / "zarr.json")

    def close(self) -> None:
        """Nothing is held open."""


def _ome(layout: Layout, axes: str) -> dict[str, Any]:
    size = layout.pixel_size
    named: list[dict[str, str]] = []
    scale: list[float] = []
    shift: list[float] = []
    for axis in axes:
        entry = {"name": axis.lower(), "type": {"T": "time", "C": "channel"}.get(axis, "space")}
        step = size.sizes.get(axis, 1.0)
        if axis in size.sizes and size.unit in LENGTHS:
            entry["unit"] = LENGTHS[size.unit]
        if axis == "T" and size.interval is not None:
            entry["unit"] = "second"
            step = size.interval
        named.append(entry)
        scale.append(step)
        shift.append(size.origin.get(axis, 0.0))
    steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
    level = {"path": "0", "coordinateTransformations": steps}
    return {"version": "0.5", "multiscales": [{"axes": named, "datasets": [level]}]}


def _channels(layout: Layout, spans: Mapping[Index, Span]) -> list[dict[str, Any]]:
    """Return name, colour and window of each channel; colours of one picture share a window."""
    n = layout.length("C") if "C" in layout.axes else 1
    channels: list[dict[str, Any]] = []
    for c in range(n):
        own = spans
        if "C" in layout.looped:
            at = layout.looped.index("C")
            own = {index: span for index, span in spans.items() if index[at] == c}
        span = span_of(own)
        window = {"min": span.low, "max": span.high, "start": span.low, "end": span.high}
        colour = _COLOURS[c % 3] if n > 1 else "FFFFFF"
        label = {"label": layout.channels[c]} if layout.channels else {}
        channels.append(label | {"color": colour, "window": window, "active": True})
    return channels
