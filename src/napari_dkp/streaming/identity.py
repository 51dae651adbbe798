"""What tells one restoration from another, so that neither their planes nor their files mix."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_dkp import __version__
from napari_dkp.config import Settings


def identity(
    source: Path | Mapping[str, Any], settings: Settings, kernel: np.ndarray | None
) -> dict[str, Any]:
    """Return, as JSON does, all that decides what an image becomes.

    Parameters
    ----------
    source : a file, which is told by its name, its size and when it was changed: to read it all
        would take as long as many a restoration. Else whatever tells it from others.
    settings, kernel : of the run.
    """
    if isinstance(source, Path):
        size, changed = _extent(source)
        source = {"name": source.name, "bytes": size, "changed": changed}
    digest = None
    if kernel is not None:
        values = np.ascontiguousarray(kernel, np.float32)
        digest = hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
    known = {
        "napari_dkp": __version__,
        "source": dict(source),
        "settings": settings.to_dict(),
        "kernel": digest,
    }
    made: dict[str, Any] = json.loads(json.dumps(known))
    return made


def same_but_version(one: Any, other: Any) -> bool:
    """Tell whether two identities differ at most in our version: what is done stays done."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    return {**one, "napari_dkp": ""} == {**other, "napari_dkp": ""}


def _extent(path: Path) -> tuple[int, int]:
    """Return bytes and the time of the last change, ns, of a file, or of all in a folder."""
    if path.is_file():
        told = path.stat()
        return told.st_size, told.st_mtime_ns
    sizes, changes = [0], [0]
    for folder, _, files in os.walk(path):
        for name in files:
            told = os.stat(os.path.join(folder, name))
            sizes.append(told.st_size)
            changes.append(told.st_mtime_ns)
    return sum(sizes), max(changes)
