"""What a run will cost: time and memory, from a short probe of its own parts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import TypeVar

import torch

from napari_dkp.config import PKEConfig, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import resolve_device
from napari_dkp.stack import build, guess_axes


@dataclass(frozen=True)
class Estimate:
    """Cost of a run.

    Attributes
    ----------
    seconds : wall time, as the device is loaded now.
    memory : bytes in use on the device at the peak.
    """

    seconds: float
    memory: int


def estimate(
    lr_shape: tuple[int, ...], settings: Settings, *, device: str | None = None
) -> Estimate:
    """Return the cost of restoring an image.

    The first call with such settings runs a few steps on a small plane, some tenths of a second;
    later calls, for whatever image size, reuse what was found. A run with a known PSF costs a
    little less than this says.

    Parameters
    ----------
    lr_shape : shape of the image, axes as in `settings.axes`.
    settings : of the run.
    device : instead of `settings.device`.
    """
    settings = settings.resolve()
    axes = settings.axes or guess_axes(lr_shape)
    spatial = tuple(lr_shape[axes.index(letter)] for letter in "YX")
    channels = lr_shape[axes.index("C")] if "C" in axes else 1
    planes = math.prod(lr_shape[axes.index(letter)] for letter in axes if letter in "TZ")
    model = Degradation(
        spatial, settings.scales(2), settings.kernel_sizes(2), settings.phase, settings.boundary
    )
    pixels = math.prod(model.domain_shape)
    rks = settings.rks
    sites = min(math.prod(spatial), rks.max_sites) if rks else 0
    probe = _probe(
        replace(settings, axes=None, iterations=10, seed=0, preset="balanced"),
        channels,
        str(resolve_device(device or settings.device)),
    )
    steps = settings.iterations or 0
    image = probe.image_seconds * max(1.0, pixels / probe.pixels)
    kernel = probe.kernel_seconds * max(1.0, sites / probe.sites)
    updates = min(steps // rks.every, rks.updates) if rks else 0
    warm_up = probe.warm_up_seconds * (settings.pke.warm_up if settings.pke else 0)
    return Estimate(
        seconds=planes * (warm_up + steps * image + updates * kernel),
        memory=round(probe.bytes * max(1.0, pixels / probe.pixels)),
    )


@dataclass(frozen=True)
class _Probe:
    pixels: int
    sites: int
    image_seconds: float
    kernel_seconds: float
    warm_up_seconds: float
    bytes: int


@lru_cache(maxsize=64)
def _probe(settings: Settings, channels: int, device: str) -> _Probe:
    """Time one image step and one kernel step on a plane of about _PROBE_SIDE² HR pixels."""
    scales, sizes = settings.scales(2), settings.kernel_sizes(2)
    lr_shape = tuple(math.ceil(max(_PROBE_SIDE, k) / s) for s, k in zip(scales, sizes, strict=True))
    model = Degradation(lr_shape, scales, sizes, settings.phase, settings.boundary)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(channels, *lr_shape, generator=generator).to(device)
    pke = replace(settings.pke or PKEConfig(), warm_up=_PROBE_WARM_UP)
    restorer, prior = build(model, data, (0.0, 1.0), replace(settings, pke=pke))
    kernel, warm_up = _timed(lambda: prior.step(None), device)
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step = restorer.step(kernel)
    _, image_seconds = _timed(lambda: restorer.step(kernel), device)
    _, kernel_seconds = _timed(lambda: prior.step(step.image), device)
    return _Probe(
        pixels=math.prod(model.domain_shape),
        sites=math.prod(lr_shape),
        image_seconds=image_seconds,
        kernel_seconds=kernel_seconds,
        warm_up_seconds=warm_up / _PROBE_WARM_UP,
        # What the backward pass needs, and half as much again for its own temporaries.
        bytes=round(1.5 * sum(saved.values())),
    )


_PROBE_SIDE = 128
_PROBE_WARM_UP = 3


T = TypeVar("T")


def _timed(call: Callable[[], T], device: str) -> tuple[T, float]:
    """Return a call's value and its shorter time of two: the first one also sets things up."""
    times = []
    for _ in range(2):
        began = perf_counter()
        value = call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(perf_counter() - began)
    return value, min(times)
