"""Networks of guided-diffusion, converted, against their forward pass written out by itself."""

import math
import re
from dataclasses import replace

import pytest
import torch
from guided_reference import Guided, Weights, encode, forward, random_weights, shapes
from torch import Tensor

from napari_dkp.diffusion.guided import convert, is_guided, scheduler_for
from napari_dkp.diffusion.guided_structure import Structure, Untold

pytest.importorskip("diffusers")

NETWORKS = {
    "legacy order": Guided(),
    "new order": Guided(new_attention_order=True),
    "time added": Guided(scale_shift=False),
    "convolutions": Guided(residual_resampling=False, res_blocks=2),
    "convolutions, time added": Guided(residual_resampling=False, scale_shift=False),
    "no variance": Guided(out_channels=3),
    "grey": Guided(in_channels=1, out_channels=2),
    "narrow first level": Guided(width=64, multipliers=(0.5, 1, 2), attention=(2, 4)),
    "four heads": Guided(multipliers=(1, 2, 3), attention=(2, 4), heads=4, head_channels=None),
    "one head": Guided(heads=1, head_channels=None, new_attention_order=True),
    "attention at all levels": Guided(attention=(1, 2), res_blocks=2),
    "attention between levels without": Guided(multipliers=(1, 1, 2), attention=(2,)),
    "attention in the middle only": Guided(multipliers=(1, 2, 2), attention=(), res_blocks=3),
    "one level": Guided(multipliers=(1,), attention=()),
    "classes": Guided(classes=5),
}
TIMES = [0, 1, 7.5, 250, 999]
FULL_SIZE = {
    "256x256": (
        Guided(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32)),
        Untold(head_channels=64, side=256),
    ),
    "256x256 of classes": (
        Guided(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), classes=1000),
        Untold(head_channels=64, side=256),
    ),
    "512x512": (
        Guided(256, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64)),
        Untold(head_channels=64, side=512),
    ),
    "128x128": (
        Guided(256, (1, 1, 2, 3, 4), 2, (4, 8, 16), classes=1000),
        Untold(heads=4, side=128),
    ),
    "64x64": (
        Guided(192, (1, 2, 3, 4), 3, (2, 4, 8), classes=1000),
        Untold(head_channels=64, new_attention_order=True, cosine=True, side=64),
    ),
    "faces": (
        Guided(128, (1, 1, 2, 2, 4, 4), 1, (16,)),
        Untold(head_channels=64, side=256),
    ),
}


def untold(net: Guided) -> Untold:
    return Untold(net.head_channels, net.heads, net.new_attention_order)


def images(net: Guided, count: int) -> Tensor:
    """Not square, and of as few pixels as the levels allow twice and four times over."""
    side = 2 ** len(net.multipliers)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, net.in_channels, side, 2 * side, generator=generator)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_it_computes_what_the_original_does(net):
    weights = random_weights(net)
    image, time = images(net, len(TIMES)), torch.tensor(TIMES)
    label = torch.tensor([0, 4, 2, 1, 3]) if net.classes else None
    found = convert(weights, untold(net))(image, time, label).sample
    assert error(found, forward(net, weights, image, time, label)) < 1e-5


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_in_double_precision_they_are_the_same(net):
    weights = {name: weight.double() for name, weight in random_weights(net, 2).items()}
    image, time = images(net, 2).double(), torch.zeros(2)  # diffusers encodes others in float32
    label = torch.tensor([1, 3]) if net.classes else None
    found = convert(weights, untold(net)).double()(image, time, label).sample
    assert error(found, forward(net, weights, image, time, label)) < 1e-12


@pytest.mark.parametrize(
    "other",
    [Untold(head_channels=32), Untold(heads=1), Untold(head_channels=16, new_attention_order=True)],
    ids=str,
)
def test_other_heads_are_another_function(other):
    net = Guided()
    weights, image, time = random_weights(net), images(net, 1), torch.tensor([3.0])
    found = convert(weights, other)(image, time).sample
    assert error(found, forward(net, weights, image, time)) > 1e-3


def test_the_null_class_adds_nothing():
    net = NETWORKS["classes"]
    weights, image, time = random_weights(net), images(net, 2), torch.tensor([3, 500])
    null = torch.full((2,), net.classes)
    found = convert(weights, untold(net))(image, time, null).sample
    assert error(found, forward(net, weights, image, time)) < 1e-5


@pytest.mark.parametrize("multiplier", [1, 0.5])
def test_time_is_encoded_in_cosines_then_sines(multiplier):
    net = Guided(width=64, multipliers=(multiplier, 1))
    found = convert(random_weights(net), untold(net)).time_proj(torch.tensor(TIMES))
    # Phases up to 1000 in float32 are 6e-5 apart.
    torch.testing.assert_close(found, encode(torch.tensor(TIMES), 64).float(), atol=2e-4, rtol=0)


def test_it_is_ready_to_be_evaluated():
    net = Guided()
    weights = random_weights(net)
    network = convert({name: weight.half() for name, weight in weights.items()}, untold(net))
    assert network.dtype == torch.float32
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    shared = convert(weights, untold(net)).conv_in.weight
    assert shared.data_ptr() == weights["input_blocks.0.0.weight"].data_ptr()
    image = images(net, 1).requires_grad_()
    convert(weights, untold(net))(image, torch.tensor([5])).sample.sum().backward()
    assert image.grad.abs().max() > 0


@pytest.mark.parametrize(("net", "expected"), FULL_SIZE.values(), ids=FULL_SIZE)
def test_published_networks_are_known_by_their_weights(net, expected):
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes(net).items()}
    assert Structure.of(weights).published() == expected
    # Every weight has its place; none takes memory.
    network = convert(weights)
    count = sum(weight.numel() for weight in weights.values())
    null = 4 * net.width if net.classes else 0
    assert sum(parameter.numel() for parameter in network.parameters()) == count + null


@pytest.mark.parametrize(
    "change",
    [
        {"width": 64},
        {"res_blocks": 2},
        {"attention": (8, 16)},
        {"scale_shift": False},
        {"residual_resampling": False},
    ],
    ids=str,
)
def test_of_other_networks_the_heads_must_be_stated(change):
    net = replace(FULL_SIZE["faces"][0], **change)
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes(net).items()}
    with pytest.raises(ValueError, match=r"^model: .*none of the published.*head_channels=64"):
        convert(weights)
    with pytest.raises(ValueError, match=r"^model: .*none of the published"):
        scheduler_for(weights)


def test_structure_is_read_from_the_weights():
    net = Guided(64, (0.5, 1, 2), 2, (4,), 1, 2, classes=7, scale_shift=False)
    assert Structure.of(random_weights(net)) == Structure(
        width=64,
        channels=(32, 64, 128),
        attention=(False, False, True),
        res_blocks=2,
        in_channels=1,
        out_channels=2,
        classes=7,
        scale_shift=False,
        residual_resampling=True,
    )


def test_guided_networks_are_told_by_their_names():
    weights = random_weights(Guided())
    assert is_guided(weights)
    assert not is_guided({})
    assert not is_guided({f"model.{name}": weight for name, weight in weights.items()})
    assert not is_guided({"conv_in.weight": 0, "time_embedding.linear_1.weight": 0})


NET = Guided()
KEYS = list(shapes(NET))


@pytest.mark.parametrize("name", [*KEYS[::9], "middle_block.1.qkv.weight", KEYS[-2], KEYS[-1]])
def test_a_missing_weight_is_named(name):
    weights = random_weights(NET)
    del weights[name]
    refused(weights, f"'{name}'.*missing")


@pytest.mark.parametrize("name", ["middle_block.1.qkv.weight", "out.2.bias", "time_embed.2.weight"])
def test_a_weight_of_another_shape_is_named(name):
    weights = random_weights(NET)
    expected = tuple(weights[name].shape)
    weights[name] = weights[name][1:]
    got = tuple(weights[name].shape)
    refused(weights, re.escape(f"'{name}' to have the shape {expected}; got {got}"))


def test_a_weight_of_other_axes_is_named():
    weights = random_weights(NET)
    weights["input_blocks.0.0.weight"] = torch.zeros(32, 3, 3, 3, 3)
    refused(weights, "'input_blocks.0.0.weight' to have 4 axes")


def test_the_first_unknown_weight_is_named():
    weights = random_weights(NET)
    weights["input_blocks.1.0.norm3.weight"] = weights["more"] = torch.zeros(1)
    refused(weights, "got 2 weights .*first is 'input_blocks.1.0.norm3.weight'")


def test_a_shortcut_where_there_is_none_is_unknown():
    weights = random_weights(NET)
    weights["middle_block.0.skip_connection.weight"] = torch.zeros(64, 64, 1, 1)
    refused(weights, "'middle_block.0.skip_connection.weight'")


def test_levels_of_unequal_length_are_refused():
    weights = random_weights(NET)
    short = {name: weight for name, weight in weights.items() if "output_blocks.3" not in name}
    refused(short, "equally many 'output_blocks'.*got 3 of them in 2 levels")
    refused({name: weight for name, weight in weights.items() if "output" not in name}, "got 0")


def test_channels_that_cannot_be_normalised_are_refused():
    refused(random_weights(replace(NET, multipliers=(1, 1.5))), "multiples of 32")


def test_heads_must_divide_the_channels():
    with pytest.raises(
        ValueError, match=r"^head_channels: expected a divisor of 64 channels; got 48"
    ):
        convert(random_weights(NET), Untold(head_channels=48))
    with pytest.raises(ValueError, match=r"^heads: expected a divisor of 64 channels; got 3"):
        convert(random_weights(NET), Untold(heads=3))


def refused(weights: Weights, message: str) -> None:
    with pytest.raises(ValueError, match=f"^model: .*{message}"):
        convert(weights, untold(NET))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, ValueError, "one of both; got None and None"),
        ({"heads": 4, "head_channels": 64}, ValueError, "one of both; got 64 and 4"),
        ({"heads": 0}, ValueError, "^heads: .*at least 1; got 0"),
        ({"head_channels": 6.5}, TypeError, "^head_channels: .*integer"),
    ],
)
def test_heads_are_stated_in_one_way(arguments, kind, message):
    with pytest.raises(kind, match=message):
        Untold(**arguments)


def test_the_linear_schedule_adds_up():
    scheduler = scheduler_for(random_weights(NET), untold(NET))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = (1 - betas).cumprod(0)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), expected, rtol=1e-4, atol=0)
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.config.variance_type == "learned_range"


def test_the_cosine_schedule_adds_up():
    net = replace(NET, out_channels=3)
    scheduler = scheduler_for(random_weights(net), Untold(head_channels=16, cosine=True))
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    power = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = power / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod[:-1].double(), expected, rtol=1e-3, atol=0)
    assert scheduler.config.variance_type == "fixed_large"


def test_a_scheduler_takes_the_noise_and_its_variance():
    net, image = NET, images(NET, 1)
    weights = random_weights(net)
    scheduler = scheduler_for(weights, untold(net))
    out = convert(weights, untold(net))(image, torch.tensor([600])).sample
    step = scheduler.step(out, 600, image, generator=torch.Generator().manual_seed(0))
    assert step.prev_sample.shape == image.shape


def test_other_channels_than_noise_and_variance_are_refused():
    weights = random_weights(replace(NET, out_channels=5))
    with pytest.raises(ValueError, match=r"^model: expected 3 or 6 channels .*got 5"):
        scheduler_for(weights, untold(NET))
