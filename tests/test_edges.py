"""The shock filter: edges become steps, where they are, whatever their direction."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dkp.degradation import Degradation
from napari_dkp.edges import stepped
from napari_dkp.kernels import line


def half_plane(angle: float, softness: float, offset: float = 0.0, size: int = 72) -> np.ndarray:
    """A step from 0.2 to 0.7 through the middle, under a Gaussian."""
    rows, columns = np.indices((4 * size, 4 * size)) / 4 - (size - 0.25) / 2
    sharp = 0.2 + 0.5 * (rows * np.sin(angle) + columns * np.cos(angle) > offset)
    blurred = gaussian_filter(sharp, 4 * softness, mode="nearest")
    return blurred.reshape(size, 4, size, 4).mean((1, 3)).astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, np.pi / 2, 2.5])
@pytest.mark.parametrize("softness", [0.5, 2.0, 4.0])
def test_a_soft_edge_becomes_a_step_in_its_place(angle, softness):
    image = half_plane(angle, softness)
    found = stepped(torch.from_numpy(image)[None], (4, 4))[0].numpy()
    inner = (slice(12, -12),) * 2
    between = (found[inner] > 0.3) & (found[inner] < 0.6)
    assert between.mean() <= 1.6 / 48  # a pixel and a half of a width of 48
    # What is bright has the area that it had: the step has not gone anywhere.
    assert found[inner].mean() == pytest.approx(image[inner].mean(), abs=0.5 * 0.5 / 48)


def test_nothing_becomes_brighter_or_darker_than_it_was():
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    found = stepped(image, (2, 2))
    assert found.min() >= image.min()
    assert found.max() <= image.max()


def test_what_has_no_edges_stays():
    image = torch.full((3, 20, 30), 0.4)
    torch.testing.assert_close(stepped(image, (4, 4)), image)


def test_axes_are_alike():
    image = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(0))
    found = stepped(image, (4, 2))
    torch.testing.assert_close(
        stepped(image.mT.contiguous(), (2, 4)), found.mT, rtol=1e-3, atol=1e-3
    )


def test_channels_have_their_edges_in_one_place():
    """That of their mean: a weak channel of its own would go elsewhere."""
    strong, weak = half_plane(0.0, 3.0), 0.1 * half_plane(0.0, 3.0, offset=3.0)
    found = stepped(torch.from_numpy(np.stack([strong, weak])), (4, 4))
    places = found[:, 36].diff(dim=1).abs().argmax(1)
    assert abs(places[0] - places[1]) <= 1


@pytest.mark.parametrize("softness", [0.5, 2.5])
def test_edges_of_a_soft_image_tell_the_kernel_of_a_sharp_one(softness):
    model = Degradation((40, 40), (2, 2), (15, 15), boundary="circular")
    rng = np.random.default_rng(0)
    sharp = np.zeros(model.domain_shape, np.float32)
    for _ in range(12):
        r, c, height, width = *rng.integers(0, 60, 2), *rng.integers(10, 30, 2)
        sharp[r : r + height, c : c + width] = rng.random()
    lengths = torch.tensor([2.0, 5.0, 8.0, 11.0])
    flat = torch.full((4,), 0.5)
    kernels = line(lengths, 0.6 * torch.ones(4), flat, model.kernel_shape, model.kernel_centre)
    data = model.forward(torch.from_numpy(sharp)[None], kernels[2])
    image = torch.from_numpy(gaussian_filter(sharp, softness, mode="wrap"))[None]
    misfit = model.statistics(stepped(image, model.scale), data).misfit(kernels)
    assert misfit.argmin() == 2
