"""TIFF files, read page by page, or tile by tile where pages are tiled."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import RLock, get_ident
from typing import Any

import numpy as np
import tifffile

from napari_dkp.io.lazy import LazyArray, Region
from napari_dkp.io.picture import Picture, readable
from napari_dkp.io.tiff_scale import ome_pixel_size, tag_pixel_size
from napari_dkp.ome import parse


def open_tiff(path: Path) -> Picture:
    """Return the first image of a file, at its finest level, with the axes that tifffile names.

    Raises
    ------
    ValueError
        If pages that the metadata tells of are missing or cut off.
    """
    with _cut_off_is_an_error(), tifffile.TiffFile(path) as tiff:
        if not tiff.pages:
            raise ValueError("it holds no page")
        series = tiff.series[0]
        channels: tuple[str, ...] = ()
        if tiff.is_ome:
            size = ome_pixel_size(tiff.ome_metadata or "")
            told = next(iter(parse(tiff.ome_metadata)), None)
            named = () if told is None else tuple(channel.name for channel in told.channels)
            channels = named if any(named) else ()
        else:
            size = tag_pixel_size(series.keyframe, tiff.imagej_metadata or {})
        image = _lazy(path, tiff, series)
        return Picture(image, series.axes, size, path.name, len(tiff.series) - 1, channels)


def _lazy(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> LazyArray:
    if 0 in series.shape or not series.shape:
        return LazyArray.of(np.empty(series.shape, series.dtype))
    offset = None if series.is_multifile else series.dataoffset
    if series.transform is None and offset is not None:
        if offset + series.nbytes > path.stat().st_size:
            raise ValueError("it is cut off")
        dtype = series.dtype.newbyteorder(tiff.byteorder)
        return LazyArray(
            series.shape,
            series.dtype,
            _Contiguous(os.fspath(path), dtype.str, offset, series.shape),
        )
    frame = series.keyframe.shape
    looped = series.shape[: -len(frame)]
    regular = looped + frame == series.shape and math.prod(looped) == len(series)
    if series.transform is not None or not regular:
        return LazyArray.of(series.asarray())
    missing = sum(page is None for page in series)
    if missing:
        raise ValueError(
            f"{missing} of the {len(series)} pages that its metadata tells of are missing"
        )
    if _end(series) > path.stat().st_size:
        raise ValueError("it is cut off")
    return LazyArray(series.shape, series.dtype, _Pages(os.fspath(path)))


@contextmanager
def _cut_off_is_an_error() -> Iterator[None]:
    """Raise where tifffile goes on without headers that lie past the end of the file.

    It tells of them in its log only; planes and metadata would be missing silently.
    """
    here, found = get_ident(), []

    def listen(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        cut = "invalid value offset" in message or "invalid page offset" in message
        if cut and record.thread == here:
            found.append(message)
        return not cut

    log = logging.getLogger("tifffile")
    log.addFilter(listen)
    try:
        yield
    finally:
        log.removeFilter(listen)
    if found:
        raise ValueError("it is cut off")


def _end(series: tifffile.TiffPageSeries) -> int:
    """Return where the last data of the pages in the file itself end."""
    here = series.keyframe.parent if series.is_multifile else None
    return max(
        (
            start + count
            for page in series
            if page is not None and (here is None or page.parent is here)
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ),
        default=0,
    )


@dataclass(frozen=True, slots=True)
class _Contiguous:
    """Reads values that lie in a file as they do in an array."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    def __call__(self, region: Region) -> np.ndarray:
        with readable(Path(self.path).name):
            # A map of its own for each read: pages of the file do not add up in memory.
            values = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[region]
            return np.array(values, values.dtype.newbyteorder("="))


@dataclass(frozen=True, slots=True)
class _Pages:
    """Reads compressed, tiled, scattered pages; opens the file for each read."""

    path: str

    def __call__(self, region: Region) -> np.ndarray:
        with readable(Path(self.path).name):
            found = os.stat(self.path)
            pages = _parsed(self.path, found.st_mtime_ns, found.st_size)
            n_looped = len(pages.looped)
            values = np.empty([part.stop - part.start for part in region], pages.dtype)
            for position in np.ndindex(values.shape[:n_looped]):
                index = [p + part.start for p, part in zip(position, region, strict=False)]
                number = int(np.ravel_multi_index(index, pages.looped)) if index else 0
                with pages.lock:
                    values[position] = _read_page(pages.pages[number], region[n_looped:])
            return values


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The pages of an image, their files closed, and the axes that run over them."""

    pages: list[Any]
    looped: tuple[int, ...]
    dtype: np.dtype
    lock: Any


@lru_cache(maxsize=8)
def _parsed(path: str, changed: int, size: int) -> _Parsed:
    """Parse a file once in each process, and anew when it has changed."""
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        looped = series.shape[: -len(series.keyframe.shape)]
        return _Parsed(list(series), looped, series.dtype, RLock())


def _read_page(page: Any, region: Region) -> np.ndarray:
    handle = page.parent.filehandle
    handle.open()
    try:
        whole = all(
            part == slice(0, n) for part, n in zip(region, page.keyframe.shape, strict=True)
        )
        if whole or not page.keyframe.is_tiled or page.keyframe.imagedepth > 1:
            return np.asarray(page.asarray(maxworkers=1))[region]
        return _read_tiles(page, region)
    finally:
        handle.close()


def _read_tiles(page: Any, region: Region) -> np.ndarray:
    """Decode the tiles that a region touches."""
    key = page.keyframe
    y, x = (key.axes.index(axis) for axis in "YX")
    rows, columns = region[y], region[x]
    samples, _, height, width, contiguous = key.shaped
    down, across = math.ceil(height / key.tilelength), math.ceil(width / key.tilewidth)
    block = np.full(
        (samples, rows.stop - rows.start, columns.stop - columns.start, contiguous),
        key.nodata,
        key.dtype,
    )
    jpeg = {6, 7, 33007, 34892}  # compressions whose tables stand apart from the tiles
    options = (
        {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        if key.compression in jpeg
        else {}
    )
    for sample, i, j in np.ndindex(samples, down, across):
        top, left = i * key.tilelength - rows.start, j * key.tilewidth - columns.start
        bottom, right = top + key.tilelength, left + key.tilewidth
        if bottom <= 0 or right <= 0 or top >= block.shape[1] or left >= block.shape[2]:
            continue
        number = (sample * down + i) * across + j
        offset, count = page.dataoffsets[number], page.databytecounts[number]
        if not offset or not count:  # a tile left out holds no data
            continue
        page.parent.filehandle.seek(offset)
        data = page.parent.filehandle.read(count)
        tile = key.decode(data, number, _fullsize=True, **options)[0][0]
        place = block[sample, max(top, 0) : bottom, max(left, 0) : right]
        skip = max(-top, 0), max(-left, 0)
        place[...] = tile[skip[0] : skip[0] + place.shape[0], skip[1] : skip[1] + place.shape[1]]
    shape = list(key.shape)
    shape[y], shape[x] = block.shape[1:3]
    rest = list(region)
    rest[y] = rest[x] = slice(None)
    return block.reshape(shape)[tuple(rest)]
