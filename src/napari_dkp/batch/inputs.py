"""Which files a batch takes, and what it calls their results."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from glob import glob, has_magic
from itertools import groupby
from pathlib import Path

from napari_dkp import io


def find(inputs: Iterable[str | os.PathLike[str]], *, recursive: bool = False) -> list[Path]:
    """Return every image once: files as they are named, folders and patterns in sorted order.

    What holds no image, or is not there, is taken as it is: it will be reported.

    Parameters
    ----------
    inputs : files, folders and patterns such as ``data/*.tif``; a zarr folder is an image.
    recursive : also look into folders of folders.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, inputs):
        try:
            meant = list(_meant(given, recursive=recursive))
        except OSError:  # a folder that may not be looked into
            meant = []
        for path in meant or [given]:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _meant(given: Path, *, recursive: bool) -> Iterator[Path]:
    pattern = os.fspath(given)
    if not given.exists() and has_magic(pattern):
        matches = [Path(match) for match in sorted(glob(pattern, recursive=True))]
        yield from (path for path in matches if path.is_file() or io.is_image(path))
    elif given.is_dir() and not io.is_image(given):
        yield from _within(given, recursive=recursive)
    else:
        yield given


def _within(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Yield the images in a folder; hidden ones are others' unfinished business."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if io.is_image(path):
            yield path
        elif recursive and path.is_dir() and not path.is_symlink():
            yield from _within(path, recursive=True)


def names(paths: Sequence[Path]) -> list[str]:
    """Return what to call the result of each image: its name without what tells the format.

    Images that would be called the same are told apart by what tells their format (cells_tif and
    cells_png), else by their folders (day1_cells and day2_cells), else by a number.
    """
    found: dict[Path, str] = {}
    for _, group in groupby(sorted(paths, key=_plain), _plain):
        members = list(group)
        ways = _ways(members)
        for way in ways:
            called = [way(path) for path in members]
            if len({each.casefold() for each in called}) == len(members):
                break
        found |= dict(zip(members, called, strict=True))
    taken: set[str] = set()
    for path in paths:
        wanted, number = found[path], 2
        while not taken.isdisjoint(_claims(found[path])):
            found[path] = f"{wanted}_{number}"
            number += 1
        taken |= _claims(found[path])
    return [found[path] for path in paths]


def _claims(called: str) -> set[str]:
    """Return all names that go with one; many file systems know no difference of case."""
    beside = ("", "_kernel", "_settings", "_residual", "_uncertainty")
    return {f"{called}{each}".casefold() for each in beside}


def _plain(path: Path) -> str:
    return io.stem(path).casefold()


def _ways(paths: Sequence[Path]) -> Iterator[Callable[[Path], str]]:
    """Yield ways to call images, the shortest first."""
    yield io.stem
    yield _with_ending
    depth = max(len(path.absolute().parents) for path in paths)
    for way in (io.stem, _with_ending):
        for levels in range(1, depth):
            yield partial(_with_folders, way, levels)


def _with_ending(path: Path) -> str:
    stem = io.stem(path)
    return stem + path.name[len(stem) :].replace(".", "_")


def _with_folders(way: Callable[[Path], str], levels: int, path: Path) -> str:
    folders = [folder.name for folder in path.absolute().parents[:levels]]
    return "_".join([*(name for name in reversed(folders) if name), way(path)])
