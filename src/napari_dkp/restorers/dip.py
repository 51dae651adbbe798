"""The deep image prior as image restorer (DIP, eqs. 17-20)."""

import math
from itertools import combinations
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from napari_dkp.config import DIPConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.randomness import initialise
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.graphs import Replayed, make_graph
from napari_dkp.restorers.networks import make_network
from napari_dkp.restorers.optimisers import make_optimisers, set_learning_rate


class DIPRestorer:
    """Fits an untrained network G_x(z; φ_x) to one LR plane or volume (eq. 19, image part).

    Parameters
    ----------
    model : forward model of the plane, or of the volume.
    data : y in normalised intensity, shape (C, *lr_shape).
    bounds : lowest and highest intensity that the image may take, normalised; the highest may be
        infinite: x is then exp(G_x) times what one Richardson-Lucy step makes of even light,
        Aᵀy / Aᵀ1 under the first kernel, both above the lowest. That reaches far in few steps, and
        starts with less noise than the data.
    config : network and fitting.
    n_steps : planned steps; places the change from SSIM to squared error, the settling and the
        growth of the gradient prior.
    precision : dtype of the network's convolutions.
    generator : CPU generator of z and of the initial φ_x.
    seen : LR samples that the fit is held to, bool, shape lr_shape; None for all. At the others the
        residual counts as zero; under SSIM their data still takes part in the local means of their
        neighbours.
    weights : of each squared residual, shape of `data`; None for ones. SSIM has none.
    """

    def __init__(
        self,
        model: Degradation,
        data: Tensor,
        bounds: tuple[float, float],
        config: DIPConfig,
        n_steps: int,
        precision: torch.dtype,
        generator: Generator,
        seen: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self._model = model
        self._data = data
        self._seen = seen
        self._weights = weights
        # Residuals are zero where nothing is seen.
        self._share = 1.0 if seen is None else max(float(seen.float().mean()), 1 / seen.numel())
        self._bounds = bounds
        self._start: Tensor | None = None  # logarithm of the light that the image starts from
        self._config = config
        # oneDNN (of torch 2.13) reads what is not there for gradients of bfloat16 weights, where a
        # volume has two planes, or comes to one row or column on the way down.
        wrong = data.device.type == "cpu" and model.ndim == 3 and min(model.domain_shape) < 3
        self._precision = torch.float32 if wrong else precision
        self._n_steps = n_steps
        self._n_ssim = round(config.ssim_fraction * n_steps)
        self._steps = 0
        shape = model.domain_shape
        network = make_network(config, len(data), shape)
        noise = 0.1 * torch.rand(1, network.in_channels, *shape, generator=generator)
        initialise(network, generator)
        layout = torch.channels_last if model.ndim == 2 else torch.channels_last_3d
        self._noise = noise.to(data.device, memory_format=layout)
        self._network = network.to(data.device)
        for weight in network.parameters():
            if weight.ndim == 2 + model.ndim:
                weight.data = weight.data.contiguous(memory_format=layout)
        self._optimisers = make_optimisers(network, config)
        self._ssim_loss = SSIMLoss(data)
        self._replayed = Replayed(make_graph(data.device))
        # What changes from step to step, as tensors that stay where they are.
        self._kernel: Tensor | None = None
        self._latest = data  # image of the latest step
        self._transfer = model.transfer(data.new_zeros(model.kernel_shape))
        self._gradient_weight = data.new_zeros(())

    @torch.enable_grad()
    def step(self, kernel: Tensor) -> RestorerStep:
        """Take one gradient step on φ_x under `kernel`, shape (*K,)."""
        if kernel is not self._kernel:
            self._kernel = kernel
            self._transfer.copy_(self._model.transfer(kernel))
        if self._start is None and math.isinf(self._bounds[1]):
            self._start = self._make_start()
        if self._steps == self._n_ssim:  # from here on the work is another
            self._replayed = Replayed(make_graph(self._data.device))
        self._set_gradient_weight()
        self._set_learning_rate()
        image, loss, residual = self._replayed(self._descend)
        self._latest = image
        self._steps += 1
        return RestorerStep(image, self._model.crop(image), loss, residual)

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        return Evidence(self._model.forward_by(self._transfer, self._latest))

    def _descend(self) -> tuple[Tensor, ...]:
        """Move φ_x; return the image before, its loss and its residual.

        This may be recorded and replayed: a number that Python knows stays as it was then.
        """
        image = self._image()
        fitted = self._model.forward_by(self._transfer, image)
        if self._seen is not None:
            fitted = torch.where(self._seen, fitted, self._data)
        squared = (fitted - self._data).square().mean()
        loss = self._fidelity(fitted, squared)
        if self._config.gradient_weight:
            loss = loss + self._gradient_weight * sparse_gradients(image)
        self._network.zero_grad()
        loss.backward()
        for optimiser in self._optimisers:
            optimiser.step()
        return image.detach(), loss.detach(), (squared.detach() / self._share).sqrt()

    def _image(self) -> Tensor:
        """Return x = G_x(z; φ_x) on the domain, float32, shape (C, *shape)."""
        with torch.autocast(
            self._noise.device.type,
            self._precision,
            self._precision != torch.float32,
            cache_enabled=False,  # a graph's casts must not outlive its recording
        ):
            logits = self._network(self._noise)
        low, high = self._bounds
        values = logits[0].float()
        if self._start is not None:
            return low + torch.exp(self._start + values)
        return low + (high - low) * torch.sigmoid(values)

    def _make_start(self) -> Tensor:
        light = self._data - self._bounds[0]
        passed = self._model.adjoint_by(self._transfer, torch.ones_like(light))
        image = self._model.adjoint_by(self._transfer, light) / passed.clamp_min(_LEAST_PASSED)
        return image.clamp_min(_LEAST_LIGHT).log()

    def _fidelity(self, fitted: Tensor, squared: Tensor) -> Tensor:
        if self._steps < self._n_ssim:
            return self._ssim_loss(fitted)
        if self._weights is None:
            return squared
        return (self._weights * (fitted - self._data).square()).mean()

    def _set_gradient_weight(self) -> None:
        """Let it grow: the prior flattens the image, and large steps have to form it first."""
        growth = (self._steps / self._n_steps) ** self._config.gradient_growth
        # The published prior sums over HR pixels and divides by the number of LR samples.
        pixels_per_sample = math.prod(self._model.scale)
        self._gradient_weight.fill_(growth * (self._config.gradient_weight * pixels_per_sample))

    def _set_learning_rate(self) -> None:
        """Keep it over the first half of the run, then lower it linearly to its last value."""
        done = min(max(2 * self._steps / self._n_steps - 1, 0.0), 1.0)
        share = 1 - done * (1 - self._config.settling)
        set_learning_rate(self._optimisers, share * self._config.learning_rate)


def sparse_gradients(image: Tensor) -> Tensor:
    """Return the hyper-Laplacian energy mean(Σ_d |∂_d x|^0.67), shape of x (C, *shape).

    Directions d are the axes and the diagonals between each two of them: four in planes.
    """
    energy: Tensor = _SparseGradients.apply(image)  # type: ignore[no-untyped-call]
    return energy


Axes = tuple[int, ...]


class _SparseGradients(torch.autograd.Function):
    """The energy, with its gradient on the way: powers are dear, and it would take them again."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        gradient = torch.zeros_like(image)
        energy = image.new_zeros(())
        axes = range(image.ndim - 1, 0, -1)
        pairs: list[tuple[Axes, Axes]] = [((), (axis,)) for axis in axes]
        for first, second in combinations(axes, 2):
            pairs += [((), (first, second)), ((first,), (second,))]
        for pair in pairs:
            one, other = (_corner(image, behind) for behind in pair)
            difference = image[one] - image[other]
            # The exponent applies to |d|; the offset keeps its gradient finite at d = 0.
            square = difference.square() + 1e-8
            power = (0.335 * square.log()).exp()
            energy += power.mean()
            slope = power.div_(square).mul_(difference).mul_(0.67 / difference.numel())
            gradient[one] += slope
            gradient[other] -= slope
        ctx.save_for_backward(gradient)
        return energy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        product: Tensor = upstream[0] * gradient
        return product


def _corner(image: Tensor, behind: Axes) -> tuple[slice, ...]:
    """Return where all neighbourhoods of 2 x 2 pixels have one corner: `behind` on some axes."""
    later, earlier = slice(1, None), slice(None, -1)
    return (slice(None), *(earlier if a in behind else later for a in range(1, image.ndim)))


class SSIMLoss:
    """1 - SSIM(·, data) with a Gaussian window (11 taps, sigma 1.5), zero-padded.

    Parameters
    ----------
    data : shape (C, ..., h, w), intensities of range 1; volumes are compared plane by plane.
    """

    def __init__(self, data: Tensor) -> None:
        taps = torch.arange(-5, 6, device=data.device, dtype=data.dtype)
        self._window = torch.softmax(-0.5 * (taps / 1.5) ** 2, 0)
        self._data = data
        self._mean, square = self._local_means(self._data, self._data**2)
        self._variance = square - self._mean**2

    def __call__(self, predicted: Tensor) -> Tensor:
        """Return the loss of a prediction, shape of the data."""
        mean, square, product = self._local_means(predicted, predicted**2, predicted * self._data)
        variance = square - mean**2
        covariance = product - mean * self._mean
        luminance = (2 * mean * self._mean + _C1) / (mean**2 + self._mean**2 + _C1)
        structure = (2 * covariance + _C2) / (variance + self._variance + _C2)
        return 1 - (luminance * structure).mean()

    def _local_means(self, *images: Tensor) -> tuple[Tensor, ...]:
        # Each as a channel of its own, side by side in memory: the other way round, as images of
        # one channel, CPUs take ten times as long.
        planes = torch.cat(images).flatten(0, -3)
        means = planes[None].contiguous(memory_format=torch.channels_last)
        n = len(planes)
        along, across = self._window[:, None], self._window[None]
        means = functional.conv2d(means, along.expand(n, 1, -1, -1), padding=(5, 0), groups=n)
        means = functional.conv2d(means, across.expand(n, 1, -1, -1), padding=(0, 5), groups=n)
        return means[0].reshape(len(images), *self._data.shape).unbind()


_C1, _C2 = 0.01**2, 0.03**2
# Of its light, what samples receive of a pixel beyond the frame.
_LEAST_PASSED = 1e-3
# Of the data's range: what is darker would take many steps to become light.
_LEAST_LIGHT = 0.02
