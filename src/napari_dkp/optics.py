"""Point spread functions of microscopes as pure, vectorised functions.

As in `kernels`, every function maps N parameter sets to N kernels of shape (N, *shape):
non-negative, of sum 1, with their centroid at `centre` (in taps). They hold the mean intensity over
each pixel, are made in the dtype and on the device of their parameters, and can be differentiated.
An image in focus is two-dimensional, and so are they.

`cutoff` is the frequency beyond which a lens passes nothing, 2 NA / λ, in cycles per HR pixel.
Where it exceeds 0.5, the Nyquist frequency, what the pixels cannot hold is left out.
"""

import math

import torch
from torch import Tensor

from napari_dkp.kernels import Centre, Shape, fix_centroid

# The Zernike modes Z4 to Z8 and Z11 in Noll's numbering, of unit RMS over the pupil (tilt apart).
ABERRATIONS = (
    "defocus",
    "oblique astigmatism",
    "vertical astigmatism",
    "vertical coma",
    "horizontal coma",
    "spherical",
)


def transfer(frequency: Tensor, cutoff: Tensor, damping: Tensor) -> Tensor:
    """Return (2/π) (acos q − q √(1 − q²)) · damping^q, q = f / cutoff: what a lens passes.

    Parameters
    ----------
    frequency : radial, f ≥ 0, in cycles per pixel as `cutoff` is.
    cutoff, damping : as of `airy`, of shapes that broadcast with it.
    """
    # Just below 1, where the slope of the square root is still finite.
    q = (frequency / cutoff).clamp(max=1 - torch.finfo(cutoff.dtype).eps)
    ideal = (torch.acos(q) - q * torch.sqrt(1 - q**2)) * (2 / math.pi)
    return ideal * torch.exp(torch.log(damping) * q)


def airy(cutoff: Tensor, damping: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Return images of a point in focus, (2 J₁(v) / v)² with v = π · cutoff · r, or wider.

    Their Fourier transform is `transfer`, times that of a pixel.

    Parameters
    ----------
    cutoff : 2 NA / λ in cycles per pixel, positive, shape (N,).
    damping : factor by which contrast is lowered near the cut-off, in (0, 1], shape (N,). It stands
        for what microscopes lose to aberrations and light from out of focus; 1 is a perfect lens.

    Raises
    ------
    ValueError
        If `shape` has other than two axes.
    """
    _two_axes(shape)
    period = 2 * math.ceil(max(3 * max(shape), _SHORTEST_PERIOD) / 2)
    order = torch.arange(period // 2 + 1, device=cutoff.device)
    # Pairs of frequencies once, not in both orders: what is made for each is most of the time.
    pairs = torch.tril_indices(len(order), len(order), device=cutoff.device)
    radius = torch.hypot(*pairs.to(cutoff.dtype)) / period
    spectrum = transfer(radius, cutoff[:, None], damping[:, None])
    # The tails, of α / (4π² r³) where the transfer function falls from 1 as α f, reach in from the
    # repetitions that a sum over frequencies stands for: almost a constant, hence taken off here.
    slope = (4 / math.pi - torch.log(damping)) / cutoff
    spectrum[:, 0] -= slope * (_LATTICE_SUM / (4 * math.pi**2 * period))
    low, high = torch.minimum(order[:, None], order), torch.maximum(order[:, None], order)
    place = high * (high + 1) // 2 + low
    spectrum = spectrum.index_select(1, place.flatten()).unflatten(1, place.shape)

    # A kernel symmetric about its centre is a sum of cosines over a quarter of all frequencies.
    frequency = order.to(cutoff.dtype) / period
    weight = torch.full_like(frequency, 2)
    weight[0] = weight[-1] = 1
    weight = weight * torch.sinc(frequency)
    rows, columns = (
        weight * torch.cos(2 * math.pi * frequency * _positions(taps, middle, cutoff)[:, None])
        for taps, middle in zip(shape, centre, strict=True)
    )
    return _finish(rows @ (spectrum @ columns.T), centre)


def pupil(cutoff: Tensor, aberrations: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Return images of a point through a lens with aberrations, |F{P exp(2πi Σ aⱼ Zⱼ)}|².

    The scalar model: P is a disc, of radius cutoff / 2. Angles go from the last axis towards the
    first.

    Parameters
    ----------
    cutoff : 2 NA / λ in cycles per pixel, in (0, 1], shape (N,).
    aberrations : RMS aⱼ of each mode of `ABERRATIONS`, in waves, shape (N, 6). With a quarter of a
        wave in all, errors are below 1 % of the peak; beyond half a wave they grow fast.

    Raises
    ------
    ValueError
        If `shape` has other than two axes, or `aberrations` other than six columns.
    """
    _two_axes(shape)
    if aberrations.ndim != 2 or aberrations.shape[1] != len(ABERRATIONS):
        raise ValueError(
            f"aberrations: expected shape (N, {len(ABERRATIONS)}), one column per mode; "
            f"got {tuple(aberrations.shape)}"
        )
    # The grid grows and shrinks with the pupil, so that disc and modes are constants.
    size = 8 * math.ceil(max(1.2 * max(shape) + 2, _SMALLEST_PUPIL) / 8)
    disc, modes = _unit_pupil(size, cutoff)
    phase = (2 * math.pi * aberrations @ modes).unflatten(1, (size, size))
    field = torch.fft.ifft2(torch.polar(disc.expand_as(phase), phase), s=(2 * size, 2 * size))
    intensity = field.real**2 + field.imag**2
    rows, columns = (
        _interpolation(cutoff, size, _positions(taps, middle, cutoff))
        for taps, middle in zip(shape, centre, strict=True)
    )
    return _finish(rows @ intensity @ columns.mT, centre)


# Pixels between a kernel and its repetitions.
_SHORTEST_PERIOD = 80
# Samples across the pupil, with a margin of one on either side.
_SMALLEST_PUPIL = 40
# Lines across each sample of the pupil, to tell how much of it lies in the disc.
_FINENESS = 16
# Σ |m|⁻³ over the points m ≠ 0 of the square lattice.
_LATTICE_SUM = 9.0336217


def _two_axes(shape: Shape) -> None:
    if len(shape) != 2:
        raise ValueError(f"shape: expected two axes; got {len(shape)}")


def _positions(taps: int, middle: float, like: Tensor) -> Tensor:
    """Return the position of every tap along an axis, relative to the centre."""
    return torch.arange(taps, device=like.device, dtype=like.dtype) - middle


def _unit_pupil(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of each sample lies in the disc, (size, size), and the modes (6, size²)."""
    radius = size / 2 - 1  # in samples
    axis = torch.arange(size, device=like.device, dtype=like.dtype) + (0.5 - size / 2)
    lines = torch.arange(size * _FINENESS, device=like.device, dtype=like.dtype) + 0.5
    half_chord = (radius**2 - (lines / _FINENESS - size / 2) ** 2).clamp_min(0).sqrt()
    covered = (half_chord[:, None] + 0.5 - axis.abs()).clamp(0, 1)
    disc = covered.unflatten(0, (size, _FINENESS)).mean(1)
    # Soft edges dim the field with the distance from its centre; this undoes it, to fourth order.
    for dim in (0, 1):
        disc = disc - (disc.roll(1, dim) - 2 * disc + disc.roll(-1, dim)) / 24

    y, x = torch.meshgrid(axis / radius, axis / radius, indexing="ij")
    square = x**2 + y**2
    modes = (
        math.sqrt(3) * (2 * square - 1),
        math.sqrt(6) * 2 * x * y,
        math.sqrt(6) * (x**2 - y**2),
        # With -2 these are Noll's; -3 adds the tilt that keeps the centroid where it is.
        math.sqrt(8) * (3 * square - 3) * y,
        math.sqrt(8) * (3 * square - 3) * x,
        math.sqrt(5) * (6 * square**2 - 6 * square + 1),
    )
    return disc, torch.stack(modes).flatten(1)


def _interpolation(cutoff: Tensor, size: int, positions: Tensor) -> Tensor:
    """Return the matrices (N, taps, 2 size) from samples of the intensity to pixel means.

    The samples hold frequencies up to the cut-off; each of these is multiplied by the transfer
    function of a pixel, and by 0 beyond the Nyquist frequency.
    """
    order = torch.arange(size, device=cutoff.device, dtype=cutoff.dtype)
    step = cutoff[:, None] / (size - 2)
    frequency = step * order
    weight = (0.5 + (0.5 - frequency) / step).clamp(0, 1) * torch.sinc(frequency)
    weight = weight * torch.where(order == 0, 1.0, 2.0)
    angle = 2 * math.pi * frequency[:, None] * positions[:, None]
    waves = torch.cat([weight[:, None] * torch.cos(angle), weight[:, None] * torch.sin(angle)], 2)
    samples = torch.arange(2 * size, device=cutoff.device, dtype=cutoff.dtype)
    turn = math.pi / size * order[:, None] * samples
    return waves @ torch.cat([torch.cos(turn), torch.sin(turn)])


def _finish(kernels: Tensor, centre: Centre) -> Tensor:
    """Clamp, normalise, and undo what cutting at the array's edge did to the centroid."""
    kernels = kernels.clamp_min(0)
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    return fix_centroid(kernels, centre, steps=3)
