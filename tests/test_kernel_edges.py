"""The likelihood of kernels under patches with steps: against brute force, and known answers."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from napari_dkp import kernel_edges
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_edges import KernelEdges
from napari_dkp.kernels import gaussian, trajectory

SIDE = kernel_edges._SIDE


def model_of(
    scale: tuple[int, int] = (4, 4), taps: int = 19, phase: str = "fkp", side: int = 40
) -> Degradation:
    return Degradation((side, side), scale, (taps, taps), phase, "circular")


def paths(model: Degradation, count: int, seed: int = 0, reach: float = 6.0) -> Tensor:
    """Return paths of two random legs."""
    generator = torch.Generator().manual_seed(seed)
    legs = reach * (2 * torch.rand(count, 2, 2, generator=generator) - 1)
    along = torch.linspace(0, 1, 30)[None, :, None]
    path = torch.cat([along * legs[:, :1], legs[:, :1] + along * legs[:, 1:]], 1)
    return trajectory(path, torch.full((count,), 0.6), model.kernel_shape, model.kernel_centre)


def bend(model: Degradation) -> Tensor:
    """Return a path of two legs at right angles, one longer than the other."""
    along = torch.linspace(0, 1, 30)[:, None]
    down, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    path = torch.cat([7 * along * down, 7 * down + 4 * along * right])[None]
    return trajectory(path, torch.tensor([0.6]), model.kernel_shape, model.kernel_centre)


def polygons(shape: tuple[int, ...], seed: int = 0, count: int = 60) -> Tensor:
    """Draw half-planes within random discs, one over the other, in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 0.5)
    rows, columns = np.indices(shape)
    for _ in range(count):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(10, 30)
        within = np.hypot(rows - row, columns - column) < radius
        across = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
        image[within & (across > 0)] = rng.uniform(0, 1)
    return torch.from_numpy(image).float()


def seen(model: Degradation, image: Tensor, kernel: Tensor) -> Tensor:
    return (model.forward(image[None], kernel) * 255).round() / 255


@pytest.mark.parametrize("bar", [False, True])
@pytest.mark.parametrize(
    ("scale", "taps", "phase", "every"),
    [
        ((4, 4), 7, "fkp", 1),
        ((4, 4), 7, "area", 1),
        ((4, 4), 8, "area", 1),
        ((2, 3), 5, "area", 1),
        ((1, 1), 5, "area", 3),
    ],
)
def test_steps_are_seen_as_the_forward_model_sees_them(scale, taps, phase, every, bar):
    side = every * (SIDE - 1) + 1
    model = Degradation((side, side), scale, (taps, taps), phase, "free")
    kernel = torch.rand(taps, taps, generator=torch.Generator().manual_seed(1)).double()
    places = torch.cartesian_prod(*2 * [torch.arange(taps).double()])
    steps = kernel_edges._steps(model, places, every)
    steps = (kernel.flatten() @ steps.flatten(1)).reshape(2, kernel_edges._ANGLES, -1, SIDE**2)
    n_offsets = steps.shape[2]
    # HR coordinates of the domain's pixels, from the middle of the samples.
    middle = []
    for n, s in zip(model.lr_shape, scale, strict=True):
        middle.append(0.5 * s * (n - 1) + 0.5 * (s - 1) * (1 if phase == "area" else -1))
    pixels = torch.meshgrid(*(torch.arange(n) for n in model.domain_shape), indexing="ij")
    rows, columns = (
        (pixel - model.crop(pixel)[0, 0] - at).double()
        for pixel, at in zip(pixels, middle, strict=True)
    )
    for number, place in product([0, 3, 11], [n_offsets // 2, n_offsets // 2 + 4]):
        angle = math.pi * number / kernel_edges._ANGLES
        offset = (place - (n_offsets - 1) / 2) * kernel_edges._OFFSET
        across = rows * math.sin(angle) + columns * math.cos(angle) - offset

        def rise(at, across=across):
            return 0.5 * torch.erf((across - at) / (math.sqrt(2) * kernel_edges._SOFTNESS))

        half = kernel_edges._BAR / 2
        image = rise(-half) - rise(half) if bar else rise(0.0)
        data = model.forward(image[None], kernel)[0, ::every, ::every].flatten()
        found = steps[int(bar), number, place]
        np.testing.assert_allclose(found, data - data.mean(), atol=1e-6)


def test_the_likelihood_is_the_mean_over_all_steps_and_none(monkeypatch):
    """Against densities of whole patches, of each step and height."""
    monkeypatch.setattr(kernel_edges, "_ANGLES", 3)
    monkeypatch.setattr(kernel_edges, "_OFFSET", 4.0)
    monkeypatch.setattr(kernel_edges, "_LEAST_SHARE", 0.0)
    monkeypatch.setattr(kernel_edges, "_MOST_PATCHES", 1000)
    model = model_of(taps=9, side=12)
    kernels = paths(model, 5, reach=2.0)
    data = seen(model, polygons(model.domain_shape, count=20), kernels[0])
    found = KernelEdges(model, data, 0.003, [kernels])(kernels)
    patches = kernel_edges._patches(data, 1).numpy()
    places = torch.cartesian_prod(*2 * [torch.arange(9).double()])
    steps = kernel_edges._steps(model, places, 1)
    n = patches.shape[1]
    # Its rows sum to nothing and are orthonormal: what is left of a patch without its mean.
    basis = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1].T
    texture = kernel_edges._texture(model, kernels.mean(0).double(), 1).numpy()

    def log_densities(kernel: Tensor, contrast: float) -> np.ndarray:
        of_steps = (kernel.double().flatten() @ steps.flatten(1)).reshape(-1, n).numpy() @ basis.T
        ground = basis @ (contrast**2 * texture + 0.003**2 * np.eye(n)) @ basis.T
        values = patches @ basis.T
        densities = [math.log(0.5) + multivariate_normal.logpdf(values, None, ground)]
        for step, height in product(of_steps, kernel_edges._HEIGHTS):
            covariance = ground + height**2 * np.outer(step, step)
            share = math.log(0.5 / len(of_steps) / len(kernel_edges._HEIGHTS))
            densities.append(share + multivariate_normal.logpdf(values, None, covariance))
        return logsumexp(densities, axis=0)

    contrasts = kernel_edges._CONTRASTS
    typical = np.stack([log_densities(kernels.mean(0), contrast) for contrast in contrasts])
    chosen = typical.argmax(0)
    assert len(set(chosen)) > 1
    expected = [
        sum(log_densities(kernel, contrasts[c])[chosen == c].sum() for c in range(len(contrasts)))
        for kernel in kernels
    ]
    found = found - found.mean()
    expected = np.array(expected) - np.mean(expected)
    np.testing.assert_allclose(found / kernel_edges._TRUST, expected, atol=0.02)
    assert np.ptp(expected) > 1


@pytest.mark.parametrize(("scale", "side"), [(4, 40), (2, 64), (1, 128)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_true_path_is_likelier_than_others_and_than_itself_turned(scale, side, seed):
    model = model_of((scale, scale), side=side, phase="area")
    kernels = torch.cat([bend(model), paths(model, 40, seed)])
    true = kernels[:1]
    data = seen(model, polygons(model.domain_shape, seed), true[0])
    turned = true.flip(1, 2)
    judge = KernelEdges(model, data, 0.0, [kernels, turned])
    of_truth, of_turned = judge(true), judge(turned)
    assert of_truth > judge(kernels[1:]).max()
    assert of_truth > of_turned + 1


def test_scenes_side_by_side_tell_together():
    """More than their mean does, in which edges of one lie over those of another."""
    model = Degradation((36, 40), (2, 4), (13, 17), "area", "circular")
    kernels = paths(model, 40, reach=4.0)
    scenes = [polygons(model.domain_shape, seed, count=80) for seed in range(3)]
    data = torch.cat([seen(model, scene, kernels[0]) for scene in scenes])

    def lead(data: Tensor) -> float:
        found = KernelEdges(model, data, 0.0, [kernels])(kernels)
        return float(found[0] - found[1:].max())

    assert lead(data) > max(0.0, lead(data.mean(0, keepdim=True)))


def test_structure_varies_as_a_power_law_does_under_the_kernel(monkeypatch):
    """Against sums over taps, of the law's own covariance from pixel to pixel."""
    monkeypatch.setattr(kernel_edges, "_SIDE", 3)
    monkeypatch.setattr(kernel_edges, "_SMALLEST", 64)
    model = Degradation((20, 20), (3, 2), (5, 4), "area", "circular")
    kernel = torch.rand(5, 4, generator=torch.Generator().manual_seed(2)).double()
    found = kernel_edges._texture(model, kernel, 2)
    frequency = [np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None]]
    power = 1 / (frequency[0] ** 2 + frequency[1] ** 2 + kernel_edges._FLAT_BELOW**2)
    law = np.fft.ifft2(power).real
    law /= 2 * (law[0, 0] - law[0, 1])
    assert model.between == (False, False)
    taps = list(np.ndindex(5, 4))
    places = [(6 * row, 4 * column) for row in range(3) for column in range(3)]
    for (i, at), (j, other) in product(enumerate(places), repeat=2):
        apart = np.subtract(at, other)
        expected = sum(
            kernel[u].item() * kernel[v].item() * law[tuple((apart - u + np.array(v)) % 64)]
            for u, v in product(taps, repeat=2)
        )
        assert found[i, j].item() == pytest.approx(expected, abs=1e-9 * abs(law[0, 0]) * 400)


def test_samples_between_pixels_see_structure_through_their_mean():
    """Which is a kernel of one more tap, whose samples fall on pixels."""
    between, on = (Degradation((20, 20), (4, 4), (n, n), "area") for n in (7, 8))
    assert between.between == (True, True)
    assert on.between == (False, False)
    kernel = torch.rand(7, 7, generator=torch.Generator().manual_seed(2)).double()
    wide = torch.zeros(8, 8).double()
    for row, column in product(range(2), repeat=2):
        wide[row : row + 7, column : column + 7] += kernel / 4
    found, expected = (
        kernel_edges._texture(model, k, 1) for model, k in ((between, kernel), (on, wide))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_what_is_blurred_wider_is_told():
    model = model_of()
    widths = torch.tensor([1.0, 1.5, 2.2, 3.2])
    kernels = gaussian(
        torch.diag_embed(widths[:, None].expand(4, 2).square()),
        model.kernel_shape,
        model.kernel_centre,
    )
    for true in range(4):
        data = seen(model, polygons(model.domain_shape), kernels[true])
        assert KernelEdges(model, data, 0.0, [kernels])(kernels).argmax() == true


def test_under_noise_patches_tell_less():
    model = model_of()
    kernels = paths(model, 30)
    data = seen(model, polygons(model.domain_shape), kernels[0])
    little, much = (KernelEdges(model, data, noise, [kernels])(kernels) for noise in (0.0, 0.1))
    assert little.std() > 5 * much.std()


@pytest.mark.parametrize(("side", "taps"), [(6, 9), (40, 51)])
def test_where_there_is_no_patch_or_too_many_taps_all_kernels_are_alike(side, taps):
    model = model_of(side=side, taps=taps)
    kernels = torch.rand(4, taps, taps)
    data = torch.rand(1, side, side)
    assert torch.equal(KernelEdges(model, data, 0.0, [kernels])(kernels), torch.zeros(4).double())


def test_where_no_patch_has_a_step_all_kernels_are_alike():
    model = model_of()
    kernels = paths(model, 20)
    found = KernelEdges(model, torch.full((1, 40, 40), 0.5), 0.0, [kernels])(kernels)
    assert torch.equal(found, found[:1].expand(20))


def test_of_many_patches_some_of_the_livelier_half_are_looked_at(monkeypatch):
    monkeypatch.setattr(kernel_edges, "_MOST_LOOKED_AT", 10)
    patches = torch.linspace(0, 1, 100)[:, None] * torch.tensor([1.0, -1.0, 0.5])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    kept = kernel_edges._thinned(patches[order])
    assert kept.shape == (10, 3)
    assert kept[:, 0].min() >= 0.5
    assert kept[:, 0].median() < 0.9  # not the liveliest
    assert torch.equal(
        kernel_edges._thinned(patches[:8]).sort(0).values, patches[:8].sort(0).values
    )


def test_kernels_count_each_by_itself():
    model = model_of()
    kernels = paths(model, 70)
    judge = KernelEdges(
        model, seen(model, polygons(model.domain_shape), kernels[0]), 0.0, [kernels]
    )
    alone = torch.cat([judge(kernel[None]) for kernel in kernels])
    np.testing.assert_allclose(judge(kernels), alone, rtol=1e-5, atol=1e-3)
