"""The restoration of many files, in a thread of its own; what it hands out can be shown at once."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_dkp import io
from napari_dkp._napari.appraiser import duration
from napari_dkp._napari.job import INTERVAL, Paused
from napari_dkp._napari.work import Work
from napari_dkp.config import Settings

if TYPE_CHECKING:
    from napari_dkp.batch import Event, Outcome


@dataclass(frozen=True)
class Request:
    """What there is to do.

    Attributes
    ----------
    inputs : files and folders, that are there.
    out : folder of the results.
    settings : of every file.
    kernel : known point spread function of every file, or None.
    format : "ome-tiff" or "ome-zarr".
    recursive : also look into folders of folders.
    overwrite : replace results of other settings.
    """

    inputs: tuple[Path, ...]
    out: Path
    settings: Settings
    kernel: np.ndarray | None
    format: str
    recursive: bool
    overwrite: bool


@dataclass(frozen=True)
class Line:
    """What is said of a file, and what became of it, once something has."""

    text: str
    outcome: "Outcome | None" = None


@dataclass(frozen=True)
class Listed:
    """The files are found."""

    sources: tuple[Path, ...]


@dataclass(frozen=True)
class Advanced:
    """Something was done.

    Attributes
    ----------
    lines : by the number of the file, from 0, of those that have changed.
    progress : how far the batch is, in words.
    """

    lines: dict[int, Line]
    progress: str


@dataclass(frozen=True)
class Settled:
    """All was done, or as much as was wanted.

    Attributes
    ----------
    lines : of all files.
    totals : how many files came to what, in words.
    account : where that is written.
    complete : whether no file is left to be done.
    """

    lines: dict[int, Line]
    totals: str
    account: Path
    complete: bool


Happening = Listed | Advanced | Paused | None


class BatchJob(Work):
    """A batch, watched from the thread of the viewer and done in another."""

    def __init__(self, request: Request) -> None:
        name = request.inputs[0].name
        if len(request.inputs) > 1:
            name = f"{len(request.inputs)} files"
        super().__init__(name, request.settings.device, self._work(request))

    def _work(self, request: Request) -> Generator[Happening, None, Settled]:
        from napari_dkp.batch import Batch, account
        from napari_dkp.batch.inputs import find
        from napari_dkp.batch.where import where

        found = find(request.inputs, recursive=request.recursive)
        if all(path.is_dir() and not io.is_image(path) for path in found):
            deeper = "" if request.recursive else " Tick 'Subfolders' to look into its folders."
            raise ValueError(f"There is no image in '{found[0]}'.{deeper}")
        batch = Batch(
            found,
            request.out,
            request.settings,
            kernel=request.kernel,
            format=request.format,  # type: ignore[arg-type]
            overwrite=request.overwrite,
        )
        yield Listed(tuple(job.source for job in batch.jobs))
        lines: dict[int, Line] = {}
        sent = -INTERVAL
        with closing(iter(batch)) as events:
            for event in events:
                lines[event.number - 1] = _line(event)
                progress = _capital(where(event))
                if time.monotonic() - sent >= INTERVAL:
                    sent = time.monotonic()
                    yield Advanced(lines, progress)
                    lines = {}
                if self.is_paused:
                    yield Advanced(lines, progress)
                    lines = {}
                    yield Paused(progress)
                    self._goes_on.wait()
                    yield None  # where napari has closed meanwhile, the worker ends here
                if self.is_ending:
                    break
        return Settled(
            {number: line_of(outcome) for number, outcome in enumerate(batch.outcomes)},
            account.in_words(batch.outcomes),
            batch.out / account.MARKDOWN,
            complete=batch.settled,
        )


def line_of(outcome: "Outcome") -> Line:
    """Return what is said of a file in the end."""
    if outcome.status == "done":
        took = duration(outcome.seconds).removeprefix("about ")
        return Line(f"done in {took}", outcome)
    if outcome.status == "skipped":
        return Line("done before", outcome)
    if outcome.status == "failed":
        return Line(f"failed: {plain(outcome.sentence)}", outcome)
    if outcome.status == "stopped" and outcome.n_planes > 1:
        return Line(f"stopped, {outcome.planes} of {outcome.n_planes} planes done", outcome)
    return Line(outcome.status, outcome)


def plain(sentence: str) -> str:
    """Say in the words of the widget what was said in those of the command line."""
    for said, meant in _MEANT.items():
        sentence = sentence.replace(said, meant)
    return sentence


_MEANT = {
    "pass --overwrite": "tick 'Replace'",
    "another --device": "another device",
    " (--optics none: as the image shows them)": "",
}


def _line(event: "Event") -> Line:
    if event.outcome is not None:
        return line_of(event.outcome)
    if event.n_planes == 0:
        return Line("opening")
    if event.n_planes > 1:
        return Line(f"plane {min(event.planes + 1, event.n_planes)} of {event.n_planes}")
    if event.state is None:
        return Line("starting")
    return Line(f"step {event.state.step} of {event.state.n_steps}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
