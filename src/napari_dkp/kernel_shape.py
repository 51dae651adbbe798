"""Size and orientation of a blur kernel, in physical units."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from napari_dkp import _checks

# Share of the peak that is taken off as floor: kernels from a softmax have a faint one everywhere,
# which would pull the axes towards the corners of the array.
_FLOOR = 0.05
# Relative difference of the variances below which a kernel counts as round.
_ROUND = 1e-6
_SAMPLES_PER_PIXEL = 8


class Profile(NamedTuple):
    """Values of a kernel along a line through its centroid.

    `positions` are distances from the centroid in physical units, shape (n,), ascending; `values`
    have the same shape and are those of the kernel.
    """

    positions: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class KernelShape:
    """What `measure` found.

    Attributes
    ----------
    fwhm : full width at half maximum along the major and the minor axis, physical units.
    angle : of the major axis in degrees, (-90, 90]: 0 along X, positive anticlockwise as an image
        is shown, with Y pointing down; 0 for a round kernel.
    centroid : (y, x) in pixels of the array.
    profiles : along the major and the minor axis.
    """

    fwhm: tuple[float, float]
    angle: float
    centroid: tuple[float, float]
    profiles: tuple[Profile, Profile]


def measure(kernel: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> KernelShape:
    """Measure a kernel's widths and its orientation.

    The axes are those of the second moments, of what rises above 5 % of the peak, in physical
    units. Along each, the kernel is read through its centroid by cubic interpolation, zero outside
    the array, and the full width at half maximum is the distance between the outermost crossings
    of half the profile's own maximum. A kernel of a single pixel has that of the interpolating
    spline, 1.2 pixels; the width along one axis of a line is that of its plateau.

    Parameters
    ----------
    kernel : shape (M, N), non-negative.
    spacing : physical size of a pixel along Y and X.

    Raises
    ------
    ValueError
        If the kernel has not two axes, or values that are negative, not finite or all zero.
    """
    values = _checks.psf("kernel", kernel, 2).astype(np.float64)
    size = np.array([_checks.number("spacing", length, 1e-30) for length in spacing])
    weights = np.maximum(values - _FLOOR * values.max(), 0.0).ravel()
    weights /= weights.sum()
    pixels = np.indices(values.shape).reshape(2, -1).astype(np.float64)
    centroid = pixels @ weights
    offsets = (pixels - centroid[:, None]) * size[:, None]
    variances, axes = np.linalg.eigh((offsets * weights) @ offsets.T)
    minor, major = axes.T
    if variances[1] - variances[0] <= _ROUND * variances[1]:
        minor, major = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    profiles = (
        _profile(values, centroid, major, size),
        _profile(values, centroid, minor, size),
    )
    angle = float(np.degrees(np.arctan2(-major[0], major[1])))
    return KernelShape(
        fwhm=(_full_width(profiles[0]), _full_width(profiles[1])),
        angle=-((-angle + 90) % 180 - 90),
        centroid=(float(centroid[0]), float(centroid[1])),
        profiles=profiles,
    )


def full_widths(kernel: np.ndarray) -> tuple[float, ...]:
    """Return full widths at half maximum in pixels, one per axis.

    In a plane both are the geometric mean of what `measure` finds. In a volume they are those along
    the array's own axes, through the centroid: the optical axis is one of them.
    """
    if kernel.ndim == 2:
        width = float(np.sqrt(np.prod(measure(kernel).fwhm)))
        return (width, width)
    values = np.asarray(kernel, np.float64)
    floored = np.maximum(values - _FLOOR * values.max(), 0.0)
    pixels = np.indices(values.shape).reshape(values.ndim, -1)
    centroid = pixels @ floored.ravel() / floored.sum()
    size = np.ones(values.ndim)
    return tuple(
        _full_width(_profile(values, centroid, axis, size)) for axis in np.eye(values.ndim)
    )


def _profile(
    values: np.ndarray, centroid: np.ndarray, axis: np.ndarray, size: np.ndarray
) -> Profile:
    """Read `values` along a physical direction, from edge to edge of the array."""
    step = axis / size
    reach = float(np.min(values.shape / np.maximum(np.abs(step), 1e-12)))
    count = int(np.ceil(reach * np.abs(step).max() * _SAMPLES_PER_PIXEL))
    positions = np.linspace(-reach, reach, 2 * count + 1)
    points = centroid[:, None] + step[:, None] * positions
    return Profile(positions, map_coordinates(values, points, order=3, mode="constant"))


def _full_width(profile: Profile) -> float:
    """Return the distance between the outermost crossings of half the maximum."""
    half = profile.values.max() / 2
    above = np.flatnonzero(profile.values >= half)
    first, last = int(above[0]), int(above[-1])
    left = _crossing(profile, first - 1, first, half) if first > 0 else profile.positions[0]
    end = len(profile.values) - 1
    right = _crossing(profile, last + 1, last, half) if last < end else profile.positions[-1]
    return float(right - left)


def _crossing(profile: Profile, outside: int, inside: int, level: float) -> float:
    low, high = profile.values[outside], profile.values[inside]
    share = (level - low) / (high - low)
    start, stop = profile.positions[outside], profile.positions[inside]
    return float(start + share * (stop - start))
