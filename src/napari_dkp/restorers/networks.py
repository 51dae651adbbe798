"""Architectures of image networks; nothing here knows how they are fitted."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_dkp.config import DIPConfig

Padding = Literal["zeros", "reflect"]


class Hourglass(nn.Module, ABC):
    """Down through the scales and up again, with a skip branch at each.

    Attributes
    ----------
    in_channels : of the noise.
    down, skip, up : layers per scale, finest first.
    head : last layer, to the image's channels.
    """

    in_channels: int
    down: nn.ModuleList
    skip: nn.ModuleList
    up: nn.ModuleList
    head: nn.Module

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise (B, in_channels, *shape) to logits (B, out_channels, *shape), any shape."""
        skips = []
        x = noise
        for down, skip in zip(self.down, self.skip, strict=True):
            skips.append(skip(x))
            x = down(x)
        for scale in reversed(range(len(skips))):
            x = self.up[scale](self.join(scale, x, skips[scale]))
        logits: Tensor = self.head(x)
        return logits

    @abstractmethod
    def join(self, scale: int, below: Tensor, skipped: Tensor) -> Tensor:
        """Return the input of `up[scale]`, shape (B, C, *shape).

        Parameters
        ----------
        below : from the next coarser scale, shape (B, C', *coarser), each axis divided by its
            stride and rounded up.
        skipped : from the skip branch, shape (B, C'', *shape).
        """


class SkipNetwork(Hourglass):
    """Hourglass with skip connections, the network of the deep image prior (Ulyanov 2018).

    Each scale halves the resolution by a strided convolution, passes the rest of the hourglass,
    and joins the bilinearly upsampled result with a thin skip branch.

    Parameters
    ----------
    in_channels, out_channels : of the noise and of the image.
    widths : channels per scale, finest first.
    skip_channels : channels of each skip branch.
    padding : "reflect" as published, or "zeros", a third cheaper.
    attention_from : first scale with a non-local block; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        skip_channels: int = 16,
        padding: Padding = "zeros",
        attention_from: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        attention = [
            attention_from is not None and scale >= attention_from for scale in range(len(widths))
        ]
        self.down = nn.ModuleList()
        self.skip = nn.ModuleList()
        self.up = nn.ModuleList()
        incoming = (in_channels, *widths[:-1])
        outgoing = (*widths[1:], widths[-1])
        for before, width, below, attends in zip(
            incoming, widths, outgoing, attention, strict=True
        ):
            self.skip.append(_unit(before, skip_channels, 1, padding))
            self.down.append(
                nn.Sequential(
                    _unit(before, width, 3, padding, stride=2),
                    NonLocalBlock(width) if attends else nn.Identity(),
                    _unit(width, width, 3, padding),
                )
            )
            self.up.append(
                nn.Sequential(
                    nn.BatchNorm2d(skip_channels + below),
                    _unit(skip_channels + below, width, 3, padding),
                    _unit(width, width, 1, padding),
                )
            )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def join(self, scale: int, below: Tensor, skipped: Tensor) -> Tensor:
        """Upsample first, then put the channels side by side."""
        return torch.cat([skipped, _resized(below, skipped)], 1)


class NonLocalBlock(nn.Module):
    """Residual attention over all positions (embedded Gaussian, Wang 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.embed = nn.Conv2d(channels, 3 * inner, 1)
        self.join = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        # One head: only with its axis do the memory-efficient kernels take over.
        query, key, value = self.embed(x).flatten(2).mT[:, None].chunk(3, -1)
        attended = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
        joined: Tensor = self.join(attended.mT.unflatten(2, x.shape[-2:]))
        return x + joined


class LightNetwork(Hourglass):
    """The same hourglass with most of the memory traffic taken out, for planes and volumes.

    Finer scales have fewer channels; what comes from below is brought to their number before it is
    upsampled, and the skip branch is added instead of joined. Nothing is padded by reflection.

    Parameters
    ----------
    in_channels, out_channels : of the noise and of the image.
    widths : channels per scale, finest first.
    strides : by which each scale is coarser than the one before, per axis; two or three axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        strides: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        convolution, norm = _LAYERS[len(strides[0])]
        self.down = nn.ModuleList()
        self.skip = nn.ModuleList()
        self.narrow = nn.ModuleList()
        self.up = nn.ModuleList()
        incoming = (in_channels, *widths[:-1])
        outgoing = (*widths[1:], widths[-1])
        for before, width, below, stride in zip(incoming, widths, outgoing, strides, strict=True):
            same = (1,) * len(stride)
            self.skip.append(convolution(before, width, 1, bias=False))
            self.down.append(
                nn.Sequential(
                    *_light_unit(before, width, stride),
                    *_light_unit(width, width, same),
                )
            )
            self.narrow.append(convolution(below, width, 1, bias=False))
            self.up.append(nn.Sequential(norm(width), nn.SiLU(), *_light_unit(width, width, same)))
        self.head = convolution(widths[0], out_channels, 1)

    def join(self, scale: int, below: Tensor, skipped: Tensor) -> Tensor:
        """Bring what comes from below to the skip branch's channels, upsample, add."""
        return _resized(self.narrow[scale](below), skipped) + skipped


def make_network(config: DIPConfig, channels: int, shape: tuple[int, ...]) -> Hourglass:
    """Return the image network that the config names, as deep as the image allows.

    Parameters
    ----------
    channels : of the image.
    shape : of the image network's output, HR pixels; three axes only of the light network.
    """
    depth = min(5, max(1, _halvings(min(shape[-2:]))))
    # Layers draw weights as they are made; `initialise` replaces them, and the caller's random
    # state stays as it was.
    with torch.random.fork_rng(devices=[]):
        if config.network == "published":
            widths = (_PUBLISHED_WIDTH,) * depth
            return SkipNetwork(3, channels, widths, padding="reflect", attention_from=2)
        widths = (_light_width(config), config.channels // 2) + (config.channels,) * depth
        # Volumes have fewer planes than these have pixels.
        strides = [
            (*(2 if scale < _halvings(n) else 1 for n in shape[:-2]), 2, 2)
            for scale in range(depth)
        ]
        return LightNetwork(_LIGHT_NOISE, channels, widths[:depth], strides)


def _halvings(n: int) -> int:
    """Return how often an axis can be halved until about 8 pixels are left."""
    return int(math.log2(max(n / 8, 1)))


def finest_channels(config: DIPConfig) -> int:
    """Return the channels of the widest tensors at the image's full resolution."""
    if config.network == "published":
        return _PUBLISHED_WIDTH
    return max(_LIGHT_NOISE, _light_width(config))


def _light_width(config: DIPConfig) -> int:
    """Return the light network's channels at full resolution."""
    # A single channel, normalised over the plane, would be blind to the mean.
    return max(2, config.channels // 4)


_PUBLISHED_WIDTH = 128
# Channels of the light network's input.
_LIGHT_NOISE = 16


def _resized(x: Tensor, like: Tensor) -> Tensor:
    mode = "bilinear" if like.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=like.shape[2:], mode=mode)


def _unit(
    in_channels: int, out_channels: int, taps: int, padding: Padding, stride: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, taps, stride, padding=taps // 2, padding_mode=padding
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2))


def _light_unit(
    in_channels: int, out_channels: int, stride: tuple[int, ...]
) -> tuple[nn.Module, ...]:
    convolution, norm = _LAYERS[len(stride)]
    return (
        convolution(in_channels, out_channels, 3, stride, padding=1, bias=False),
        norm(out_channels),
        nn.SiLU(),
    )


# Convolutions and norms, of planes and of volumes.
_LAYERS: dict[int, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}
