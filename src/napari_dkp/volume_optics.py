"""Point spread functions of microscopes in three dimensions, as pure, vectorised functions.

As in `optics`, every function maps N parameter sets to N kernels of shape (N, *shape):
non-negative, of sum 1, with their centroid at `centre`, in taps. Z goes first.
"""

import math

import numpy as np
import torch
from torch import Tensor

from napari_dkp.kernels import Centre, Shape, fix_centroid


def widefield(
    cutoff: Tensor, defocus: Tensor, shape: Shape, centre: Centre, aperture: float = 0.8
) -> Tensor:
    """Return images of a point in and out of focus, |∫ J₀(π c r ρ) exp(2πi w z d(ρ)) ρ dρ|².

    The scalar model of a lens without aberrations (Born and Wolf, with the sphere that the phase of
    high apertures is on): d(ρ) goes from 0 in the middle of the pupil, ρ = 0, to 1 at its edge.
    No light is lost out of focus: it spreads over a cone that goes on past the array.

    Parameters
    ----------
    cutoff : c = 2 NA / λ in cycles per pixel of Y and X, in (0, 1], shape (N,).
    defocus : w, waves of path that a step of one plane along Z makes between the middle and the
        edge of the pupil, n (1 − √(1 − (NA / n)²)) / λ times the step, shape (N,).
    aperture : NA / n, in (0, 1); decides on d(ρ) only.

    Raises
    ------
    ValueError
        If `shape` has other than three axes.
    """
    if len(shape) != 3:
        raise ValueError(f"shape: expected three axes; got {len(shape)}")
    depths, *lateral = (
        torch.arange(taps, device=cutoff.device, dtype=cutoff.dtype) - middle
        for taps, middle in zip(shape, centre, strict=True)
    )
    # A pixel holds the mean over its area: two points along each axis are exact for cubics.
    rows, columns = ((axis[:, None] + _GAUSS.to(cutoff)).flatten() for axis in lateral)
    radius = torch.hypot(rows[:, None], columns)
    count = 2 + math.ceil(float(radius.max()) * _SAMPLES_PER_PIXEL)
    profile = _profiles(cutoff, defocus, depths, count, aperture)
    place = radius.flatten() * _SAMPLES_PER_PIXEL
    low = place.floor().long()
    points = torch.lerp(profile[..., low], profile[..., low + 1], place - low)
    pixels = points.unflatten(2, (shape[1], 2, shape[2], 2)).mean((3, 5))
    return fix_centroid(pixels / pixels.sum((1, 2, 3), keepdim=True), centre, steps=3)


def _profiles(
    cutoff: Tensor, defocus: Tensor, depths: Tensor, count: int, aperture: float
) -> Tensor:
    """Return intensities over the distance from the axis, shape (N, depths, count)."""
    waves = float(defocus.max() * depths.abs().max())
    turns = 0.5 * float(cutoff.max()) * count / _SAMPLES_PER_PIXEL
    order = 16 + math.ceil(_NODES_PER_TURN * (waves + turns))
    nodes, weights = (
        torch.from_numpy(each).to(cutoff) for each in np.polynomial.legendre.leggauss(order)
    )
    rho = 0.5 * (nodes + 1)
    away = (1 - (1 - (aperture * rho) ** 2).sqrt()) / (1 - math.sqrt(1 - aperture**2))
    phase = 2 * math.pi * defocus[:, None, None] * depths[:, None] * away
    field = torch.polar((weights * rho).expand_as(phase), phase)
    radius = torch.arange(count, device=cutoff.device, dtype=cutoff.dtype) / _SAMPLES_PER_PIXEL
    waves_across = torch.special.bessel_j0(math.pi * cutoff[:, None, None] * rho[:, None] * radius)
    intensity: Tensor = (field.real @ waves_across).square() + (field.imag @ waves_across).square()
    return intensity


_SAMPLES_PER_PIXEL = 16
# Nodes of the quadrature per period of what is summed, which has two per turn of the phase.
_NODES_PER_TURN = 4
_GAUSS = torch.tensor([-0.5, 0.5]) / math.sqrt(3)
