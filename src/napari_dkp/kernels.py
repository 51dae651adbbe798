"""Point spread functions as pure, vectorised functions of their parameters.

Every function maps N parameter sets to N kernels of shape (N, *shape): non-negative, of sum 1, with
their centroid at `centre` (in taps). Those of microscopes are in `optics`.
"""

import torch
from torch import Tensor

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


def covariance(kernels: Tensor, centre: Centre) -> Tensor:
    """Return the second moments of kernels (N, *shape) about their centroids, shape (N, d, d)."""
    shape = tuple(kernels.shape[1:])
    offsets = _offsets(shape, centre, kernels)
    flat = kernels.flatten(1) / kernels.flatten(1).sum(1, keepdim=True)
    return _covariance(flat, flat @ offsets, _products(offsets))


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
        spread = _covariance(weights, mean, products)
        spread = spread + _RIDGE * torch.eye(offsets.shape[1], device=flat.device, dtype=flat.dtype)
        inverse = torch.linalg.inv_ex(spread).inverse  # without a look at the host
    step: Tensor = (inverse @ mean[:, :, None])[..., 0]
    return step


# Pixels squared; keeps the step finite for kernels of a single tap, which no tilt can move.
_RIDGE = 1e-4
# Nepers per pixel: enough to pull a wide kernel by several pixels, too little to overflow.
_MAX_TILT = 3.0
_MAX_TILT_STEP = 0.5


def _covariance(weights: Tensor, mean: Tensor, products: Tensor) -> Tensor:
    """Return E[u uᵀ] - E[u] E[u]ᵀ under weights (N, taps), shape (N, d, d)."""
    second: Tensor = (weights @ products).unflatten(1, 2 * mean.shape[1:])
    return second - mean[:, :, None] * mean[:, None]


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
