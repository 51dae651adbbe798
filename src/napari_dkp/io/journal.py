"""The planes of an unfinished file that are wholly on the disk."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_dkp.io.lines import Lines
from napari_dkp.layout import Index


@dataclass(frozen=True, slots=True)
class Span:
    """Smallest and greatest finite value of a plane; NaN where it has none."""

    low: float
    high: float


class Journal:
    """A file with one line for what is written, then one per plane.

    Attributes
    ----------
    planes : index of each plane on the disk, to its span.
    """

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path, _parsed, first=1)
        self.planes: dict[Index, Span] = dict(self._lines.entries)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "Journal":
        """Begin a journal; it is there with its first line, or not at all."""
        Lines.begin(path, [header])
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
        self._lines.add([list(index), span.low, span.high])
        self.planes[index] = span

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()


def span_of(spans: Mapping[Index, Span]) -> Span:
    """Return that of all planes together, 0 and 1 where no value is finite."""
    lows = [span.low for span in spans.values() if math.isfinite(span.low)]
    highs = [span.high for span in spans.values() if math.isfinite(span.high)]
    return Span(min(lows), max(highs)) if lows and highs else Span(0.0, 1.0)


def _parsed(value: Any) -> tuple[Index, Span]:
    index, low, high = value
    return tuple(int(i) for i in index), Span(float(low), float(high))
