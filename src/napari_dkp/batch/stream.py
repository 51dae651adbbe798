"""One file to others: planes are restored, written and forgotten, and a kill costs one of them."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from napari_dkp import io
from napari_dkp.batch.notebook import Findings, Notebook, PlaneNote
from napari_dkp.config import LEAST_TILE, Settings
from napari_dkp.layout import Index
from napari_dkp.stack import Run, States
from napari_dkp.state import State, Stop


class Stream:
    """A restoration from a picture onto the disk; what a process left of it is gone on with.

    Iterate to run: each plane is on the disk when its last state is yielded. Then `finish`, and
    `close` in any case. Pixels and kernels are the same as those of a run that nothing interrupts.

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
    before : planes that were done before.

    Raises
    ------
    TypeError, ValueError, OSError
        If the run cannot be, or nothing can be written.
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
        begun = io.begun(outputs.image)
        self._resumed = begun == identity
        if begun is not None and not self._resumed and not overwrite:
            raise ValueError(
                f"output: '{outputs.image.name}' was begun from another input, with other settings "
                "or by another version; repeat that, or pass --overwrite"
            )
        folder = io.partial_of(outputs.image)
        found = Notebook.findings(folder) if self._resumed else None
        self.run = Run(picture.image, _as_before(found, picture) or settings, kernel, keep=False)
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
        self._size = picture.pixel_size.enlarged(tuple(self.run.settings.spatial_scales.values()))
        if not self._resumed:
            n_bytes = 4 * int(np.prod(self.run.shape, dtype=np.int64))
            outputs.check(n_bytes, overwrite=overwrite)
        self._writer = io.create(
            outputs.image,
            shape=self.run.shape,
            axes=self._axes,
            pixel_size=self._size,
            channels=picture.channels,
            run=identity,
            resume=self._resumed,
            overwrite=overwrite,
        )
        self._maps: dict[Path, io.PlaneWriter] = {}
        try:
            self._notebook = Notebook(self._writer.folder)
            self._keep_findings()
        except BaseException:
            self._writer.close()
            raise
        self.before = len(self._writer.finished)

    @property
    def done(self) -> int:
        """Planes that are on the disk."""
        return len(self._writer.finished)

    def __iter__(self) -> States:
        """Restore what is not yet done."""
        began, steps = perf_counter(), 0
        with closing(self.run.iterate(done=self._writer.finished)) as states:
            for state in states:
                if self._noted != self._progress:
                    self._keep_findings()
                if state.done and state.plane not in self._writer.finished:
                    now = perf_counter()
                    self._keep(state, state.step - steps, now - began)
                    began, steps = now, state.step
                handed_out = perf_counter()
                yield state
                began += perf_counter() - handed_out  # a pause is no work

    def finish(self) -> None:
        """Write kernels and settings, and give all files their names, the image last.

        Raises
        ------
        ValueError, OSError
            If planes are missing, or something cannot be written.
        """
        layout, notes = self.run.layout, self._notebook.planes
        kernels = np.stack([notes[index].kernel for index in layout.planes])
        kernels = kernels.reshape(*layout.looped_shape, *kernels.shape[1:])
        outputs = self._outputs
        for writer in self._begun_maps():
            for index in list(writer.pending()):  # planes that have none, as those without contrast
                writer.write(index, np.full(writer.layout.plane_shape, np.nan, np.float32))
            writer.commit()
        io.write_kernel(outputs, kernels, layout.looped + layout.spatial, self._size)
        diverged = any(note.diverged for note in notes.values())
        record = io.Record(
            settings=self._settings,
            device=str(self.run.device),
            seconds=sum(note.seconds for note in notes.values()),
            stop=Stop.DIVERGED if diverged else Stop.COMPLETED,
            steps=sum(note.steps for note in notes.values()),
            known_kernel=self._known_kernel,
            residual=next(reversed(notes.values())).residual,
            choice=self.choice,
            notes=self._all_notes,
            reports=tuple(notes[index].report for index in layout.planes),
            run=self._identity,
        )
        record.write(outputs, self._picture)
        self._writer.commit()

    def close(self) -> None:
        """Let go of the files, and leave what is not finished for another process."""
        for writer in (self._writer, *self._maps.values()):
            writer.close()
        self._notebook.close()

    def discard(self) -> None:
        """Remove what is not finished."""
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

    def _keep(self, state: State[np.ndarray], steps: int, seconds: float) -> None:
        """Bring a plane to the disk: its image last, for with that it counts as done."""
        note = PlaneNote(
            index=state.plane,
            kernel=state.kernel,
            report=state.report and replace(state.report, residual=None, uncertainty=None),
            residual=float(state.residual),
            steps=steps,
            seconds=seconds,
            diverged=self.run.diverged,
        )
        self._notebook.add(note)
        if state.report is not None:
            self._keep_map(self._outputs.residual, state.plane, state.report.residual)
            self._keep_map(self._outputs.uncertainty, state.plane, state.report.uncertainty)
        self._writer.write(state.plane, self._arranged(state.image))

    def _keep_map(self, path: Path | None, index: Index, values: np.ndarray | None) -> None:
        if path is None or values is None:
            return
        writer = self._map(path)
        if index not in writer.finished:
            writer.write(index, self._arranged(values))

    def _map(self, path: Path) -> io.PlaneWriter:
        """Return the writer of residual or uncertainty; there is none until a plane has some."""
        if path not in self._maps:
            of_source = path == self._outputs.residual
            self._maps[path] = io.create(
                path,
                shape=self.run.layout.shape if of_source else self.run.shape,
                axes=self._axes,
                pixel_size=self._picture.pixel_size if of_source else self._size,
                channels=self._picture.channels,
                run=self._identity,
                resume=self._resumed,
                overwrite=True,  # which was agreed to
            )
        return self._maps[path]

    def _begun_maps(self) -> list[io.PlaneWriter]:
        """Return the writers of residual and uncertainty, also those of an earlier process."""
        paths = [path for path in (self._outputs.residual, self._outputs.uncertainty) if path]
        for path in paths:
            io.is_whole(path)  # which tidies up
        return [self._map(path) for path in paths if io.begun(path) == self._identity]

    def _arranged(self, plane: np.ndarray) -> np.ndarray:
        """Return a plane in the order that writers take: Y, X, colours."""
        kept = [axis for axis in self._axes if axis not in self.run.layout.looped]
        return plane.transpose([kept.index(axis) for axis in "YXC" if axis in kept])


def _as_before(found: Findings | None, picture: io.Picture) -> Settings | None:
    """Return the settings that a run is to go on with: with its tiles, or without any.

    Else the memory that happens to be free would decide on the pixels of what is left.
    """
    if found is None:
        return None
    tile = found.settings.tile or max(LEAST_TILE, *picture.image.shape)
    return replace(found.settings, tile=tile)
