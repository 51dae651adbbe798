"""A result in a file that the user names: it grows there, and stays there.

Nothing here imports napari or Qt.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dkp import io
from napari_dkp._napari.as_picture import as_picture
from napari_dkp._napari.opened import in_planes
from napari_dkp._napari.place import blank_of, shape_and_type
from napari_dkp._napari.source import Source
from napari_dkp._napari.stored import ByPlanes, Growing, Stored, displayed
from napari_dkp.config import Settings
from napari_dkp.layout import Index

if TYPE_CHECKING:
    from napari_dkp.stack import States
    from napari_dkp.state import State
    from napari_dkp.streaming import Finished


_INTERPOLATED = "Planes that it did not reach hold the interpolated source."


class InFile:
    """A place in a file; see `Place`.

    Of the result, memory holds the plane at work and the kernels. The image is an array that reads
    the planes it is asked for: of the unfinished file, in the end a dask array of the whole one.
    Where a process died, the next one goes on: with the same layer, settings and file.

    Parameters
    ----------
    path : of the image; kernel, settings and diagnostics come beside it.

    Raises
    ------
    TypeError, ValueError, OSError
        If the run cannot be, or nothing can be written.
    """

    def __init__(
        self, source: Source, settings: Settings, kernel: np.ndarray | None, path: Path
    ) -> None:
        from napari_dkp.streaming import Stream, identity

        self._source = source
        picture, said = as_picture(source)
        made_of = identity(_facts(source), settings, kernel)
        with _plainly("out"):
            self._outputs = io.Outputs.beside(path, diagnostics=settings.diagnostics)
            self._stream = Stream(picture, settings, kernel, self._outputs, made_of)
        self.run = self._stream.run
        self.before = self._stream.before
        self.notes: tuple[str, ...] = (said,) if said else ()
        if self.before:
            self.notes += (f"{self.before} of {self.run.n_planes} planes were done before.",)
        self.maps: dict[str, Any] = {}
        self._scales = self.run.settings.scales(len(source.spatial))
        self._shape, self._dtype = shape_and_type(source, self.run.settings)
        # The layer has this, but not the run, whose memory may go before the layer does.
        self._growing = Growing(
            source,
            self._stream.finished,
            displayed(io.image_in(path), source, self._scales),
            blank_of(self._dtype),
        )
        self._whole = False
        read = ByPlanes(source.axes, self._dtype, self._growing)
        self.image: Any = io.LazyArray(self._shape, self._dtype, read)

    def states(self) -> "States":
        """Run."""
        return iter(self._stream)

    def draw(self, index: Index, image: np.ndarray) -> None:
        """Show what a plane has come to, and no longer what was shown before."""
        self._growing.draw(index, image)

    def keep(self, state: "State[np.ndarray]") -> None:
        """Nothing: maps are in their files."""

    def finish(self, *, complete: bool) -> "Finished":
        """Give all files their names, and look at them from then on."""
        source, outputs = self._source, self._outputs
        if not complete:
            self._stream.conclude()
            if self.run.n_planes > 1:
                self.notes += (_INTERPOLATED,)
        with self._growing.moving:
            finished = self._stream.finish()
            planes = displayed(outputs.image, source, self._scales)
            self._growing.complete(planes)
        self._whole = True
        read = ByPlanes(source.axes, self._dtype, planes)
        self.image = in_planes(io.LazyArray(self._shape, self._dtype, read), source.axes)
        maps = {
            "residual": (outputs.residual, source.shape),
            "uncertainty": (outputs.uncertainty, self.run.shape),
        }
        single = np.dtype(np.float32)
        for name, (path, shape) in maps.items():
            if path is not None and path in finished.paths:
                read = ByPlanes(source.axes, single, Stored.open(path, source.axes))
                self.maps[name] = in_planes(io.LazyArray(shape, single, read), source.axes)
        return finished

    def close(self) -> None:
        """Let go of the file; one in which nothing is done goes."""
        if not self._whole:
            self._stream.abandon()
        self._stream.close()


def check_out(path: Path, source: Source, settings: Settings) -> None:
    """Find out whether a result could be written, as far as that shows without reading an image.

    Where one is begun under that name, files beside it may be its own, and much of it takes its
    room already: whether the run is the same only shows once the image is read.

    Raises
    ------
    ValueError
        Naming what is in the way: a file of that name, the folder, the format, the disk.
    """
    size = math.prod(source.shape) * math.prod(settings.spatial_scales.values())
    with _plainly("Result"):
        outputs = io.Outputs.beside(path, diagnostics=settings.diagnostics)
        if io.begun(outputs.image) is None:
            outputs.check(4 * size)


@contextmanager
def _plainly(name: str) -> Iterator[None]:
    """Say of an error what is wrong with the file, by the name it has here, not what to type."""
    try:
        yield
    except (ValueError, OSError) as error:
        said = str(error).replace(", or pass --overwrite", "")
        raise ValueError(said.replace("output:", f"{name}:", 1)) from error


def _facts(source: Source) -> dict[str, Any]:
    """Return what tells one layer, and one part of it, from others, as far as a plane shows it."""
    sample = np.ascontiguousarray(source.sample())
    return {
        "layer": source.name,
        "shape": [int(n) for n in source.data.shape],
        "dtype": str(sample.dtype),
        "window": source.window,
        "sample": hashlib.sha256(sample.tobytes()).hexdigest(),
    }
