"""Files that are whole or absent, whatever ends the process that writes them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in one sentence that `path` cannot be written, and that the disk is full if it is."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        full = error.errno == errno.ENOSPC or shutil.disk_usage(path.parent).free < 4096
        reason = "no space is left" if full else error.strerror or str(error)
        raise OSError(f"output: '{path}' cannot be written: {reason}") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file under a temporary name, and rename it when it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            part.write_text(text, encoding="utf-8")
            sync(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_parts(path: Path) -> None:
    """Remove what processes left that died while they wrote a small file of this name."""
    for part in path.parent.glob(f".{escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when the content of a file is on the disk, and not only on its way."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk; Windows keeps them by itself."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
