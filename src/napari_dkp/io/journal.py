"""The planes of an unfinished file that are wholly on the disk."""

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_dkp.io.durable import write_text
from napari_dkp.layout import Index


@dataclass(frozen=True, slots=True)
class Span:
    """Smallest and greatest finite value of a plane; NaN where it has none."""

    low: float
    high: float


class Journal:
    """A file with one line for what is written, then one per plane; lines are only appended.

    A line counts once it ends: what a dying process, or a failing disk, left of the last one is cut
    off when the journal is opened again.

    Attributes
    ----------
    planes : index of each plane on the disk, to its span.
    """

    def __init__(self, path: Path) -> None:
        self.planes: dict[Index, Span] = {}
        lines = path.read_bytes().split(b"\n")[:-1]
        good = len(lines[0]) + 1
        for line in lines[1:]:
            entry = _parsed(line)
            if entry is None:
                break
            self.planes[entry[0]] = entry[1]
            good += len(line) + 1
        self._file = open(path, "r+b", buffering=0)
        self._file.truncate(good)
        self._end = good

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "Journal":
        """Begin a journal; it is there with its first line, or not at all."""
        write_text(path, json.dumps(header) + "\n")
        return cls(path)

    @staticmethod
    def header(path: Path) -> Any:
        """Return the first line; None where there is no journal, or none of ours."""
        try:
            with open(path, "rb") as file:
                line = file.readline()
            return json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None

    def add(self, index: Index, span: Span) -> None:
        """Note a plane; call it when the plane is on the disk."""
        line = json.dumps([list(index), span.low, span.high]).encode() + b"\n"
        self._file.seek(self._end)  # over what a full disk may have left of the last one
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
        self._end += len(line)
        self.planes[index] = span

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def span_of(spans: Mapping[Index, Span]) -> Span:
    """Return that of all planes together, 0 and 1 where no value is finite."""
    lows = [span.low for span in spans.values() if math.isfinite(span.low)]
    highs = [span.high for span in spans.values() if math.isfinite(span.high)]
    return Span(min(lows), max(highs)) if lows and highs else Span(0.0, 1.0)


def _parsed(line: bytes) -> tuple[Index, Span] | None:
    try:
        index, low, high = json.loads(line)
        return tuple(int(i) for i in index), Span(float(low), float(high))
    except (TypeError, ValueError):
        return None
