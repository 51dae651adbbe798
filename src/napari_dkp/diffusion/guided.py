"""Networks of guided-diffusion [1]_ as networks of diffusers that compute the same.

References
----------
.. [1] Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021.
"""

from collections.abc import Iterator, Mapping
from itertools import compress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_dkp.diffusion.guided_structure import GROUPS, Structure, Untold

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel


def is_guided(weights: Mapping[str, object]) -> bool:
    """Tell whether names of weights are those of a guided-diffusion network."""
    return all(name in weights for name in _LANDMARKS)


_LANDMARKS = ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")


def convert(weights: Mapping[str, Tensor], untold: Untold | None = None) -> "UNet2DModel":
    """Make a network of diffusers that computes what a guided-diffusion network does.

    Parameters
    ----------
    weights : as in the published files. float32 tensors are shared with the network, not copied.
    untold : what the weights do not tell; None takes it from the published network of the same
        structure.

    Returns
    -------
    Float32, on the CPU, for evaluation, without gradients for its weights. Images lie in [-1, 1],
    shape (B, C, H, W), with sides in multiples of 2 ** (levels - 1); times count from 0 and may be
    fractional tensors. Twice as many channels come out where the variance was learned, the noise
    first. With N classes, class N is one more, which adds nothing to the encoded time: the network
    never saw it in training. Keep the weights, not what ``save_pretrained`` writes: diffusers'
    configuration does not hold a time encoding wider than the first level, nor `Untold.heads`.

    Raises
    ------
    ValueError
        If a weight is missing, has another shape than the others tell, or is not known; the first
        one is named.
    """
    structure = Structure.of(weights)
    if untold is None:
        untold = structure.published()
    network = _network(structure, untold)
    sources = dict(_sources(structure))
    state, read = {}, set()
    for name, parameter in network.state_dict().items():
        target, _, kind = name.rpartition(".")
        source = f"{sources[target]}.{kind}"
        expected = _shape_before(name, parameter.shape)
        weight = weights.get(source)
        if weight is None:
            raise ValueError(
                f"model: expected a weight '{source}' of shape {expected}; it is missing"
            )
        if (shape := tuple(weight.shape)) != expected:
            raise ValueError(
                f"model: expected '{source}' to have the shape {expected}; got {shape}"
            )
        state[name] = _moved(target, weight.detach().float(), untold)
        read.add(source)
    unknown = [name for name in weights if name not in read]
    if unknown:
        raise ValueError(
            f"model: expected a guided-diffusion network with {len(structure.channels)} levels of "
            f"{structure.res_blocks} residual blocks; got {len(unknown)} weights that it does not "
            f"have, the first is '{unknown[0]}'"
        )
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def scheduler_for(weights: Mapping[str, Tensor], untold: Untold | None = None) -> "DDPMScheduler":
    """Return the noise that a guided-diffusion network was trained with, over 1000 steps.

    Parameters
    ----------
    weights, untold : as for `convert`.

    Raises
    ------
    ValueError
        If the network gives neither the noise alone nor the noise with its variance.
    """
    from diffusers import DDPMScheduler

    structure = Structure.of(weights)
    if untold is None:
        untold = structure.published()
    if structure.out_channels not in (structure.in_channels, 2 * structure.in_channels):
        raise ValueError(
            f"model: expected {structure.in_channels} or {2 * structure.in_channels} channels to "
            f"come out, the noise without or with its variance; got {structure.out_channels}"
        )
    learned = structure.out_channels > structure.in_channels
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="squaredcos_cap_v2" if untold.cosine else "linear",
        prediction_type="epsilon",
        variance_type="learned_range" if learned else "fixed_large",
    )


def _network(structure: Structure, untold: Untold) -> "UNet2DModel":
    """Lay out the network without memory for its weights."""
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    plain = "Resnet{}sampleBlock2D" if structure.residual_resampling else "{}Block2D"
    kinds = ["Attn{}Block2D" if attention else plain for attention in structure.attention]
    resampling = "resnet" if structure.residual_resampling else "conv"
    width, time_channels = structure.width, 4 * structure.width
    for channels in (structure.channels[-1], *compress(structure.channels, structure.attention)):
        untold.heads_of(channels)  # refuse what diffusers would round
    with torch.device("meta"):
        network = UNet2DModel(
            sample_size=untold.side,
            in_channels=structure.in_channels,
            out_channels=structure.out_channels,
            time_embedding_dim=time_channels,
            down_block_types=tuple(kind.format("Down") for kind in kinds),
            up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
            block_out_channels=structure.channels,
            layers_per_block=structure.res_blocks,
            downsample_type=resampling,
            upsample_type=resampling,
            attention_head_dim=untold.head_channels,
            norm_num_groups=GROUPS,
            attn_norm_num_groups=GROUPS,
            resnet_time_scale_shift="scale_shift" if structure.scale_shift else "default",
            num_class_embeds=structure.classes + 1 if structure.classes else None,
        )
        if structure.channels[0] != width:  # diffusers encodes the time as wide as the first level
            network.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
            network.time_embedding = TimestepEmbedding(width, time_channels)
    for module in network.modules():
        if isinstance(module, Attention):  # diffusers knows heads by their channels only
            module.heads = module.sliceable_head_dim = untold.heads_of(module.query_dim)
            module.scale = (module.query_dim // module.heads) ** -0.5
    return network


def _sources(structure: Structure) -> Iterator[tuple[str, str]]:
    """Yield the names of each module: what diffusers calls it, what guided-diffusion does."""
    yield "conv_in", "input_blocks.0.0"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    if structure.classes:
        yield "class_embedding", "label_emb"
    blocks, levels = structure.res_blocks, len(structure.channels)
    for level, attention in enumerate(structure.attention):
        down = f"down_blocks.{level}"
        for i in range(blocks):
            source = f"input_blocks.{level * (blocks + 1) + i + 1}"
            yield from _residual(f"{down}.resnets.{i}", f"{source}.0")
            if attention:
                yield from _attention(f"{down}.attentions.{i}", f"{source}.1")
        if level < levels - 1:
            source = f"input_blocks.{(level + 1) * (blocks + 1)}.0"
            if structure.residual_resampling:
                yield from _residual(f"{down}.downsamplers.0", source)
            else:
                yield f"{down}.downsamplers.0.conv", f"{source}.op"
    yield from _residual("mid_block.resnets.0", "middle_block.0")
    yield from _attention("mid_block.attentions.0", "middle_block.1")
    yield from _residual("mid_block.resnets.1", "middle_block.2")
    for level, attention in enumerate(reversed(structure.attention)):
        up = f"up_blocks.{level}"
        for i in range(blocks + 1):
            source = f"output_blocks.{level * (blocks + 1) + i}"
            yield from _residual(f"{up}.resnets.{i}", f"{source}.0")
            if attention:
                yield from _attention(f"{up}.attentions.{i}", f"{source}.1")
        if level < levels - 1:
            source = f"output_blocks.{level * (blocks + 1) + blocks}.{1 + attention}"
            if structure.residual_resampling:
                yield from _residual(f"{up}.upsamplers.0", source)
            else:
                yield f"{up}.upsamplers.0.conv", f"{source}.conv"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def _residual(target: str, source: str) -> Iterator[tuple[str, str]]:
    yield f"{target}.norm1", f"{source}.in_layers.0"
    yield f"{target}.conv1", f"{source}.in_layers.2"
    yield f"{target}.time_emb_proj", f"{source}.emb_layers.1"
    yield f"{target}.norm2", f"{source}.out_layers.0"
    yield f"{target}.conv2", f"{source}.out_layers.3"
    yield f"{target}.conv_shortcut", f"{source}.skip_connection"


def _attention(target: str, source: str) -> Iterator[tuple[str, str]]:
    yield f"{target}.group_norm", f"{source}.norm"
    for part in _QKV:
        yield f"{target}.{part}", f"{source}.qkv"
    yield f"{target}.to_out.0", f"{source}.proj_out"


_QKV = ("to_q", "to_k", "to_v")


def _shape_before(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that guided-diffusion has for a weight of diffusers."""
    target, _, kind = name.rpartition(".")
    if target == "class_embedding":
        return shape[0] - 1, shape[1]
    if ".attentions." not in target or target.endswith("group_norm"):
        return tuple(shape)
    rows = 3 * shape[0] if target.endswith(_QKV) else shape[0]
    return (rows, shape[1], 1) if kind == "weight" else (rows,)  # convolutions of one tap


def _moved(target: str, weight: Tensor, untold: Untold) -> Tensor:
    """Return a weight of guided-diffusion as a module of diffusers has it."""
    if target == "class_embedding":
        return torch.cat([weight, torch.zeros_like(weight[:1])])
    if ".attentions." not in target or target.endswith("group_norm"):
        return weight
    weight = weight.flatten(1) if weight.ndim > 1 else weight
    if not target.endswith(_QKV):
        return weight
    channels = len(weight) // 3
    heads = 1 if untold.new_attention_order else untold.heads_of(channels)
    parts: Tensor = weight.unflatten(0, (heads, 3, channels // heads))
    return parts[:, _QKV.index(target.rpartition(".")[2])].flatten(0, 1)
