"""Architectures of image networks; nothing here knows how they are fitted."""

import math
from abc import ABC, abstractmethod
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
    head: nn.Conv2d

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise (B, in_channels, H, W) to logits (B, out_channels, H, W), any H and W."""
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
        """Return the input of `up[scale]`, shape (B, C, H, W).

        Parameters
        ----------
        below : from the next coarser scale, shape (B, C', ceil(H/2), ceil(W/2)).
        skipped : from the skip branch, shape (B, C'', H, W).
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
    """The same hourglass with most of the memory traffic taken out.

    Finer scales have fewer channels; what comes from below is brought to their number before it is
    upsampled, and the skip branch is added instead of joined. Nothing is padded by reflection.

    Parameters
    ----------
    in_channels, out_channels : of the noise and of the image.
    widths : channels per scale, finest first.
    """

    def __init__(self, in_channels: int, out_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.down = nn.ModuleList()
        self.skip = nn.ModuleList()
        self.narrow = nn.ModuleList()
        self.up = nn.ModuleList()
        incoming = (in_channels, *widths[:-1])
        outgoing = (*widths[1:], widths[-1])
        for before, width, below in zip(incoming, widths, outgoing, strict=True):
            self.skip.append(nn.Conv2d(before, width, 1, bias=False))
            self.down.append(
                nn.Sequential(
                    *_light_unit(before, width, stride=2),
                    *_light_unit(width, width),
                )
            )
            self.narrow.append(nn.Conv2d(below, width, 1, bias=False))
            self.up.append(
                nn.Sequential(nn.BatchNorm2d(width), nn.SiLU(), *_light_unit(width, width))
            )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def join(self, scale: int, below: Tensor, skipped: Tensor) -> Tensor:
        """Bring what comes from below to the skip branch's channels, upsample, add."""
        return _resized(self.narrow[scale](below), skipped) + skipped


def make_network(config: DIPConfig, channels: int, shape: tuple[int, ...]) -> Hourglass:
    """Return the image network that the config names, as deep as the image allows.

    Parameters
    ----------
    channels : of the image.
    shape : of the image network's output, HR pixels.
    """
    depth = min(5, max(1, int(math.log2(max(min(shape) / 8, 1)))))
    # Layers draw weights as they are made; `initialise` replaces them, and the caller's random
    # state stays as it was.
    with torch.random.fork_rng(devices=[]):
        if config.network == "published":
            widths = (_PUBLISHED_WIDTH,) * depth
            return SkipNetwork(3, channels, widths, padding="reflect", attention_from=2)
        widths = (_light_width(config), config.channels // 2) + (config.channels,) * depth
        return LightNetwork(_LIGHT_NOISE, channels, widths[:depth])


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
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear")


def _unit(
    in_channels: int, out_channels: int, taps: int, padding: Padding, stride: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, taps, stride, padding=taps // 2, padding_mode=padding
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2))


def _light_unit(in_channels: int, out_channels: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.SiLU(),
    )
