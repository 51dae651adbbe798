"""Penalised likelihood: the image that photons and smoothness together make most probable.

Where photons are few, an image that steps towards the likelihood alone is noisy before it is sharp.
Here its converged compromise with a penalty on curvature is found, by the alternating direction
method of multipliers (Figueiredo and Bioucas-Dias 2010; Lefkimmiatis and Unser 2013).
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from napari_dkp.degradation import Degradation
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.risk import Risk


class PenalisedSolver:
    """Minimises Σ m - n log m + strength · Σ w |∇²x| over x ≥ 0, for both halves of one LR plane.

    m = A x + background; w = ∂√x / ∂x at the photons spread out, so that the penalty is one on the
    square root of the image, in which photon noise is the same everywhere; ∇² x are the second
    derivatives, whose penalty lets edges and ridges stand. A x, ∇² x and x ≥ 0 are split off: what
    then couples pixels is quadratic and diagonal in the Fourier domain, where the grid wraps; its
    padding is free.

    Parameters
    ----------
    model : forward model of the plane, or of the volume.
    halves : of its photons.
    kernel : shape (*K,).
    risk : by which images are judged.
    strength : of the penalty, a number without unit.
    start : images of the halves to start from, shape (2, C, *domain_shape).
    """

    def __init__(
        self,
        model: Degradation,
        halves: PhotonHalves,
        kernel: Tensor,
        risk: Risk,
        strength: float,
        start: Tensor,
    ) -> None:
        self._model = model
        self._halves = halves
        self._risk = risk
        self._transfer = transfer = model.transfer(kernel)
        self._samples = model.scatter(halves.counts)
        self._sampled = model.scatter(torch.ones_like(halves.counts[:1, :1])) > 0
        # One unit of each multiplier weighs as much as the photons of a mean pixel do.
        unit = 1 / (halves.level + halves.background)
        self._rho = unit
        self._rho_hessian = _RHO_HESSIAN * unit
        self._rho_positive = _RHO_POSITIVE * unit
        self._normal = (
            self._rho * transfer.abs().square()
            + self._rho_hessian * _squared_hessian(model.grid_shape).to(start)
            + self._rho_positive
        )
        self._threshold = (strength * self._weight() / self._rho_hessian).unsqueeze(2)
        image = _padded(start, model.grid_shape)
        self._blurred = self._convolve(self._spectrum(image) * transfer)
        self._hessian = hessian(image)
        self._positive = image
        # Scaled multipliers of the three constraints.
        self._of_blurred = torch.zeros_like(image)
        self._of_hessian = torch.zeros_like(self._hessian)
        self._of_positive = torch.zeros_like(image)

    def step(self) -> Candidate:
        """Take one step; return the image after it."""
        smooth = self._rho_hessian * hessian_adjoint(self._hessian - self._of_hessian)
        smooth += self._rho_positive * (self._positive - self._of_positive)
        spectrum = self._spectrum(self._blurred - self._of_blurred)
        spectrum *= self._rho * self._transfer.conj()
        spectrum += self._spectrum(smooth)
        spectrum /= self._normal
        image = self._convolve(spectrum)
        blurred = self._convolve(spectrum * self._transfer)

        there = blurred + self._of_blurred
        self._blurred = torch.where(self._sampled, self._likeliest(there), there)
        self._of_blurred = there - self._blurred

        bent = hessian(image) + self._of_hessian
        length = bent.square().sum(2, keepdim=True).sqrt()
        self._hessian = bent * (1 - self._threshold / length.clamp_min(_TINY)).clamp_min(0)
        self._of_hessian = bent - self._hessian

        there = image + self._of_positive
        self._positive = there.clamp_min(0)
        self._of_positive = there - self._positive

        means = self._model.gather(blurred) + self._halves.background
        images = self._positive
        for axis, n in enumerate(self._model.domain_shape, start=-self._model.ndim):
            images = images.narrow(axis, 0, n)
        return Candidate(images, means, float(self._risk(means)))

    def _likeliest(self, there: Tensor) -> Tensor:
        """Return argmin (m - n log m) + ρ/2 (m - background - there)², less the background."""
        background = self._halves.background
        half = 0.5 * (there + background - 1 / self._rho)
        return half + (half.square() + self._samples / self._rho).sqrt() - background

    def _weight(self) -> Tensor:
        """Return w, of the photons spread as the kernel has it: for x, but with little noise."""
        spread = self._convolve(self._spectrum(self._samples) * self._transfer.conj())
        sampled = self._sampled.to(spread)
        seen = self._convolve(self._spectrum(sampled) * self._transfer.conj())
        level = spread.clamp_min(0) / seen.clamp_min(_LEAST_SEEN)
        return 0.5 * (level + _HALF_A_COUNT**2).rsqrt()

    def _spectrum(self, image: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfftn(image, dim=tuple(range(-self._model.ndim, 0)))
        return spectrum

    def _convolve(self, spectrum: Tensor) -> Tensor:
        result: Tensor = torch.fft.irfftn(
            spectrum, s=self._model.grid_shape, dim=tuple(range(-self._model.ndim, 0))
        )
        return result


# Steps to converge in depend on these, what they converge to does not. Fitted.
_RHO_HESSIAN = 0.3
_RHO_POSITIVE = 0.1
_LEAST_SEEN = 0.02
_TINY = 1e-12
# Below this √n, counts are not told from none.
_HALF_A_COUNT = 0.5


def hessian(image: Tensor) -> Tensor:
    """Return second derivatives of images that wrap, mixed ones times √2.

    Parameters
    ----------
    image : shape (B, C, *spatial).

    Returns
    -------
    Tensor, shape (B, C, D, *spatial), D = d (d + 1) / 2: ∂ii of every spatial axis, then √2 ∂ij of
    every pair. In a plane ∂yy, ∂xx and √2 ∂xy.
    """
    axes = range(image.ndim - 2)
    framed = _framed(image)

    def at(*axes_ahead: int, by: int = 1) -> Tensor:
        return _shifted(framed, len(axes), axes_ahead, by)

    here = at()
    twice = 2 * here
    straight = [at(axis, by=-1) - twice + at(axis) for axis in axes]
    mixed = [
        _ROOT_TWO * (at(one, other) - at(one) - at(other) + here)
        for one, other in combinations(axes, 2)
    ]
    return torch.stack([*straight, *mixed], 2)


def hessian_adjoint(derivatives: Tensor) -> Tensor:
    """Return the adjoint of `hessian`, shape (B, C, *spatial)."""
    axes = range(derivatives.ndim - 3)
    framed = _framed(derivatives.flatten(1, 2)).unflatten(1, derivatives.shape[1:3])
    parts = iter(framed.unbind(2))
    sums = []
    for axis in axes:
        part = next(parts)
        before, here, after = (_shifted(part, len(axes), (axis,), by) for by in (-1, 0, 1))
        sums.append(before - 2 * here + after)
    for pair in combinations(axes, 2):
        part = next(parts)
        corner, one, other = (
            _shifted(part, len(axes), back, -1) for back in (pair, pair[:1], pair[1:])
        )
        sums.append(_ROOT_TWO * (corner - one - other + _shifted(part, len(axes), (), 0)))
    result = sums[0]
    for each in sums[1:]:
        result += each
    return result


_ROOT_TWO = math.sqrt(2)


def _framed(image: Tensor) -> Tensor:
    """Lay the opposite border around images (B, C, *spatial)."""
    return functional.pad(image, (1, 1) * (image.ndim - 2), mode="circular")


def _shifted(framed: Tensor, ndim: int, axes: Sequence[int], by: int) -> Tensor:
    """Return what was framed, moved so that the neighbours along some axes lie here."""
    for axis in range(ndim):
        start = 1 + by if axis in axes else 1
        dim = axis - ndim
        framed = framed.narrow(dim, start, framed.shape[dim] - 2)
    return framed


def _squared_hessian(shape: tuple[int, ...]) -> Tensor:
    """Return the eigenvalues of ∇²ᵀ∇² over the frequencies of a real transform."""
    total = torch.zeros(())
    for axis, n in enumerate(shape, start=1 - len(shape)):
        frequency = torch.fft.rfftfreq(n) if axis == 0 else torch.fft.fftfreq(n)
        along = 2 - 2 * torch.cos(2 * math.pi * frequency)
        total = total + along.reshape(-1, *(1,) * -axis)
    return total.square()


def _padded(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Continue images to a larger grid with the last values along each axis."""
    margins = [(0, n - m) for n, m in zip(shape, images.shape[-len(shape) :], strict=True)]
    return functional.pad(
        images, [side for pair in margins[::-1] for side in pair], mode="replicate"
    )
