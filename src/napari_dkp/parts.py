"""What restores one plane: its kernel prior and its image restorers, made as settings say.

This is the composition root: only here do restorers, kernel priors and settings meet.
"""

import math
from collections.abc import Generator as Iteration
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Generator as RandomGenerator
from torch import Tensor

from napari_dkp import engine, memory
from napari_dkp.config import OPTICS_FAMILIES, DIPConfig, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import float64_device, resolve_precision
from napari_dkp.diffusion.loading import load
from napari_dkp.diffusion.model import DiffusionModel
from napari_dkp.engine import TrialStep
from napari_dkp.families import families
from napari_dkp.gaussian_trials import try_gaussians
from napari_dkp.kernel_edges import KernelEdges
from napari_dkp.kernel_prior import DynamicKernelPrior, StandingKernel
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.noise import Noise
from napari_dkp.optics_trials import try_optics
from napari_dkp.plan import Plan
from napari_dkp.restorers.counting import CountingRestorer
from napari_dkp.restorers.diffusion import DiffusionRestorer, levels
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.networks import finest_channels
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.polish import PolishedRestorer
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.schedule import (
    optics_steps,
    searching_sampling,
    standing_after,
)
from napari_dkp.spectrum import Cutoff, find_cutoff, usual_cutoff
from napari_dkp.volume_trials import intervals, try_volume

Restorer = DIPRestorer | PolishedRestorer | DiffusionRestorer | CountingRestorer


class Parts:
    """What restores one plane, made as its settings say.

    Parameters
    ----------
    model : forward model of the plane.
    data : LR plane in normalised intensity on its device, shape (C, *lr_shape).
    bounds : lowest and highest intensity of the restored image, normalised; there is no highest of
        volumes, whose kernels spread light over thousands of voxels.
    noise : of the data, normalised.
    settings : resolved settings.
    plan : what is known before; None for a blind run.
    halves : of the plane's photons, for method "richardson-lucy"; None deals them.
    colours : channels that show one scene; of several, they follow one another.

    Attributes
    ----------
    plan : what planes alike can be restored by; None until this one is.
    evidence : what there is to report; None until then.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        bounds: tuple[float, float],
        noise: Noise,
        settings: Settings,
        plan: Plan | None = None,
        halves: PhotonHalves | None = None,
        colours: int = 1,
    ) -> None:
        if not (
            settings.rks
            and settings.pke
            and settings.search
            and settings.dip
            and settings.diffusion
            and settings.richardson_lucy
            and settings.iterations
        ):
            raise ValueError("settings: expected resolved settings; got some with open fields")
        if isinstance(settings.optics, tuple):
            raise ValueError("settings: expected those of one channel; got optics of several")
        self.settings = settings
        self.given = plan
        self.plan: Plan | None = None
        self.evidence: Evidence | None = None
        self.rks = settings.rks
        self._method = settings.method
        self._counts_photons = settings.method == "richardson-lucy"
        self._noise = noise
        self._optics = settings.optics
        self._seed = settings.seed
        self._richardson_lucy = settings.richardson_lucy
        self._model = model
        self._data = data
        self._dealt = halves
        self._colours = colours
        self._bounds = (bounds[0], math.inf) if settings.volume else bounds
        self._family = settings.kernel_family
        self._pke = settings.pke
        # Of photographs, whose noise is that of no camera, all samples count alike.
        counted = settings.volume or settings.kernel_family in OPTICS_FAMILIES
        self._weights = noise.weights(data) if counted else None
        self._search = settings.search
        self._dip = settings.dip
        # In normalised intensity squared; none where it is not looked for, or not seen.
        looks = self._method == "dip" and self._dip.noise_weight > 0
        self._noise_variance = self._seen_noise() if looks else 0.0
        self._diffusion = settings.diffusion
        self._precision = resolve_precision(settings.precision, data.device)
        self._n_updates = standing_after(settings)
        # Of the kernel, once optics are found.
        self._width_spread: float | None = plan.width_spread if plan else None
        # Of the restoration of planes alike; None for as many as settings ask for.
        self._steps_alike: int | None = plan.steps if plan else None

    def start(self) -> Tensor:
        """Return the interpolated data on the HR frame, shape (C, *hr_shape)."""
        return self._model.upsample(self._data)

    def conclude(self, restorer: Restorer, kernel: Tensor) -> None:
        """Take up what a complete restoration has led to."""
        route = restorer.route if isinstance(restorer, CountingRestorer) else None
        found = kernel.cpu().numpy()
        self.plan = Plan(found, route, self._steps_alike, self._width_spread)
        self.evidence = restorer.evidence()

    def restorer(
        self, generator: RandomGenerator, n_steps: int, *, seeks: bool = False
    ) -> Restorer:
        """Return the restorer of the image that is handed out.

        Parameters
        ----------
        generator : of its draws.
        n_steps : that it takes, at most.
        seeks : whether the kernel is sought on that image.
        """
        if self._counts_photons:
            halves = self._halves(generator)
            route = self.given.route if self.given else None
            return CountingRestorer(self._model, halves, self._richardson_lucy, route)
        if self._method == "diffusion":
            diffusion = self._load_diffusion()
            n_seeking = (self._n_updates or 0) if seeks else 0
            # Those in which the kernel is sought are done for all.
            self._steps_alike = n_steps - n_seeking or None
            return DiffusionRestorer(
                self._model,
                self._data,
                self._bounds,
                diffusion,
                self._diffusion,
                levels(diffusion, self._diffusion, n_steps, n_seeking),
                generator,
                self._noise.variances(self._data),
            )
        following = (self._n_updates or n_steps) * self.rks.every if seeks else 0
        # What is alike in noise is not to be kept, and to be held to noisy samples does not help.
        noisy = self._weights is not None or self._noise_variance > 0
        last = 0 if noisy else min(self._dip.polishing, n_steps // 5)
        forming = n_steps - last
        dip = self._make_dip(self._heeding_noise(min(1.0, following / forming)), forming, generator)
        if not last:
            return dip
        return PolishedRestorer(
            dip,
            self._model,
            self._data,
            self._bounds,
            forming,
            n_steps,
            self._colours,
        )

    def _seen_noise(self) -> float:
        """Return the variance of noise, but none where it may as well be fine structure."""
        variance = float(self._noise.variances(self._data).mean())
        return variance if variance >= _SEEN**2 and self._noise.calm >= _CALM else 0.0

    def _heeding_noise(self, following: float) -> DIPConfig:
        """Return how to fit an image which the kernel follows for that share of its steps.

        Kernels that follow a fit of squared error narrow sooner than others.
        """
        dip = self._dip
        if self._noise_variance == 0:
            return dip
        fraction = min(dip.ssim_fraction, following)
        weight = dip.noise_weight * self._noise_variance
        return replace(dip, ssim_fraction=fraction, gradient_weight=weight)

    def prior(self, generator: RandomGenerator) -> engine.KernelPrior:
        """Return a fresh kernel prior for that image."""
        prior = self._make_prior(generator)
        return prior if self._n_updates is None else StandingKernel(prior, self._n_updates)

    def trials(
        self, kernel: Tensor, generator: RandomGenerator
    ) -> Iteration[TrialStep, None, Tensor]:
        """Return the trials that settle a kernel which has been sought."""
        return try_gaussians(
            self._model,
            self._data,
            self._noise.variances(self._data),
            self._bounds,
            self._load_diffusion(),
            self._diffusion,
            kernel,
            generator,
        )

    def scout(
        self, n_steps: int, generator: RandomGenerator, *, partial: bool = False
    ) -> engine.ImageRestorer:
        """Return a restorer for the search: but for photons, a small network.

        It has no gradient prior: that would flatten the image, which narrows the kernel. In part,
        it does not see a share of the samples.
        """
        if self._counts_photons:
            return RichardsonLucyRestorer(self._model, self._halves(generator), patience=n_steps)
        search = self._search
        small = replace(self._dip, network="light", channels=search.channels, gradient_weight=0.0)
        seen = None
        if partial:
            seen = torch.rand(self._data.shape[-2:], generator=generator) >= search.left_out
            seen = seen.to(self._data.device)
        return self._make_dip(small, n_steps, generator, seen)

    def search_prior(self, generator: RandomGenerator) -> DynamicKernelPrior:
        """Return a fresh kernel prior for the search."""
        # Images of photons have noise that grows with their steps: no profile of misfits.
        if self._counts_photons:
            return self._make_prior(generator)
        search = self._search
        sampling = searching_sampling(self.settings)
        return DynamicKernelPrior(
            self._model,
            self._data,
            "gaussian" if self._family == "auto" else self._family,
            replace(sampling, max_sites=search.max_sites),
            replace(self._pke, data_weight=search.data_weight),
            generator,
            whitened=True,
            stiffness=search.stiffness,
            profile_weight=search.profile_weight,
            memory=search.memory,
            known=self._spectrum(),
            known_near=self._edges if self._family == "trajectory" else None,
        )

    def volume_kernel(self, generator: RandomGenerator) -> Iteration[TrialStep, None, Tensor]:
        """Return the trials that lead to the mean kernel of what they leave of a family."""
        rks = self.rks
        if None in intervals(self._family, rks):
            expected = self._expected_cutoff(self._model.scale[-1])
            found = yield from try_volume(
                self._model,
                self._data,
                self._noise,
                self._family,
                expected,
                self._seed,
                self._optics,
            )
            rks = found.within(rks, self._family)
        (family,) = families(self._family, self._model, rks, self._optics)
        points = torch.rand((_VOLUME_KERNELS, family.n_parameters), generator=generator)
        return family.render(points.to(self._data)).mean(0)

    def kept_memory(self) -> AbstractContextManager[None]:
        """Return a context for the steps: one takes again what another has freed."""
        on_cpu = self._data.device.type == "cpu"
        values = finest_channels(self._dip) * math.prod(self._model.domain_shape)
        return memory.kept(_BYTES_PER_VALUE * values if on_cpu else 0)

    def _make_prior(self, generator: RandomGenerator) -> DynamicKernelPrior:
        rks, pke, family = self.rks, self._pke, self._family
        if rks.sampler == "smc" and family == "auto":
            family = "gaussian"
        if self._counts_photons and family in OPTICS_FAMILIES:
            # Its image is cut off before it is sharp, and a kernel that makes up for that too
            # narrow: what the image says of the kernel counts little beside what is known of it.
            rks = replace(rks, confidence=min(rks.confidence, _COUNTING_CONFIDENCE))
            pke = replace(pke, data_weight=0.0)
        # Of what a diffusion model expects of an image, fine structure is the most nearly right.
        whitened = self._method == "diffusion" and self._weights is None
        return DynamicKernelPrior(
            self._model,
            self._data,
            family,
            rks,
            pke,
            generator,
            whitened=whitened,
            weights=self._weights,
        )

    def _spectrum(self) -> KernelSpectrum | None:
        """Return what the plane's power spectrum says of its kernel, if that is anything."""
        spectrum = KernelSpectrum(self._model, self._data, float64_device(self._data.device))
        return spectrum if spectrum.tells else None

    def _edges(self, populations: list[Tensor]) -> KernelEdges:
        scenes = self._data.unflatten(0, (-1, self._colours)).mean(1)
        noise = math.sqrt(float(self._noise.variances(self._data).mean()) / self._colours)
        return KernelEdges(self._model, scenes, noise, populations)

    def optics_trials(self) -> Iteration[TrialStep, None, None]:
        """Try what optics the data may be of, where that is open; kernels are then of those.

        What is known of the optics says where to look.
        """
        if not optics_steps(self.settings):
            return
        scale = math.prod(self._model.scale) ** (1 / self._model.ndim)
        expected = self._expected_cutoff(scale)
        plane = self._data.cpu().double().numpy()
        cutoff = find_cutoff(plane, self._model.scale, self._noise, expected)
        optics = yield from try_optics(
            self._model, self._data, self._noise, cutoff, self.rks.damping, self._seed
        )
        self._width_spread = optics.spread
        self.rks = replace(self.rks, cutoff=optics.cutoff, damping=optics.damping)

    def _expected_cutoff(self, scale: float) -> Cutoff:
        """Return what to expect of the optics, where an axis is enlarged by a scale."""
        if self._optics is None:
            return usual_cutoff(scale)
        return Cutoff(self._optics.cutoff / scale, _STATED_SPREAD)

    def _load_diffusion(self) -> DiffusionModel:
        return load(self._diffusion, self._precision, self._data.device)

    def _halves(self, generator: RandomGenerator) -> PhotonHalves:
        return self._dealt or PhotonHalves(self._model, self._data, self._noise, generator)

    def _make_dip(
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
            self._weights,
        )


# Standard deviation of noise, as a share of the data's range, below which SSIM restores as well or
# better: a grey level of 256, and a little.
_SEEN = 1.2 / 255
# The same where a plane is calmest: of eight photographs without noise seven lie below, and with
# noise of 1.2 grey levels none.
_CALM = 1.5 / 255
# Of the logarithm of a cut-off that follows from a numerical aperture and a wavelength: real
# objectives pass less than they say.
_STATED_SPREAD = 0.1
# Nats, see `RKSConfig.confidence`.
_COUNTING_CONFIDENCE = 1.0
# Of the largest tensors: float32 even where convolutions are bfloat16.
_BYTES_PER_VALUE = 4
# Whose mean is taken for what trials leave of a family.
_VOLUME_KERNELS = 32
