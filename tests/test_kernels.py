"""Kernel families: geometry, normalisation and the projection that fixes their centroid."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from napari_dkp.config import RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.families import KernelFamily, families
from napari_dkp.kernels import CentredSoftmax, fix_centroid, gaussian, line, trajectory

WIDE = (41, 41)
MIDDLE = (20.0, 20.0)


def moments(kernel: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Centroid in taps and covariance in pixels squared."""
    values = kernel.double().numpy()
    offsets = np.stack([grid.ravel() for grid in np.indices(values.shape)], 1).astype(float)
    mean = values.ravel() @ offsets
    offsets -= mean
    return mean, offsets.T @ (offsets * values.reshape(-1, 1))


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def model(
    scale: int | tuple[int, int] = 4, taps: int = 19, phase: str = "area", boundary: str = "free"
) -> Degradation:
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    return Degradation((32, 32), scales, (taps, taps), phase, boundary)


def family(name: str, of: Degradation | None = None, **ranges: object) -> KernelFamily:
    (found,) = families(name, of or model(taps=41), RKSConfig(**ranges))
    return found


def test_gaussian_has_the_second_moments_asked_for():
    for angle in (0.0, 0.4, 2.0):
        covariance = rotation(angle) @ np.diag([6.0, 1.5]) @ rotation(angle).T
        kernel = gaussian(torch.tensor(covariance)[None], WIDE, MIDDLE)[0]
        np.testing.assert_allclose(moments(kernel)[1], covariance, atol=1e-3)


def test_gaussian_in_one_and_three_dimensions_is_a_product_of_profiles():
    variances = (0.8, 2.0, 1.2)
    shape, centre = (7, 9, 11), (3.0, 4.0, 5.0)
    profiles = [
        np.exp(-0.5 * (np.arange(n) - c) ** 2 / v)
        for n, c, v in zip(shape, centre, variances, strict=True)
    ]
    expected = np.einsum("i,j,k->ijk", *(profile / profile.sum() for profile in profiles))
    found = gaussian(torch.diag(torch.tensor(variances))[None], shape, centre)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    flat = gaussian(torch.tensor([[[0.8]]]), (7,), (3.0,))[0]
    np.testing.assert_allclose(flat.numpy(), profiles[0] / profiles[0].sum(), atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, 2.2])
def test_line_has_the_length_width_and_angle_asked_for(angle):
    length, width = 12.0, 0.9
    kernel = line(
        torch.tensor([length]), torch.tensor([angle]), torch.tensor([width]), WIDE, MIDDLE
    )[0]
    covariance = moments(kernel)[1]
    # The angle goes from the last axis (columns) towards the first (rows).
    along = np.array([math.sin(angle), math.cos(angle)])
    across = np.array([math.cos(angle), -math.sin(angle)])
    assert along @ covariance @ along == pytest.approx(length**2 / 12 + width**2, rel=2e-3)
    assert across @ covariance @ across == pytest.approx(width**2, rel=2e-3)
    assert abs(along @ covariance @ across) < 1e-2


def test_line_along_columns_is_flat_over_its_length():
    kernel = line(torch.tensor([9.0]), torch.tensor([0.0]), torch.tensor([0.4]), WIDE, MIDDLE)[0]
    row = kernel[20] / kernel[20, 20]
    np.testing.assert_allclose(row[17:24].numpy(), 1, atol=1e-3)
    assert row[:14].max() < 1e-3
    assert row[27:].max() < 1e-3


def test_trajectory_is_a_gaussian_summed_over_the_path():
    path = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 6.0], [4.0, 6.0], [5.0, 7.5]])
    width = 1.1
    points = (path - path.mean(0)).numpy()
    rows, columns = np.indices(WIDE) - 20.0
    expected = sum(
        np.exp(-0.5 * ((rows - r) ** 2 + (columns - c) ** 2) / width**2) for r, c in points
    )
    found = trajectory(path[None], torch.tensor([width]), WIDE, MIDDLE)[0]
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), atol=1e-6)


def test_trajectory_in_three_dimensions_is_a_gaussian_summed_over_the_path():
    path = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, -1.0], [2.0, 1.0, 1.5]])
    points = (path - path.mean(0)).numpy()
    grid = np.indices((15, 17, 19)) - np.array([7.0, 8.0, 9.0])[:, None, None, None]
    expected = sum(
        np.exp(-0.5 * ((grid - point[:, None, None, None]) ** 2).sum(0)) for point in points
    )
    found = trajectory(path[None], torch.ones(1), (15, 17, 19), (7.0, 8.0, 9.0))[0]
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), atol=1e-6)


def test_only_the_shape_of_a_path_counts():
    path = torch.rand(3, 12, 2, generator=torch.Generator().manual_seed(0)) * 8
    width = torch.tensor([0.5, 0.8, 1.0])
    moved = path + torch.tensor([5.0, -11.0])
    torch.testing.assert_close(
        trajectory(moved, width, WIDE, MIDDLE),
        trajectory(path, width, WIDE, MIDDLE),
        atol=1e-6,
        rtol=1e-4,
    )


@pytest.mark.parametrize("phase", ["area", "fkp"])
@pytest.mark.parametrize(("scale", "taps"), [(1, 19), (2, 11), (3, 15), (4, 19), (8, 21)])
@pytest.mark.parametrize("name", ["gaussian", "line", "trajectory"])
def test_every_member_is_a_kernel_with_its_centroid_in_place(name, scale, taps, phase):
    where = model(scale, taps, phase)
    members = family(name, where)
    generator = torch.Generator().manual_seed(0)
    kernels = members.render(torch.rand(64, members.n_parameters, generator=generator))
    assert kernels.shape == (64, taps, taps)
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(64))
    centroids = np.array([moments(kernel)[0] for kernel in kernels])
    np.testing.assert_allclose(centroids, np.tile(where.kernel_centre, (64, 1)), atol=0.01)


# The projection


def random_kernel(*shape: int) -> torch.Tensor:
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (values + 0.05) / (values + 0.05).sum()


@pytest.mark.parametrize(
    ("shape", "centre"), [((3, 3), (1.0, 1.0)), ((4, 3), (1.2, 0.7)), ((6,), (3.4,))]
)
def test_fix_centroid_is_the_nearest_kernel_in_relative_entropy(shape, centre):
    kernel = random_kernel(*shape)
    flat = kernel.numpy().ravel()
    offsets = np.stack([grid.ravel() for grid in np.indices(shape)], 1) - centre
    solution = minimize(
        lambda k: np.sum(k * np.log(k / flat)),
        np.full(flat.size, 1 / flat.size),
        jac=lambda k: np.log(k / flat) + 1,
        method="SLSQP",
        bounds=[(1e-9, 1)] * flat.size,
        constraints=[
            {"type": "eq", "fun": lambda k: k.sum() - 1},
            {"type": "eq", "fun": lambda k: k @ offsets},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solution.success
    found = fix_centroid(kernel[None], centre)[0]
    np.testing.assert_allclose(found.numpy().ravel(), solution.x, atol=2e-5)


def test_fix_centroid_leaves_a_centred_kernel_alone():
    kernel = gaussian(torch.diag(torch.tensor([2.0, 4.0]))[None], (21, 21), (10.0, 10.0))
    torch.testing.assert_close(fix_centroid(kernel, (10.0, 10.0)), kernel, atol=1e-6, rtol=1e-4)


def test_fix_centroid_moves_a_wide_kernel_by_several_pixels():
    wide = gaussian(torch.diag(torch.tensor([9.0, 9.0]))[None], (21, 21), (6.0, 14.0))
    centroid, _ = moments(fix_centroid(wide, (10.0, 10.0))[0])
    np.testing.assert_allclose(centroid, (10.0, 10.0), atol=0.01)


def test_fix_centroid_stays_finite_where_no_tilt_can_reach_the_centre():
    point = torch.zeros(1, 9, 9)
    point[0, 1, 7] = 1
    fixed = fix_centroid(point, (4.0, 4.0))
    assert torch.isfinite(fixed).all()
    assert fixed.sum().item() == pytest.approx(1)


def test_gradients_flow_through_fix_centroid_to_the_kernel():
    kernel = random_kernel(5, 5).requires_grad_()
    fix_centroid(kernel[None], (2.0, 2.0)).square().sum().backward()
    assert torch.isfinite(kernel.grad).all()
    assert kernel.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("shape", "centre"), [((5, 5), (2.0, 2.0)), ((4, 7), (1.2, 3.5)), ((3, 4, 5), (1.1, 1.5, 1.9))]
)
def test_the_gradient_of_a_centred_softmax_is_that_of_its_values(shape, centre):
    logits = random_kernel(2, *shape).flatten(1).log().requires_grad_()
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4)).double()
    softmax = CentredSoftmax(shape, centre, logits)
    kernels = softmax(logits, softmax.tilt(logits, steps=12))
    kernels.backward(slope)
    found = softmax.gradient(kernels.detach(), slope)
    torch.testing.assert_close(found, logits.grad, rtol=1e-3, atol=1e-5)


def test_a_tilt_that_starts_near_its_end_needs_one_step():
    shape, centre = (9, 9), (4.2, 3.9)
    logits = random_kernel(3, *shape).flatten(1).log()
    softmax = CentredSoftmax(shape, centre, logits)
    tilt = softmax.tilt(logits)
    moved = logits + 0.03 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    for kernel in softmax(moved, softmax.tilt(moved, tilt, steps=1)).unflatten(1, shape):
        np.testing.assert_allclose(moments(kernel)[0], centre, atol=1e-3)


# The families


def sampled_variance(kernel: torch.Tensor, axis: int) -> float:
    """Variance of a sampled Gaussian along an axis, from its peak and the tap beside it."""
    middle = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    beside = tuple(c + (a == axis) for a, c in enumerate(middle))
    return -0.5 / math.log(kernel[beside] / kernel[middle])


def at(members: KernelFamily, *point: float) -> torch.Tensor:
    return members.render(torch.tensor([point]))[0]


@pytest.mark.parametrize(
    ("scale", "low", "high"), [(2, 0.35, 5.0), (3, 0.525, 7.5), (4, 0.7, 10.0), (8, 1.4, 10.0)]
)
def test_gaussian_variances_span_the_published_range(scale, low, high):
    members = family("gaussian", model(scale, taps=61))
    for corner, expected in ((0.0, low), (1.0, high)):
        kernel = at(members, corner, corner, 0.0)
        assert sampled_variance(kernel, 0) == pytest.approx(expected, rel=1e-3)
        assert sampled_variance(kernel, 1) == pytest.approx(expected, rel=1e-3)


def test_gaussian_variances_can_be_set():
    members = family("gaussian", gaussian_variance=(2.0, 8.0))
    kernel = at(members, 0.0, 1.0, 0.0)
    found = sorted(sampled_variance(kernel, axis) for axis in (0, 1))
    assert found == pytest.approx([2.0, 8.0], rel=1e-3)
    middle = at(members, 0.5, 0.5, 0.0)
    assert sampled_variance(middle, 0) == pytest.approx(5.0, rel=1e-3)  # uniform


def test_gaussian_angle_turns_the_principal_axis():
    members = family("gaussian", gaussian_variance=(1.0, 9.0))
    start = moments(at(members, 1.0, 0.0, 0.0))[1]
    for turn in (0.2, 0.5, 0.7):
        expected = [rotation(sign * math.pi * turn) for sign in (1, -1)]
        found = moments(at(members, 1.0, 0.0, turn))[1]
        assert any(np.allclose(found, r @ start @ r.T, atol=0.05) for r in expected)


def test_gaussians_stretch_with_unequal_scales():
    kernel = at(family("gaussian", model((1, 4), taps=61)), 0.5, 0.5, 0.3)
    ratio = sampled_variance(kernel, 1) / sampled_variance(kernel, 0)
    assert ratio == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_line_ranges_can_be_set(corner):
    members = family("line", line_length=(5.0, 14.0), line_width=(0.8, 1.6))
    covariance = moments(at(members, corner, 0.0, corner))[1]
    width, length = (0.8, 5.0) if corner == 0 else (1.6, 14.0)
    assert covariance[0, 0] == pytest.approx(width**2, rel=0.01)
    assert covariance[1, 1] == pytest.approx(length**2 / 12 + width**2, rel=0.01)


def test_default_lines_fit_their_array():
    for taps in (3, 5, 11, 21):
        members = family("line", model(2, taps))
        longest = moments(at(members, 1.0, 0.0, 0.0))[1][1, 1]
        shortest = moments(at(members, 0.0, 0.0, 0.0))[1][1, 1]
        assert shortest < longest < (taps / 2) ** 2


def test_path_extent_can_be_set():
    members = family("trajectory", path_extent=(20.0, 20.0), path_width=(0.3, 0.3))
    points = torch.rand(16, members.n_parameters, generator=torch.Generator().manual_seed(0))
    for kernel in members.render(points):
        rows, columns = torch.nonzero(kernel > 0.02 * kernel.max()).T
        diagonal = math.hypot(rows.max() - rows.min(), columns.max() - columns.min())
        assert 17 < diagonal < 24


def test_path_width_can_be_set():
    narrow = family("trajectory", path_extent=(1.0, 1.0), path_width=(0.6, 2.0))
    point = torch.full((1, narrow.n_parameters), 0.6)
    small, large = point.clone(), point.clone()
    small[0, -2], large[0, -2] = 0.0, 1.0
    difference = np.trace(moments(narrow.render(large)[0])[1]) - np.trace(
        moments(narrow.render(small)[0])[1]
    )
    assert difference == pytest.approx(2 * (2.0**2 - 0.6**2), rel=0.01)


def test_paths_without_a_bend_are_lines():
    members = family("trajectory", path_extent=(16.0, 16.0), path_width=(0.5, 0.5))
    points = torch.rand(16, members.n_parameters, generator=torch.Generator().manual_seed(0))
    across = {}
    for bend in (0.0, 1.0):
        points[:, -1] = bend
        across[bend] = [
            np.linalg.eigvalsh(moments(kernel)[1])[0] for kernel in members.render(points)
        ]
    # What is left across the path is its width, 0.5² and a little for the grid.
    assert max(across[0.0]) < 0.5
    assert np.mean(across[1.0]) > 1.0


@pytest.mark.parametrize("name", ["gaussian", "line", "trajectory"])
def test_the_cube_wraps_where_it_says_so_and_only_there(name):
    members = family(name)
    inside = torch.rand(1, members.n_parameters, generator=torch.Generator().manual_seed(1))
    for parameter, periodic in enumerate(members.periodic):
        low, high = inside.clone(), inside.clone()
        low[0, parameter], high[0, parameter] = 0.0, 1.0
        difference = (members.render(low) - members.render(high)).abs().max()
        assert (difference < 1e-5) == periodic


def test_members_do_not_depend_on_their_neighbours_in_the_batch():
    for name in ("gaussian", "line", "trajectory"):
        members = family(name)
        points = torch.rand(5, members.n_parameters, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(members.render(points)[3:4], members.render(points[3:4]))


def test_auto_mixes_every_family():
    names = [entry.name for entry in families("auto", model(), RKSConfig())]
    assert names == ["gaussian", "line", "trajectory"]
