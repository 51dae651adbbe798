"""The last steps of a restoration: non-local means, and the data step after them."""

import numpy as np
import pytest
import torch

from napari_dkp.config import DIPConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.nonlocal_means import nonlocal_means
from napari_dkp.restorers.polish import PolishedRestorer


def means_by_hand(image: np.ndarray, level: float) -> np.ndarray:
    """Each pixel's weighted mean over the 13² about it, patches of 7², edges repeated."""
    _, rows, columns = image.shape
    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
    patches = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))
    result = np.empty_like(image)
    for r, c in np.ndindex(rows, columns):
        near = np.s_[:, max(r - 6, 0) : r + 7, max(c - 6, 0) : c + 7]
        squared = ((patches[near] - patches[:, r, c][:, None, None]) ** 2).mean((0, 3, 4))
        weights = np.exp(-squared / level**2)
        result[:, r, c] = (weights * image[near]).sum((1, 2)) / weights.sum()
    return result


@pytest.mark.parametrize("shape", [(3, 17, 20), (1, 9, 4), (1, 1, 8)])
def test_non_local_means_are_those_of_the_definition(shape):
    image = np.random.default_rng(0).random(shape)
    found = nonlocal_means(torch.from_numpy(image)[None], 0.3)[0].numpy()
    np.testing.assert_allclose(found, means_by_hand(image, 0.3), atol=1e-12)


def test_scenes_do_not_weigh_each_other():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = nonlocal_means(images, 0.2)
    assert torch.equal(together[:1], nonlocal_means(images[:1], 0.2))
    assert torch.equal(together[1:], nonlocal_means(images[1:], 0.2))


MODEL = Degradation((16, 16), (2, 2), (5, 5), boundary="circular")
OPEN = Degradation((15, 16), (2, 2), (5, 5))
BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
KERNEL = torch.outer(BLUR, BLUR) / 256


def scene(model: Degradation) -> torch.Tensor:
    """Two bright bars on grey, on the domain of a model, shape (1, *domain_shape)."""
    image = torch.full((1, *model.domain_shape), 0.3)
    image[:, 8:12] = 0.8
    image[:, :, 20:24] = 0.9
    return image


def restorer(model: Degradation, data: torch.Tensor, *, colours: int = 1) -> PolishedRestorer:
    config = DIPConfig(channels=8)
    forming = DIPRestorer(
        model, data, (0, 1), config, 12, torch.float32, torch.Generator().manual_seed(0)
    )
    return PolishedRestorer(forming, model, data, (0.0, 1.0), 12, 16, colours)


@pytest.mark.parametrize("model", [MODEL, OPEN])
def test_polishing_brings_the_image_nearer_to_the_samples_and_to_the_truth(model):
    truth = scene(model)
    data = model.forward(truth, KERNEL)
    polished = restorer(model, data)
    steps = [polished.step(KERNEL) for _ in range(16)]
    formed, last = steps[11], steps[-1]
    assert last.residual < 0.5 * formed.residual
    assert (last.image - truth).square().mean() < 0.8 * (formed.image - truth).square().mean()
    assert last.image.min() >= 0
    assert last.image.max() <= 1


def test_a_step_tells_of_the_image_it_hands_out():
    data = MODEL.forward(scene(MODEL), KERNEL)
    polished = restorer(MODEL, data)
    for n in range(1, 17):
        taken = polished.step(KERNEL)
        if n > 12:
            seen = MODEL.forward(taken.image, KERNEL)
            error = (seen - data).square().mean()
            assert taken.residual.item() == pytest.approx(error.sqrt().item(), rel=1e-3)
            assert taken.loss.item() == pytest.approx(error.item(), rel=1e-3)
            torch.testing.assert_close(polished.evidence().mean, seen, atol=1e-6, rtol=0)
            assert torch.equal(taken.estimate, MODEL.crop(taken.image))


def test_a_kernel_that_changes_is_followed():
    """Under the kernel of a point, the samples themselves are what the image is held to."""
    data = MODEL.forward(scene(MODEL), KERNEL)
    polished = restorer(MODEL, data)
    for _ in range(13):
        polished.step(KERNEL)
    point = torch.zeros(5, 5)
    point[2, 2] = 1.0
    image = polished.step(point).image
    torch.testing.assert_close(MODEL.forward(image, point), data, atol=0.01, rtol=0)


def test_the_evidence_of_an_image_that_forms_is_the_networks():
    data = MODEL.forward(scene(MODEL), KERNEL)
    polished = restorer(MODEL, data)
    taken = polished.step(KERNEL)
    seen = MODEL.forward(taken.image, KERNEL)
    torch.testing.assert_close(polished.evidence().mean, seen, atol=1e-5, rtol=0)


class Formed:
    """Has formed an image, and hands it out."""

    def __init__(self, image: torch.Tensor) -> None:
        self._image = image

    def step(self, kernel: torch.Tensor) -> RestorerStep:
        zero = torch.zeros(())
        return RestorerStep(self._image, self._image, zero, zero)

    def evidence(self) -> Evidence:
        raise NotImplementedError


def polished(image: torch.Tensor, data: torch.Tensor, *, colours: int = 1) -> torch.Tensor:
    made = PolishedRestorer(Formed(image), MODEL, data, (0.0, 1.0), 1, 4, colours)
    for _ in range(4):
        taken = made.step(KERNEL)
    return taken.image


def test_scenes_side_by_side_are_as_each_alone_and_colours_are_not():
    rough = 0.1 * torch.rand(2, *MODEL.domain_shape, generator=torch.Generator().manual_seed(1))
    images = 0.5 * scene(MODEL) + rough
    data = MODEL.forward(images, KERNEL)
    together = polished(images, data)
    for n in range(2):
        alone = polished(images[n : n + 1], data[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-6, rtol=0)
    colours = polished(images, data, colours=2)
    assert (colours - together).abs().max() > 1e-3
