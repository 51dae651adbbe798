"""A result in a file as napari draws it, read plane by plane, also while it is being written.

Nothing here imports napari or Qt.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock

import numpy as np

from napari_dkp import io
from napari_dkp._napari.source import Source
from napari_dkp.io.lazy import Region
from napari_dkp.layout import Index, looped_axes


@dataclass(frozen=True)
class ByPlanes:
    """Reads regions of an image, what a `LazyArray` asks for, from its planes.

    Attributes
    ----------
    axes : of the image.
    dtype : of its values.
    plane : takes an index along all axes but Y, X and colours; returns that plane, its axes in the
        order of the image's, or one value for all of it.
    """

    axes: str
    dtype: np.dtype
    plane: Callable[[Index], np.ndarray | float]

    def __call__(self, region: Region) -> np.ndarray:
        looped = looped_axes(self.axes)
        of_axis = dict(zip(self.axes, region, strict=True))
        within = tuple(part for axis, part in of_axis.items() if axis not in looped)
        found = np.empty([part.stop - part.start for part in region], self.dtype)
        for index in product(*(range(of_axis[a].start, of_axis[a].stop) for a in looped)):
            place = dict(zip(looped, index, strict=True))
            where = tuple(
                place[axis] - part.start if axis in place else slice(None)
                for axis, part in of_axis.items()
            )
            plane = self.plane(index)
            found[where] = plane[within] if isinstance(plane, np.ndarray) else plane
        return found


@dataclass(frozen=True)
class Stored:
    """The planes of a file, as `ByPlanes` takes them.

    Attributes
    ----------
    picture : the file.
    axes : of the image that was written, whose order counts.
    """

    picture: io.Picture
    axes: str

    @classmethod
    def open(cls, path: Path, axes: str) -> "Stored":
        """Open a file, whole or not."""
        return cls(io.open(path), axes)

    def __call__(self, index: Index) -> np.ndarray:
        place = dict(zip(looped_axes(self.axes), index, strict=True))
        given = self.picture.axes
        plane = self.picture.image[tuple(place.get(axis, slice(None)) for axis in given)]
        found = [axis for axis in given if axis not in place]
        kept = [axis for axis in self.axes if axis not in place]
        single = [axis for axis in kept if axis not in found]  # axes of length 1 are not read
        plane = np.asarray(plane).reshape(*plane.shape, *(1 for _ in single))
        return plane.transpose([[*found, *single].index(axis) for axis in kept])


@dataclass(frozen=True)
class Displayed:
    """Planes of a file as napari draws colours: in their type, with the alpha of the source.

    Attributes
    ----------
    source : that was restored.
    scales : of the restoration, one per spatial axis.
    plane : the planes of the file.
    """

    source: Source
    scales: Sequence[int]
    plane: Callable[[Index], np.ndarray]

    def __call__(self, index: Index) -> np.ndarray:
        place = dict(zip(looped_axes(self.source.axes), index, strict=True))
        alpha = self.source.alpha([place[axis] for axis in self.source.looped])
        if alpha is not None and "Z" in self.source.spatial:
            alpha = alpha[place["Z"] // self.scales[0]]
        return self.source.displayed(self.plane(index), alpha, self.scales[-2:])


class Growing:
    """The planes of a file that are done, and the one at work, which memory holds.

    Parameters
    ----------
    source : that is restored.
    finished : index of what is done, as of `State.plane`; it grows.
    plane : the planes of the unfinished file, as napari draws them.
    blank : what planes hold that wait.

    Attributes
    ----------
    moving : to be held while the file gets another name.
    """

    def __init__(
        self,
        source: Source,
        finished: Collection[Index],
        plane: Callable[[Index], np.ndarray],
        blank: float,
    ) -> None:
        self.moving = Lock()
        self._axes, self._looped = source.axes, source.looped
        self._finished = finished
        self._plane = plane
        self._blank = blank
        self._drawn: tuple[Index, np.ndarray] | None = None
        self._whole = False

    def draw(self, index: Index, image: np.ndarray) -> None:
        """Show what a plane, or volume, has come to, and no longer what was shown before."""
        self._drawn = index, image

    def complete(self, plane: Callable[[Index], np.ndarray]) -> None:
        """Read every plane from the file that is whole now."""
        self._plane, self._whole, self._drawn = plane, True, None

    def __call__(self, index: Index) -> np.ndarray | float:
        place = dict(zip(looped_axes(self._axes), index, strict=True))
        own = tuple(place[axis] for axis in self._looped)
        latest = self._drawn
        if latest is not None and latest[0] == own:
            kept = [axis for axis in self._axes if axis not in self._looped]
            shown: np.ndarray = latest[1][tuple(place.get(axis, slice(None)) for axis in kept)]
            return shown
        with self.moving:
            return self._plane(index) if self._whole or own in self._finished else self._blank


def displayed(path: Path, source: Source, scales: Sequence[int]) -> Callable[[Index], np.ndarray]:
    """Return what reads the planes of a restored image, as napari draws them."""
    stored = Stored.open(path, source.axes)
    return Displayed(source, scales, stored) if source.rgb else stored
