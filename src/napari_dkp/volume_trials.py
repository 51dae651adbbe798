"""Trials of a volume's kernel: who restores one half of the photons best foretells the other.

A kernel that is sought in the very image it has formed confirms itself; photons that this image has
not seen do not. Kernels of volumes have two parameters that matter, one along and one across the
optical axis, and few trials find both: a pattern search over their logarithms, its steps halved
until they are small (Hooke and Jeeves 1961).
"""

import math
from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_dkp.config import (
    LEAST_DEFOCUS,
    LENS_FAMILIES,
    MOST_DEFOCUS,
    Interval,
    OpticsConfig,
    RKSConfig,
)
from napari_dkp.degradation import Degradation
from napari_dkp.engine import TrialStep
from napari_dkp.families import families
from napari_dkp.noise import Noise
from napari_dkp.randomness import make_generator
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.deviance import Deviance
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.spectrum import Cutoff, find_cutoff
from napari_dkp.windows import liveliest

Point = tuple[float, float]


@dataclass(frozen=True)
class AxialKernel:
    """Where trials leave the two parameters of a volume's kernel.

    Attributes
    ----------
    axial, lateral : intervals, about one posterior standard deviation to either side of the best:
        of the Gaussian family its widths, of lenses defocus and cut-off, in the units of
        `RKSConfig`.
    """

    axial: Interval
    lateral: Interval

    def within(self, rks: RKSConfig, family: str) -> RKSConfig:
        """Return numbers that sample a family from these intervals, but for what is given."""
        axial, lateral = intervals(family, rks)
        axial, lateral = axial or self.axial, lateral or self.lateral
        if family in LENS_FAMILIES:
            return replace(rks, defocus=axial, cutoff=lateral)
        return replace(rks, axial_width=axial, lateral_width=lateral)


def intervals(family: str, rks: RKSConfig) -> tuple[Interval | None, Interval | None]:
    """Return what is given of the axial and the lateral parameter of a family of volumes."""
    if family in LENS_FAMILIES:
        return rks.defocus, rks.cutoff
    return rks.axial_width, rks.lateral_width


def try_volume(
    model: Degradation,
    data: Tensor,
    noise: Noise,
    family: str,
    expected: Cutoff,
    seed: int,
    optics: OpticsConfig | None = None,
) -> Iteration[TrialStep, None, AxialKernel]:
    """Try kernels of a family on a piece of a volume.

    Yields each trial, at most `MOST_TRIALS` of them, and returns where they lead.

    Parameters
    ----------
    model : forward model of the volume.
    data : y in normalised intensity, shape (C, *lr_shape).
    noise : of that data.
    family : one of `VOLUME_FAMILIES`.
    expected : cut-off of the optics, cycles per HR pixel, before the volume is looked at.
    seed : of the photons' halves, the same for all.
    optics : of the microscope, as far as they are stated.
    """
    window = liveliest(data, _WINDOW)
    piece = data[(slice(None), *window)]
    small = model_of_trials(model)
    halves = PhotonHalves(small, piece, noise, make_generator(seed))
    deviance_of = Deviance(halves.counts)
    known = _expectation(family, model, data, noise, expected, optics)

    def render(point: Point, model: Degradation) -> Tensor:
        axial, lateral = (math.exp(value) for value in point)
        around = AxialKernel((axial, axial), (lateral, lateral)).within(RKSConfig(), family)
        middle = torch.full((1, 2), 0.5, device=piece.device, dtype=piece.dtype)
        return families(family, model, around, optics)[0].render(middle)[0]

    scale = 1 / (_TRUST * piece.numel())
    found: dict[Point, float] = {}

    def best_of(points: Sequence[Point]) -> Iteration[TrialStep, None, Point]:
        for point in points:
            if point not in found and _within(point, known.bounds):
                best = _least_deviance(small, halves, deviance_of, render(point, small))
                found[point] = best.risk + scale * known.nats(point)
                yield TrialStep(render(point, model), halves.residual(best.means))
        return min(points, key=lambda point: found.get(point, math.inf))

    best = yield from best_of(known.starts)
    step = _FIRST_STEP
    while step >= _LAST_STEP:
        best = yield from _descend(best, step, best_of)
        step /= 2
    centre, spread = _parabola(best, 2 * step, found, scale)
    axial, lateral = (
        (math.exp(middle - width), math.exp(middle + width))
        for middle, width in zip(centre, spread, strict=True)
    )
    return AxialKernel(axial, _within_sampling(lateral) if family in LENS_FAMILIES else lateral)


def model_of_trials(model: Degradation) -> Degradation:
    """Return the forward model of the piece of a volume that trials look at."""
    shape = tuple(min(n, most) for n, most in zip(model.lr_shape, _WINDOW, strict=True))
    # A piece does not wrap.
    boundary = model.boundary if shape == model.lr_shape else "free"
    taps = tuple(min(k, _MOST_TAPS) for k in model.kernel_shape)
    return replace(model, lr_shape=shape, kernel_shape=taps, boundary=boundary)


@dataclass(frozen=True)
class Expectation:
    """What is known of the two parameters before any trial, in their logarithms.

    Attributes
    ----------
    starts : points to start from.
    bounds : least and greatest axial and lateral parameter.
    axial, lateral : middle and standard deviation of a normal distribution; None is anything.
    """

    starts: list[Point]
    bounds: tuple[Interval, Interval]
    axial: Interval | None = None
    lateral: Interval | None = None

    def nats(self, point: Point) -> float:
        """Return how improbable a point is, 0 where nothing is known."""
        return sum(
            0.5 * ((value - known[0]) / known[1]) ** 2
            for value, known in zip(point, (self.axial, self.lateral), strict=True)
            if known
        )


def _expectation(
    family: str,
    model: Degradation,
    data: Tensor,
    noise: Noise,
    expected: Cutoff,
    optics: OpticsConfig | None,
) -> Expectation:
    # What a confocal microscope passes ends at no cut-off of one lens.
    cutoff = expected if family == "confocal" else _find_cutoff(model, data, noise, expected)
    if family not in LENS_FAMILIES:
        width = _WIDTH_OF_CUTOFF / cutoff.frequency / model.scale[1]
        starts = [(math.log(ratio * width), math.log(width)) for ratio in _ELONGATIONS]
        return Expectation(starts, _WIDTHS)
    lateral = math.log(min(max(cutoff.frequency, _LEAST_CUTOFF), 1.0))
    known = lateral, max(cutoff.spread, _LEAST_SPREAD)
    waves = optics.waves_per_plane if optics else None
    if optics is None or waves is None:
        per_plane = math.exp(lateral) * model.scale[0]
        starts = [(math.log(share * per_plane), lateral) for share in _DEFOCUS_SHARES]
        return Expectation(starts, _LENSES, lateral=known)
    spread = _PRESUMED_SPREAD if optics.refractive_index is None else _STATED_SPREAD
    axial = math.log(waves)
    return Expectation([(axial, lateral)], _LENSES, (axial, spread), known)


def _find_cutoff(model: Degradation, data: Tensor, noise: Noise, expected: Cutoff) -> Cutoff:
    """Find the lateral cut-off in the spectra of all planes."""
    planes = data.flatten(0, 1).cpu().double().numpy()
    return find_cutoff(planes, model.scale[1:], noise, expected)


def _within(point: Point, bounds: tuple[Interval, Interval]) -> bool:
    return all(low <= value <= high for value, (low, high) in zip(point, bounds, strict=True))


def _descend(
    best: Point,
    step: float,
    best_of: Callable[[Sequence[Point]], Iteration[TrialStep, None, Point]],
) -> Iteration[TrialStep, None, Point]:
    """Go to the best of a point and its four neighbours, until that is the point itself."""
    for _ in range(_MOST_MOVES):
        axial, lateral = best
        around = [
            (axial - step, lateral),
            (axial + step, lateral),
            (axial, lateral - step),
            (axial, lateral + step),
        ]
        nearest = yield from best_of((best, *around))
        if nearest == best:
            break
        best = nearest
    return best


def _parabola(
    best: Point, step: float, found: dict[Point, float], scale: float
) -> tuple[Point, Point]:
    """Return mean and standard deviation along each axis, of parabolas through three trials."""
    centre, spread = [], []
    for axis in (0, 1):
        away = (step, 0.0) if axis == 0 else (0.0, step)
        sides = [
            found.get((best[0] + sign * away[0], best[1] + sign * away[1]), math.inf)
            for sign in (-1, 1)
        ]
        here = found[best]
        bend = sides[0] + sides[1] - 2 * here
        shift = 0.5 * step * (sides[0] - sides[1]) / bend if 0 < bend < math.inf else 0.0
        centre.append(best[axis] + min(max(shift, -step), step))
        width = step * math.sqrt(scale / bend) if 0 < bend < math.inf else step
        spread.append(min(max(width, _LEAST_WIDTH), step))
    return (centre[0], centre[1]), (spread[0], spread[1])


def _least_deviance(
    model: Degradation, halves: PhotonHalves, deviance_of: Deviance, kernel: Tensor
) -> Candidate:
    """Return images under a kernel, their risk the deviance of photons that they have not seen."""
    restorer = RichardsonLucyRestorer(model, halves, _PATIENCE, deviance_of)
    for _ in range(_STEPS):
        restorer.advance(kernel)
        if restorer.done:
            break
    return restorer.best


def _within_sampling(cutoff: Interval) -> Interval:
    return min(cutoff[0], 1.0), min(cutoff[1], 1.0)


# LR samples along Z, Y and X.
_WINDOW = (32, 64, 64)
_MOST_TAPS = 31
_STEPS = 60
_PATIENCE = 20
_FIRST_STEP, _LAST_STEP = 0.4, 0.1
_MOST_MOVES = 6
_N_STEPS = 3  # of .4, .2 and .1
# Waves of defocus per plane, in units of the cut-off in cycles per pixel: for Z steps of half a
# pixel to some, and numerical apertures from low to high.
_DEFOCUS_SHARES = (0.15, 0.3, 0.6, 1.2)
_LEAST_CUTOFF = 0.05
# Logarithms of the least and the greatest axial and lateral parameter.
_WIDTHS = ((math.log(0.2), math.log(20.0)), (math.log(0.2), math.log(10.0)))
_LENSES = ((math.log(LEAST_DEFOCUS), math.log(MOST_DEFOCUS)), (math.log(_LEAST_CUTOFF), 0.0))
# Of the logarithm of a defocus that follows from stated optics: it goes with the square of the
# aperture, and specimens are no immersion medium. The other one is where that is presumed.
_STATED_SPREAD, _PRESUMED_SPREAD = 0.15, 0.3
# Sigma of the Gaussian nearest to an Airy pattern, times the cut-off.
_WIDTH_OF_CUTOFF = 0.42
_ELONGATIONS = (0.7, 1.5, 3.0)
_LEAST_SPREAD = 0.1
_LEAST_WIDTH = 0.02
# Of the likelihood of held-out photons: an image that is cut off early has errors of its own.
_TRUST = 0.02
# Richardson–Lucy steps of all trials: about 20 are made, of 25 to 60 steps each.
USUAL_STEPS = 800
# Four starts, four neighbours of every point on the way, at three lengths of steps.
MOST_TRIALS = 4 + 4 * _MOST_MOVES * _N_STEPS
