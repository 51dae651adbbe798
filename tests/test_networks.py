"""Image networks: sizes, the published parameter count, and where their weights come from."""

import pytest
import torch
from torch import nn

from napari_dkp.config import DIPConfig
from napari_dkp.randomness import initialise
from napari_dkp.restorers.networks import NonLocalBlock, make_network

CONFIGS = {"light": DIPConfig(channels=4), "published": DIPConfig(network="published")}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(3, 3), (4, 7), (15, 16), (17, 33), (31, 18), (32, 50), (3, 64)])
def test_any_size_comes_out_as_it_went_in(name, shape):
    network = make_network(CONFIGS[name], 2, shape)
    logits = network(torch.rand(1, network.in_channels, *shape))
    assert logits.shape == (1, 2, *shape)
    assert torch.isfinite(logits).all()
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 17, 33), (9, 40, 16), (33, 20, 64)])
def test_volumes_come_out_as_they_went_in(shape):
    network = make_network(CONFIGS["light"], 2, shape)
    logits = network(torch.rand(1, network.in_channels, *shape))
    assert logits.shape == (1, 2, *shape)
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(("planes", "halved"), [(15, 0), (16, 1), (40, 2), (300, 4)])
def test_volumes_of_few_planes_are_halved_along_z_less_often(planes, halved):
    network = make_network(CONFIGS["light"], 1, (planes, 128, 160))
    strides = [
        m.stride for m in network.modules() if isinstance(m, nn.Conv3d) and max(m.stride) > 1
    ]
    assert [stride[1:] for stride in strides] == [(2, 2)] * 4
    assert [stride[0] for stride in strides] == [2] * halved + [1] * (4 - halved)


def test_the_published_network_has_its_published_size():
    network = make_network(CONFIGS["published"], 3, (256, 256))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(2.36e6, rel=0.01)


def test_the_light_network_scales_with_its_channels():
    counts = [
        sum(p.numel() for p in make_network(DIPConfig(channels=c), 1, (256, 256)).parameters())
        for c in (8, 16, 32)
    ]
    assert counts[0] < counts[1] / 2 < counts[2] / 4


def test_attention_averages_values_by_softmaxed_similarity():
    block = NonLocalBlock(6).eval()
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    query, key, value = block.embed(x).flatten(2).split(3, 1)
    weights = torch.softmax(torch.einsum("bci,bcj->bij", query, key), 2)
    attended = torch.einsum("bij,bcj->bci", weights, value).reshape(2, 3, 3, 4)
    torch.testing.assert_close(block(x), x + block.join(attended), atol=1e-5, rtol=1e-5)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 50), nn.Conv2d(3, 60, 5), nn.Conv2d(8, 4, 1, bias=False))


def test_initialise_draws_from_its_generator_alone():
    first, second, third = layers(), layers(), layers()
    before = torch.get_rng_state()
    for module, seed in ((first, 1), (second, 1), (third, 2)):
        initialise(module, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_initialise_is_uniform_within_one_over_root_fan_in():
    module = layers()
    initialise(module, torch.Generator().manual_seed(0))
    for layer, fan_in in zip(module, (40, 75, 8), strict=True):
        bound = fan_in**-0.5
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.abs().max() > 0.99 * bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        if layer.bias is not None:
            assert 0 < layer.bias.abs().max() <= bound
