"""What a file holds: an image, the meaning of its axes, and the size of its pixels."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from napari_dkp.io.lazy import LazyArray


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Size of a pixel along the spatial axes, in `unit`, and where the grid begins.

    Attributes
    ----------
    sizes : axis letter ("Z", "Y", "X") to size; axes whose size is not known are left out.
    unit : "µm", "nm", "mm", …; "pixel" where the file names none.
    origin : axis letter to the centre of the first pixel, in `unit`; 0 where left out.
    interval : between time points, s; None where it is not known.
    """

    sizes: Mapping[str, float]
    unit: str = "pixel"
    origin: Mapping[str, float] = field(default_factory=dict)
    interval: float | None = None

    def enlarged(self, scale: tuple[int, ...]) -> "PixelSize":
        """Return that of the grid after the last axes of Z, Y, X were enlarged by `scale`.

        Sizes that are not known count as 1 pixel. The frame stays where it is, so the first pixel,
        smaller than before, has its centre nearer to the frame.
        """
        finer = dict(self.sizes)
        origin = dict(self.origin)
        for axis, s in zip("ZYX"[-len(scale) :], scale, strict=True):
            size = self.sizes.get(axis, 1.0)
            finer[axis] = size / s
            origin[axis] = self.origin.get(axis, 0.0) + (1 / s - 1) / 2 * size
        return replace(self, sizes=finer, origin=origin)

    def __str__(self) -> str:
        y, x = (self.sizes.get(axis, 1.0) for axis in "YX")
        return f"{x:.4g} {self.unit}" if y == x else f"{y:.4g} × {x:.4g} {self.unit} (Y × X)"


def known_size(
    sizes: Mapping[str, float],
    unit: str,
    origin: Mapping[str, float] | None = None,
    interval: float | None = None,
) -> PixelSize:
    """Drop sizes that cannot be; a pixel known along one of Y and X is taken as square."""
    known = {axis: size for axis, size in sizes.items() if np.isfinite(size) and size > 0}
    if interval is not None and not (np.isfinite(interval) and interval > 0):
        interval = None
    if not {"Y", "X"} & known.keys():
        return PixelSize({}, interval=interval)
    known.setdefault("Y", known.get("X", 1.0))
    known.setdefault("X", known["Y"])
    return PixelSize(known, unit, origin or {}, interval)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as a file holds it.

    Attributes
    ----------
    image : any real dtype, one axis per letter of `axes`; in memory, or read as it is indexed.
    axes : letters out of T, C, Z, Y, X. C before Y and X are channels, C after them the colours of
        one picture.
    pixel_size : of the spatial axes.
    name : file name without its folder.
    others : further images in the file, which were not read.
    channels : their names, in the order of C, or one without C; empty where the file names none.
    """

    image: np.ndarray | LazyArray
    axes: str
    pixel_size: PixelSize
    name: str
    others: int = 0
    channels: tuple[str, ...] = ()


def with_our_axes(picture: Picture) -> Picture:
    """Translate the letters of files: samples S are colours, C last; axes of length 1 go.

    What is called unknown (I, Q) is Z, then T.

    Raises
    ------
    ValueError
        If the file holds no pixel, or axes that cannot be told apart.
    """
    shape = picture.image.shape
    if 0 in shape or not shape:
        raise ValueError(f"input: '{picture.name}' holds no image")
    kept = [i for i, axis in enumerate(picture.axes) if shape[i] > 1 or axis in "YX"]
    given = "".join(picture.axes[i] for i in kept)
    what = f"input: '{picture.name}' has axes {picture.axes!r} of shape {shape}"
    if {"C", "S"} <= set(given):
        raise ValueError(
            f"{what}: channels that each are in colour; expected channels or colours. "
            "Save the part you want as its own file"
        )
    kept.sort(key=lambda i: picture.axes[i] == "S")
    letters = [picture.axes[i].replace("S", "C") for i in kept]
    free = (axis for axis in "ZT" if axis not in letters)
    axes = "".join(next(free, a) if a in "IQ" else a for a in reversed(letters))[::-1]
    if set(axes) - set("TCZYX") or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(
            f"{what}; expected at most one each of T, C, Z, Y, X. "
            "Save the part you want as its own file"
        )
    n_channels = shape[picture.axes.index("C")] if "C" in picture.axes else 1
    channels = picture.channels if len(picture.channels) == n_channels else ()
    image = LazyArray.of(picture.image).arranged(kept)
    return replace(picture, image=image, axes=axes, channels=channels)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say in one sentence that a file cannot be read, whatever the library finds wrong with it."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(f"input: '{name}' may not be read, or is locked") from error
    except MemoryError:
        raise
    except Exception as error:  # files can be odd in more ways than their libraries have errors for
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"input: '{name}' cannot be read as an image: {str(reason) or type(error).__name__}"
        ) from error
