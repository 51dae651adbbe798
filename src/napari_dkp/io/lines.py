"""Files that grow line by line, and lose at most the last line to whatever ends the process."""

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from napari_dkp.io.durable import write_text

Entry = TypeVar("Entry")


class Lines(Generic[Entry]):
    """A file of JSON, a value per line; lines are only appended.

    A line counts once it ends: what a dying process, or a failing disk, left of the last one is cut
    off when the file is opened again.

    Parameters
    ----------
    path : a file of whole lines, as `begin` makes it.
    parse : of a line's value to an entry; it raises TypeError, KeyError or ValueError for others.
    first : number of lines before those that are parsed.

    Attributes
    ----------
    entries : what the lines hold.
    """

    def __init__(self, path: Path, parse: Callable[[Any], Entry], first: int = 0) -> None:
        self._parse = parse
        self.entries: list[Entry] = []
        lines = path.read_bytes().split(b"\n")[:-1]
        good = sum(len(line) + 1 for line in lines[:first])
        for line in lines[first:]:
            try:
                entry = parse(json.loads(line))
            except (TypeError, KeyError, ValueError):
                break
            self.entries.append(entry)
            good += len(line) + 1
        self._file = open(path, "r+b", buffering=0)
        self._file.truncate(good)
        self._end = good

    @staticmethod
    def begin(path: Path, values: Iterable[Any] = ()) -> None:
        """Make such a file; it is there with these values, or not at all."""
        write_text(path, "".join(json.dumps(value) + "\n" for value in values))

    def add(self, value: Any) -> Entry:
        """Append a value; when this returns, it is on the disk."""
        line = json.dumps(value).encode() + b"\n"
        self._file.seek(self._end)  # over what a full disk may have left of the last one
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
        self._end += len(line)
        entry = self._parse(value)
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
