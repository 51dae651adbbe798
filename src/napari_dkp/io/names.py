"""Names of unfinished files, and when a file gets its own."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from napari_dkp.io.durable import sync_folder
from napari_dkp.io.ome_zarr import ZARR_ENDINGS, is_zarr


def is_taken(path: Path, *, overwrite: bool) -> bool:
    """Tell whether something is there that may not be replaced, or is not of the same kind."""
    same = is_zarr(path) if is_zarr_name(path) else path.is_file()
    return path.exists() and not (overwrite and same)


def is_zarr_name(path: Path) -> bool:
    """Tell whether a name asks for zarr."""
    return path.name.lower().endswith(ZARR_ENDINGS)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken, with FileExistsError."""
    if is_taken(path, overwrite=overwrite):
        raise FileExistsError(
            f"output: '{path}' exists already; choose another name, or pass --overwrite"
        )


def partial_of(path: Path) -> Path:
    """Return the folder in which an image lies until it is whole."""
    return path.with_name(f".{path.name}.partial")


def image_in(path: Path) -> Path:
    """Return the image within that folder."""
    return partial_of(path) / path.name


def journal_of(path: Path) -> Path:
    """Return the journal beside it."""
    return partial_of(path) / "planes.jsonl"


def is_whole(path: Path) -> bool:
    """Tell whether an image is there that no partial one is about to replace."""
    return path.exists() and not image_in(path).exists()


def tidy(path: Path) -> None:
    """Remove what a process left that ended between the last two steps; claim the image before."""
    if is_whole(path) and partial_of(path).exists():
        remove_partial(path)


def remove_partial(path: Path) -> None:
    """Remove what lies in that folder; the journal first, as it vouches for the rest."""
    journal_of(path).unlink(missing_ok=True)
    with suppress(OSError):  # a disk that is full or fails is no reason to leave it
        sync_folder(partial_of(path))
    shutil.rmtree(partial_of(path))


def move_into_place(path: Path) -> None:
    """Give a whole image its name; a folder cannot replace another, so that one steps aside."""
    image = image_in(path)
    if image.is_dir() and path.exists():
        aside = image.with_name("replaced")
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(path, aside)
    os.replace(image, path)
    sync_folder(path.parent)
