"""Pixels that stand alone: hot and dead ones of the camera, and cosmic rays.

Optics spread all light over several pixels, so that what a single one shows and its neighbours do
not is no light. Such a pixel tells nothing. It is given the value that its neighbours foretell,
which is what they tell already.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import convolve, maximum_filter

from napari_dkp import noise
from napari_dkp.spectrum import reaches_noise


class Mended(NamedTuple):
    """A plane without the pixels that stood alone.

    Attributes
    ----------
    plane : in the type that it had.
    n_lone : pixels that stood alone.
    """

    plane: np.ndarray
    n_lone: int


def mended(plane: np.ndarray) -> Mended:
    """Find the pixels that stand alone, and give them the value that their neighbours foretell.

    There are none in images that are not sampled more finely than their optics resolve, such as
    photographs: there a single pixel can be all that there is of a thing.

    Parameters
    ----------
    plane : shape (C, *spatial), intensity in any unit; every picture along Y and X is judged by
        itself. It is returned as it is where no pixel stands alone.
    """
    lone, foretold = _found(plane)
    if not lone:
        return Mended(plane, 0)
    result = plane.copy()
    whole = plane.dtype.kind in "iu"
    result[tuple(np.transpose(lone))] = np.round(foretold) if whole else foretold
    return Mended(result, len(lone))


def _found(plane: np.ndarray) -> tuple[list[tuple[int, ...]], list[float]]:
    """Return where pixels of (C, *spatial) stand alone, and what their neighbours foretell."""
    lone: list[tuple[int, ...]] = []
    foretold: list[float] = []
    for place in np.ndindex(*plane.shape[:-2]):
        picture = plane[place].astype(np.float64)
        candidates, values = _candidates(picture)
        if not 0 < len(values) <= _RAREST * picture.size:
            continue
        rest = picture.copy()
        rest[candidates] = values
        of_rest = noise.estimate(rest[None])
        apart = np.abs(picture[candidates] - values)
        # Were it light, so much of it would lie about: that it does not is not to be a whim.
        variance = of_rest.variance(values + apart / _BEYOND_OTHERS)
        beyond = apart**2 > _BEYOND_NOISE**2 * np.maximum(variance, of_rest.least_variance)
        if beyond.any() and reaches_noise(rest[None], of_rest):
            lone += [(*place, *where) for where in np.transpose(candidates)[beyond]]
            foretold += list(values[beyond])
    return lone, foretold


def _candidates(picture: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return where pixels of (h, w) are unlike all about them, and what their neighbours foretell.

    A point of light is, in its neighbours as in itself, sharper than these foretell. Without a
    pixel that stands alone nothing about it is.
    """
    sharp = np.abs(picture - _foretold(picture))
    peak = sharp == maximum_filter(sharp, 3)
    peak &= sharp > _UNUSUAL * np.quantile(sharp, _USUAL_SHARE)
    kept = (~peak).astype(np.float64)
    foretold = _foretold(picture * kept) / _foretold(kept)
    rest = np.where(peak, foretold, picture)
    about = maximum_filter(np.abs(rest - _foretold(rest)), 5)
    found = np.nonzero(peak & (np.abs(picture - foretold) > _BEYOND_OTHERS * about))
    return found, foretold[found]


def _foretold(picture: np.ndarray) -> np.ndarray:
    """Return for every pixel what the twelve next to it foretell: exact for cubics."""
    return np.asarray(convolve(picture, _NEIGHBOURS, mode="mirror"))


# The value under which ∇⁴ vanishes.
_NEIGHBOURS = (
    np.array(
        [
            [0, 0, -1, 0, 0],
            [0, -2, 8, -2, 0],
            [-1, 8, 0, 8, -1],
            [0, -2, 8, -2, 0],
            [0, 0, -1, 0, 0],
        ]
    )
    / 20.0
)
# Times what all but a few pixels differ from what is foretold: of a lone one, 13 do.
_UNUSUAL, _USUAL_SHARE = 3.0, 0.98
# Times what any about them does. Points of light that are one pixel wide at half their height and
# in the middle of it come to 9, wider ones and others to less.
_BEYOND_OTHERS = 10.0
# Standard deviations.
_BEYOND_NOISE = 20.0
# Share of a picture: what is more frequent is no exception.
_RAREST = 1e-3
