"""Kernel families as pure, vectorised functions.

Every function maps N parameter sets to N point spread functions of shape (N, *shape): non-negative,
of sum 1, with their centroid at `centre` (in taps). A `KernelFamily` gives a function a uniform
prior: its parameters are points of the unit cube.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_dkp.config import KERNEL_FAMILIES, Interval, RKSConfig
from napari_dkp.degradation import Degradation

Shape = tuple[int, ...]
Centre = tuple[float, ...]


def gaussian(covariance: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Return anisotropic Gaussians exp(-½ uᵀ Σ⁻¹ u).

    Parameters
    ----------
    covariance : Σ in pixels squared, shape (N, d, d), d = len(shape).
    """
    offsets = _offsets(shape, centre, covariance)
    precision = torch.linalg.inv(covariance)
    exponent = -0.5 * precision.flatten(1) @ _products(offsets).T  # uᵀ Σ⁻¹ u, all in one product
    return _finish(torch.softmax(exponent, 1), shape, centre)


def line(length: Tensor, angle: Tensor, width: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Return linear motions: a segment swept by a Gaussian, in closed form.

    Parameters
    ----------
    length : of the segment, pixels, shape (N,).
    angle : from the last axis towards the first, radians, shape (N,).
    width : sigma of the Gaussian, pixels, shape (N,).
    """
    row, column = _offsets(shape, centre, length).T
    sine, cosine = torch.sin(angle)[:, None], torch.cos(angle)[:, None]
    along = cosine * column + sine * row
    across = cosine * row - sine * column
    sigma = width[:, None]
    half = 0.5 * length[:, None]
    swept = torch.special.ndtr((along + half) / sigma) - torch.special.ndtr((along - half) / sigma)
    return _finish(swept * torch.exp(-0.5 * (across / sigma) ** 2), shape, centre)


def trajectory(path: Tensor, width: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Return camera shake: a Gaussian carried along a path, equal time at each of its points.

    Parameters
    ----------
    path : points in pixels, shape (N, T, d); only their shape counts, not where they are.
    width : sigma of the Gaussian, pixels, shape (N,).
    """
    path = path - path.mean(1, keepdim=True)
    profiles = []
    for axis, (taps, middle) in enumerate(zip(shape, centre, strict=True)):
        grid = torch.arange(taps, device=path.device, dtype=path.dtype) - middle
        distance = (grid - path[..., axis, None]) / width[:, None, None]
        profiles.append(torch.exp(-0.5 * distance**2))
    kernels = profiles[0]
    for profile in profiles[1:-1]:
        kernels = (kernels[..., None] * profile[:, :, None]).flatten(2)
    return _finish((kernels.transpose(1, 2) @ profiles[-1]).flatten(1), shape, centre)


def fix_centroid(kernels: Tensor, centre: Centre, steps: int = 6) -> Tensor:
    """Return the kernels nearest in relative entropy whose centroid is `centre`.

    The minimiser of KL(k' ‖ k) under a fixed mean is the exponential tilt k' ∝ k exp(λᵀu); λ is
    found by Newton's method on a convex function. Values stay non-negative, sums stay 1, nothing is
    interpolated.

    Parameters
    ----------
    kernels : shape (N, *shape), each of sum 1.
    """
    shape = tuple(kernels.shape[1:])
    offsets = _offsets(shape, centre, kernels)
    products = _products(offsets)
    flat = kernels.flatten(1)
    tilt = flat.new_zeros(len(flat), len(shape))
    with torch.no_grad():
        for _ in range(steps):
            step = _newton_step(flat, offsets, products, tilt)
            tilt = (tilt - step.clamp(-_MAX_TILT_STEP, _MAX_TILT_STEP)).clamp(-_MAX_TILT, _MAX_TILT)
    if kernels.requires_grad:
        # At the solution this step is zero, but its gradient is that of the solution (implicit
        # function theorem); without it, a loss would push kernels against their fixed centroid.
        tilt = tilt - _newton_step(flat, offsets, products, tilt)
    return _tilted(flat, offsets, tilt).reshape(kernels.shape)


def _newton_step(flat: Tensor, offsets: Tensor, products: Tensor, tilt: Tensor) -> Tensor:
    """Return Cov⁻¹ E[u] under the tilted kernels; differentiable in E[u] only."""
    weights = _tilted(flat, offsets, tilt)
    mean = weights @ offsets
    with torch.no_grad():
        spread = (weights @ products).unflatten(1, 2 * offsets.shape[1:])
        spread = spread - mean[:, :, None] * mean[:, None]
        spread = spread + _RIDGE * torch.eye(offsets.shape[1], device=flat.device, dtype=flat.dtype)
        inverse = torch.linalg.inv_ex(spread).inverse  # without a look at the host
    step: Tensor = (inverse @ mean[:, :, None])[..., 0]
    return step


# Pixels squared; keeps the step finite for kernels of a single tap, which no tilt can move.
_RIDGE = 1e-4
# Nepers per pixel: enough to pull a wide kernel by several pixels, too little to overflow.
_MAX_TILT = 3.0
_MAX_TILT_STEP = 0.5


@dataclass(frozen=True)
class KernelFamily:
    """A family with its parameters mapped from the unit cube, uniform prior.

    Attributes
    ----------
    name : as in `Settings.kernel_family`.
    periodic : per parameter, whether 0 and 1 are the same (angles).
    render : points of the cube (N, p) to kernels (N, *shape).
    """

    name: str
    periodic: tuple[bool, ...]
    render: Callable[[Tensor], Tensor]

    @property
    def n_parameters(self) -> int:
        """Dimension p of the cube."""
        return len(self.periodic)


def families(name: str, model: Degradation, config: RKSConfig) -> list[KernelFamily]:
    """Return the families that `kernel_family` stands for, with ranges fit for the model."""
    makers = {"gaussian": _gaussian_family, "line": _line_family, "trajectory": _trajectory_family}
    names = [entry for entry in KERNEL_FAMILIES if entry != "auto"] if name == "auto" else [name]
    return [makers[entry](model, config) for entry in names]


def _gaussian_family(model: Degradation, config: RKSConfig) -> KernelFamily:
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
        return gaussian(covariance, model.kernel_shape, model.kernel_centre)

    return KernelFamily("gaussian", (False, False, True), render)


def _line_family(model: Degradation, config: RKSConfig) -> KernelFamily:
    """Squared length uniform as variances are, angle over half a turn, width log-uniform."""
    longest = 0.85 * min(model.kernel_shape)
    length = config.line_length or (min(2.0, 0.5 * longest), longest)

    def render(points: Tensor) -> Tensor:
        return line(
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
        steps = normal.reshape(len(points), _PATH_KNOTS - 1, 2)
        bend = points[:, n_steps + 2, None, None]
        steps = torch.cat([steps[:, :1], bend * steps[:, 1:]], 1).cumsum(1)
        knots = torch.nn.functional.pad(steps.cumsum(1), (0, 0, 1, 0))
        path = basis.to(points) @ knots
        span = (path.amax(1) - path.amin(1)).norm(dim=1).clamp_min(1e-3)
        path = path * (_root_uniform(points[:, n_steps], extent) / span)[:, None, None]
        width = _log_uniform(points[:, n_steps + 1], config.path_width)
        return trajectory(path, width, model.kernel_shape, model.kernel_centre)

    return KernelFamily("trajectory", (False,) * (n_steps + 3), render)


_PATH_KNOTS = 6
_PATH_POINTS = 32


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


def _offsets(shape: Shape, centre: Centre, like: Tensor) -> Tensor:
    """Return every tap's position relative to the centre, shape (prod(shape), d)."""
    axes = [
        torch.arange(taps, device=like.device, dtype=like.dtype) - middle
        for taps, middle in zip(shape, centre, strict=True)
    ]
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")], 1)


def _products(offsets: Tensor) -> Tensor:
    """Return u uᵀ of every tap, flattened, shape (taps, d²)."""
    return (offsets[:, :, None] * offsets[:, None]).flatten(1)


def _tilted(flat: Tensor, offsets: Tensor, tilt: Tensor) -> Tensor:
    exponent = tilt @ offsets.T
    weights = flat * torch.exp(exponent - exponent.amax(1, keepdim=True))
    return weights / weights.sum(1, keepdim=True)


def _finish(flat: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Normalise, and undo what cutting the kernel at the array's edge did to its centroid."""
    flat = flat / flat.sum(1, keepdim=True)
    return fix_centroid(flat.reshape(-1, *shape), centre, steps=3)
