"""A diffusion model as restorers know it: what an image under noise is without it (eq. 21)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel


@dataclass(frozen=True)
class Footprint:
    """Memory of a model.

    Attributes
    ----------
    weights : bytes.
    per_pixel : bytes, of each pixel that it sees at once.
    most : pixels that it sees at once at most.
    channels : of the images that it knows.
    """

    weights: int
    per_pixel: int
    most: int
    channels: int

    def bytes(self, pixels: int) -> int:
        """Return the memory at the peak while images of so many pixels in all are denoised."""
        return self.weights + self.per_pixel * min(pixels, self.most)


class DiffusionModel:
    """An unconditional network with its noise schedule, for images of any size.

    Images x_t = √ᾱ_t x + √(1 - ᾱ_t) ε have values from -1 to 1 at t = 0. Larger ones than the
    network is made for are seen through overlapping windows, whose outputs are blended at every
    call: no step of a restoration has a seam that the next could not mend.

    Parameters
    ----------
    network : of diffusers; a variance that it predicts too is not used.
    scheduler : its noise schedule.
    window : largest side of what the network sees at once, pixels.
    shrinks : windows are no larger than they have to be to cover an image with as few.
    class_label : of a class-conditional network; None for others.
    precision : dtype of the convolutions.
    device : to run on.
    """

    def __init__(
        self,
        network: "UNet2DModel",
        scheduler: "DDPMScheduler",
        window: int,
        class_label: int | None = None,
        precision: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        shrinks: bool = False,
    ) -> None:
        self._device = torch.device(device)
        self._network = (
            network.eval().requires_grad_(False).to(self._device, memory_format=torch.channels_last)
        )
        self._window = window
        self._shrinks = shrinks
        self._precision = precision
        self._label = None if class_label is None else torch.tensor([class_label], device=device)
        self._predicts = scheduler.config.prediction_type
        self._clips = scheduler.config.clip_sample
        self.channels: int = network.config.in_channels
        self._multiple: int = 2 ** (len(network.config.block_out_channels) - 1)
        # ᾱ_t, float64, shape (T,).
        self._alphas = scheduler.alphas_cumprod.double()
        self._log_sigmas = 0.5 * torch.log((1 - self._alphas) / self._alphas)

    @property
    def footprint(self) -> Footprint:
        """Memory that it takes, by its finest level, where its largest tensors are."""
        weights = sum(weight.nbytes for weight in self._network.parameters())
        tensors = _TENSORS if self._precision == torch.float32 else _HALF_TENSORS
        per_pixel = 4 * tensors * self._network.config.block_out_channels[0]
        return Footprint(weights, per_pixel, self._window**2, self.channels)

    def time_of(self, sigma: float) -> int:
        """Return t at which the noise, relative to the image, is nearest to `sigma`."""
        return int((self._log_sigmas - math.log(sigma)).abs().argmin())

    def alpha(self, time: int) -> float:
        """Return ᾱ_t."""
        return float(self._alphas[time])

    @torch.no_grad()
    def denoise(self, noisy: Tensor, time: int) -> Tensor:
        """Return x̂₀ of images x_t (eq. 21), shape (N, channels, H, W), both."""
        alpha = self.alpha(time)
        signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
        # No more pixels at once than a window has, which bounds memory.
        parts = noisy.split(max(1, self._window**2 // math.prod(noisy.shape[-2:])))
        clean = torch.cat([self._predict(part, time) for part in parts])
        if self._predicts == "epsilon":
            clean = (noisy - noise * clean) / signal
        elif self._predicts == "v_prediction":
            clean = signal * noisy - noise * clean
        return clean.clamp(-1, 1) if self._clips else clean

    def _predict(self, noisy: Tensor, time: int) -> Tensor:
        """Return what the network makes of x_t, blended from windows."""
        rows, columns = noisy.shape[-2:]
        padded = _padded(noisy, self._multiple)
        sides = [self._side(n) for n in padded.shape[-2:]]
        places = [
            _starts(n, side, self._multiple)
            for n, side in zip(padded.shape[-2:], sides, strict=True)
        ]
        if all(len(starts) == 1 for starts in places):
            return self._forward(padded, time)[..., :rows, :columns]
        blended = torch.zeros_like(padded)
        weight = torch.zeros_like(padded[:1, :1])
        for window, share in _windows(places, sides):
            share = share.to(padded)
            blended[window] += share * self._forward(padded[window], time)
            weight[window] += share
        return (blended / weight)[..., :rows, :columns]

    def _side(self, length: int) -> int:
        """Return the side of the windows along an axis."""
        if length <= self._window or not self._shrinks:
            return min(length, self._window)
        count = len(_starts(length, self._window, self._multiple))
        side = length / (1 + _NEXT * (count - 1))
        return min(self._window, math.ceil(side / self._multiple) * self._multiple)

    def _forward(self, noisy: Tensor, time: int) -> Tensor:
        times = torch.full((len(noisy),), time, device=self._device)
        labels = None if self._label is None else self._label.expand(len(noisy))
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._precision, self._precision != torch.float32):
            predicted: Tensor = self._network(noisy, times, labels).sample
        return predicted[:, : self.channels].float()


# As many float32 tensors of the finest level as take the memory at the peak, as measured.
_TENSORS = 20
_HALF_TENSORS = 11

Window = tuple[slice, ...]


def _windows(
    places: Sequence[Sequence[int]], sides: Sequence[int]
) -> Iterator[tuple[Window, Tensor]]:
    """Yield windows over the last two axes, and how much each of their pixels counts."""
    down, right = (_hat(n, len(starts) > 1) for n, starts in zip(sides, places, strict=True))
    share = down[:, None] * right
    for top in places[0]:
        for left in places[1]:
            rows, columns = slice(top, top + sides[0]), slice(left, left + sides[1])
            yield (slice(None), slice(None), rows, columns), share


def _starts(length: int, side: int, multiple: int) -> list[int]:
    """Return where windows begin that overlap by a quarter of their side at least."""
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / (_NEXT * side))
    step = (length - side) / (count - 1)
    return [min(round(index * step / multiple) * multiple, length - side) for index in range(count)]


# Share of its side after which the next window begins.
_NEXT = 0.75


def _hat(length: int, blends: bool) -> Tensor:
    """Return weights that fall towards both ends: near its border, a window knows least."""
    if not blends:
        return torch.ones(length)
    place = (torch.arange(length) + 0.5) / length
    return torch.sin(math.pi * place).square() + 1e-3


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Continue images to sides that the network can halve."""
    rows, columns = ((-n) % multiple for n in images.shape[-2:])
    if not rows and not columns:
        return images
    return functional.pad(images, (0, columns, 0, rows), mode="replicate")
