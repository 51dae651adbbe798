"""Kernel priors as the engine knows them: the dynamic one (eqs. 14-15) and a known PSF."""

from collections.abc import Callable
from collections.abc import Generator as Iteration

import torch
from torch import Generator, Tensor

from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.device import float64_device
from napari_dkp.engine import KernelPrior, mapped
from napari_dkp.families import families
from napari_dkp.gram import GramStatistics
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_sampling import Known, Likelihood, make_sampler


class DynamicKernelPrior:
    """RKS, then PKE, on the Gram statistics of the latest images.

    Parameters
    ----------
    model : forward model of the plane.
    data : LR plane y in normalised intensity, shape (C, *lr_shape).
    family : a family's name; "auto", for all of them, goes with the "paper" sampler only.
    rks, pke : numbers of the method.
    generator : CPU generator of every draw.
    whitened : of forming images, take the Laplacian of the residual for white noise, see
        `Degradation.statistics`.
    stiffness : of the profile of misfits that complete images tell, see `GramStatistics.profile`.
    profile_weight : of that profile, in place of `pke.data_weight`.
    memory : share of the earlier statistics that an update by a forming image keeps, once it is to
        `remember`. Images that start anew are near to independent draws under the kernel; with
        statistics averaged over them the alternation is stochastic approximation EM (Delyon 1999).
    weights : of each squared residual, shape of `data`; None for ones.
    known, known_near : what is known of kernels without an image, and what more of those like some
        (N, *kernel_shape); None for nothing.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        family: str,
        rks: RKSConfig,
        pke: PKEConfig,
        generator: Generator,
        *,
        whitened: bool = False,
        stiffness: float = 1.0,
        profile_weight: float = 1.0,
        memory: float = 0.0,
        weights: Tensor | None = None,
        known: Known | None = None,
        known_near: Callable[[list[Tensor]], Likelihood] | None = None,
    ) -> None:
        self._model = model
        self._data = data
        self._max_sites = rks.max_sites
        self._whitened = whitened
        self._n_warm_up = pke.warm_up
        self._stiffness = stiffness
        self._profile_weight = profile_weight
        self._memory = memory
        self._weights = weights
        self._remembers = False
        self._remembered: GramStatistics | None = None
        self._profile: GramStatistics | None = None
        self._n_learned = 0
        kernel_families = families(family, model, rks)
        home = float64_device(data.device)  # likelihoods need it
        self._sampler = make_sampler(kernel_families, rks, generator, home, known, known_near)
        self._estimator = KernelEstimator(model, pke, generator, home)

    def candidates(self) -> Iteration[Tensor, None, list[Tensor]]:
        """Return kernels of shape (*K,) that are likely before there is an image, if known.

        Yields
        ------
        The kernel on the way, of the same shape.
        """
        settling = self._sampler.candidates()
        found = yield from mapped(settling, lambda kernel: kernel.to(self._data))
        return [kernel.to(self._data) for kernel in found]

    def gradient_misfit(self, image: Tensor, kernel: Tensor) -> float:
        """Return the sum of squared differences between residuals of neighbouring samples.

        That is in normalised intensity squared. What is wrong with a kernel shows at edges; in what
        is smooth two networks differ as well.

        Parameters
        ----------
        image : complete, on the domain, shape (C, *domain_shape).
        kernel : under which it has formed, shape (*K,).
        """
        residual = self._data - self._model.forward(image, kernel)
        total = residual.new_zeros(())
        for axis in range(1, residual.ndim):
            squares = residual.diff(dim=axis).square()
            if self._weights is not None:
                n = squares.shape[axis]
                squares *= self._weights.narrow(axis, 0, n) * self._weights.narrow(axis, 1, n)
            total += squares.sum()
        return total.item()

    def keep(self, number: int) -> None:
        """Go on from one of the candidates."""
        self._sampler.keep(number)

    def step(self, image: Tensor | None) -> Tensor:
        """Return k^t, shape (*K,), for the image x^{t-1} on the domain; None starts a new image.

        Before the first image the estimator warms up on random kernels.
        """
        if image is None:
            self._warm_up()
            return self._estimator.kernel().to(self._data)
        statistics = self._model.statistics(
            image, self._data, self._max_sites, self._whitened, self._weights
        )
        if self._remembers:
            if self._remembered is not None:
                statistics = statistics.blended(self._remembered, self._memory)
            self._remembered = statistics
        return self._updated(statistics)

    def remember(self) -> None:
        """From now on, keep a share of the earlier statistics; before, kernels were poor."""
        self._remembers = True

    def learned(self, image: Tensor, kernel: Tensor) -> Tensor:
        """Return the kernel, shape (*K,), after a complete image.

        Images that start anew are near to independent draws: what they tell is averaged.

        Parameters
        ----------
        image : on the domain, of all samples.
        kernel : under which it has formed.
        """
        self._warm_up()
        statistics = self._model.statistics(
            image, self._data, self._max_sites, False, self._weights
        )
        profile = statistics.profile(kernel, self._stiffness)
        if self._profile is not None:
            profile = profile.blended(self._profile, self._n_learned / (self._n_learned + 1))
        self._profile = profile
        self._n_learned += 1
        for _ in range(LEARNING_UPDATES):
            kernel = self._updated(profile, self._profile_weight)
        return kernel

    def _updated(self, statistics: GramStatistics, data_weight: float | None = None) -> Tensor:
        sampled = self._sampler.step(statistics)
        return self._estimator.step(sampled, statistics, data_weight).to(self._data)

    def _warm_up(self) -> None:
        if self._n_warm_up:
            for kernel in self._sampler.draw(self._n_warm_up):
                self._estimator.warm_up_step(kernel)
        self._n_warm_up = 0


# Kernel updates by what one complete image tells.
LEARNING_UPDATES = 10


class StandingKernel:
    """A kernel that is sought while its image forms, then stands.

    An image follows its kernel, and a kernel estimated from an image confirms itself: only while
    the image is still forming does it tell kernels apart. Later the kernel is drawn to the errors
    of the image and grows ever narrower.

    Parameters
    ----------
    prior : seeks it.
    updates : after so many, the kernel stands at the mean of their last third.
    """

    def __init__(self, prior: KernelPrior, updates: int) -> None:
        self._prior = prior
        self._updates = updates
        self._done = 0
        self._late: list[Tensor] = []
        self._standing: Tensor | None = None

    def step(self, image: Tensor | None) -> Tensor:
        """Return the prior's kernel for the image, or the one that stands."""
        if self._standing is not None:
            return self._standing
        kernel = self._prior.step(image)
        self._done += image is not None
        if self._done > _SETTLED * self._updates:
            self._late.append(kernel)
        if self._done == self._updates:
            self._standing = kernel = torch.stack(self._late).mean(0)
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
