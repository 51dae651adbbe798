"""What a network of guided-diffusion looks like, read from its weights, and what they do not tell.

The weights name their layers in the order in which they were made: ``input_blocks.4.0`` is the
first layer of the fifth block on the way down.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from napari_dkp import _checks


@dataclass(frozen=True, slots=True)
class Untold:
    """What a guided-diffusion network needs to be run and its weights do not tell.

    Attributes
    ----------
    head_channels : of each attention head, the same at all levels; None where `heads` is given.
    heads : number of attention heads, the same at all levels; None where `head_channels` is given.
    new_attention_order : queries, keys and values are told apart first and heads second; with
        False the other way round.
    cosine : the noise follows the cosine schedule; with False the linear one.
    side : of the images it was trained on, pixels, which attention is used to; None if unknown.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of `head_channels` and `heads` is given, as a positive integer.
    """

    head_channels: int | None = None
    heads: int | None = None
    new_attention_order: bool = False
    cosine: bool = False
    side: int | None = None

    def __post_init__(self) -> None:
        if (self.head_channels is None) == (self.heads is None):
            raise ValueError(
                "head_channels, heads: expected one of both; "
                f"got {self.head_channels} and {self.heads}"
            )
        for name in ("head_channels", "heads"):
            if (value := getattr(self, name)) is not None:
                _checks.integer(name, value, 1)

    def heads_of(self, channels: int) -> int:
        """Return the number of heads of an attention layer."""
        parts = self.heads or self.head_channels or 1
        if channels % parts:
            name = "heads" if self.heads else "head_channels"
            raise ValueError(f"{name}: expected a divisor of {channels} channels; got {parts}")
        return self.heads or channels // parts


@dataclass(frozen=True, slots=True)
class Structure:
    """What the weights of a guided-diffusion network tell of it.

    Attributes
    ----------
    width : number of sinusoids that encode the time; channels are multiples of it.
    channels : at each level, the finest first.
    attention : whether a level has attention.
    res_blocks : residual blocks per level on the way down; on the way up there is one more.
    in_channels, out_channels : of images.
    classes : number of classes, 0 where the network knows none.
    scale_shift : the time scales and shifts what a block normalises; with False it is added.
    residual_resampling : residual blocks, not plain convolutions, go from level to level.
    """

    width: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    res_blocks: int
    in_channels: int
    out_channels: int
    classes: int
    scale_shift: bool
    residual_resampling: bool

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Structure":
        """Read it from the names and shapes of weights.

        Raises
        ------
        ValueError
            If they are not those of a guided-diffusion network of two spatial axes.
        """
        layers: dict[int, dict[int, set[str]]] = {}  # block on the way up, layer, its children
        for name in weights:
            if found := re.match(r"output_blocks\.(\d+)\.(\d+)\.(\w+)", name):
                block, layer, child = found.groups()
                layers.setdefault(int(block), {}).setdefault(int(layer), set()).add(child)
        # The last block of every level but the finest ends in a layer that enlarges.
        enlarging = {
            block: children
            for block, of_block in layers.items()
            for layer, children in of_block.items()
            if layer and not children & _OF_ATTENTION
        }
        per_level = len(layers) // (len(enlarging) + 1)
        if per_level < 2 or len(layers) != per_level * (len(enlarging) + 1):
            raise ValueError(
                "model: expected levels with equally many 'output_blocks', two or more; "
                f"got {len(layers)} of them in {len(enlarging) + 1} levels"
            )
        firsts = range(len(layers) - per_level, -1, -per_level)  # of each level, the finest first
        width = _shape(weights, "time_embed.0.weight", 2)[1]
        level_channels = tuple(
            _shape(weights, f"output_blocks.{first}.0.out_layers.3.weight", 4)[0]
            for first in firsts
        )
        if width % 2 or any(channels % GROUPS for channels in level_channels):
            raise ValueError(
                f"model: expected channels in multiples of {GROUPS} and an even number of "
                f"sinusoids; got {level_channels} and {width}"
            )
        classes = _shape(weights, "label_emb.weight", 2)[0] if "label_emb.weight" in weights else 0
        time_rows = _shape(weights, "middle_block.0.emb_layers.1.bias", 1)[0]
        return cls(
            width=width,
            channels=level_channels,
            attention=tuple(_has_attention(layers.get(first, {})) for first in firsts),
            res_blocks=per_level - 1,
            in_channels=_shape(weights, "input_blocks.0.0.weight", 4)[1],
            out_channels=_shape(weights, "out.2.weight", 4)[0],
            classes=classes,
            scale_shift=time_rows == 2 * level_channels[-1],
            residual_resampling=any("conv" not in children for children in enlarging.values()),
        )

    def published(self) -> Untold:
        """Return what is known of the published network with this structure.

        Raises
        ------
        ValueError
            If no published network has it.
        """
        multipliers = tuple(channels / self.width for channels in self.channels)
        key = (self.width, multipliers, self.res_blocks, sum(self.attention))
        # All of them have these two.
        alike = self.scale_shift and self.residual_resampling
        known = _PUBLISHED.get(key) if alike else None
        if known is None:
            raise ValueError(
                "model: the weights do not tell the number of attention heads, and none of the "
                f"published networks has this one's levels, {self.res_blocks} residual blocks each "
                f"with {self.channels} channels; state it, e.g. Untold(head_channels=64)"
            )
        return known


# The flags that the files were published with, found again by width, multipliers, residual blocks
# and the number of levels with attention.
_PUBLISHED = {
    # 256x256_diffusion.pt, 256x256_diffusion_uncond.pt, lsun_*.pt
    (256, (1, 1, 2, 2, 4, 4), 2, 3): Untold(head_channels=64, side=256),
    # 512x512_diffusion.pt and 512x512_diffusion_uncond_finetune_008100.pt, made from it
    (256, (0.5, 1, 1, 2, 2, 4, 4), 2, 3): Untold(head_channels=64, side=512),
    # 128x128_diffusion.pt came before heads of 64 channels
    (256, (1, 1, 2, 3, 4), 2, 3): Untold(heads=4, side=128),
    # 64x64_diffusion.pt alone has the new order and the cosine
    (192, (1, 2, 3, 4), 3, 3): Untold(
        head_channels=64, new_attention_order=True, cosine=True, side=64
    ),
    # ffhq_10m.pt and afhq_dog_4m.pt, by the authors of ILVR
    (128, (1, 1, 2, 2, 4, 4), 1, 1): Untold(head_channels=64, side=256),
}

GROUPS = 32  # in which all channels are normalised
_OF_ATTENTION = {"norm", "qkv", "proj_out"}


def _shape(weights: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    weight = weights.get(name)
    if weight is None:
        raise ValueError(f"model: expected a guided-diffusion network; '{name}' is missing")
    if weight.ndim != ndim:
        raise ValueError(
            f"model: expected '{name}' to have {ndim} axes; got the shape {tuple(weight.shape)}"
        )
    return tuple(weight.shape)


def _has_attention(layers: Mapping[int, set[str]]) -> bool:
    return any(children & _OF_ATTENTION for children in layers.values())
