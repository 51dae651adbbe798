"""Networks as restorers see them: what they predict, windows, sizes, classes."""

import math
from itertools import pairwise

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from diffusers import DDPMScheduler, UNet2DModel  # noqa: E402

from napari_dkp.diffusion.model import DiffusionModel, _starts  # noqa: E402


class Echo(torch.nn.Module):
    """A network that hands back its input, or what a function makes of it."""

    def __init__(self, function=lambda image: image, channels=1, levels=3):
        super().__init__()
        self.function = function
        self.seen = []
        self.config = type(
            "Config", (), {"in_channels": channels, "block_out_channels": (8,) * levels}
        )()

    def forward(self, image, times, labels=None):
        self.seen.append((tuple(image.shape), times, labels))
        return type("Output", (), {"sample": self.function(image)})()


def scheduler(prediction="epsilon", clips=False):
    return DDPMScheduler(1000, 1e-4, 0.02, "linear", prediction_type=prediction, clip_sample=clips)


def model_of(network, prediction="epsilon", window=64, clips=False, label=None):
    return DiffusionModel(network, scheduler(prediction, clips), window, label)


def noisy_image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_image_is_found_from_what_is_predicted(prediction):
    image, noise = noisy_image(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.3)
    model = model_of(Echo(), prediction)
    time = model.time_of(0.5)
    alpha = model.alpha(time)
    signal, spread = math.sqrt(alpha), math.sqrt(1 - alpha)
    noisy = signal * image + spread * noise
    says = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * image,
        "sample": image,
    }[prediction]
    model = model_of(Echo(lambda _: says), prediction)
    torch.testing.assert_close(model.denoise(noisy, time), image, atol=1e-5, rtol=1e-5)


def test_a_learned_variance_is_left_out():
    model = model_of(Echo(lambda image: torch.cat([image, 100 + image], 1)))
    assert model.denoise(noisy_image(1, 1, 8, 8), 10).abs().max() < 50


def test_images_are_clipped_where_the_model_was_trained_so():
    model = model_of(Echo(lambda image: 3 * image), "sample", clips=True)
    assert model.denoise(noisy_image(1, 1, 8, 8), 10).abs().max() == 1
    model = model_of(Echo(lambda image: 3 * image), "sample")
    assert model.denoise(noisy_image(1, 1, 8, 8), 10).abs().max() > 1


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 20.0])
def test_the_time_of_a_noise_level_has_that_level(sigma):
    model = model_of(Echo())
    alpha = model.alpha(model.time_of(sigma))
    assert math.sqrt((1 - alpha) / alpha) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (13, 30), (5, 4), (1, 1)])
def test_any_size_comes_back_and_the_network_sees_what_it_can_halve(shape):
    network = Echo(levels=4)
    model = model_of(network, "sample")
    noisy = noisy_image(1, 1, *shape)
    torch.testing.assert_close(model.denoise(noisy, 10), noisy)
    assert all(n % 8 == 0 for n in network.seen[0][0][-2:])


@pytest.mark.parametrize("shape", [(64, 65), (100, 300), (129, 64)])
def test_windows_that_agree_make_one_image(shape):
    network = Echo(levels=2)
    model = model_of(network, "sample", window=64)
    noisy = noisy_image(1, 1, *shape)
    torch.testing.assert_close(model.denoise(noisy, 10), noisy)
    assert len(network.seen) > 1
    assert all(max(seen[-2:]) <= 64 for seen, _, _ in network.seen)


def test_windows_that_differ_are_blended_without_a_seam():
    """Each window says a constant of its own; neighbours' values then differ little."""
    count = iter(range(100))
    network = Echo(lambda image: torch.full_like(image, float(next(count) % 2)), levels=2)
    blended = model_of(network, "sample", window=64).denoise(noisy_image(1, 1, 64, 256), 10)
    steps = (blended[..., 1:] - blended[..., :-1]).abs().max()
    assert blended.min() < 0.05
    assert blended.max() > 0.95
    assert float(steps) < 0.2


@pytest.mark.parametrize("length", range(64, 400, 8))
def test_windows_cover_and_overlap(length):
    starts = _starts(length, 64, 8)
    assert starts[0] == 0
    assert starts[-1] + 64 >= length
    assert all(0 < after - before <= 52 for before, after in pairwise(starts))


@pytest.mark.parametrize("length", range(65, 400, 9))
def test_windows_that_may_shrink_see_little_twice(length):
    """As many as of the full size, overlapping by a quarter, give or take what is halved."""
    network, full = Echo(), Echo()
    noisy = noisy_image(1, 1, 16, length)
    shrinking = DiffusionModel(network, scheduler("sample"), 64, shrinks=True)
    torch.testing.assert_close(shrinking.denoise(noisy, 10), noisy)
    model_of(full, "sample", window=64).denoise(noisy, 10)
    assert len(network.seen) == len(full.seen)
    seen = sum(shape[-1] for shape, _, _ in network.seen)
    assert seen <= length / 0.75 + 4 * len(network.seen) + 4
    assert seen <= sum(shape[-1] for shape, _, _ in full.seen)


def test_many_images_are_seen_in_parts_no_larger_than_a_window():
    network = Echo()
    noisy = noisy_image(11, 1, 16, 16)
    torch.testing.assert_close(model_of(network, "sample", window=32).denoise(noisy, 10), noisy)
    assert [seen[0] for seen, _, _ in network.seen] == [4, 4, 3]


def test_the_class_is_told_to_every_image():
    network = Echo()
    model_of(network, label=7).denoise(noisy_image(3, 1, 8, 8), 10)
    assert network.seen[0][2].tolist() == [7, 7, 7]


def test_a_network_of_diffusers_is_asked_as_it_is():
    network = UNet2DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
        layers_per_block=1,
    )
    noisy = noisy_image(2, 1, 16, 12)
    model = model_of(network, "sample")
    with torch.no_grad():
        expected = network(noisy, torch.tensor([5, 5])).sample
    torch.testing.assert_close(model.denoise(noisy, 5), expected, atol=1e-5, rtol=1e-4)
