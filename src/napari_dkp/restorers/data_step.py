"""The data step: an image is held to the samples that a kernel makes of it (eqs. 23-24)."""

import torch
from torch import Tensor

from napari_dkp.degradation import Degradation


class DataStep:
    """Moves images towards the samples that one kernel makes of them.

    Parameters
    ----------
    model : forward model of the plane.
    data : y, shape (C, *lr_shape).
    kernel : shape (*K,).
    variance : of each sample's noise relative to the least, shape of `data`; None for ones.
    n_steps : conjugate gradients of a proximal step. A few leave an error that is small beside what
        the next noise level changes, unless variances differ as of samples that are left out.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        kernel: Tensor,
        variance: Tensor | None = None,
        n_steps: int = 4,
    ) -> None:
        self._model = model
        self._data = data
        self._variance = variance
        self._n_steps = n_steps
        self._transfer = model.transfer(kernel)
        self._power = model.sampled_power(self._transfer)

    def residual(self, image: Tensor) -> Tensor:
        """Return y - A x, shape (..., C, *lr_shape), for an image on the domain."""
        return self._data - self._model.forward_by(self._transfer, image)

    def proximal(self, image: Tensor, residual: Tensor, alpha: float) -> Tensor:
        """Return argmin_x (y - A x)ᵀ V⁻¹ (y - A x) + α ‖x - z‖², V the variances, for the image z.

        x = z + Aᵀ (A Aᵀ + α V)⁻¹ (y - A z). Where samples of one variance tile the grid the inverse
        is diagonal in the Fourier domain (Zhao et al. 2016); elsewhere this preconditions a few
        steps of conjugate gradients over the samples, which are fewer than pixels.

        Parameters
        ----------
        image : z, shape (..., C, *domain_shape).
        residual : of z.
        alpha : greater than 0.
        """
        model = self._model
        tiles = model.lr_shape == model.lattice_shape
        if self._variance is None and tiles:
            return image + self._spread(self._filtered(residual, 1 / (self._power + alpha)))
        variance = torch.ones_like(self._data) if self._variance is None else self._variance
        usual, power = 1 / (1 / variance).mean(), self._power.mean()
        inverse = 1 / (self._power + alpha * usual)
        share = ((power + alpha * usual) / (power + alpha * variance)).sqrt()

        def product(samples: Tensor) -> Tensor:
            return self._filtered(samples, self._power) + alpha * variance * samples

        def preconditioned(samples: Tensor) -> Tensor:
            return share * self._filtered(share * samples, inverse)

        solution = torch.zeros_like(residual)
        rest = residual
        direction = preconditioned(rest)
        energy = _energy(rest, direction)
        for _ in range(self._n_steps):
            explained = product(direction)
            step = energy / _energy(direction, explained).clamp_min(_TINY)
            solution = solution + step * direction
            rest = rest - step * explained
            ahead = preconditioned(rest)
            before, energy = energy, _energy(rest, ahead)
            direction = ahead + energy / before.clamp_min(_TINY) * direction
        return image + self._spread(solution)

    def gradient(self, image: Tensor, residual: Tensor) -> Tensor:
        """Return z + γ Aᵀ V⁻¹ (y - A z), as published (eqs. 23-24), γ the largest that is stable.

        Parameters
        ----------
        image : z, shape (..., C, *domain_shape).
        residual : of z.
        """
        if self._variance is not None:
            residual = residual / self._variance
        return image + self._spread(residual) / self._power.max()

    def _spread(self, samples: Tensor) -> Tensor:
        return self._model.adjoint_by(self._transfer, samples)

    def _filtered(self, samples: Tensor, response: Tensor) -> Tensor:
        """Convolve samples on the lattice, zero where it goes on past them."""
        axes = tuple(range(-self._model.ndim, 0))
        shape = self._model.lattice_shape
        spectrum = torch.fft.rfftn(samples, s=shape, dim=axes) * response
        filtered: Tensor = torch.fft.irfftn(spectrum, s=shape, dim=axes)
        for axis, n in zip(axes, self._model.lr_shape, strict=True):
            filtered = filtered.narrow(axis, 0, n)
        return filtered


def _energy(one: Tensor, other: Tensor) -> Tensor:
    product: Tensor = (one * other).sum()
    return product


_TINY = 1e-30
