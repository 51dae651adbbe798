"""Point spread functions of microscopes in three dimensions, as pure, vectorised functions.

As in `optics`, every function maps N parameter sets to N kernels of shape (N, *shape):
non-negative, of sum 1, with their centroid at `centre`, in taps. Z goes first.

Kernels are round about the optical axis, so light is a function of depth and of the distance from
that axis. Which one, is for an `Intensity` to say.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from napari_dkp.kernels import Centre, Shape, fix_centroid


class Intensity(Protocol):
    """Light that a lens makes of a point, in and out of focus."""

    def __call__(
        self, cutoff: Tensor, defocus: Tensor, depths: Tensor, radii: Tensor, aperture: float
    ) -> Tensor:
        """Return intensities in any unit, shape (N, depths, radii).

        Parameters
        ----------
        cutoff, defocus, aperture : as of `widefield`.
        depths : planes from the one in focus.
        radii : distances from the axis, in pixels, evenly spaced from 0 on.
        """


def scalar(
    cutoff: Tensor, defocus: Tensor, depths: Tensor, radii: Tensor, aperture: float
) -> Tensor:
    """Return |∫ J₀(π c r ρ) exp(2πi w z d(ρ)) ρ dρ|², an `Intensity`.

    The scalar model of a lens without aberrations (Born and Wolf, with the sphere that the phase of
    high apertures is on): d(ρ) goes from 0 in the middle of the pupil, ρ = 0, to 1 at its edge.
    """
    waves = float(defocus.max() * depths.abs().max())
    turns = 0.5 * float(cutoff.max() * radii.max())
    order = 16 + math.ceil(_NODES_PER_TURN * (waves + turns))
    nodes, weights = (
        torch.from_numpy(each).to(cutoff) for each in np.polynomial.legendre.leggauss(order)
    )
    rho = 0.5 * (nodes + 1)
    away = (1 - (1 - (aperture * rho) ** 2).sqrt()) / (1 - math.sqrt(1 - aperture**2))
    phase = 2 * math.pi * defocus[:, None, None] * depths[:, None] * away
    field = torch.polar((weights * rho).expand_as(phase), phase)
    waves_across = torch.special.bessel_j0(math.pi * cutoff[:, None, None] * rho[:, None] * radii)
    intensity: Tensor = (field.real @ waves_across).square() + (field.imag @ waves_across).square()
    return intensity


def widefield(
    cutoff: Tensor,
    defocus: Tensor,
    shape: Shape,
    centre: Centre,
    aperture: float = 0.8,
    intensity: Intensity = scalar,
) -> Tensor:
    """Return images of a point in and out of focus.

    No light is lost out of focus: it spreads over a cone that goes on past the array.

    Parameters
    ----------
    cutoff : c = 2 NA / λ in cycles per pixel of Y and X, in (0, 1], shape (N,).
    defocus : w, waves of path that a step of one plane along Z makes between the middle and the
        edge of the pupil, n (1 − √(1 − (NA / n)²)) / λ times the step, shape (N,).
    aperture : NA / n, in (0, 1); decides on the shape of the cone only.
    intensity : of the lens.

    Raises
    ------
    ValueError
        If `shape` has other than three axes.
    """
    points = _Points(shape, centre, cutoff)
    depths, radii = points.depths, points.radii()
    return points.kernels(intensity(cutoff, defocus, depths, radii, aperture))


def confocal(
    cutoff: Tensor,
    defocus: Tensor,
    shape: Shape,
    centre: Centre,
    aperture: float = 0.8,
    intensity: Intensity = scalar,
    *,
    excitation: float = 0.93,
    pinhole: float = 1.0,
) -> Tensor:
    """Return images of a point that is lit by a focus and seen through a pinhole.

    Its light is what the lens sends there, times what of the light from there passes the pinhole:
    the widefield image of the point under a disc. A wide open pinhole leaves the image of a
    widefield microscope, under the wavelength that excites.

    Parameters
    ----------
    cutoff, defocus : of the light that is imaged, as of `widefield`.
    shape, centre, aperture, intensity : as of `widefield`.
    excitation : wavelength that excites over the one that is imaged, in (0, 1].
    pinhole : diameter in Airy units, 1.22 λ / NA = 2.44 / c; 0 is a point.

    Raises
    ------
    ValueError
        If `shape` has other than three axes.
    """
    points = _Points(shape, centre, cutoff)
    depths, radii = points.depths, points.radii()
    lit = intensity(cutoff / excitation, defocus / excitation, depths, radii, aperture)
    radius = 0.5 * _AIRY_UNIT * pinhole / cutoff
    beyond = points.radii(float(radius.max()))
    seen = intensity(cutoff, defocus, depths, beyond, aperture)
    return points.kernels(lit * (seen @ _discs(radius, radii, beyond).mT))


class _Points:
    """Where a kernel's light is looked at: over pixels, that is, their mean, in every plane."""

    def __init__(self, shape: Shape, centre: Centre, like: Tensor) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape: expected three axes; got {len(shape)}")
        self._shape, self._centre = shape, centre
        self.depths, *lateral = (
            torch.arange(taps, device=like.device, dtype=like.dtype) - middle
            for taps, middle in zip(shape, centre, strict=True)
        )
        # A pixel holds the mean over its area: two points along each axis are exact for cubics.
        rows, columns = ((axis[:, None] + _GAUSS.to(like)).flatten() for axis in lateral)
        self._distance = torch.hypot(rows[:, None], columns).flatten()

    def radii(self, further: float = 0.0) -> Tensor:
        """Return even samples of the distance from the axis, past the farthest point by so much."""
        count = 2 + math.ceil((float(self._distance.max()) + further) * _SAMPLES_PER_PIXEL)
        samples = torch.arange(count, device=self.depths.device, dtype=self.depths.dtype)
        return samples / _SAMPLES_PER_PIXEL

    def kernels(self, profiles: Tensor) -> Tensor:
        """Return kernels of intensities over `depths` and `radii`."""
        place = self._distance * _SAMPLES_PER_PIXEL
        low = place.floor().long()
        points = torch.lerp(profiles[..., low], profiles[..., low + 1], place - low)
        pixels = points.unflatten(2, (self._shape[1], 2, self._shape[2], 2)).mean((3, 5))
        total = pixels.sum((1, 2, 3), keepdim=True)
        return fix_centroid(pixels / total, self._centre, steps=3)


def _discs(radius: Tensor, at: Tensor, over: Tensor) -> Tensor:
    """Return matrices from intensities at radii `over` to their means over discs about radii `at`.

    Each ring about the axis counts by the arc of it that lies in the disc.

    Parameters
    ----------
    radius : of the discs, shape (N,); one below the step of the radii leaves intensities alone.
    """
    step = over[1] - over[0]
    radius = radius.clamp_min(step / 2)
    ring = over.clamp_min(step / 8)  # the innermost is a disc, of half a step
    away = at[:, None].square() + over.square() - radius[:, None, None].square()
    arc = torch.acos((away / (2 * at[:, None] * over).clamp_min(1e-12)).clamp(-1, 1)) * ring
    return arc / arc.sum(2, keepdim=True)


_SAMPLES_PER_PIXEL = 16
# Nodes of the quadrature per period of what is summed, which has two per turn of the phase.
_NODES_PER_TURN = 4
_GAUSS = torch.tensor([-0.5, 0.5]) / math.sqrt(3)
# Of its diameter, times the cut-off.
_AIRY_UNIT = 2.44
