"""Random kernel sampling: the right kernel from known statistics, and a sampler that is one."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from returned import returned

from napari_dkp.config import RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import mapped
from napari_dkp.families import KernelFamily, families
from napari_dkp.gram import GramStatistics
from napari_dkp.kernel_sampling import PaperSampler, SMCSampler, _systematic, make_sampler
from napari_dkp.kernels import gaussian, line
from napari_dkp.metrics import kernel_ncc

MODEL = Degradation((28, 28), (2, 2), (15, 15))
CPU = torch.device("cpu")
RANGES = {"gaussian_variance": (0.35, 8.0), "line_length": (2.0, 12.0)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sharp_image() -> torch.Tensor:
    """Overlapping rectangles: edges in every direction, none of them smooth."""
    rng = np.random.default_rng(0)
    image = np.zeros(MODEL.domain_shape, np.float32)
    rows, columns = np.indices(image.shape)
    for _ in range(60):
        r, c = rng.integers(0, image.shape[0], 2)
        angle, height, width = rng.uniform(0, np.pi), *rng.uniform(1, 9, 2)
        along = np.cos(angle) * (columns - c) + np.sin(angle) * (rows - r)
        across = np.cos(angle) * (rows - r) - np.sin(angle) * (columns - c)
        image[(abs(along) < width) & (abs(across) < height)] = rng.random()
    return torch.from_numpy(image)[None]


def observed(kernel: torch.Tensor, noise: float = 0.005) -> GramStatistics:
    """Statistics of the true sharp image for data blurred by `kernel`."""
    data = MODEL.forward(sharp_image(), kernel)
    data = data + noise * torch.randn(data.shape, generator=generator(9))
    return MODEL.statistics(sharp_image(), data)


def true_gaussian() -> torch.Tensor:
    covariance = torch.tensor([[[4.0, 1.2], [1.2, 1.0]]])
    return gaussian(covariance, MODEL.kernel_shape, MODEL.kernel_centre)[0]


def true_line() -> torch.Tensor:
    length, angle, width = (torch.tensor([value]) for value in (9.0, 0.8, 0.5))
    return line(length, angle, width, MODEL.kernel_shape, MODEL.kernel_centre)[0]


def sampler(name: str, seed: int = 0, **config: object) -> SMCSampler:
    rks = RKSConfig(**RANGES, **config)
    (family,) = families(name, MODEL, rks)
    return SMCSampler(family, rks, generator(seed), CPU)


def run(smc: SMCSampler, statistics: GramStatistics, steps: int = 15) -> torch.Tensor:
    for _ in range(steps):
        kernel = smc.step(statistics)
    return kernel


def test_smc_recovers_a_gaussian():
    kernel = run(sampler("gaussian"), observed(true_gaussian()))
    assert kernel_ncc(kernel.numpy(), true_gaussian().numpy()) > 0.995


@pytest.mark.parametrize("name", ["line", "trajectory"])
def test_smc_recovers_a_line(name):
    """Straight paths are lines."""
    kernel = run(sampler(name), observed(true_line()))
    assert kernel_ncc(kernel.numpy(), true_line().numpy()) > 0.99


def test_the_wrong_family_does_worse():
    """What makes the test of lines one: they are no Gaussians."""
    kernel = run(sampler("gaussian"), observed(true_line()))
    assert kernel_ncc(kernel.numpy(), true_line().numpy()) < 0.97


def test_smc_follows_statistics_that_change():
    smc = sampler("gaussian")
    first = run(smc, observed(true_line()))
    second = run(smc, observed(true_gaussian()), steps=25)
    assert kernel_ncc(second.numpy(), true_gaussian().numpy()) > 0.99
    assert kernel_ncc(first.numpy(), true_gaussian().numpy()) < 0.95


every_sampler = pytest.mark.parametrize(
    ("kind", "name"),
    [("smc", "gaussian"), ("smc", "trajectory"), ("paper", "line"), ("paper", "auto")],
)


@every_sampler
def test_draws_come_from_the_generator_alone(kind, name):
    statistics = observed(true_gaussian())
    rks = RKSConfig(sampler=kind, particles=64)

    def kernels(seed: int) -> torch.Tensor:
        source = make_sampler(families(name, MODEL, rks), rks, generator(seed), CPU)
        return torch.stack([*source.draw(2), *(source.step(statistics) for _ in range(3))])

    before = torch.get_rng_state()
    first = kernels(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(first, kernels(1))
    assert not torch.equal(first, kernels(2))


@every_sampler
def test_a_sampled_prior_is_a_kernel(kind, name):
    rks = RKSConfig(sampler=kind, particles=64)
    source = make_sampler(families(name, MODEL, rks), rks, generator(), CPU)
    for kernel in (*source.draw(2), source.step(observed(true_line()))):
        assert kernel.shape == MODEL.kernel_shape
        assert kernel.min() >= 0
        assert kernel.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_paper_sampler_draws_from_every_family():
    rks = RKSConfig(**RANGES, sampler="paper")
    members = families("auto", MODEL, rks)
    source = PaperSampler(members, rks, generator(), CPU)
    drawn = source.draw(60)
    for only in members[:2]:
        points = torch.rand(4000, only.n_parameters, generator=generator(5))
        rendered = only.render(points).flatten(1)
        nearest = torch.cdist(drawn.flatten(1), rendered).amin(1) / drawn.flatten(1).norm(dim=1)
        # A third of the draws lie in each of the small families, the others outside.
        assert 8 <= (nearest < 0.1).sum() <= 40


def test_smc_draws_from_its_family():
    centre = MODEL.kernel_shape[0] // 2
    for kernel in sampler("gaussian").draw(5):
        torch.testing.assert_close(kernel, kernel.flip(0, 1))
        assert kernel[centre, centre] == kernel.max()
    lines = sampler("line").draw(5)
    assert len(torch.unique(lines, dim=0)) == 5


def test_paper_sampler_weights_its_draws_by_their_inverse_misfit():
    """Eqs. 6-8 by hand: k_p = Σ w_l k_l, w_l ∝ 1 / ‖y - (x * k_l)↓‖²."""
    rks = RKSConfig(sampler="paper", draws=4)
    members = families("gaussian", MODEL, rks)
    data = MODEL.forward(sharp_image(), true_gaussian())
    twin = PaperSampler(members, rks, generator(3), CPU)
    draws = twin.draw(4)
    errors = torch.stack(
        [(MODEL.forward(sharp_image(), kernel) - data).square().sum() for kernel in draws]
    )
    weights = 1 / errors
    expected = torch.tensordot(weights / weights.sum(), draws, 1)
    found = PaperSampler(members, rks, generator(3), CPU).step(
        MODEL.statistics(sharp_image(), data)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_systematic_resampling_keeps_each_within_one_of_its_expectation():
    source = generator(4)
    for concentration in (0.1, 1.0, 20.0):
        weights = torch.rand(50, generator=source, dtype=torch.float64) ** (1 / concentration)
        weights = weights / weights.sum()
        index = _systematic(weights, source)
        counts = torch.bincount(index, minlength=50).double()
        assert counts.sum() == 50
        assert (counts >= (50 * weights).floor()).all()
        assert (counts <= (50 * weights).ceil()).all()


def test_systematic_resampling_is_unbiased():
    source = generator(5)
    weights = torch.tensor([0.55, 0.25, 0.15, 0.05], dtype=torch.float64)
    counts = sum(
        torch.bincount(_systematic(weights, source), minlength=4).double() for _ in range(2000)
    )
    np.testing.assert_allclose(counts / 8000, weights, atol=0.01)


# The moves leave the tempered target invariant: one parameter, a known density.


@dataclass
class Toy:
    """Misfit 1 + energy(p) of the "kernel" p: with its minimum 1, β is the confidence itself."""

    energy: object
    unit: float | None = None

    def misfit(self, kernels: torch.Tensor) -> torch.Tensor:
        return 1 + self.energy(kernels[:, 0].double())


CONFIDENCE = 50.0


def population(energy, periodic: bool = False) -> torch.Tensor:
    """Points of the population after the first steps, over further steps."""
    only = KernelFamily("toy", (periodic,), lambda points: points)
    rks = RKSConfig(particles=4096, moves=3, confidence=CONFIDENCE)
    smc = SMCSampler(only, rks, generator(6), CPU)
    kept = []
    for step in range(16):
        smc.step(Toy(energy))
        if step >= 6:
            kept.append(smc._population.kernels[:, 0].double())
    return torch.cat(kept)


SIGMA = 1 / math.sqrt(2 * CONFIDENCE)  # of exp(-β u²)


def test_population_has_the_mean_and_spread_of_its_target():
    points = population(lambda p: (p - 0.4) ** 2)
    assert points.mean().item() == pytest.approx(0.4, abs=0.03 * SIGMA)
    assert points.std().item() == pytest.approx(SIGMA, rel=0.03)


def test_population_is_right_at_an_edge_of_the_cube():
    points = population(lambda p: p**2)
    assert points.min() >= 0
    assert points.mean().item() == pytest.approx(SIGMA * math.sqrt(2 / math.pi), rel=0.03)
    assert points.square().mean().item() == pytest.approx(SIGMA**2, rel=0.05)


def test_population_goes_round_a_periodic_parameter():
    points = population(lambda p: torch.minimum(p, 1 - p) ** 2, periodic=True)
    wrapped = (points + 0.5) % 1 - 0.5
    assert wrapped.mean().item() == pytest.approx(0, abs=0.03 * SIGMA)
    assert wrapped.std().item() == pytest.approx(SIGMA, rel=0.03)


@pytest.mark.parametrize("periodic", [False, True])
def test_population_stays_uniform_where_nothing_is_learned(periodic):
    points = population(torch.zeros_like, periodic)
    counts = torch.histc(points, 10, 0, 1) / len(points)
    np.testing.assert_allclose(counts, 0.1, atol=0.01)


def test_a_bimodal_target_keeps_both_modes_in_proportion():
    def energy(p: torch.Tensor) -> torch.Tensor:
        modes = torch.stack([(p - 0.25) ** 2, (p - 0.75) ** 2 + math.log(2) / CONFIDENCE])
        return -torch.logsumexp(-CONFIDENCE * 4 * modes, 0) / CONFIDENCE

    def misfit_above_minimum(p: torch.Tensor) -> torch.Tensor:
        grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
        return energy(p) - energy(grid).min()

    points = population(misfit_above_minimum)
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    density = torch.exp(-CONFIDENCE * energy(grid))
    expected = (density[grid > 0.5].sum() / density.sum()).item()
    assert (points > 0.5).double().mean().item() == pytest.approx(expected, abs=0.03)


def test_an_exact_fit_stays_finite():
    """The image explains the data without noise: the misfit of the best kernel vanishes."""
    data = MODEL.forward(sharp_image(), true_gaussian())
    kernel = run(sampler("gaussian"), MODEL.statistics(sharp_image(), data))
    assert torch.isfinite(kernel).all()
    assert kernel_ncc(kernel.numpy(), true_gaussian().numpy()) > 0.999


# What is known without an image


class Informed:
    """A likelihood of the toy's point p, exp(-50 energy(p)); explains it or does not."""

    def __init__(self, energy, explains: bool = True) -> None:
        self.energy, self.explains = energy, explains

    def __call__(self, kernels: torch.Tensor) -> torch.Tensor:
        return -CONFIDENCE * self.energy(kernels[:, 0, 0].double())

    def explained(self, kernel: torch.Tensor) -> bool:
        return self.explains


class ToyMisfit(Toy):
    def misfit(self, kernels: torch.Tensor) -> torch.Tensor:
        return super().misfit(kernels[:, 0])


def informed(known: Informed, turned=None, known_near=None) -> SMCSampler:
    toy = KernelFamily("toy", (False,), lambda points: points[:, :, None], turned)
    rks = RKSConfig(particles=4096, confidence=CONFIDENCE)
    return SMCSampler(toy, rks, generator(8), CPU, known, known_near)


def test_a_population_settles_on_what_is_known():
    smc = informed(Informed(lambda p: (p - 0.4) ** 2))
    (candidate,) = returned(smc.candidates())
    assert candidate.item() == pytest.approx(0.4, abs=0.1 * SIGMA)
    points = smc._population.kernels.flatten()
    assert points.mean().item() == pytest.approx(0.4, abs=0.1 * SIGMA)
    assert points.std().item() == pytest.approx(SIGMA, rel=0.1)


def test_kernels_on_the_way_lead_to_the_candidate():
    means = []
    smc = informed(Informed(lambda p: (p - 0.4) ** 2))
    (candidate,) = returned(mapped(smc.candidates(), means.append))
    assert len(means) > 1
    assert all(mean.shape == candidate.shape for mean in means)
    assert torch.equal(means[-1], candidate)


def test_what_is_known_multiplies_what_images_say():
    smc = informed(Informed(lambda p: (p - 0.4) ** 2))
    returned(smc.candidates())
    for _ in range(12):
        smc.step(ToyMisfit(lambda p: (p - 0.6) ** 2))
    points = smc._population.kernels.flatten()
    assert points.mean().item() == pytest.approx(0.5, abs=0.1 * SIGMA)
    assert points.std().item() == pytest.approx(SIGMA / math.sqrt(2), rel=0.1)


def test_what_turning_leaves_open_is_to_be_decided():
    both = Informed(lambda p: torch.minimum((p - 0.2) ** 2, (p - 0.8) ** 2))
    smc = informed(both, turned=lambda points: 1 - points)
    one, other = (candidate.item() for candidate in returned(smc.candidates()))
    assert one + other == pytest.approx(1, abs=1e-5)
    assert sorted([one, other]) == pytest.approx([0.2, 0.8], abs=0.02)
    smc.keep(0)
    assert smc.draw(1000).mean().item() == pytest.approx(one, abs=0.02)
    smc.keep(1)
    assert smc.draw(1000).mean().item() == pytest.approx(other, abs=0.02)


def test_what_is_known_near_a_population_multiplies_what_is_known_at_all():
    asked = []

    def known_near(populations):
        asked.extend(populations)
        return Informed(lambda p: (p - 0.6) ** 2)

    smc = informed(Informed(lambda p: (p - 0.4) ** 2), known_near=known_near)
    (candidate,) = returned(smc.candidates())
    (settled,) = asked
    assert settled.mean().item() == pytest.approx(0.4, abs=0.1 * SIGMA)
    assert candidate.item() == pytest.approx(0.5, abs=0.1 * SIGMA)
    points = smc._population.kernels.flatten()
    assert points.std().item() == pytest.approx(SIGMA / math.sqrt(2), rel=0.1)
    # And it stays known when images speak.
    for _ in range(12):
        smc.step(ToyMisfit(lambda p: (p - 0.8) ** 2))
    points = smc._population.kernels.flatten()
    assert points.mean().item() == pytest.approx(0.6, abs=0.1 * SIGMA)
    assert points.std().item() == pytest.approx(SIGMA / math.sqrt(3), rel=0.1)


def test_each_candidate_moves_to_what_is_known_near_it():
    both = Informed(lambda p: 10 * torch.minimum((p - 0.2) ** 2, (p - 0.8) ** 2))
    asked = []

    def known_near(populations):
        asked.extend(populations)
        return Informed(lambda p: 10 * torch.minimum((p - 0.3) ** 2, (p - 0.7) ** 2))

    smc = informed(both, lambda points: 1 - points, known_near)
    one, other = (candidate.item() for candidate in returned(smc.candidates()))
    assert sorted(each.mean().item() for each in asked) == pytest.approx([0.2, 0.8], abs=0.02)
    assert sorted([one, other]) == pytest.approx([0.25, 0.75], abs=0.02)
    smc.keep(1)
    assert smc.draw(1000).mean().item() == pytest.approx(other, abs=0.02)


@pytest.mark.parametrize("unit", [0.5, 2.0])
def test_a_unit_of_the_misfit_stands_for_the_least(unit):
    """The misfit of a profile may be anything: confidence counts in the unit, not the minimum."""
    smc = informed(Informed(lambda p: 0 * p))
    returned(smc.candidates())
    for _ in range(12):
        smc.step(ToyMisfit(lambda p: (p - 0.5) ** 2, unit=unit))
    expected = math.sqrt(unit / (2 * CONFIDENCE))
    assert smc._population.kernels.std().item() == pytest.approx(expected, rel=0.1)


def test_what_explains_nothing_is_forgotten():
    smc = informed(Informed(lambda p: (p - 0.4) ** 2, explains=False), lambda points: 1 - points)
    assert returned(smc.candidates()) == []
    for points in (smc._population.kernels.flatten(), smc.draw(4096).flatten()):
        assert points.mean().item() == pytest.approx(0.5, abs=0.02)
        assert points.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    smc.step(ToyMisfit(lambda p: (p - 0.7) ** 2))
    assert smc._population.kernels.mean().item() == pytest.approx(0.7, abs=0.05)
