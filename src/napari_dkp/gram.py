"""Gram statistics: the misfit of any kernel for an image, as a quadratic form (eqs. 6, 10)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from napari_dkp.device import float64_device


@dataclass(frozen=True, eq=False)
class GramStatistics:
    """Sufficient statistics of the misfit: ‖y - P k‖² = kᵀGk - 2bᵀk + c, for kernels of sum 1.

    P holds, per LR sample, the HR pixels that each tap weights. The mean of y is taken off y and
    P alike; it drops out for kernels of sum 1 and keeps the quadratic form well conditioned.

    Attributes
    ----------
    gram : G, float64, shape (T, T) over the T = prod(kernel_shape) taps.
    cross : b, float64, shape (T,).
    energy : c, float64 scalar.
    count : number of samples.
    kernel_shape : taps per spatial axis.
    unit : misfit that likelihoods take for that of the noise; None for the least they meet.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    count: int
    kernel_shape: tuple[int, ...]
    unit: float | None = None

    @classmethod
    def accumulate(
        cls,
        patches: Tensor,
        data: Tensor,
        kernel_shape: tuple[int, ...],
        step: int,
        weights: Tensor | None = None,
    ) -> "GramStatistics":
        """Sum over samples, a slab at a time to bound memory.

        Parameters
        ----------
        patches : strided view, shape (C, *sites, *kernel_shape), in correlation orientation.
        data : shape (C, *sites); its mean is off both.
        step : pixels from site to site along the first axis.
        weights : of each squared residual, same shape; None for ones.
        """
        taps = int(np.prod(kernel_shape))
        double = float64_device(data.device)  # the statistics are small, wherever they are summed
        gram = torch.zeros(taps, taps, dtype=torch.float64, device=double)
        cross = torch.zeros(taps, dtype=torch.float64, device=double)
        # Rows of G that are summed; what lies right of the diagonal is enough. Neighbouring sites
        # share pixels: without weights, the rows of taps a step further on repeat the first ones.
        fresh = taps if weights is not None else min(taps, step * (taps // kernel_shape[0]))
        slab_rows = max(1, _SLAB_VALUES // max(1, taps * data[:, 0].numel()))
        slabs = patches.split(slab_rows, 1)
        shares: Iterable[Tensor | None] = repeat(None, len(slabs))
        if weights is not None:
            shares = weights.split(slab_rows, 1)
        for slab, values, share in zip(slabs, data.split(slab_rows, 1), shares, strict=True):
            rows, values = slab.reshape(-1, taps), values.reshape(-1)
            weighted = rows
            if share is not None:
                counted = share.reshape(-1).nonzero()[:, 0]
                rows, values = rows[counted], values[counted]
                weighted = share.reshape(-1, 1)[counted] * rows
            cross += (values @ weighted).to(double, torch.float64)
            for first in range(0, fresh, _STRIP):
                strip = slice(first, min(first + _STRIP, fresh))
                product = rows[:, strip].T @ weighted[:, first:]
                gram[strip, first:] += product.to(double, torch.float64)
        gram = _completed(gram, fresh, patches)
        squares = data.to(double, torch.float64).square()
        energy = (squares if weights is None else weights.to(squares) * squares).sum()
        # Convolution weights the patch in reverse order.
        return cls(gram.flip(0, 1), cross.flip(0), energy, data.numel(), kernel_shape)

    def blended(self, other: "GramStatistics", share: float) -> "GramStatistics":
        """Return statistics whose misfits are (1 - share) of these plus `share` of the others'."""
        return replace(
            self,
            gram=torch.lerp(self.gram, other.gram, share),
            cross=torch.lerp(self.cross, other.cross, share),
            energy=torch.lerp(self.energy, other.energy, share),
        )

    def profile(self, kernel: Tensor, stiffness: float) -> "GramStatistics":
        """Return, as a quadratic form, the misfit that images reach which form under each kernel.

        That holds near the kernel under which the image of these statistics has formed, and is in
        units of the misfit there; far from it, it may be negative. The slope is that of these
        statistics: at an image that fits best, the misfit does not change, to first order, with the
        image (envelope theorem). Of the curvature only a share is left, as images take up most of
        what a kernel changes.

        Parameters
        ----------
        kernel : shape (*kernel_shape).
        stiffness : that share.
        """
        misfit, slope = self.misfit_and_slope(kernel)
        here = misfit.clamp_min(_EXACT)
        flat = kernel.flatten().to(self.gram)
        gram = stiffness / here * self.gram
        pull = gram @ flat
        cross = pull - 0.5 * self.count / here * slope.flatten()
        energy = self.count + (2 * cross - pull) @ flat
        return replace(self, gram=gram, cross=cross, energy=energy, unit=1.0)

    def misfit(self, kernels: Tensor) -> Tensor:
        """Return the mean squared residual of each kernel, float64, shape (N,).

        Parameters
        ----------
        kernels : shape (N, *kernel_shape), each of sum 1.
        """
        flat = kernels.flatten(1)
        # Expanded about their mean: what they differ by from it is small and bears float32.
        mean = flat.mean(0)
        misfit, slope = self.misfit_and_slope(mean)
        apart = flat - mean
        change = torch.addmm(slope.to(flat), apart, self.gram.to(flat), alpha=1 / self.count)
        return self._bounded(misfit + (change * apart).sum(1).to(misfit))

    def misfit_and_slope(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared residual of a kernel and its gradient, float64, shape (*K,)."""
        flat = kernel.flatten().to(self.gram)
        pull = self.gram @ flat - self.cross
        misfit = self._bounded((pull - self.cross) @ flat + self.energy) / self.count
        return misfit, (2 / self.count) * pull.reshape(kernel.shape)

    def _bounded(self, misfit: Tensor) -> Tensor:
        """Return what rounding may have taken below zero; of profiles differences alone count."""
        return misfit if self.unit else misfit.clamp_min(0)


def _completed(gram: Tensor, fresh: int, patches: Tensor) -> Tensor:
    """Return G, of whose first rows the part right of the diagonal is known.

    A tap that lies a step further along the first axis sees at a site what the first of the two
    sees at the next site: its sums lack those of the first site and have those of the last.
    """
    known = len(gram) - fresh
    if known:
        first, last = (patches[:, end].reshape(-1, len(gram)) for end in (0, -1))
        first, last = first[:, :known], last[:, fresh:]
        change = (last.T @ last - first.T @ first).to(gram)
        further = gram[fresh:, fresh:]
        for start in range(0, known, fresh):
            block = slice(start, min(start + fresh, known)), slice(start, known)
            further[block] = gram[block] + change[block]
    return gram.triu() + gram.triu(1).T


# Float32 values in one slab of patches: 32 MiB.
_SLAB_VALUES = 8 * 1024 * 1024
# Rows of G that are computed at once.
_STRIP = 64
# A misfit below, in normalised intensity squared, counts as none.
_EXACT = 1e-10
