"""A picture to files: planes are restored, written and forgotten, and a kill costs one of them."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from napari_dkp import io
from napari_dkp.config import LEAST_TILE, Settings
from napari_dkp.layout import Index, looped_axes
from napari_dkp.stack import Run, States
from napari_dkp.state import State, Stop
from napari_dkp.streaming.notebook import Findings, Notebook, PlaneNote


@dataclass(frozen=True, eq=False)
class Finished:
    """What a stream came to.

    Attributes
    ----------
    record : what the settings file tells.
    kernels : shape (looped axes ..., *K).
    paths : what was written.
    """

    record: io.Record
    kernels: np.ndarray
    paths: tuple[Path, ...]


class Stream:
    """A restoration from a picture onto the disk; what a process left of it is gone on with.

    Iterate to run: each plane, or volume, is on the disk when its last state is yielded. Then
    `finish`, after `conclude` if the run was ended before its last state, and `close` in any case.
    Pixels and kernels are the same as those of a run that nothing interrupts.

    Parameters
    ----------
    picture : what to restore; a lazy one is read plane by plane.
    settings : see `Settings`; of a run that is gone on with, the ones that it resolved count.
    kernel : known PSF, or None.
    outputs : where to.
    identity : what tells this restoration from others, as JSON does.
    overwrite : replace files of these names, and what is begun of another restoration.

    Attributes
    ----------
    run : of what is not yet done.
    choice : what "auto" took.
    pixel_size : of the restored image.
    finished : indices, as of `State.plane`, of the planes or volumes that are on the disk.
    before : planes, or volumes, that were done before.

    Raises
    ------
    TypeError, ValueError, OSError
        If the run cannot be, another one is writing these files, or nothing can be written.
    """

    def __init__(
        self,
        picture: io.Picture,
        settings: Settings,
        kernel: np.ndarray | None,
        outputs: io.Outputs,
        identity: dict[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        with ExitStack() as undo:
            self._claim = outputs.claim()
            undo.callback(self._claim.release)
            io.remove_parts(outputs.settings)
            outputs.tidy()
            begun = io.begun(outputs.image)
            self._resumed = begun == identity
            if begun is not None and not self._resumed and not overwrite:
                raise ValueError(
                    f"output: '{outputs.image.name}' was begun from another input, with other "
                    "settings or by another version; repeat that, or pass --overwrite"
                )
            if not self._resumed:
                enlarged = math.prod(settings.spatial_scales.values())
                n_bytes = 4 * math.prod(picture.image.shape) * enlarged
                outputs.check(n_bytes, overwrite=overwrite)
            folder = io.partial_of(outputs.image)
            found = Notebook.findings(folder) if self._resumed else None
            self.run = Run(
                picture.image, _as_before(found, picture) or settings, kernel, keep=False
            )
            self._began_whole = found is not None and found.settings.tile is None
            self.choice = found.choice if found else self.run.choice
            self._picture = picture
            self._known_kernel = kernel is not None
            self._outputs = outputs
            self._identity = identity
            self._notes = found.notes if found else ()
            if found:
                self.run.plans = dict(found.plans)
                if found.device != str(self.run.device):
                    self._notes += (f"Begun on {found.device}, gone on with on {self.run.device}.",)
            self._axes = self.run.layout.axes
            scales = tuple(self.run.settings.spatial_scales.values())
            self.pixel_size = picture.pixel_size.enlarged(scales)
            self._writer = io.create(
                outputs.image,
                shape=self.run.shape,
                axes=self._axes,
                pixel_size=self.pixel_size,
                channels=picture.channels,
                run=identity,
                resume=self._resumed,
                overwrite=overwrite,
            )
            undo.callback(self._writer.close)
            self._maps: dict[Path, io.PlaneWriter] = {}
            self._notebook = Notebook(self._writer.folder)
            self._keep_findings()
            self.finished = self._found()
            self.before = len(self.finished)
            self._stopped: tuple[State[np.ndarray], int, float] | None = None
            self._rest: dict[Index, PlaneNote] = {}
            undo.pop_all()  # from here on it is for `close`

    @property
    def done(self) -> int:
        """Planes, or volumes, that are on the disk."""
        return len(self.finished)

    def __iter__(self) -> States:
        """Restore what is not yet done."""
        began, steps = perf_counter(), 0
        with closing(self.run.iterate(done=self.finished)) as states:
            for state in states:
                if self._noted != self._progress:
                    self._keep_findings()
                if state.done and state.plane not in self.finished:
                    now = perf_counter()
                    self._keep(state, state.step - steps, now - began)
                    began, steps = now, state.step
                handed_out = perf_counter()
                try:
                    yield state
                except GeneratorExit:
                    self._stopped = state, state.step - steps, handed_out - began
                    raise
                began += perf_counter() - handed_out  # a pause is no work

    def conclude(self) -> None:
        """Let a run that was ended before its last state have its planes all the same.

        Planes at work have come to something, others hold their interpolated source, and the last
        kernel there was. They do not count as done: where a process dies before it has finished,
        the next one goes on with the restoration.

        Raises
        ------
        ValueError, OSError
            If there was no state yet, or something cannot be written.
        """
        if self._stopped is None:
            raise ValueError("conclude: expected a run that was ended after a state; got none")
        note = replace(self._note(*self._stopped), report=None)
        at_work = {state.plane: state for state in self.run.unfinished()}
        written = self._writer.finished
        for index in self.run.layout.planes:
            if index in self.finished:
                continue
            state = at_work.get(index)
            image = self.run.interpolated(index) if state is None else state.image
            for plane, values in self._planes(index, image):
                if plane not in written:
                    self._writer.fill(plane, values)
            self._rest[index] = replace(note, index=index)
            note = replace(note, steps=0, seconds=0.0)  # which count once

    def finish(self) -> Finished:
        """Write kernels and settings, and give all files their names, the image last.

        Raises
        ------
        ValueError, OSError
            If planes are missing, or something cannot be written.
        """
        layout, notes = self.run.layout, self._notebook.planes | self._rest
        kernels = np.stack([notes[index].kernel for index in layout.planes])
        kernels = kernels.reshape(*layout.looped_shape, *kernels.shape[1:])
        stop = Stop.DIVERGED if any(note.diverged for note in notes.values()) else Stop.COMPLETED
        record = io.Record(
            settings=self._settings,
            device=str(self.run.device),
            seconds=sum(note.seconds for note in notes.values()),
            stop=Stop.CANCELLED if self._rest else stop,
            steps=sum(note.steps for note in notes.values()),
            known_kernel=self._known_kernel,
            residual=next(reversed(notes.values())).residual,
            choice=self.choice,
            notes=self._all_notes,
            reports=tuple(notes[index].report for index in layout.planes),
            run=self._identity,
        )
        outputs, maps = self._outputs, self._begun_maps()
        for writer in maps:
            for index in list(writer.pending()):  # planes that have none, as those without contrast
                writer.fill(index, np.full(writer.layout.plane_shape, np.nan, np.float32))
        io.write_kernel(outputs, kernels, layout.looped + layout.spatial, self.pixel_size)
        record.write(outputs, self._picture)
        self._notebook.close()  # Windows removes no folder in which a file is open
        for writer in (*maps, self._writer):
            writer.commit()
        paths = {outputs.image, outputs.kernel, outputs.settings, *(each.path for each in maps)}
        return Finished(record, kernels, tuple(path for path in outputs.paths if path in paths))

    def close(self) -> None:
        """Let go of the files, and leave what is not finished for another process."""
        with self._claim:
            for writer in (self._writer, *self._maps.values()):
                writer.close()
            self._notebook.close()

    def abandon(self) -> None:
        """Remove what is begun, unless something is done that another process can go on with."""
        if not self._writer.finished:
            for writer in (self._writer, *self._begun_maps()):
                writer.discard()
            self._notebook.close()

    # What is kept

    @property
    def _settings(self) -> Settings:
        """Those of the run; a plane that is restored whole has no tiles."""
        settings = self.run.settings
        tiled = settings.tile is not None and settings.tile < max(self.run.layout.lr_shape)
        return replace(settings, tile=None) if self._began_whole and not tiled else settings

    @property
    def _all_notes(self) -> tuple[str, ...]:
        return (*self._notes, *self.run.notes)

    @property
    def _progress(self) -> tuple[int, int]:
        return len(self.run.plans), len(self.run.notes)

    def _keep_findings(self) -> None:
        self._noted = self._progress
        run = self.run
        self._notebook.keep(
            Findings(self._settings, self.choice, str(run.device), self._all_notes, run.plans)
        )

    def _note(self, state: State[np.ndarray], steps: int, seconds: float) -> PlaneNote:
        return PlaneNote(
            index=state.plane,
            kernel=state.kernel,
            report=state.report and replace(state.report, residual=None, uncertainty=None),
            residual=float(state.residual),
            steps=steps,
            seconds=seconds,
            diverged=self.run.diverged,
        )

    def _keep(self, state: State[np.ndarray], steps: int, seconds: float) -> None:
        """Bring a plane to the disk: its image last, for with that it counts as done."""
        self._notebook.add(self._note(state, steps, seconds))
        if state.report is not None:
            self._keep_map(self._outputs.residual, state.plane, state.report.residual)
            self._keep_map(self._outputs.uncertainty, state.plane, state.report.uncertainty)
        self._write(self._writer, state.plane, state.image)
        self.finished.add(state.plane)

    def _keep_map(self, path: Path | None, index: Index, values: np.ndarray | None) -> None:
        if path is not None and values is not None:
            self._write(self._map(path), index, values)

    def _write(self, writer: io.PlaneWriter, index: Index, values: np.ndarray) -> None:
        """Write what a process that died in the midst of it has not."""
        finished = writer.finished
        for plane, own in self._planes(index, values):
            if plane not in finished:
                writer.write(plane, own)

    def _map(self, path: Path) -> io.PlaneWriter:
        """Return the writer of residual or uncertainty; there is none until a plane has some."""
        if path not in self._maps:
            of_source = path == self._outputs.residual
            self._maps[path] = io.create(
                path,
                shape=self.run.layout.shape if of_source else self.run.shape,
                axes=self._axes,
                pixel_size=self._picture.pixel_size if of_source else self.pixel_size,
                channels=self._picture.channels,
                run=self._identity,
                resume=self._resumed,
                overwrite=True,  # which was agreed to
            )
        return self._maps[path]

    def _begun_maps(self) -> list[io.PlaneWriter]:
        """Return the writers of residual and uncertainty, also those of an earlier process."""
        paths = [path for path in (self._outputs.residual, self._outputs.uncertainty) if path]
        return [self._map(path) for path in paths if io.begun(path) == self._identity]

    def _found(self) -> set[Index]:
        """Return which planes or volumes are wholly on the disk."""
        layout = self.run.layout
        at = [i for i, axis in enumerate(looped_axes(layout.axes)) if axis in layout.looped]
        found = Counter(tuple(plane[i] for i in at) for plane in self._writer.finished)
        deep = math.prod(self._writer.layout.loops) // self.run.n_planes
        return {index for index, planes in found.items() if planes == deep}

    def _planes(self, index: Index, values: np.ndarray) -> Iterator[tuple[Index, np.ndarray]]:
        """Yield the planes of a plane or volume as writers take them: Y, X, colours."""
        layout = self.run.layout
        kept = [axis for axis in layout.axes if axis not in layout.looped]
        values = values.transpose([kept.index(a) for a in f"{layout.spatial}C" if a in kept])
        deep = layout.spatial.removesuffix("YX")
        for position in np.ndindex(values.shape[: len(deep)]):
            place = dict(zip(layout.looped + deep, index + position, strict=True))
            yield tuple(place[axis] for axis in looped_axes(layout.axes)), values[position]


def _as_before(found: Findings | None, picture: io.Picture) -> Settings | None:
    """Return the settings that a run is to go on with: with its tiles, or without any.

    Else the memory that happens to be free would decide on the pixels of what is left.
    """
    if found is None:
        return None
    tile = found.settings.tile or max(LEAST_TILE, *picture.image.shape)
    return replace(found.settings, tile=tile)
