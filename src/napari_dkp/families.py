"""Kernel families: what kernels are drawn from, each with a uniform prior on the unit cube."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from napari_dkp import kernels, optics, vectorial_optics, volume_optics
from napari_dkp.config import PUBLISHED_FAMILIES, Interval, OpticsConfig, RKSConfig
from napari_dkp.degradation import Degradation


@dataclass(frozen=True)
class KernelFamily:
    """A family with its parameters mapped from the unit cube, uniform prior.

    Attributes
    ----------
    name : as in `Settings.kernel_family`.
    periodic : per parameter, whether 0 and 1 are the same (angles).
    render : points of the cube (N, p) to kernels (N, *shape).
    turned : points (N, p) to those of the same kernels turned by 180 degrees, (N, p); None where
        that makes no difference.
    """

    name: str
    periodic: tuple[bool, ...]
    render: Callable[[Tensor], Tensor]
    turned: Callable[[Tensor], Tensor] | None = None

    @property
    def n_parameters(self) -> int:
        """Dimension p of the cube."""
        return len(self.periodic)


def families(
    name: str, model: Degradation, config: RKSConfig, optics: OpticsConfig | None = None
) -> list[KernelFamily]:
    """Return the families that `kernel_family` stands for, with ranges fit for the model.

    Parameters
    ----------
    optics : of volumes, what is known and is no parameter of a family: the cone of light, what
        excites, the pinhole.
    """
    makers: dict[str, Callable[[Degradation, RKSConfig], KernelFamily]] = {
        "gaussian": _gaussian_family,
        "airy": _airy_family,
        "pupil": _pupil_family,
        "widefield": partial(_lens_family, "widefield", optics),
        "confocal": partial(_lens_family, "confocal", optics),
        "line": _line_family,
        "trajectory": _trajectory_family,
    }
    names = PUBLISHED_FAMILIES if name == "auto" else (name,)
    return [makers[entry](model, config) for entry in names]


def _gaussian_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Gaussians of a plane, or of a volume."""
    return (_axial_gaussians if model.ndim == 3 else _plane_gaussians)(model, config)


def _axial_gaussians(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Widths along and across the optical axis, log-uniform, in LR pixels: round in a plane."""
    scale = torch.tensor(model.scale)
    along = _given("axial_width", config.axial_width)
    across = _given("lateral_width", config.lateral_width)

    def render(points: Tensor) -> Tensor:
        axial = _log_uniform(points[:, 0], along)
        lateral = _log_uniform(points[:, 1], across)
        widths = torch.stack([axial, lateral, lateral], 1) * scale.to(points)
        return kernels.gaussian(
            torch.diag_embed(widths.square()), model.kernel_shape, model.kernel_centre
        )

    return KernelFamily("gaussian", (False, False), render)


def _plane_gaussians(model: Degradation, config: RKSConfig) -> KernelFamily:
    """λ₁, λ₂ and θ uniform, as published; in units stretched along each axis by its scale."""
    typical = math.prod(model.scale) ** (1 / model.ndim)
    low, high = config.gaussian_variance or _published_variance(typical)
    stretch = torch.tensor([math.sqrt(s / typical) for s in model.scale])

    def render(points: Tensor) -> Tensor:
        variance = low + (high - low) * points[:, :2]
        angle = math.pi * points[:, 2]
        sine, cosine = torch.sin(angle), torch.cos(angle)
        axes = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
        axes = stretch.to(points)[:, None] * axes
        covariance = (axes * variance[:, None]) @ axes.mT
        return kernels.gaussian(covariance, model.kernel_shape, model.kernel_centre)

    return KernelFamily("gaussian", (False, False, True), render)


def _airy_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Cut-off log-uniform, damping uniform."""

    def render(points: Tensor) -> Tensor:
        cutoff = _log_uniform(points[:, 0], _cutoff(config))
        low, high = config.damping
        damping = low + (high - low) * points[:, 1]
        return optics.airy(cutoff, damping, model.kernel_shape, model.kernel_centre)

    return KernelFamily("airy", (False, False), render)


def _pupil_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Cut-off log-uniform, the amount of each aberration uniform."""

    def render(points: Tensor) -> Tensor:
        cutoff = _log_uniform(points[:, 0], _cutoff(config))
        aberrations = config.aberration * (2 * points[:, 1:] - 1)
        return optics.pupil(cutoff, aberrations, model.kernel_shape, model.kernel_centre)

    return KernelFamily("pupil", (False,) * (1 + len(optics.ABERRATIONS)), render)


def _lens_family(
    name: str, optics: OpticsConfig | None, model: Degradation, config: RKSConfig
) -> KernelFamily:
    """Cut-off and defocus log-uniform."""
    lens = _lens(name, optics)
    defocus = _given("defocus", config.defocus)

    def render(points: Tensor) -> Tensor:
        return lens(
            _log_uniform(points[:, 0], _cutoff(config)),
            _log_uniform(points[:, 1], defocus) / model.scale[0],
            model.kernel_shape,
            model.kernel_centre,
        )

    return KernelFamily(name, (False, False), render)


def _lens(name: str, optics: OpticsConfig | None) -> Callable[..., Tensor]:
    """Return what makes kernels from cut-off and defocus, with all else as stated."""
    make = {"widefield": volume_optics.widefield, "confocal": volume_optics.confocal}[name]
    if optics is None:
        return make
    stated: dict[str, Any] = {"aperture": optics.aperture}
    if optics.model == "vectorial":
        stated["intensity"] = vectorial_optics.intensity
    if name == "confocal":
        stated |= {"excitation": optics.excitation_ratio, "pinhole": optics.pinhole}
    return partial(make, **stated)


def _given(name: str, interval: Interval | None) -> Interval:
    if interval is None:
        raise ValueError(f"{name}: expected an interval for a family of volumes; got None")
    return interval


def _cutoff(config: RKSConfig) -> Interval:
    if config.cutoff is None:
        raise ValueError("cutoff: expected an interval for a family of optics; got None")
    return config.cutoff


def _line_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Squared length uniform as variances are, angle over half a turn, width log-uniform."""
    longest = 0.85 * min(model.kernel_shape)
    length = config.line_length or (min(2.0, 0.5 * longest), longest)

    def render(points: Tensor) -> Tensor:
        return kernels.line(
            _root_uniform(points[:, 0], length),
            math.pi * points[:, 1],
            _log_uniform(points[:, 2], config.line_width),
            model.kernel_shape,
            model.kernel_centre,
        )

    return KernelFamily("line", (False, True, False), render)


def _trajectory_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Gaussian steps with momentum, through them a smooth path, of uniform squared extent."""
    longest = 0.85 * min(model.kernel_shape)
    extent = config.path_extent or (min(2.0, 0.5 * longest), longest)
    basis = _spline_basis(_PATH_KNOTS, _PATH_POINTS)
    n_steps = 2 * (_PATH_KNOTS - 1)

    def render(points: Tensor) -> Tensor:
        normal = torch.special.ndtri(points[:, :n_steps].clamp(1e-4, 1 - 1e-4))
        # Momentum: a camera keeps its direction for a while. Bends of all sizes: lines are paths.
        # Now and then it turns sharply: changes of direction have heavy tails.
        steps = normal.reshape(len(points), _PATH_KNOTS - 1, 2)
        changes = steps[:, 1:] * steps[:, 1:].square().sum(2, keepdim=True) / 2
        bend = points[:, n_steps + 2, None, None]
        steps = torch.cat([steps[:, :1], bend * changes], 1).cumsum(1)
        knots = torch.nn.functional.pad(steps.cumsum(1), (0, 0, 1, 0))
        path = basis.to(points) @ knots
        span = (path.amax(1) - path.amin(1)).norm(dim=1).clamp_min(1e-3)
        path = path * (_root_uniform(points[:, n_steps], extent) / span)[:, None, None]
        width = _log_uniform(points[:, n_steps + 1], config.path_width)
        return kernels.trajectory(path, width, model.kernel_shape, model.kernel_centre)

    def turned(points: Tensor) -> Tensor:
        return torch.cat([1 - points[:, :n_steps], points[:, n_steps:]], 1)

    return KernelFamily("trajectory", (False,) * (n_steps + 3), render, turned)


_PATH_KNOTS = 9
_PATH_POINTS = 40


def _published_variance(scale: float) -> Interval:
    """Return [0.175 s, min(2.5 s, 10)]; deblurring at scale 1 has to span the range of x4."""
    if scale == 1:
        return 0.175, 10.0
    return 0.175 * scale, min(2.5 * scale, 10.0)


def _spline_basis(knots: int, points: int) -> Tensor:
    """Return the matrix from knots to points of the cubic spline through them (Catmull-Rom)."""
    time = torch.linspace(0, knots - 1, points, dtype=torch.float64)
    segment = time.floor().clamp(max=knots - 2)
    u = time - segment
    weights = (
        -0.5 * u + u**2 - 0.5 * u**3,
        1 - 2.5 * u**2 + 1.5 * u**3,
        0.5 * u + 2 * u**2 - 1.5 * u**3,
        -0.5 * u**2 + 0.5 * u**3,
    )
    basis = torch.zeros(points, knots, dtype=torch.float64)
    for shift, weight in enumerate(weights, start=-1):
        index = (segment.long() + shift).clamp(0, knots - 1)
        basis.scatter_add_(1, index[:, None], weight[:, None])
    return basis.float()


def _root_uniform(points: Tensor, interval: Interval) -> Tensor:
    """Map uniform points to lengths whose squares are uniform, as the Gaussians' variances are."""
    low, high = interval
    return torch.sqrt(low**2 + (high**2 - low**2) * points)


def _log_uniform(points: Tensor, interval: Interval) -> Tensor:
    low, high = interval
    return low * (high / low) ** points
