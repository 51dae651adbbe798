"""One plane: its kernel prior and its image restorers, made as settings say and joined.

This is the composition root: only here do restorers, kernel priors and the engine meet.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Generator as RandomGenerator
from torch import Tensor

from napari_dkp import engine, memory
from napari_dkp.config import MOTION_FAMILIES, DIPConfig, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import resolve_precision
from napari_dkp.kernel_prior import DynamicKernelPrior, KnownKernel, StandingKernel
from napari_dkp.randomness import make_generator
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.restorers.networks import finest_channels
from napari_dkp.search import KernelSearch, Round, burn_in, plan


def fit(
    model: Degradation,
    data: Tensor,
    bounds: tuple[float, float],
    settings: Settings,
    kernel: np.ndarray | None = None,
) -> engine.StateGenerator[Tensor]:
    """Restore one plane: find its kernel, unless it is known, then its image.

    Parameters
    ----------
    model : forward model of the plane.
    data : LR plane in normalised intensity on its device, shape (C, h, w).
    bounds : lowest and highest intensity of the restored image, normalised.
    settings : resolved settings.
    kernel : known PSF, float32, shape model.kernel_shape; None for a blind run.

    Yields
    ------
    A state per image step, numbered over the search and the restoration proper.
    """
    parts = Parts(model, data, bounds, settings)
    with parts.kept_memory():
        # Its frame, with all that takes memory, is gone before the memory is given back.
        yield from _fit(parts, settings, model.upsample(data), kernel)


def _fit(
    parts: "Parts", settings: Settings, start: Tensor, kernel: np.ndarray | None
) -> engine.StateGenerator[Tensor]:
    """Do what `fit` says; `start` is the interpolated data on the HR frame, shape (C, H, W)."""
    generator = make_generator(settings.seed)
    restorer = parts.restorer(generator)
    every = parts.rks.every
    rounds = [] if kernel is not None else search_rounds(settings)
    n_search = sum(each.steps for each in rounds)
    n_steps = n_search + parts.n_steps
    prior: engine.KernelPrior
    if kernel is not None:
        prior = KnownKernel(torch.from_numpy(kernel).to(start.device))
    elif rounds:
        scout = partial(parts.scout, generator=generator)
        search = KernelSearch(parts.motion_prior(generator), scout, start, rounds, every)
        found = yield from search.run(n_steps)
        if found is None:
            return
        prior = KnownKernel(found)
    else:
        prior = parts.prior(generator)
    for state in engine.alternate(restorer, prior, start, parts.n_steps, every):
        yield replace(state, step=n_search + state.step, n_steps=n_steps)


class Parts:
    """What restores one plane, made as its settings say; parameters as of `fit`."""

    def __init__(
        self, model: Degradation, data: Tensor, bounds: tuple[float, float], settings: Settings
    ) -> None:
        if not (
            settings.rks
            and settings.pke
            and settings.search
            and settings.dip
            and settings.iterations
        ):
            raise ValueError("settings: expected resolved settings; got some with open fields")
        self.rks = settings.rks
        self.n_steps = settings.iterations
        self._model = model
        self._data = data
        self._bounds = bounds
        self._family = settings.kernel_family
        self._pke = settings.pke
        self._search = settings.search
        self._dip = settings.dip
        self._precision = resolve_precision(settings.precision, data.device)

    def restorer(self, generator: RandomGenerator) -> DIPRestorer:
        """Return the restorer of the image that is handed out."""
        return self._make_restorer(self._dip, self.n_steps, generator)

    def prior(self, generator: RandomGenerator) -> engine.KernelPrior:
        """Return a fresh kernel prior for that image."""
        sampler, family = self.rks.sampler, self._family
        if sampler == "smc" and family == "auto":
            family = "gaussian"
        prior = DynamicKernelPrior(self._model, self._data, family, self.rks, self._pke, generator)
        return prior if sampler == "paper" else StandingKernel(prior, self.rks.updates)

    def scout(self, n_steps: int, generator: RandomGenerator) -> DIPRestorer:
        """Return a small restorer for the search that leaves out a share of the samples.

        It has no gradient prior: that would flatten the image, which narrows the kernel.
        """
        search = self._search
        shape = self._data.shape[-2:]
        seen = torch.rand(shape, generator=generator) >= search.left_out
        small = replace(self._dip, network="light", channels=search.channels, gradient_weight=0.0)
        return self._make_restorer(small, n_steps, generator, seen.to(self._data.device))

    def motion_prior(self, generator: RandomGenerator) -> DynamicKernelPrior:
        """Return a fresh kernel prior for the search."""
        search = self._search
        return DynamicKernelPrior(
            self._model,
            self._data,
            self._family,
            replace(self.rks, max_sites=search.max_sites),
            replace(self._pke, data_weight=search.data_weight),
            generator,
            whitened=True,
            memory=search.memory,
            burn_in=burn_in(search),
        )

    def kept_memory(self) -> AbstractContextManager[None]:
        """Return a context for the steps: one takes again what another has freed."""
        on_cpu = self._data.device.type == "cpu"
        values = finest_channels(self._dip) * math.prod(self._model.domain_shape)
        return memory.kept(_BYTES_PER_VALUE * values if on_cpu else 0)

    def _make_restorer(
        self,
        config: DIPConfig,
        n_steps: int,
        generator: RandomGenerator,
        seen: Tensor | None = None,
    ) -> DIPRestorer:
        return DIPRestorer(
            self._model,
            self._data,
            self._bounds,
            config,
            n_steps,
            self._precision,
            generator,
            seen,
        )


# Of the largest tensors: float32 even where convolutions are bfloat16.
_BYTES_PER_VALUE = 4


def search_rounds(settings: Settings) -> list[Round]:
    """Return the rounds of the kernel search, per plane; none where the kernel is optics'."""
    if not (settings.rks and settings.search and settings.iterations):
        raise ValueError("settings: expected resolved settings; got some with open fields")
    if settings.rks.sampler == "paper" or settings.kernel_family not in MOTION_FAMILIES:
        return []
    return plan(settings.search, settings.iterations, settings.rks.every)
