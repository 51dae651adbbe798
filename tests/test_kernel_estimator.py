"""The kernel network: what it hands out, what pulls it, and that it can leave the families."""

from functools import cache

import numpy as np
import pytest
import torch

from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation, GramStatistics
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_prior import DynamicKernelPrior, KnownKernel
from napari_dkp.kernels import families, gaussian, trajectory
from napari_dkp.metrics import kernel_ncc
from napari_dkp.randomness import make_generator

MODEL = Degradation((26, 26), (2, 2), (15, 15))
CPU = torch.device("cpu")


@cache
def sharp_image(model: Degradation = MODEL) -> torch.Tensor:
    """Bars of every angle on the domain, shape (1, H, W)."""
    rng = np.random.default_rng(1)
    image = np.zeros(model.domain_shape, np.float32)
    rows, columns = np.indices(image.shape)
    for _ in range(70):
        r, c = rng.integers(0, image.shape[0], 2)
        angle, height, width = rng.uniform(0, np.pi), *rng.uniform(1, 8, 2)
        along = np.cos(angle) * (columns - c) + np.sin(angle) * (rows - r)
        across = np.cos(angle) * (rows - r) - np.sin(angle) * (columns - c)
        image[(abs(along) < width) & (abs(across) < height)] = rng.random()
    return torch.from_numpy(image)[None]


def isotropic(variance: float, model: Degradation = MODEL) -> torch.Tensor:
    covariance = variance * torch.eye(2)[None]
    return gaussian(covariance, model.kernel_shape, model.kernel_centre)[0]


def shaken() -> torch.Tensor:
    """A hook-shaped path: no Gaussian looks like it."""
    time = torch.linspace(0, 1, 40)
    path = torch.stack([9 * time * (1 - time) * 2, 8 * time**2 - 2 * torch.sin(6 * time)], 1)
    return trajectory(path[None], torch.tensor([0.6]), MODEL.kernel_shape, MODEL.kernel_centre)[0]


def statistics(kernel: torch.Tensor) -> GramStatistics:
    return MODEL.statistics(sharp_image(), MODEL.forward(sharp_image(), kernel))


def estimator(model: Degradation = MODEL, seed: int = 0, **config: object) -> KernelEstimator:
    return KernelEstimator(model, PKEConfig(**config), make_generator(seed), CPU)


@pytest.mark.parametrize("phase", ["area", "fkp"])
def test_the_kernel_is_one_with_its_centroid_in_place(phase):
    model = Degradation((26, 26), (2, 2), (15, 13), phase)
    pke = estimator(model)
    kernels = [pke.kernel()]
    for _ in range(20):
        pke.warm_up_step(isotropic(3.0, model))
    kernels.append(pke.kernel())
    for kernel in kernels:
        assert kernel.shape == (15, 13)
        assert kernel.min() >= 0
        assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
        centroid = [
            (kernel.sum(1 - axis) @ torch.arange(n, dtype=torch.float32)).item()
            for axis, n in enumerate(kernel.shape)
        ]
        assert centroid == pytest.approx(model.kernel_centre, abs=0.02)
        assert not kernel.requires_grad


def test_a_kernel_handed_out_is_not_written_again():
    pke = estimator()
    first = pke.kernel()
    copy = first.clone()
    pke.warm_up_step(isotropic(2.0))
    assert torch.equal(first, copy)
    assert not torch.equal(pke.kernel(), copy)


def test_warming_up_moves_the_kernel_to_its_target():
    pke, target = estimator(), isotropic(2.0)
    distances = []
    for _ in range(4):
        distances.append((pke.kernel() - target).norm().item())
        for _ in range(40):
            pke.warm_up_step(target)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * distances[0]


def test_draws_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = estimator(seed=5).kernel()
    torch.manual_seed(2)
    assert torch.equal(first, estimator(seed=5).kernel())
    assert not torch.equal(first, estimator(seed=6).kernel())


def test_without_data_weight_the_kernel_goes_to_the_prior():
    prior, data = isotropic(5.0), statistics(shaken())
    pke = estimator(data_weight=0.0)
    for _ in range(100):
        kernel = pke.step(prior, data)
    assert kernel_ncc(kernel.numpy(), prior.numpy()) > 0.999


def test_data_pull_the_kernel_off_a_wrong_prior():
    prior, data = isotropic(5.0), statistics(shaken())
    kernels = {}
    for weight in (0.0, 10.0):
        pke = estimator(data_weight=weight)
        for _ in range(60):
            kernels[weight] = pke.step(prior, data)
    truth = shaken().numpy()
    assert kernel_ncc(kernels[10.0].numpy(), truth) > kernel_ncc(kernels[0.0].numpy(), truth) + 0.1
    misfits = data.misfit(torch.stack([kernels[0.0], kernels[10.0]]))
    assert misfits[1] < 0.2 * misfits[0]


def test_a_step_returns_the_kernel_it_arrived_at():
    pke = estimator()
    assert torch.equal(pke.step(isotropic(3.0), statistics(shaken())), pke.kernel())


def dynamic_prior(
    kernel: torch.Tensor, family: str = "gaussian", seed: int = 0, **rks: object
) -> DynamicKernelPrior:
    data = MODEL.forward(sharp_image(), kernel)
    data = data + 0.005 * torch.randn(data.shape, generator=torch.Generator().manual_seed(8))
    return DynamicKernelPrior(
        MODEL, data, family, RKSConfig(**rks), PKEConfig(), make_generator(seed)
    )


def test_the_kernel_leaves_the_family_when_the_data_demands_it():
    """Blur by a hooked path, a prior that knows only Gaussians, the true sharp image."""
    truth = shaken()
    members = families("gaussian", MODEL, RKSConfig(gaussian_variance=(0.3, 20.0)))[0]
    cube = torch.rand(1500, 3, generator=torch.Generator().manual_seed(1))
    best = max(kernel_ncc(kernel.numpy(), truth.numpy()) for kernel in members.render(cube))
    prior = dynamic_prior(truth)
    prior.step(None)
    for _ in range(40):
        kernel = prior.step(sharp_image())
    assert best < 0.9
    assert kernel_ncc(kernel.numpy(), truth.numpy()) > best + 0.04


def test_the_kernel_keeps_to_the_family_where_it_holds():
    truth = isotropic(3.0)
    prior = dynamic_prior(truth, family="auto")
    prior.step(None)
    for _ in range(25):
        kernel = prior.step(sharp_image())
    assert kernel_ncc(kernel.numpy(), truth.numpy()) > 0.99


def test_the_warm_up_looks_at_no_image():
    kernels = [dynamic_prior(truth).step(None) for truth in (shaken(), isotropic(3.0))]
    assert torch.equal(*kernels)


def test_the_kernel_stands_at_the_mean_of_its_last_third():
    prior = dynamic_prior(isotropic(2.0), updates=9)
    images = [sharp_image().roll(shift, -1) for shift in range(12)]
    kernels = [prior.step(image) for image in images]
    free = dynamic_prior(isotropic(2.0), updates=100)
    moving = [free.step(image) for image in images]
    assert all(torch.equal(*pair) for pair in zip(kernels[:8], moving[:8], strict=True))
    torch.testing.assert_close(kernels[8], torch.stack(moving[6:9]).mean(0))
    assert all(torch.equal(kernel, kernels[8]) for kernel in kernels[9:])
    assert not torch.equal(moving[9], moving[8])


def test_a_known_kernel_is_returned_whatever_the_image():
    prior = KnownKernel(shaken())
    assert torch.equal(prior.step(None), shaken())
    assert torch.equal(prior.step(sharp_image()), shaken())
