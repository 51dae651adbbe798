"""The iterator that restores many files."""

import os
import traceback
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np

from napari_dkp import _checks, io
from napari_dkp.batch import account
from napari_dkp.batch.inputs import find, names
from napari_dkp.batch.outcome import Outcome
from napari_dkp.batch.pace import Pace
from napari_dkp.config import Settings
from napari_dkp.mendable import sentence
from napari_dkp.state import State
from napari_dkp.stated_optics import with_optics_of
from napari_dkp.streaming import Stream, identity, same_but_version

Format = Literal["ome-tiff", "ome-zarr"]
FORMATS: tuple[str, ...] = get_args(Format)
_ENDINGS = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}


@dataclass(frozen=True, slots=True)
class Job:
    """A file to restore, and the files that come of it."""

    source: Path
    outputs: io.Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened in a batch.

    Attributes
    ----------
    number, n_files : of the file at work, from 1, and of all.
    job : the file.
    planes, n_planes : of it, that are on the disk, and all; 0 before it is open.
    state : after an image step, else None. It must not be kept: it holds a plane.
    seconds_left : until the batch is done, as far as can be told; else None.
    note : what a user should know; mostly empty.
    outcome : of the file, with its last event; else None.
    """

    number: int
    n_files: int
    job: Job
    planes: int = 0
    n_planes: int = 0
    state: State[np.ndarray] | None = None
    seconds_left: float | None = None
    note: str = ""
    outcome: Outcome | None = None


Events = Generator[Event, None, None]


class Batch:
    """Files that are restored one after the other; a bad one never ends the others.

    Iterate to run, over events; stop by closing the iterator, or by not going on. Memory holds the
    planes at work, however many there are. Whatever ends the process, the same batch goes on with
    the plane it was at, and comes to the same pixels and kernels. In `out` come, per input, image,
    kernel and settings, and diagnostics where they are asked for, as of `io.Outputs`; and of all
    of them an account, `batch.json` and `batch.md`, which is up to date after every file.

    Results are named after their inputs. Inputs of the same name are told apart by their endings
    (cells_tif and cells_png) or by their folders (day1_cells and day2_cells).

    Parameters
    ----------
    inputs : files, folders and patterns; see `inputs.find`. What lies in `out` is no input.
    out : folder of the results; it is made if need be.
    settings : of every file; axes that are None are those of the file.
    kernel : known PSF of every file, or None.
    format : of the images: "ome-tiff" or "ome-zarr".
    overwrite : replace results that were made from other files or with other settings. What was
        done with the same is skipped in any case.
    recursive : also look into folders of folders.
    stated_optics : take the optics that a file's metadata tells, where none are given and they
        would have to be found.

    Attributes
    ----------
    jobs : what there is to do.
    outcomes : what became of it so far, in the same order.

    Raises
    ------
    TypeError, ValueError, OSError
        If an argument cannot be used, there is no input, or `out` cannot be made.

    Examples
    --------
    >>> for event in Batch(["data"], "restored", Settings(scale=1)):  # doctest: +SKIP
    ...     if event.outcome is not None:
    ...         print(event.job.source, event.outcome.status)
    """

    def __init__(
        self,
        inputs: Iterable[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        kernel: np.ndarray | None = None,
        format: Format = "ome-tiff",
        overwrite: bool = False,
        recursive: bool = False,
        stated_optics: bool = True,
    ) -> None:
        _checks.choice("format", format, FORMATS)
        if isinstance(inputs, str | os.PathLike):
            inputs = [inputs]
        self.settings = settings or Settings()
        self.out = Path(out)
        self._kernel = None if kernel is None else np.asarray(kernel, np.float32)
        if self._kernel is not None:
            _checks.psf("kernel", self._kernel, len(self.settings.spatial))
        self._overwrite = overwrite
        self._takes_optics = stated_optics and kernel is None and self.settings.optics is None
        self._notes: list[str] = []
        if self.out.is_file():
            raise ValueError(f"out: expected a folder; '{self.out.name}' is a file")
        sources = self._sources(inputs, recursive=recursive)
        self.out.mkdir(parents=True, exist_ok=True)
        self.jobs = self._named(sources, _ENDINGS[format])
        self.outcomes = [Outcome(source=job.source) for job in self.jobs]

    @property
    def n_failed(self) -> int:
        """Files that failed so far."""
        return sum(outcome.status == "failed" for outcome in self.outcomes)

    @property
    def settled(self) -> bool:
        """Whether every file is done, skipped or failed."""
        return all(outcome.status not in ("waiting", "stopped") for outcome in self.outcomes)

    def __iter__(self) -> Events:
        """Restore what is not yet done."""
        self.outcomes = [Outcome(source=job.source) for job in self.jobs]
        pace = Pace()
        try:
            for number in range(len(self.jobs)):
                with closing(self._settled(number, pace)) as events:
                    yield from events
                with suppress(OSError):  # of a disk that is full now; the last time counts
                    self._write_account()
        finally:
            self._write_account()

    def _settled(self, number: int, pace: Pace) -> Events:
        """Restore a file; in the end it has an outcome, whatever happens."""
        source = self.jobs[number].source
        planes = n_planes = 0
        try:
            with closing(self._restored(number, pace)) as events:
                for event in events:
                    planes, n_planes = event.planes, event.n_planes
                    yield event
        except Exception as error:  # files can have more faults than there are errors for
            said, trace = sentence(error), ""
            if said is None:
                said = f"An error of napari-dkp: {type(error).__name__}: {error}"
                trace = "".join(traceback.format_exception(error))
            traceback.clear_frames(error.__traceback__)  # which may hold much memory
            outcome = Outcome(
                source=source,
                status="failed",
                sentence=said,
                planes=planes,
                n_planes=n_planes,
                trace=trace,
            )
            yield self._ended(number, outcome)
        except BaseException:
            if self.outcomes[number].status == "waiting":
                self.outcomes[number] = Outcome(
                    source=source,
                    status="stopped",
                    sentence="It was stopped; the same batch goes on with it.",
                    planes=planes,
                    n_planes=n_planes,
                )
            raise

    def _restored(self, number: int, pace: Pace) -> Events:
        job = self.jobs[number]
        yield self._event(number)
        picture = io.open(job.source)
        settings = self.settings
        if settings.axes is None:
            settings = replace(settings, axes=picture.axes)
        said = ""
        if self._takes_optics:
            settings, said = with_optics_of(job.source, settings)
        made_of = identity(job.source, settings, self._kernel)
        if self._is_done(job, made_of):
            yield self._ended(number, Outcome.of_record(job.source, job.outputs, "skipped"))
            return
        with closing(self._stream(job, picture, settings, made_of)) as stream:
            event = partial(self._event, number, n_planes=stream.run.n_planes)
            notes = [said, stream.choice]
            if picture.others:
                notes.append(f"It holds {picture.others + 1} images; this is the first.")
            if stream.before:
                notes.append(f"{stream.before} of {stream.run.n_planes} planes were done before.")
            for note in filter(None, notes):
                yield event(planes=stream.done, note=note)
            pace.begin()
            try:
                for state in stream:
                    left = pace.left(state.step, state.n_steps, len(self.jobs) - number - 1)
                    handed_out = perf_counter()
                    yield event(planes=stream.done, state=state, seconds_left=left, note=state.note)
                    pace.leave_out(perf_counter() - handed_out)
            except (TypeError, ValueError):  # the file is at fault
                stream.abandon()
                raise
            stream.finish()
            pace.end()
        yield self._ended(number, Outcome.of_record(job.source, job.outputs, "done"))

    def _stream(
        self, job: Job, picture: io.Picture, settings: Settings, made_of: dict[str, Any]
    ) -> Stream:
        overwrite = self._overwrite
        return Stream(picture, settings, self._kernel, job.outputs, made_of, overwrite=overwrite)

    def _is_done(self, job: Job, made_of: dict[str, Any]) -> bool:
        """Tell whether a file is done; refuse one whose results were made of something else."""
        if not io.is_whole(job.outputs.image):
            return False
        record = io.read_record(job.outputs.settings) or {}
        if same_but_version(record.get("run"), made_of):
            with suppress(OSError), job.outputs.claim():  # it is done, whoever else looks at it
                job.outputs.tidy()
            return True
        if not self._overwrite:
            raise FileExistsError(
                f"output: '{job.outputs.image}' exists already, made from another file or with "
                "other settings; choose another folder, or pass --overwrite"
            )
        return False

    def _event(self, number: int, **fields: Any) -> Event:
        return Event(number + 1, len(self.jobs), self.jobs[number], **fields)

    def _ended(self, number: int, outcome: Outcome) -> Event:
        self.outcomes[number] = outcome
        planes, n_planes = outcome.planes, outcome.n_planes
        return self._event(number, planes=planes, n_planes=n_planes, outcome=outcome)

    def _write_account(self) -> None:
        account.write(self.out, self.outcomes, self.settings, self._notes)

    def _sources(self, inputs: Iterable[str | os.PathLike[str]], *, recursive: bool) -> list[Path]:
        """Return what to restore, less what may be results of ours."""
        out = self.out.resolve()
        found = find(
            [inputs] if isinstance(inputs, str | os.PathLike) else inputs, recursive=recursive
        )
        sources = [path for path in found if not path.resolve().is_relative_to(out)]
        if not sources:
            raise ValueError(f"inputs: expected an image that is not in '{self.out}'; got none")
        if left_out := len(found) - len(sources):
            self._notes.append(f"Inputs in '{self.out}', where results go, left out: {left_out}.")
        return sources

    def _named(self, sources: list[Path], ending: str) -> tuple[Job, ...]:
        diagnostics = self.settings.diagnostics
        return tuple(
            Job(source, io.Outputs.beside(self.out / f"{called}{ending}", diagnostics=diagnostics))
            for source, called in zip(sources, names(sources), strict=True)
        )
