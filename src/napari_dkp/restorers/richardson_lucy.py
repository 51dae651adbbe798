"""Richardson–Lucy as image restorer: expectation–maximisation for counted photons (IR of eq. 16).

The photons are dealt to two halves, each is restored by itself, and the mean of the two is handed
out. So nothing that is noise in one half can be confirmed by the other: while the one half's image
describes the other half's photons ever better, steps add structure; when it no longer does, they
begin to add noise, and the run ends.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from napari_dkp.config import RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.device import float64_device
from napari_dkp.engine import RestorerStep
from napari_dkp.noise import Noise, split


class RichardsonLucyRestorer:
    """Climbs the Poisson likelihood of one LR plane under a Hessian penalty.

    A step is one of expectation–maximisation, x ← x · Aᵀ(n / m) / Aᵀ1 with m = A x + background
    (Richardson 1972, Lucy 1974), then the proximal map of the penalty in the metric of that step,
    then an extrapolation along the last change (Biggs and Andrews 1997).

    Parameters
    ----------
    model : forward model of the plane.
    data : y in normalised intensity, shape (C, h, w).
    noise : of that data.
    config : numbers of the method.
    generator : CPU generator that deals the photons.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        noise: Noise,
        config: RichardsonLucyConfig,
        generator: Generator,
    ) -> None:
        self._model = model
        self._noise = noise
        self._config = config
        counts = noise.counts(data)
        self._halves = split(counts, generator)
        # Darkness lies lower in the counts than any pixel does: the least of means over pixels.
        self._background = 0.5 * _darkest(counts)
        self._kernel: Tensor | None = None
        self._transfer = torch.empty(0)
        self._sensitivity = torch.empty(0)
        level = (self._halves.mean() - self._background).clamp_min(_LEAST_COUNTS)
        self._image = level.expand(2, len(data), *model.domain_shape).clone()
        self._point = self._image  # where the next step starts
        self._least = _LEAST_SHARE * level
        # √x of an image grows with its light as √level does, and so does what is structure in it.
        self._strength = 0.5 * config.strength * level.rsqrt()
        self._change: Tensor | None = None
        self._dual = self._image.new_zeros(2, len(data), 3, *model.domain_shape)
        self._weight = torch.zeros_like(self._image)
        self._steps = 0
        self._best = math.inf
        self._best_step = 0
        self._best_image = self._image
        self._best_residual = level.new_zeros(())

    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one step on both halves under `kernel`, shape (K, K)."""
        if kernel is not self._kernel:
            self._set_kernel(kernel)
        self._descend()
        self._steps += 1
        mean = self._model.forward_by(self._transfer, self._image) + self._background
        loss = _deviance(self._halves.flip(0), mean)
        if float(loss) < self._best:
            residual = (mean.sum(0) - self._halves.sum(0)).square().mean().sqrt()
            self._best, self._best_step = float(loss), self._steps
            self._best_image, self._best_residual = self._image, self._noise.gain * residual
        return RestorerStep(
            self._in_intensity(self._image.sum(0)),
            self._model.crop(self._in_intensity(self._best_image.sum(0))),
            loss.to(self._image),
            self._best_residual,
            done=self._steps - self._best_step >= self._config.patience,
        )

    def _in_intensity(self, counts: Tensor) -> Tensor:
        return self._noise.intensity(counts + 2 * self._background)

    def _set_kernel(self, kernel: Tensor) -> None:
        """Take up another kernel; what was best under the last one no longer counts."""
        self._kernel = kernel
        self._transfer = self._model.transfer(kernel)
        ones = torch.ones_like(self._halves[:1])
        # Past the frame few samples see a pixel: its image would grow out of next to nothing.
        self._sensitivity = self._adjoint(ones).clamp_min(_LEAST_SENSITIVITY)
        self._best = math.inf

    def _descend(self) -> None:
        start = self._point
        mean = self._model.forward_by(self._transfer, start) + self._background
        back = self._adjoint(self._halves / mean.clamp_min(_LEAST_COUNTS))
        image = (start * back / self._sensitivity).clamp_min(_POSITIVE)
        if self._config.strength:
            if self._steps % _WEIGHED_EVERY == 0:
                # d√x = dx / 2√x; the blurred image stands for x, for it has little noise.
                level = self._adjoint(mean) / self._sensitivity
                self._weight = self._strength * (level + 0.25).rsqrt()
            image = self._proximal(image, start.clamp_min(self._least) / self._sensitivity)
        change = image - start
        if self._change is not None and self._steps >= _UNACCELERATED:
            share = (_inner(change, self._change) / _inner(self._change, self._change)).clamp(
                0, _LARGEST_SHARE
            )
            self._point = (image + share * (image - self._image)).clamp_min(_POSITIVE)
        else:
            self._point = image
        self._change = change
        self._image = image

    def _proximal(self, image: Tensor, metric: Tensor) -> Tensor:
        """Return argmin Σ (x - image)² / (2 metric) + weight |∇²x|, by steps on its dual.

        The dual is kept from step to step, so that few of them do.
        """
        weight = self._weight
        widest = functional.max_pool2d(metric.flatten(0, 1), 3, 1, 1).reshape(metric.shape)
        pace = (1 / (_HESSIAN_NORM * weight * widest)).unsqueeze(2)
        for _ in range(_DUAL_STEPS):
            primal = (image - metric * _hessian_adjoint(self._dual, weight)).clamp_min(_POSITIVE)
            dual = self._dual + pace * _hessian(primal)
            length = dual.square().sum(2, keepdim=True).clamp_min(1).sqrt()  # norm() is slow
            self._dual = dual / length
        return (image - metric * _hessian_adjoint(self._dual, weight)).clamp_min(_POSITIVE)

    def _adjoint(self, samples: Tensor) -> Tensor:
        return self._model.adjoint_by(self._transfer, samples)


# Counts per pixel that stand for none where one divides by them.
_LEAST_COUNTS = 1e-3
_POSITIVE = 1e-8
# Of the mean image: the metric of darker pixels, which else could not leave the dark.
_LEAST_SHARE = 1e-3
_LEAST_SENSITIVITY = 1e-2
_WEIGHED_EVERY = 4
# Steps before the extrapolation: the first are so large that a fine choice among them matters.
_UNACCELERATED = 6
_LARGEST_SHARE = 0.9
_DUAL_STEPS = 2
# Largest eigenvalue of the squared Hessian operator, Σ (4 sin²)² over two axes.
_HESSIAN_NORM = 64.0


def _darkest(counts: Tensor) -> Tensor:
    """Return what the darkest thousandth of an image, smoothed over pixels, lies at."""
    smooth = functional.avg_pool2d(counts[None], 5, 1, 2, count_include_pad=False)[0]
    place = max(1, round(_DARK_SHARE * smooth.numel()))
    return smooth.flatten().kthvalue(place).values


_DARK_SHARE = 1e-3


def _deviance(counts: Tensor, mean: Tensor) -> Tensor:
    """Return the Poisson deviance per sample: about one where the mean is right."""
    # In float64: a run ends by differences in the seventh digit.
    home = float64_device(counts.device)
    mean = mean.clamp_min(_LEAST_COUNTS).to(home, torch.float64)
    counts = counts.to(home, torch.float64)
    return 2 * (mean - counts + torch.xlogy(counts, counts / mean)).mean()


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of each of some images, shape (2, 1, 1, 1)."""
    return (first * second).sum((1, 2, 3), keepdim=True).clamp_min(1e-30)


def _hessian(image: Tensor) -> Tensor:
    """Return ∂yy, ∂xx and √2 ∂xy of images (B, C, H, W), shape (B, C, 3, H, W); 0 at the rim."""
    result = image.new_zeros(*image.shape[:2], 3, *image.shape[2:])
    down = image[..., 1:, :] - image[..., :-1, :]
    right = image[..., :, 1:] - image[..., :, :-1]
    result[:, :, 0, 1:-1] = down[..., 1:, :] - down[..., :-1, :]
    result[:, :, 1, :, 1:-1] = right[..., :, 1:] - right[..., :, :-1]
    result[:, :, 2, :-1, :-1] = _ROOT_TWO * (right[..., 1:, :] - right[..., :-1, :])
    return result


def _hessian_adjoint(dual: Tensor, weight: Tensor) -> Tensor:
    """Return the adjoint of `_hessian` on weight · dual."""
    along, across, mixed = (dual * weight.unsqueeze(2)).unbind(2)
    result = torch.zeros_like(weight)
    inner = along[..., 1:-1, :]
    result[..., 2:, :] += inner
    result[..., :-2, :] += inner
    result[..., 1:-1, :] -= 2 * inner
    inner = across[..., :, 1:-1]
    result[..., :, 2:] += inner
    result[..., :, :-2] += inner
    result[..., :, 1:-1] -= 2 * inner
    inner = _ROOT_TWO * mixed[..., :-1, :-1]
    result[..., 1:, 1:] += inner
    result[..., :-1, :-1] += inner
    result[..., 1:, :-1] -= inner
    result[..., :-1, 1:] -= inner
    return result


_ROOT_TWO = math.sqrt(2)
