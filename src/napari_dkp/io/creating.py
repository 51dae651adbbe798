"""Begin an image that is written plane by plane, or go on with one that a process left."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_dkp.io.claim import Claim
from napari_dkp.io.durable import explained
from napari_dkp.io.journal import Journal
from napari_dkp.io.layout import Layout
from napari_dkp.io.names import (
    check_free,
    image_in,
    is_zarr_name,
    journal_of,
    partial_of,
    remove_partial,
    tidy,
)
from napari_dkp.io.ome_zarr import ZARR_ENDINGS
from napari_dkp.io.picture import PixelSize
from napari_dkp.io.planes import PlaneWriter
from napari_dkp.io.tiff_target import TIFF_ENDINGS, TiffTarget
from napari_dkp.io.zarr_target import ZarrTarget


def create(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, ...],
    axes: str,
    pixel_size: PixelSize | None = None,
    channels: tuple[str, ...] = (),
    run: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> PlaneWriter:
    """Begin an image of float32 that is written plane by plane, or go on with one.

    Axes are stored in the order of the format: T, C, Z, Y, X in OME-TIFF and OME-Zarr, T, Z, C, Y,
    X for ImageJ. Colours, a C after Y and X, are samples of a pixel in OME-TIFF; OME-Zarr and
    ImageJ know channels only, but an attribute of the former tells `open` what they are.

    Parameters
    ----------
    path : `.ome.zarr`, `.zarr`: OME-Zarr 0.5, one chunk per plane or per 512² of it. `.ome.tif`,
        `.ome.tiff`: OME-TIFF. `.tif`, `.tiff`: ImageJ TIFF, of no more than 4 GB.
    shape : one length per letter of `axes`.
    axes : letters out of T, C, Z, Y, X.
    pixel_size : of the image; None is unknown.
    channels : their names.
    run : whatever, as JSON, tells one run from another: a partial image is gone on with only if it
        has the same shape, axes, pixel size, channels and `run`.
    resume : go on with a partial image, if there is one; else it is replaced.
    overwrite : replace a file of that name, once the image is whole.

    Raises
    ------
    FileExistsError, BlockingIOError, OSError
        If the file exists, another process or thread is writing it, or it cannot be written.
    ValueError
        If the ending names no format, the format does not hold the image, or the partial image to
        go on with is another one.
    """
    path = Path(path)
    layout = Layout(tuple(shape), axes, pixel_size or PixelSize({}), tuple(channels))
    endings = (*TIFF_ENDINGS, *ZARR_ENDINGS)
    if not path.name.lower().endswith(endings):
        raise ValueError(
            f"output: expected a name ending in {', '.join(endings)}; got '{path.name}'"
        )
    header = {"partial": 1, "file": path.name, **layout.to_dict(), "run": run}
    header = json.loads(json.dumps(header))
    claim = Claim(path)
    try:
        tidy(path)
        check_free(path, overwrite=overwrite)
        target, journal = _begin(path, layout, header, resume=resume)
    except BaseException:
        claim.release()
        raise
    return PlaneWriter(path, layout, target, journal, claim, overwrite=overwrite)


def _begin(
    path: Path, layout: Layout, header: dict[str, Any], *, resume: bool
) -> tuple[TiffTarget | ZarrTarget, Journal]:
    """Return target and journal of a partial image: one that is there, or a new one."""
    folder, image = partial_of(path), image_in(path)
    kind: type[TiffTarget] | type[ZarrTarget] = ZarrTarget if is_zarr_name(path) else TiffTarget
    with explained(path):
        found = Journal.header(journal_of(path)) if resume else None
        if found is not None and image.exists():
            if found != header:
                raise ValueError(
                    f"output: '{folder.name}' was begun by another run, which differs in "
                    f"{', '.join(_differences(found, header))}; remove it, or begin anew"
                )
            return kind(image, layout), Journal(journal_of(path))
        if folder.exists():
            remove_partial(path)
        folder.mkdir()
        try:
            kind.begin(image, layout)
            target = kind(image, layout)
        except BaseException:
            remove_partial(path)
            raise
        # The journal comes last: with it, everything else is there.
        return target, Journal.create(journal_of(path), header)


def begun(path: Path) -> Mapping[str, Any] | None:
    """Return what tells the run of the partial image beside `path`; None where there is none."""
    header = Journal.header(journal_of(path)) if image_in(path).exists() else None
    if not isinstance(header, dict):
        return None
    run: Mapping[str, Any] = header.get("run") or {}
    return run


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return names or ["what it holds"]
