"""Kernel priors as the engine knows them: the dynamic one (eqs. 14-15) and a known PSF."""

from functools import partial

import torch
from torch import Generator, Tensor

from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation, GramStatistics
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_sampling import make_sampler
from napari_dkp.kernels import families


class DynamicKernelPrior:
    """RKS, then PKE, on the Gram statistics of the latest images.

    Parameters
    ----------
    model : forward model of the plane.
    data : LR plane y in normalised intensity, shape (C, *lr_shape).
    family : a family's name; "auto", for all of them, goes with the "paper" sampler only.
    rks, pke : numbers of the method.
    generator : CPU generator of every draw.
    memory : share of the earlier statistics that an update keeps. Images that start anew are near
        to independent draws under the kernel; with statistics averaged over them the alternation
        is stochastic approximation EM (Delyon 1999).
    burn_in : first images, whose statistics are not kept: they form under poor kernels.
    afresh : forget all with each new image; kernels of several images are then independent.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        family: str,
        rks: RKSConfig,
        pke: PKEConfig,
        generator: Generator,
        memory: float = 0.0,
        burn_in: int = 1,
        afresh: bool = False,
    ) -> None:
        self._model = model
        self._data = data
        self._max_sites = rks.max_sites
        self._whitened = rks.residual == "whitened"
        self._warm_up = pke.warm_up
        self._memory = memory
        self._burn_in = burn_in
        self._afresh = afresh
        self._images = 0
        self._remembered: GramStatistics | None = None
        kernel_families = families(family, model, rks)
        # Likelihoods need float64, which MPS does not have.
        home = torch.device("cpu") if data.device.type == "mps" else data.device
        self._make_sampler = partial(make_sampler, kernel_families, rks, generator, home)
        self._make_estimator = partial(KernelEstimator, model, pke, generator, home)
        self._sampler = self._make_sampler()
        self._estimator = self._make_estimator()

    def step(self, image: Tensor | None) -> Tensor:
        """Return k^t, shape (*K,), for the image x^{t-1} on the domain; None starts a new image.

        Before the first image the estimator warms up on random kernels.
        """
        if image is None:
            if self._images and self._afresh:
                self._sampler = self._make_sampler()
                self._estimator = self._make_estimator()
            if self._images == 0 or self._afresh:
                for _ in range(self._warm_up):
                    self._estimator.warm_up_step(self._sampler.draw())
            self._images += 1
            return self._estimator.kernel().to(self._data)
        statistics = self._model.statistics(image, self._data, self._max_sites, self._whitened)
        if self._images > self._burn_in:
            if self._remembered is not None:
                statistics = statistics.blended(self._remembered, self._memory)
            self._remembered = statistics
        return self._estimator.step(self._sampler.step(statistics), statistics).to(self._data)


class KnownKernel:
    """A given PSF: the run is non-blind."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = kernel

    def step(self, image: Tensor | None) -> Tensor:
        """Return the PSF, whatever the image."""
        return self._kernel
