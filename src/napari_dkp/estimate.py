"""What a run will cost: time and memory, from a short probe of its own parts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from napari_dkp.config import (
    MOTION_FAMILIES,
    PKEConfig,
    RKSConfig,
    Settings,
)
from napari_dkp.degradation import Degradation
from napari_dkp.device import float64_device, resolve_device, resolve_precision
from napari_dkp.diffusion.loading import load
from napari_dkp.diffusion.model import Footprint
from napari_dkp.engine import ImageRestorer, KernelPrior
from napari_dkp.families import families
from napari_dkp.gaussian_trials import WINDOW
from napari_dkp.kernel_edges import KernelEdges
from napari_dkp.kernel_prior import LEARNING_UPDATES, DynamicKernelPrior
from napari_dkp.kernel_sampling import moves_nearer, settling_moves
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.layout import Layout, guess_axes
from napari_dkp.noise import Noise
from napari_dkp.parts import Parts
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.schedule import (
    kernel_every,
    likely_steps,
    planes_together,
    search_plan,
    searching_sampling,
    standing_after,
    trial_steps,
)
from napari_dkp.tile_size import COUNTING_BYTES, TileSize
from napari_dkp.volume_trials import USUAL_STEPS, model_of_trials


@dataclass(frozen=True)
class Estimate:
    """Cost of a run.

    Attributes
    ----------
    seconds : wall time, as the device is loaded now.
    memory : bytes in use on the device at the peak, in tiles where the image does not fit.
    """

    seconds: float
    memory: int


def estimate(
    lr_shape: tuple[int, ...],
    settings: Settings,
    *,
    device: str | None = None,
    known_kernel: bool = False,
) -> Estimate:
    """Return the cost of restoring an image.

    The first call with such settings runs a few steps on a small plane, some tenths of a second;
    later calls, for whatever image size, reuse what was found.

    Parameters
    ----------
    lr_shape : shape of the image, axes as in `settings.axes`.
    settings : of the run.
    device : instead of `settings.device`.
    known_kernel : the run is given a PSF.

    Raises
    ------
    ValueError
        If the axes do not fit the shape, or have no Z with volume=True.
    """
    settings = settings.resolve()
    axes = settings.axes or guess_axes(lr_shape)
    layout = Layout.of(np.broadcast_to(0, lr_shape), axes, settings.spatial)
    spatial, channels = layout.lr_shape, layout.colours
    groups = layout.channels
    planes = len(layout.planes) // groups
    on = resolve_device(device or settings.device)
    shared = settings.share_kernel and planes > 1
    together = min(planes, planes_together(settings, channels)) if shared else 1
    model = _model(spatial, settings)
    tiles = TileSize(settings, model, channels * together, on)
    n_tiles = len(tiles.tiling)
    model = replace(model, lr_shape=tuple(min(n, tiles.side) for n in spatial))
    pixels = math.prod(model.domain_shape)
    probe = _probe(
        # What makes no difference to a step makes none to what is remembered.
        replace(
            settings,
            axes=None,
            iterations=10,
            seed=0,
            preset="balanced",
            share_kernel=True,
            tile=None,
            optics=None,
        ),
        channels,
        str(on),
    )
    larger = max(1.0, pixels / probe.pixels)
    if settings.volume:
        tried = math.prod(model_of_trials(model).domain_shape) / probe.pixels
    else:
        window = math.prod(WINDOW + taps for taps in model.kernel_shape)
        tried = max(1.0, min(pixels, window) / probe.pixels)
    count = Counts.of(settings, known_kernel=known_kernel)
    samples = min(math.prod(model.lr_shape), count.max_sites)
    image_seconds = probe.image_seconds * larger
    blind = (
        count.warm_ups * probe.warm_up_seconds
        + count.updates * probe.kernel_seconds * max(1.0, samples / probe.sites)
        + count.search_steps * probe.search_seconds * larger
        + count.trial_steps * probe.trial_seconds * tried
    )
    if count.spectra:
        near = replace(model, lr_shape=tuple(min(n, _LARGEST_TIMED) for n in model.lr_shape))
        sampling = searching_sampling(settings)
        blind += count.spectra * _spectrum_seconds(near, sampling, str(on))
        if count.patches:
            preparing, hearing = _edges_seconds(near, sampling, str(on))
            blind += preparing + count.patches * hearing
    # Of a network that makes several images, most is paid once.
    block_seconds = image_seconds * (1 + _ANOTHER_IMAGE * (together - 1))
    parts = n_tiles * (math.ceil(planes / together) if shared else 1)
    if parts == 1:
        seconds = blind + count.steps * block_seconds
    else:  # what they share is found first, in pieces
        pilot = blind + count.steps * image_seconds
        seconds = pilot + parts * likely_steps(settings) * block_seconds
    return Estimate(
        seconds=groups * (1 if shared else planes) * seconds,
        memory=_memory(probe, settings, channels, pixels, larger),
    )


def _memory(probe: "_Probe", settings: Settings, channels: int, pixels: int, larger: float) -> int:
    """Return the bytes of a plane of so many pixels, or so many times larger than the probe's."""
    if not probe.model or not settings.diffusion:
        return round(probe.bytes * larger)
    images = settings.diffusion.samples * (1 if channels == probe.model.channels else channels)
    return probe.model.bytes(images * pixels) + _DIFFUSED_BYTES * images * pixels


@dataclass(frozen=True)
class Counts:
    """What a run does per plane.

    Attributes
    ----------
    warm_ups : of the kernel network.
    updates : of the kernel.
    max_sites : LR samples that an update looks at.
    search_steps, steps : image steps of the kernel search and of the restoration proper.
    trial_steps : image steps of trials: at most, or of volumes the usual number.
    spectra, patches : times that a population of kernels is held against the plane's power
        spectrum, and against its patches.
    """

    warm_ups: int
    updates: int
    max_sites: int
    search_steps: int
    steps: int
    trial_steps: int = 0
    spectra: int = 0
    patches: int = 0

    @classmethod
    def of(cls, settings: Settings, *, known_kernel: bool = False) -> "Counts":
        """Count for resolved settings."""
        rks, search, steps = settings.rks, settings.search, settings.iterations
        if not (rks and search and steps):
            raise ValueError("settings: expected resolved settings; got some with open fields")
        if known_kernel:
            return cls(0, 0, 0, 0, steps)
        if settings.volume:
            return cls(0, 0, 0, 0, steps, USUAL_STEPS if trial_steps(settings) else 0)
        if plan := search_plan(settings):
            if settings.method == "richardson-lucy":
                settled = max(1, plan.settled)
                updates = plan.near * _updates(plan.following, rks.every, rks.every)
                late = plan.followed - plan.near
                updates += late * _updates(plan.following, settled, rks.every)
                return cls(1, updates, rks.max_sites, plan.n_steps, steps)
            updates = LEARNING_UPDATES * plan.learnt
            spectra, patches = _heard(settings, updates * searching_sampling(settings).moves)
            return cls(
                min(1, plan.learnt),
                updates,
                search.max_sites,
                plan.n_steps,
                steps - plan.n_steps if plan.within else steps,
                spectra=spectra,
                patches=patches,
            )
        updates = _updates(steps, 1, kernel_every(settings))
        standing = standing_after(settings)
        updates = updates if standing is None else min(updates, standing)
        return cls(1, updates, rks.max_sites, 0, steps, trial_steps(settings))


def _heard(settings: Settings, moves: int) -> tuple[int, int]:
    """Count how often a population is held against the spectrum, and against patches.

    Parameters
    ----------
    moves : later ones, in updates by images.
    """
    assert settings.rks
    name = settings.kernel_family if settings.kernel_family in MOTION_FAMILIES else "gaussian"
    (family,) = families(name, _model((_LARGEST_TIMED, _LARGEST_TIMED), settings), settings.rks)
    spectra = 1 + settling_moves(family) + moves
    if name != "trajectory":
        return spectra, 0
    turns = 2 if family.turned else 1
    nearer = turns * moves_nearer(family)
    return spectra + nearer, turns + nearer + moves


def _updates(n_steps: int, after: int, every: int) -> int:
    """Count the kernel updates of `engine.alternate`: none after the last image step."""
    return max(0, (n_steps - 1) // every - (after - 1) // every)


@dataclass(frozen=True)
class _Probe:
    pixels: int
    sites: int
    image_seconds: float
    search_seconds: float
    trial_seconds: float
    kernel_seconds: float
    warm_up_seconds: float
    bytes: int
    model: Footprint | None


@lru_cache(maxsize=64)
def _probe(settings: Settings, channels: int, device: str) -> _Probe:
    """Time the parts of a run on a plane of about _PROBE_SIDE² HR pixels, or a small volume."""
    ndim = len(settings.spatial)
    scales, sizes = settings.scales(ndim), settings.kernel_sizes(ndim)
    side = _PROBE_SIDE if ndim == 2 else _PROBE_DEPTH
    shape = tuple(math.ceil(max(side, k) / s) for s, k in zip(scales, sizes, strict=True))
    model = _model(shape, settings)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(channels, *model.lr_shape, generator=generator).to(device)
    warm_up_steps = settings.pke.warm_up if settings.pke else 0
    pke = replace(settings.pke or PKEConfig(), warm_up=_PROBE_WARM_UP)
    # What a microscope's optics cost to find is not probed: random data has none.
    rks = replace(settings.rks or RKSConfig(), cutoff=(0.2, 0.3))
    settings = replace(settings, pke=pke, rks=rks)
    noise = Noise(0.01, 0.0)
    parts = Parts(model, data, (0.0, 1.0), noise, settings)
    plan = search_plan(settings)
    prior: KernelPrior | None = None
    scout: ImageRestorer
    if settings.volume:
        kernel, warm_up = data.new_ones(model.kernel_shape) / math.prod(model.kernel_shape), 0.0
        halves = PhotonHalves(model, data, noise, generator)
        scout = RichardsonLucyRestorer(model, halves, patience=_PROBE_STEPS)
    else:
        make_prior = parts.search_prior if plan else parts.prior
        prior = make_prior(generator)
        fresh = [prior, make_prior(generator)]
        kernel, warm_up = _timed(lambda: fresh.pop().step(None), device)
        scout = parts.scout(_PROBE_STEPS, generator)
    restorer = parts.restorer(generator, _PROBE_STEPS)
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step = restorer.step(kernel)
    # On CUDA the first steps are not yet replayed; elsewhere other programs come in between.
    n_steps = 6
    _, image_seconds = _timed(lambda: restorer.step(kernel), device, n_steps)
    _, search_seconds = _timed(lambda: scout.step(kernel), device, n_steps)
    kernel_seconds = 0.0
    if prior is not None:
        learns = plan and settings.method != "richardson-lucy"
        if learns and isinstance(prior, DynamicKernelPrior):
            _, learning = _timed(partial(prior.learned, step.image, kernel), device)
            kernel_seconds = learning / LEARNING_UPDATES
        else:
            _, kernel_seconds = _timed(partial(prior.step, step.image), device)
    return _Probe(
        pixels=math.prod(model.domain_shape),
        sites=math.prod(model.lr_shape),
        image_seconds=image_seconds,
        search_seconds=search_seconds,
        trial_seconds=search_seconds if settings.volume else image_seconds,
        kernel_seconds=kernel_seconds,
        warm_up_seconds=warm_up * warm_up_steps / _PROBE_WARM_UP,
        bytes=_bytes(saved, channels * math.prod(model.domain_shape)),
        model=_footprint(settings, device),
    )


@lru_cache(maxsize=16)
def _spectrum_seconds(model: Degradation, rks: RKSConfig, device: str) -> float:
    """Time the likelihood of a population under a power spectrum; all large planes take as long."""
    generator = torch.Generator().manual_seed(0)
    home = float64_device(torch.device(device))  # where populations are
    data = torch.rand(1, *model.lr_shape, generator=generator)
    spectrum = KernelSpectrum(model, data, home)
    kernels = torch.rand(rks.particles, *model.kernel_shape, generator=generator).to(home)
    _, seconds = _timed(lambda: spectrum(kernels), str(home))
    return seconds


@lru_cache(maxsize=16)
def _edges_seconds(model: Degradation, rks: RKSConfig, device: str) -> tuple[float, float]:
    """Time the likelihood of a population under a plane full of edges: to prepare it, and once."""
    generator = torch.Generator().manual_seed(0)
    home = float64_device(torch.device(device))
    blocks = torch.rand(1, *(math.ceil(n / _BLOCK) for n in model.lr_shape), generator=generator)
    rows, columns = model.lr_shape
    data = blocks.repeat_interleave(_BLOCK, 1).repeat_interleave(_BLOCK, 2)[:, :rows, :columns]
    (family,) = families("trajectory", model, rks)
    points = torch.rand(_SETTLED_KERNELS, family.n_parameters, generator=generator)
    few = family.render(points.to(home))
    kernels = few.repeat(math.ceil(rks.particles / len(few)), 1, 1)
    edges, preparing = _timed(lambda: KernelEdges(model, data, 0.0, [kernels]), str(home), 1)
    _, hearing = _timed(lambda: edges(kernels), str(home))
    return preparing, hearing


def _model(lr_shape: tuple[int, ...], settings: Settings) -> Degradation:
    scales, taps = settings.scales(len(lr_shape)), settings.taps(lr_shape)
    return Degradation(lr_shape, scales, taps, settings.phase, settings.boundary)


def _footprint(settings: Settings, device: str) -> Footprint | None:
    if settings.method != "diffusion" or not settings.diffusion:
        return None
    on = torch.device(device)
    return load(settings.diffusion, resolve_precision(settings.precision, on), on).footprint


def _bytes(saved: dict[int, int], values: int) -> int:
    """Return the memory at the peak, from what a backward pass keeps, by address, if there is one.

    Parameters
    ----------
    values : of the restored image.
    """
    if not saved:
        return COUNTING_BYTES * values
    # Half as much again for its own temporaries, and what lies idle where blocks do not fit into
    # one another's places.
    return round(1.8 * sum(saved.values()))


# Of each pixel of an image that a diffusion model sees, as measured: x_t in colours, before and
# after, with their temporaries.
_DIFFUSED_BYTES = 400
# Of a step on one image, what each further one costs that the same network makes.
_ANOTHER_IMAGE = 0.15
_PROBE_SIDE = 128
_PROBE_DEPTH = 24
_PROBE_WARM_UP = 3
# Different ones that reach as many taps as a population does which has settled.
_SETTLED_KERNELS = 4
# Samples along a side of what is even, where a plane is full of edges.
_BLOCK = 8
# Samples along an axis beyond which no more of a spectrum is looked at.
_LARGEST_TIMED = 512
# Of a scout that is only timed: more than are taken, so that its loss stays the same.
_PROBE_STEPS = 100


T = TypeVar("T")


def _timed(call: Callable[[], T], device: str, n_calls: int = 2) -> tuple[T, float]:
    """Return a call's value and its shortest time of some: the first one also sets things up."""
    times = []
    for _ in range(n_calls):
        began = perf_counter()
        value = call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(perf_counter() - began)
    return value, min(times)
