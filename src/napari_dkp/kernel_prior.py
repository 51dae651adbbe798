"""Kernel priors as the engine knows them: the dynamic one (eqs. 14-15) and a known PSF."""

import torch
from torch import Generator, Tensor

from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_sampling import make_sampler
from napari_dkp.kernels import families


class DynamicKernelPrior:
    """RKS, then PKE, on the Gram statistics of the latest image, a limited number of times.

    An image follows its kernel, and a kernel estimated from an image confirms itself: only while
    the image is still forming does it tell kernels apart. Later the kernel is drawn to the errors
    of the image and grows ever narrower. So the kernel is sought early and then stands.

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
        self._max_sites = rks.max_sites
        self._warm_up = pke.warm_up
        self._updates = rks.updates
        self._steps = 0
        self._late: list[Tensor] = []
        self._standing: Tensor | None = None
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
        if self._standing is not None:
            return self._standing
        statistics = self._model.statistics(image, self._data, max_sites=self._max_sites)
        kernel = self._estimator.step(self._sampler.step(statistics), statistics).to(self._data)
        self._steps += 1
        if self._steps > _SETTLED * self._updates:
            self._late.append(kernel)
        if self._steps == self._updates:
            kernel = self._standing = torch.stack(self._late).mean(0)
        return kernel


# Share of the updates after which a kernel enters the mean that stands in the end.
_SETTLED = 0.67


class KnownKernel:
    """A given PSF: the run is non-blind."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = kernel

    def step(self, image: Tensor | None) -> Tensor:
        """Return the PSF, whatever the image."""
        return self._kernel
