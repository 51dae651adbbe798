"""Kernel priors as the engine knows them: the dynamic one (eqs. 14-15) and a known PSF."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation, GramStatistics
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_sampling import make_sampler
from napari_dkp.kernels import families


class DynamicKernelPrior:
    """RKS, then PKE, on the Gram statistics of the recent images.

    The statistics are averaged over iterates, which stand for draws from the image's posterior: the
    expected misfit adds the variance of the image to G. A kernel estimated from one image alone is
    drawn to that image's errors and ends up too narrow, the more so as the image follows it.
    Samples are weighted by inverse local contrast, as SSIM weighs them: where the data is busy, an
    unfinished image errs most, and its errors would decide the kernel's width.

    Parameters
    ----------
    model : forward model of the plane.
    data : LR plane y in normalised intensity, shape (C, *lr_shape).
    family : a family's name, or "auto" for all of them.
    rks, pke : numbers of the method.
    generator : CPU generator of every draw.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        family: str,
        rks: RKSConfig,
        pke: PKEConfig,
        generator: Generator,
    ) -> None:
        self._model = model
        self._data = data
        self._weights = contrast_weights(data) if rks.weighting == "contrast" else None
        self._max_sites = rks.max_sites
        self._memory = rks.memory
        self._statistics: GramStatistics | None = None
        self._steps = 0
        # The more unknown pixels per sample, the less certain the image behind the statistics.
        self._least_window = math.prod(model.scale) ** (1 / model.ndim) if rks.memory else 1.0
        self._warm_up = pke.warm_up
        kernel_families = families(family, model, rks)
        # Likelihoods need float64, which MPS does not have.
        home = torch.device("cpu") if data.device.type == "mps" else data.device
        self._sampler = make_sampler(kernel_families, rks, generator, home)
        self._estimator = KernelEstimator(model, pke, generator, home)

    def step(self, image: Tensor | None) -> Tensor:
        """Return k^t, shape (*K,), for the image x^{t-1} on the domain; None warms up."""
        if image is None:
            for _ in range(self._warm_up):
                self._estimator.warm_up_step(self._sampler.draw())
            return self._estimator.kernel().to(self._data)
        statistics = self._model.statistics(image, self._data, self._weights, self._max_sites)
        self._steps += 1
        if self._statistics is not None:
            window = self._least_window + self._memory * self._steps
            statistics = statistics.lerp(self._statistics, 1 - 1 / window)
        self._statistics = statistics
        return self._estimator.step(self._sampler.step(statistics), statistics).to(self._data)


def contrast_weights(data: Tensor) -> Tensor:
    """Return the inverse local variance of LR samples, regularised, of mean 1.

    Parameters
    ----------
    data : shape (C, *lr_shape).

    Returns
    -------
    Tensor of shape lr_shape.
    """
    variance = (data - _local_mean(data)).square().mean(0, keepdim=True)
    variance = _local_mean(variance)[0]
    weights = 1 / (variance + _LEAST_CONTRAST * variance.mean())
    return weights / weights.mean()


def _local_mean(data: Tensor) -> Tensor:
    """Average over a box of _WINDOW samples along each axis but the first."""
    for axis in range(1, data.ndim):
        along = data.movedim(axis, -1)
        pooled = functional.avg_pool1d(
            along.flatten(0, -2), _WINDOW, 1, _WINDOW // 2, count_include_pad=False
        )
        data = pooled.reshape(along.shape).movedim(-1, axis)
    return data


# LR samples: the window of SSIM.
_WINDOW = 11
# Share of the mean local variance below which contrast is not told apart.
_LEAST_CONTRAST = 0.1


class KnownKernel:
    """A given PSF: the run is non-blind."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = kernel

    def step(self, image: Tensor | None) -> Tensor:
        """Return the PSF, whatever the image."""
        return self._kernel
