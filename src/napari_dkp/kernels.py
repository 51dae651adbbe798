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
    return _centred(exponent, shape, centre, steps=2)


def covariance(kernels: Tensor, centre: Centre) -> Tensor:
    """Return the second moments of kernels (N, *shape) about their centroids, shape (N, d, d)."""
    shape = tuple(kernels.shape[1:])
    offsets = _offsets(shape, centre, kernels)
    flat = kernels.flatten(1) / kernels.flatten(1).sum(1, keepdim=True)
    return _covariance(flat @ offsets, flat @ _products(offsets))


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

    Values stay non-negative, sums stay 1, nothing is interpolated; see `CentredSoftmax`.

    Parameters
    ----------
    kernels : shape (N, *shape), each of sum 1.
    steps : of Newton's method.
    """
    least = torch.finfo(kernels.dtype).tiny  # zeros have no logarithm
    logits = kernels.flatten(1).clamp_min(least).log()
    return _centred(logits, tuple(kernels.shape[1:]), centre, steps)


class CentredSoftmax:
    """The softmax, tilted to a given centroid: kernels k ∝ exp(a + λᵀu) of logits a.

    Under a fixed mean, the minimiser of KL(k ‖ softmax(a)) is this exponential tilt; λ is found by
    Newton's method on a convex function.

    Parameters
    ----------
    shape, centre : taps per axis, and the centroid.
    like : a tensor of the device and dtype to compute with.
    """

    def __init__(self, shape: Shape, centre: Centre, like: Tensor) -> None:
        self._offsets = _offsets(shape, centre, like)
        self._moments = torch.cat([self._offsets, _products(self._offsets)], 1).T.contiguous()
        self._ridge = _RIDGE * torch.eye(len(shape), device=like.device, dtype=like.dtype)

    def __call__(self, logits: Tensor, tilt: Tensor) -> Tensor:
        """Return kernels, shape (N, taps), under given tilts."""
        return torch.addmm(logits, tilt, self._offsets.T).softmax(1)

    def tilt(self, logits: Tensor, start: Tensor | None = None, steps: int = 6) -> Tensor:
        """Return the tilts λ, shape (N, d), that put the centroids in place.

        Parameters
        ----------
        logits : shape (N, taps).
        start : near them; None for none.
        steps : of Newton's method.
        """
        tilt = logits.new_zeros(len(logits), len(self._ridge)) if start is None else start
        for _ in range(steps):
            mean, inverse = self._spread(self(logits, tilt))
            step = (inverse @ mean[:, :, None])[..., 0]
            tilt = (tilt - step.clamp(-_MAX_TILT_STEP, _MAX_TILT_STEP)).clamp(-_MAX_TILT, _MAX_TILT)
        return tilt

    def gradient(self, kernels: Tensor, slope: Tensor) -> Tensor:
        """Return the gradient of a loss by the logits, tilts following them.

        It is k times what a regression of the slope on the taps' positions, weighted by k, leaves:
        a loss does not push kernels against their sum and centroid, which are fixed.

        Parameters
        ----------
        kernels : shape (N, taps), centroids in place.
        slope : gradient of the loss by the kernels, same shape.
        """
        pull = kernels * slope
        pull = pull - kernels * pull.sum(1, keepdim=True)
        _, inverse = self._spread(kernels)
        trend = inverse @ (pull @ self._offsets)[:, :, None]
        return pull - kernels * (trend[..., 0] @ self._offsets.T)

    def _spread(self, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[u] and Cov[u]⁻¹ under kernels, shapes (N, d) and (N, d, d)."""
        d = len(self._ridge)
        mean, second = (kernels @ self._moments.T).split([d, d * d], 1)
        spread = _covariance(mean, second) + self._ridge
        return mean, torch.linalg.inv_ex(spread).inverse  # without a look at the host


# Pixels squared; keeps the step finite for kernels of a single tap, which no tilt can move.
_RIDGE = 1e-4
# Nepers per pixel: enough to pull a wide kernel by several pixels, too little to overflow.
_MAX_TILT = 3.0
_MAX_TILT_STEP = 0.5


def _covariance(mean: Tensor, second: Tensor) -> Tensor:
    """Return E[u uᵀ] - E[u] E[u]ᵀ, shape (N, d, d), of moments (N, d) and (N, d²)."""
    d = mean.shape[1]
    return second.reshape(-1, d, d) - mean[:, :, None] * mean[:, None]


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


def _centred(logits: Tensor, shape: Shape, centre: Centre, steps: int) -> Tensor:
    softmax = CentredSoftmax(shape, centre, logits)
    return softmax(logits, softmax.tilt(logits, steps=steps)).reshape(-1, *shape)


def _finish(flat: Tensor, shape: Shape, centre: Centre) -> Tensor:
    """Normalise, and undo what cutting the kernel at the array's edge did to its centroid."""
    flat = flat / flat.sum(1, keepdim=True)
    return fix_centroid(flat.reshape(-1, *shape), centre, steps=3)
