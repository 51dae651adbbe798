"""What a guided-diffusion network computes, written out in plain functions on its weights.

Nothing here knows of diffusers or of how the weights are converted: the structure is stated, not
read from the weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Guided:
    """A network of guided-diffusion, small unless stated otherwise."""

    width: int = 32
    multipliers: tuple[float, ...] = (1, 2)
    res_blocks: int = 1
    attention: tuple[int, ...] = (2,)  # factors by which the image is reduced where it has any
    in_channels: int = 3
    out_channels: int = 6
    classes: int = 0
    scale_shift: bool = True
    residual_resampling: bool = True
    heads: int | None = None
    head_channels: int | None = 16
    new_attention_order: bool = False
    blocks: tuple["Block", ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(blocks(self)))


@dataclass(frozen=True)
class Block:
    """One of input_blocks, middle_block, output_blocks: its layers and what they are."""

    name: str
    layers: tuple[tuple[str, int, int], ...]  # kind, channels in, channels out


def blocks(net: Guided) -> Iterator[Block]:
    """Go through the network once, keeping account of the channels that are put by."""
    now = int(net.multipliers[0] * net.width)
    put_by = [now]
    factor = 1
    kind = ("down", "up") if net.residual_resampling else ("stride", "enlarge")
    number = 0
    yield Block("input_blocks.0", (("first", net.in_channels, now),))
    for level, multiplier in enumerate(net.multipliers):
        own = int(multiplier * net.width)
        for _ in range(net.res_blocks):
            layers = [("residual", now, own)]
            if factor in net.attention:
                layers.append(("attention", own, own))
            number += 1
            yield Block(f"input_blocks.{number}", tuple(layers))
            now = own
            put_by.append(now)
        if level + 1 < len(net.multipliers):
            number += 1
            yield Block(f"input_blocks.{number}", ((kind[0], now, now),))
            put_by.append(now)
            factor *= 2
    middle = (("residual", now, now), ("attention", now, now), ("residual", now, now))
    yield Block("middle_block", middle)
    number = -1
    for level in range(len(net.multipliers) - 1, -1, -1):
        own = int(net.multipliers[level] * net.width)
        for i in range(net.res_blocks + 1):
            layers = [("residual", now + put_by.pop(), own)]
            if factor in net.attention:
                layers.append(("attention", own, own))
            if level > 0 and i == net.res_blocks:
                layers.append((kind[1], own, own))
                factor //= 2
            number += 1
            yield Block(f"output_blocks.{number}", tuple(layers))
            now = own


def shapes(net: Guided) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, in the order in which layers are made."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    time = 4 * net.width
    layer("time_embed.0", time, net.width)
    layer("time_embed.2", time, time)
    if net.classes:
        found["label_emb.weight"] = (net.classes, time)
    for block in net.blocks:
        for i, (kind, before, after) in enumerate(block.layers):
            name = f"{block.name}.{i}"
            if kind == "first":
                layer(name, after, before, 3, 3)
            elif kind == "attention":
                layer(f"{name}.norm", after)
                layer(f"{name}.qkv", 3 * after, after, 1)
                layer(f"{name}.proj_out", after, after, 1)
            elif kind in ("stride", "enlarge"):
                layer(f"{name}.{'op' if kind == 'stride' else 'conv'}", after, before, 3, 3)
            else:
                layer(f"{name}.in_layers.0", before)
                layer(f"{name}.in_layers.2", after, before, 3, 3)
                layer(f"{name}.emb_layers.1", after * (1 + net.scale_shift), time)
                layer(f"{name}.out_layers.0", after)
                layer(f"{name}.out_layers.3", after, after, 3, 3)
                if before != after:
                    layer(f"{name}.skip_connection", after, before, 1, 1)
    layer("out.0", net.blocks[-1].layers[-1][2])
    layer("out.2", net.out_channels, net.blocks[0].layers[0][2], 3, 3)
    return found


def random_weights(net: Guided, seed: int = 0) -> Weights:
    """Weights of every layer, those included that training starts from zero."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in shapes(net).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1 and name != "label_emb.weight":
            values /= math.sqrt(math.prod(shape[1:]))
        elif len(shape) == 1:
            values = 0.3 * values + name.endswith(".weight")  # norms scale by about 1
        weights[name] = values
    return weights


def forward(
    net: Guided, weights: Weights, image: Tensor, time: Tensor, label: Tensor | None = None
) -> Tensor:
    """Run the network; image (B, C, H, W), time (B,), label (B,) or None for no class."""
    encoded = dense(weights, "time_embed.0", encode(time, net.width).to(image))
    encoded = dense(weights, "time_embed.2", functional.silu(encoded))
    if label is not None:
        encoded = encoded + weights["label_emb.weight"][label]
    put_by: list[Tensor] = []
    for block in net.blocks:
        if block.name.startswith("output"):
            image = torch.cat([image, put_by.pop()], 1)
        for i, (kind, _, _) in enumerate(block.layers):
            image = run(net, weights, f"{block.name}.{i}", kind, image, encoded)
        if block.name.startswith("input"):
            put_by.append(image)
    assert not put_by
    return convolve(weights, "out.2", functional.silu(group_norm(weights, "out.0", image)))


def run(
    net: Guided, weights: Weights, name: str, kind: str, image: Tensor, encoded: Tensor
) -> Tensor:
    """Run one layer."""
    if kind == "first":
        return convolve(weights, name, image)
    if kind == "stride":
        return convolve(weights, f"{name}.op", image, stride=2)
    if kind == "enlarge":
        return convolve(weights, f"{name}.conv", doubled(image))
    if kind == "attention":
        return attend(net, weights, name, image)
    return residual(net, weights, name, kind, image, encoded)


def encode(time: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the time at frequencies from 1 down to almost 1 / 10000."""
    half = width // 2
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    phases = time.double()[:, None] * frequencies
    return torch.cat([phases.cos(), phases.sin()], 1)


def residual(
    net: Guided, weights: Weights, name: str, kind: str, image: Tensor, encoded: Tensor
) -> Tensor:
    """Two convolutions around the time; both branches are resized before the first."""
    inner = functional.silu(group_norm(weights, f"{name}.in_layers.0", image))
    if kind == "up":
        image, inner = doubled(image), doubled(inner)
    if kind == "down":
        image, inner = halved(image), halved(inner)
    inner = convolve(weights, f"{name}.in_layers.2", inner)
    of_time = dense(weights, f"{name}.emb_layers.1", functional.silu(encoded))[:, :, None, None]
    if net.scale_shift:
        scale, shift = of_time.tensor_split(2, 1)
        inner = group_norm(weights, f"{name}.out_layers.0", inner) * (1 + scale) + shift
    else:
        inner = group_norm(weights, f"{name}.out_layers.0", inner + of_time)
    inner = convolve(weights, f"{name}.out_layers.3", functional.silu(inner))
    if f"{name}.skip_connection.weight" in weights:
        image = convolve(weights, f"{name}.skip_connection", image)
    return image + inner


def attend(net: Guided, weights: Weights, name: str, image: Tensor) -> Tensor:
    """Attention over all pixels, head by head."""
    batch, channels = image.shape[:2]
    heads = net.heads or channels // net.head_channels
    each = channels // heads
    pixels = group_norm(weights, f"{name}.norm", image).reshape(batch, channels, -1)
    mixed = weights[f"{name}.qkv.weight"][:, :, 0] @ pixels
    mixed = mixed + weights[f"{name}.qkv.bias"][:, None]
    seen = []
    for head in range(heads):
        # Rows of queries, keys, values: head by head, or all queries, all keys, all values.
        starts = [
            part * channels + head * each if net.new_attention_order else (3 * head + part) * each
            for part in range(3)
        ]
        q, k, v = (mixed[:, start : start + each] for start in starts)
        likeness = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(each), -1)
        seen.append(v @ likeness.transpose(1, 2))
    out = weights[f"{name}.proj_out.weight"][:, :, 0] @ torch.cat(seen, 1)
    out = out + weights[f"{name}.proj_out.bias"][:, None]
    return image + out.reshape(image.shape)


def dense(weights: Weights, name: str, values: Tensor) -> Tensor:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def convolve(weights: Weights, name: str, image: Tensor, stride: int = 1) -> Tensor:
    taps = weights[f"{name}.weight"]
    padding = taps.shape[-1] // 2
    return functional.conv2d(image, taps, weights[f"{name}.bias"], stride, padding)


def group_norm(weights: Weights, name: str, image: Tensor) -> Tensor:
    """Zero mean and unit variance in each of 32 groups of channels, then per-channel values."""
    grouped = image.reshape(len(image), 32, -1)
    variance, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
    normalised = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(image.shape)
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return normalised * scale[:, None, None] + shift[:, None, None]


def doubled(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(image: Tensor) -> Tensor:
    return image.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)
