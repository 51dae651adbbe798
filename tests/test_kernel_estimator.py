"""The kernel network: what it hands out, what pulls it, and that it can leave the families."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from napari_dkp import kernel_prior
from napari_dkp.config import PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.families import families
from napari_dkp.gram import GramStatistics
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_prior import (
    LEARNING_UPDATES,
    DynamicKernelPrior,
    KnownKernel,
    StandingKernel,
)
from napari_dkp.kernels import fix_centroid, gaussian, trajectory
from napari_dkp.metrics import kernel_ncc
from napari_dkp.randomness import initialise, make_generator

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


class WholeNetwork:
    """The network as it is published: z goes through every layer, autograd finds the gradients."""

    def __init__(self, seed: int, config: PKEConfig) -> None:
        self.config = config
        generator = make_generator(seed)
        self.noise = 0.1 * torch.rand(200, generator=generator)
        widths = [200, *config.hidden, 15 * 15]
        layers = [nn.Linear(*fan) for fan in pairwise(widths)]
        modules = [module for layer in layers for module in (layer, nn.ReLU6())][:-1]
        self.network = nn.Sequential(*modules)
        initialise(self.network, generator)
        self.optimiser = torch.optim.Adam(self.network.parameters(), config.learning_rate)

    def kernel(self) -> torch.Tensor:
        flat = torch.softmax(self.network(self.noise), 0)
        return fix_centroid(flat.reshape(1, *MODEL.kernel_shape), MODEL.kernel_centre)[0]

    def step(self, target: torch.Tensor, data: GramStatistics) -> torch.Tensor:
        for _ in range(self.config.steps):
            kernel = self.kernel()
            if self.config.distance == "squared":
                distance = (kernel - target).square().sum() / target.square().sum()
            else:
                distance = (target * (target.log() - kernel.log())).sum()
            misfit = data.misfit(kernel[None])[0].float()
            self.optimiser.zero_grad()
            (distance + self.config.data_weight * torch.log(misfit + 1e-8)).backward()
            self.optimiser.step()
        return self.kernel().detach()


@pytest.mark.parametrize("hidden", [(), (60,), (50, 40)])
@pytest.mark.parametrize("distance", ["entropy", "squared"])
def test_the_estimator_follows_the_whole_network(hidden, distance):
    """Though it holds the first layer's outputs only, and gradients are in closed form."""
    config = PKEConfig(hidden=hidden, distance=distance)
    lean, whole = estimator(hidden=hidden, distance=distance), WholeNetwork(0, config)
    target, data = isotropic(2.0), statistics(shaken())
    torch.testing.assert_close(lean.kernel(), whole.kernel().detach(), rtol=1e-4, atol=1e-7)
    for _ in range(12):
        found, expected = lean.step(target, data), whole.step(target, data)
        assert (found - expected).norm() < 1e-3 * expected.norm()
    assert (found - isotropic(100.0)).norm() > 0.1 * expected.norm()


def test_a_step_returns_the_kernel_it_arrived_at():
    pke = estimator()
    assert torch.equal(pke.step(isotropic(3.0), statistics(shaken())), pke.kernel())


def dynamic_prior(
    kernel: torch.Tensor, rks: RKSConfig | None = None, **options: object
) -> DynamicKernelPrior:
    return DynamicKernelPrior(
        MODEL,
        noisy(kernel),
        "gaussian",
        rks or RKSConfig(),
        PKEConfig(),
        make_generator(0),
        **options,
    )


def noisy(kernel: torch.Tensor) -> torch.Tensor:
    data = MODEL.forward(sharp_image(), kernel)
    return data + 0.005 * torch.randn(data.shape, generator=torch.Generator().manual_seed(8))


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
    prior = dynamic_prior(truth)
    prior.step(None)
    for _ in range(25):
        kernel = prior.step(sharp_image())
    assert kernel_ncc(kernel.numpy(), truth.numpy()) > 0.99


def test_the_warm_up_looks_at_no_image():
    kernels = [dynamic_prior(truth).step(None) for truth in (shaken(), isotropic(3.0))]
    assert torch.equal(*kernels)


class Recorder:
    """Sampler and estimator in one: keeps the statistics that it is shown."""

    def __init__(self) -> None:
        self.warm_ups = 0
        self.sampled: list[GramStatistics] = []
        self.estimated: list[GramStatistics] = []
        self.weights: list[float | None] = []

    def draw(self, count: int) -> torch.Tensor:
        assert count > 0  # families need not know how to make no kernels
        return torch.stack([isotropic(1.0)] * count)

    def warm_up_step(self, target: torch.Tensor) -> None:
        self.warm_ups += 1

    def kernel(self) -> torch.Tensor:
        return isotropic(1.0)

    def step(self, *arguments: object) -> torch.Tensor:
        if len(arguments) == 1:
            self.sampled.append(arguments[0])
        else:
            _, statistics, weight = arguments
            self.estimated.append(statistics)
            self.weights.append(weight)
        return isotropic(1.0)


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    both = Recorder()
    monkeypatch.setattr(kernel_prior, "make_sampler", lambda *_: both)
    monkeypatch.setattr(kernel_prior, "KernelEstimator", lambda *_: both)
    return both


PROBES = torch.stack([isotropic(variance) for variance in (0.7, 2.0, 5.0)])


def shifted(by: int) -> torch.Tensor:
    return sharp_image().roll(by, -1)


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("max_sites", [256, 8192])
def test_the_prior_looks_at_the_residual_it_is_told_to(recorder, whitened, max_sites):
    options = {"whitened": True} if whitened else {}
    prior = dynamic_prior(isotropic(2.0), RKSConfig(max_sites=max_sites), **options)
    prior.step(None)
    prior.step(sharp_image())
    expected = MODEL.statistics(sharp_image(), noisy(isotropic(2.0)), max_sites, whitened)
    for seen in (recorder.sampled, recorder.estimated):
        torch.testing.assert_close(seen[-1].misfit(PROBES), expected.misfit(PROBES))


@pytest.mark.parametrize("memory", [0.0, 0.8])
@pytest.mark.parametrize(("n_near", "first_kept"), [(0, 0), (1, 2), (2, 5), (3, 7)])
def test_images_are_blended_once_the_prior_is_to_remember(recorder, memory, n_near, first_kept):
    """M ← m for the first misfit m that is kept, then M ← (1 - memory) m + memory M."""
    prior = dynamic_prior(isotropic(2.0), whitened=True, memory=memory)
    for number, image in enumerate(([0, 1], [2, 3, 4], [5, 6])):
        if number == n_near:
            prior.remember()
        prior.step(None)
        for shift in image:
            prior.step(shifted(shift))
    alone = [
        MODEL.statistics(shifted(shift), noisy(isotropic(2.0)), 2048, True).misfit(PROBES)
        for shift in range(7)
    ]
    expected = alone[: first_kept + 1]
    for misfit in alone[first_kept + 1 :]:
        expected.append((1 - memory) * misfit + memory * expected[-1])
    for seen in (recorder.sampled, recorder.estimated):
        found = torch.stack([statistics.misfit(PROBES) for statistics in seen])
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("missing", [None, (0, 4, 7)])
def test_gradients_misfit_by_how_far_neighbouring_residuals_are_apart(missing):
    """Σ (r_u - r_v)² over pairs of neighbours u, v that both count, r by brute force."""
    data = noisy(isotropic(2.0))
    weights = torch.ones_like(data)
    if missing is not None:
        weights[missing] = 0
    residual = data - MODEL.forward(sharp_image(), isotropic(3.0))
    expected = 0.0
    for place in np.ndindex(*residual.shape):
        for axis in (1, 2):
            other = tuple(n + (number == axis) for number, n in enumerate(place))
            if other[axis] < residual.shape[axis] and weights[place] and weights[other]:
                expected += float(residual[place] - residual[other]) ** 2
    prior = dynamic_prior(isotropic(2.0), weights=weights)
    assert prior.gradient_misfit(sharp_image(), isotropic(3.0)) == pytest.approx(expected, rel=1e-4)


def test_a_complete_image_tells_the_profile_of_misfits(recorder):
    prior = dynamic_prior(isotropic(2.0), stiffness=0.3)
    prior.learned(sharp_image(), isotropic(3.0))
    statistics = MODEL.statistics(sharp_image(), noisy(isotropic(2.0)))
    expected = statistics.profile(isotropic(3.0), 0.3).misfit(PROBES)
    for seen in (recorder.sampled, recorder.estimated):
        assert len(seen) == LEARNING_UPDATES
        for each in seen:
            torch.testing.assert_close(each.misfit(PROBES), expected)


def test_a_profile_has_a_weight_of_its_own(recorder):
    prior = dynamic_prior(isotropic(2.0), profile_weight=0.7)
    prior.step(None)
    prior.step(sharp_image())
    prior.learned(sharp_image(), isotropic(3.0))
    assert recorder.weights == [None] + [0.7] * LEARNING_UPDATES


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_weight_stands_for_that_of_the_config(weight):
    statistics = MODEL.statistics(sharp_image(), noisy(isotropic(2.0)))
    kernels = []
    for config, given in ((0.2, weight), (weight, None)):
        estimator = KernelEstimator(
            MODEL, PKEConfig(data_weight=config), make_generator(0), torch.device("cpu")
        )
        kernels.append(estimator.step(isotropic(3.0), statistics, given))
    assert torch.equal(*kernels)


def test_profiles_are_averaged_over_images(recorder):
    prior = dynamic_prior(isotropic(2.0), stiffness=0.3)
    alone = []
    for shift in range(3):
        prior.learned(shifted(shift), PROBES[shift])
        statistics = MODEL.statistics(shifted(shift), noisy(isotropic(2.0)))
        profile = statistics.profile(PROBES[shift], 0.3)
        alone.append(profile.misfit_and_slope(isotropic(1.0))[1])
        _, slope = recorder.estimated[-1].misfit_and_slope(isotropic(1.0))
        torch.testing.assert_close(slope, torch.stack(alone).mean(0))


def test_what_is_learned_is_nearer_to_the_kernel_of_the_data():
    truth, before = isotropic(3.0), isotropic(5.0)
    prior = dynamic_prior(truth, stiffness=1.0)
    kernel = before
    for _ in range(3):
        kernel = prior.learned(sharp_image(), kernel)
    off, was = (kernel_ncc(each.numpy(), truth.numpy()) for each in (kernel, before))
    assert off > 0.99 > was


def test_only_the_first_image_is_preceded_by_a_warm_up(recorder):
    prior = dynamic_prior(isotropic(2.0))
    counts = []
    for _ in range(3):
        prior.step(None)
        prior.step(sharp_image())
        counts.append(recorder.warm_ups)
    assert counts == [PKEConfig().warm_up] * 3


def test_a_run_may_do_without_a_warm_up(recorder):
    prior = DynamicKernelPrior(
        MODEL,
        noisy(isotropic(2.0)),
        "gaussian",
        RKSConfig(),
        PKEConfig(warm_up=0),
        make_generator(0),
    )
    prior.step(None)
    assert recorder.warm_ups == 0


def test_a_new_image_goes_on_from_the_kernel_of_the_last():
    prior = dynamic_prior(isotropic(2.0))
    first = prior.step(None)
    last = prior.step(sharp_image())
    assert torch.equal(prior.step(None), last)
    assert not torch.equal(first, last)


class Scripted:
    """A prior that returns given kernels and keeps what it was shown."""

    def __init__(self, kernels: torch.Tensor) -> None:
        self.kernels = iter(kernels)
        self.shown: list[torch.Tensor | None] = []

    def step(self, image: torch.Tensor | None) -> torch.Tensor:
        self.shown.append(image)
        return next(self.kernels)


@pytest.mark.parametrize(
    ("updates", "late"), [(2, 1), (3, 1), (4, 2), (6, 2), (9, 3), (36, 12), (48, 16)]
)
def test_the_kernel_stands_at_the_mean_of_its_last_third(updates, late):
    kernels = torch.rand(updates + 1, 5, 5, generator=torch.Generator().manual_seed(updates))
    images = [torch.full((1, 4, 4), float(number)) for number in range(updates + 7)]
    prior = Scripted(kernels)
    standing = StandingKernel(prior, updates)
    assert torch.equal(standing.step(None), kernels[0])
    found = [standing.step(image) for image in images]
    assert all(map(torch.equal, found[: updates - 1], kernels[1:]))
    mean = kernels[-late:].numpy().sum(0) / late
    for kernel in found[updates - 1 :]:
        np.testing.assert_allclose(kernel, mean, rtol=1e-5)
        assert kernel is found[-1]  # what does not change is known by its identity
    # The prior saw each image up to there as it is, and has no more work.
    assert prior.shown[0] is None
    assert len(prior.shown) == updates + 1
    assert all(seen is image for seen, image in zip(prior.shown[1:], images, strict=False))


def test_only_images_count_as_updates_of_a_kernel_that_will_stand():
    prior = Scripted(torch.rand(9, 5, 5))
    standing = StandingKernel(prior, 3)
    for _ in range(4):
        standing.step(None)
    standing.step(sharp_image())
    assert [image is None for image in prior.shown] == [True] * 4 + [False]
    moved = [standing.step(sharp_image()) for _ in range(4)]
    assert len(prior.shown) == 7
    assert torch.equal(moved[1], moved[3])


def test_a_kernel_that_is_sought_stands_in_the_end():
    standing = StandingKernel(dynamic_prior(isotropic(2.0)), 9)
    free = dynamic_prior(isotropic(2.0))
    images = [None, *(shifted(by) for by in range(12))]
    kernels, moving = ([prior.step(image) for image in images] for prior in (standing, free))
    assert all(map(torch.equal, kernels[:9], moving))
    torch.testing.assert_close(kernels[9], torch.stack(moving[7:10]).mean(0))
    assert all(torch.equal(kernel, kernels[9]) for kernel in kernels[10:])
    assert not torch.equal(moving[10], moving[9])


def test_a_known_kernel_is_returned_whatever_the_image():
    prior = KnownKernel(shaken())
    assert torch.equal(prior.step(None), shaken())
    assert torch.equal(prior.step(sharp_image()), shaken())
