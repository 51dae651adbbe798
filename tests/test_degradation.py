"""The forward model against its definition, written out as sums over taps and pixels."""

import string
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_dkp import gram
from napari_dkp.degradation import Degradation, degrade

PHASES = ("area", "fkp")
BOUNDARIES = ("free", "circular")

# lr_shape, scale, kernel_shape: every scale with an odd and an even kernel in one dimension, then
# unequal axes in two and three.
LINES = [((5,), (s,), (k,)) for s in range(1, 9) for k in (4, 5)]
BLOCKS = [
    ((6, 5), (1, 2), (3, 4)),
    ((4, 7), (3, 1), (5, 5)),
    ((5, 4), (2, 4), (4, 7)),
    ((6, 6), (2, 2), (11, 11)),
    ((4, 4), (4, 4), (7, 7)),
    ((3, 4, 5), (1, 2, 2), (3, 2, 5)),
    ((3, 3, 3), (2, 3, 1), (4, 3, 2)),
]
GEOMETRIES = [
    Degradation(*case, phase, boundary)
    for case, phase, boundary in product(LINES + BLOCKS, PHASES, BOUNDARIES)
]


def name_of(model: Degradation) -> str:
    return f"{model.lr_shape}-s{model.scale}-k{model.kernel_shape}-{model.phase}-{model.boundary}"


every_geometry = pytest.mark.parametrize("model", GEOMETRIES, ids=name_of)
every_free_geometry = pytest.mark.parametrize(
    "model", [m for m in GEOMETRIES if m.boundary == "free"], ids=name_of
)
every_block = pytest.mark.parametrize("model", [m for m in GEOMETRIES if m.ndim > 1], ids=name_of)


def tap_position(scale: int, taps: int, phase: str, tap: int) -> float:
    """HR coordinate that `tap` weights in LR sample 0 (convolution: taps run backwards)."""
    if phase == "area":
        return (scale - 1) / 2 + (taps - 1) / 2 - tap
    # The published rule correlates with the flipped kernel, whose middle is tap taps // 2.
    return float((taps - 1 - tap) - taps // 2)


def axis_weights(model: Degradation, axis: int) -> np.ndarray:
    """Weight of domain pixel u in sample j through tap m, along one axis: shape (J, M, U)."""
    count, s, taps = model.lr_shape[axis], model.scale[axis], model.kernel_shape[axis]
    frame = count * s
    contributions = []
    for sample, tap in product(range(count), range(taps)):
        position = s * sample + tap_position(s, taps, model.phase, tap)
        for pixel in {int(np.floor(position)), int(np.ceil(position))}:
            weight = 1.0 if position.is_integer() else 0.5
            contributions.append((sample, tap, pixel, weight))
    touched = [pixel for _, _, pixel, _ in contributions]
    low, high = min(0, *touched), max(frame - 1, *touched)
    if model.boundary == "circular":
        low, high = 0, frame - 1
    weights = np.zeros((count, taps, high - low + 1))
    for sample, tap, pixel, weight in contributions:
        index = pixel % frame if model.boundary == "circular" else pixel - low
        weights[sample, tap, index] += weight
    return weights


def brute_forward(model: Degradation, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    letters = iter(string.ascii_letters)
    axes = [(next(letters), next(letters), next(letters)) for _ in range(model.ndim)]
    samples, taps, pixels = ("".join(column) for column in zip(*axes, strict=True))
    subscripts = ",".join(["".join(entry) for entry in axes] + [taps, "..." + pixels])
    operands = [axis_weights(model, axis) for axis in range(model.ndim)]
    return np.einsum(f"{subscripts}->...{samples}", *operands, kernel, image, optimize=True)


def random_kernels(model: Degradation, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    flat = torch.rand(count, int(np.prod(model.kernel_shape)), generator=generator).double()
    return (flat / flat.sum(1, keepdim=True)).reshape(count, *model.kernel_shape)


def random_image(model: Degradation, *leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(*leading, *model.domain_shape, generator=generator, dtype=torch.float64)


def random_data(model: Degradation, *leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(*leading, *model.lr_shape, generator=generator, dtype=torch.float64)


@every_geometry
def test_forward_is_the_sum_over_taps_and_pixels(model):
    image, kernel = random_image(model, 2), random_kernels(model)[0]
    expected = brute_forward(model, image.numpy(), kernel.numpy())
    np.testing.assert_allclose(model.forward(image, kernel).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("scale", "taps"), [(1, 5), (2, 5), (2, 8), (3, 8), (4, 7)])
def test_fkp_circular_is_the_published_benchmark_rule(scale, taps):
    model = Degradation((6, 5), (scale, scale), (taps, taps - 1), "fkp", "circular")
    image, kernel = random_image(model).numpy(), random_kernels(model)[0].numpy()
    expected = ndimage.correlate(image, kernel[::-1, ::-1], mode="wrap")[::scale, ::scale]
    ours = model.forward(torch.from_numpy(image), torch.from_numpy(kernel)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("n", "scale", "taps"), [(6, 1, 6), (2, 3, 6), (5, 1, 5), (3, 2, 5)])
def test_a_kernel_as_large_as_a_circular_frame_loses_no_tap(n, scale, taps, phase):
    model = Degradation((n, n), (scale, scale), (taps, taps), phase, "circular")
    image, kernel = random_image(model), random_kernels(model)[0]
    expected = brute_forward(model, image.numpy(), kernel.numpy())
    np.testing.assert_allclose(model.forward(image, kernel).numpy(), expected, atol=1e-12)


@every_free_geometry
def test_kernels_at_the_kernel_centre_leave_a_ramp_on_the_documented_grid(model):
    """x(u) = u blurred by a kernel of the right centroid is u, read at the LR samples."""
    offsets = torch.meshgrid(
        *(torch.arange(k, dtype=torch.float64) for k in model.kernel_shape), indexing="ij"
    )
    kernel = random_kernels(model)[0]
    for axis, (count, s) in enumerate(zip(model.lr_shape, model.scale, strict=True)):
        before = axis_origin(model, axis)
        line = torch.arange(model.domain_shape[axis], dtype=torch.float64) - before
        ramp = line.reshape([-1 if a == axis else 1 for a in range(model.ndim)])
        blurred = model.forward(ramp.expand(model.domain_shape).contiguous(), kernel)
        offset = (s - 1) / 2 if model.phase == "area" else -(s - 1) / 2
        grid = s * torch.arange(count, dtype=torch.float64) + offset
        # A centroid beyond the centre by d taps moves the image by d pixels: y(p) = x(p - d).
        moved = (kernel * offsets[axis]).sum() - model.kernel_centre[axis]
        found = blurred.movedim(axis, -1).reshape(-1, count)
        torch.testing.assert_close(found, (grid - moved).expand_as(found), atol=1e-9, rtol=0)


def axis_origin(model: Degradation, axis: int) -> int:
    """Pixels of the domain before the frame along one axis, from the taps' positions."""
    if model.boundary == "circular":
        return 0
    s, taps = model.scale[axis], model.kernel_shape[axis]
    first = min(np.floor(tap_position(s, taps, model.phase, tap)) for tap in range(taps))
    return max(0, -int(first))


@every_geometry
def test_adjoint_is_the_transpose(model):
    image, kernel = random_image(model, 2), random_kernels(model)[0]
    data = random_data(model, 2)
    left = (model.forward(image, kernel) * data).sum()
    right = (image * model.adjoint(data, kernel)).sum()
    assert model.adjoint(data, kernel).shape == image.shape
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        Degradation((3, 3), (2, 2), (3, 3), "area", "free"),
        Degradation((3, 2), (2, 3), (4, 3), "area", "circular"),
        Degradation((3, 3), (2, 1), (3, 3), "fkp", "free"),
    ],
    ids=name_of,
)
def test_gradients_of_forward(model):
    image = random_image(model).requires_grad_()
    kernel = random_kernels(model)[0].requires_grad_()
    assert torch.autograd.gradcheck(model.forward, (image, kernel))


@every_geometry
def test_scattered_samples_lie_a_scale_apart_and_are_gathered_again(model):
    data = random_data(model, 2)
    grid = model.scatter(data)
    assert grid.shape == (2, *model.grid_shape)
    expected = np.zeros(grid.shape)
    for index in np.ndindex(*model.lr_shape):
        site = tuple(i * s for i, s in zip(index, model.scale, strict=True))
        expected[:, *site] = data.numpy()[:, *index]
    np.testing.assert_array_equal(grid.numpy(), expected)
    assert torch.equal(model.gather(grid), data)
    grid = torch.rand(grid.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    left, right = (model.gather(grid) * data).sum(), (grid * model.scatter(data)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


@every_geometry
def test_samples_are_gathered_from_a_product_of_spectra_on_the_grid(model):
    """The domain comes first on the grid, and no sample sees what pads it."""
    image, kernel = random_image(model), random_kernels(model)[0]
    missing = [n - m for n, m in zip(model.grid_shape, model.domain_shape, strict=True)]
    assert min(missing) >= 0
    if model.boundary == "circular":
        assert not any(missing)
    grid = np.pad(image.numpy(), [(0, n) for n in missing], constant_values=7.0)
    spectrum = torch.fft.rfftn(torch.from_numpy(grid)) * model.transfer(kernel)
    blurred = torch.fft.irfftn(spectrum, s=model.grid_shape)
    expected = brute_forward(model, image.numpy(), kernel.numpy())
    np.testing.assert_allclose(model.gather(blurred).numpy(), expected, atol=1e-12)


@every_geometry
def test_gram_misfit_is_the_misfit_of_the_forward_model(model):
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    expected = [(model.forward(image, kernel) - data).square().mean() for kernel in kernels]
    found = model.statistics(image, data).misfit(kernels)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)


@every_geometry
def test_the_slope_of_the_misfit_is_that_of_the_forward_model(model):
    """But for a change of the kernel's sum, which is fixed."""
    image, data, (kernel,) = random_image(model, 2), random_data(model, 2), random_kernels(model, 1)
    kernel.requires_grad_()
    expected = (model.forward(image, kernel) - data).square().mean()
    expected.backward()
    misfit, slope = model.statistics(image, data).misfit_and_slope(kernel.detach())
    torch.testing.assert_close(misfit, expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        slope - slope.mean(), kernel.grad - kernel.grad.mean(), rtol=1e-9, atol=1e-12
    )


@every_geometry
@pytest.mark.parametrize("sites", [None, 6])
def test_a_weighted_gram_misfit_is_that_of_the_weighted_residual(model, sites):
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    weights = 0.1 + random_data(model, 2).flip(0, 1)
    thin = 1 if sites is None else ceil((np.prod(model.lr_shape) / sites) ** (1 / model.ndim))
    lattice = (..., *(slice(None, None, thin),) * model.ndim)
    expected = [
        (weights * (model.forward(image, kernel) - data).square())[lattice].mean()
        for kernel in kernels
    ]
    found = model.statistics(image, data, max_sites=sites, weights=weights).misfit(kernels)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)


def test_weights_and_whitening_exclude_one_another():
    model = Degradation((9, 7), (2, 2), (5, 5))
    data = random_data(model, 2)
    with pytest.raises(ValueError, match="weights"):
        model.statistics(random_image(model, 2), data, whitened=True, weights=data)


@every_block
def test_gram_misfit_on_a_lattice_is_the_misfit_of_its_samples(model):
    sites = 6
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    statistics = model.statistics(image, data, max_sites=sites)
    thin = ceil((np.prod(model.lr_shape) / sites) ** (1 / model.ndim))
    assert thin > 1
    lattice = (..., *(slice(None, None, thin),) * model.ndim)
    expected = [
        (model.forward(image, kernel) - data)[lattice].square().mean() for kernel in kernels
    ]
    torch.testing.assert_close(statistics.misfit(kernels), torch.stack(expected), rtol=1e-9, atol=0)
    assert statistics.count == data[lattice].numel()


def whitened_by_hand(model: Degradation, residual: np.ndarray) -> np.ndarray:
    """Σ_axes 2 r(j) - r(j - 1) - r(j + 1) at each LR sample with neighbours on every long axis."""
    found = []
    long = [axis for axis, count in enumerate(model.lr_shape) if count > 2]
    interior = [range(1, n - 1) if n > 2 else range(n) for n in model.lr_shape]
    for site in product(*interior):
        value = np.zeros(len(residual)) if long else residual[:, *site]
        for axis in long:
            for by, weight in ((-1, -1), (0, 2), (1, -1)):
                where = tuple(j + by * (a == axis) for a, j in enumerate(site))
                value = value + weight * residual[:, *where]
        found.append(value)
    return np.stack(found, 1).reshape(len(residual), *(len(sites) for sites in interior))


NARROW = [
    Degradation(*case, phase, boundary)
    for case, phase, boundary in product(
        [
            ((2, 6), (2, 2), (3, 4)),
            ((5, 1), (3, 2), (5, 3)),
            ((2, 2), (2, 3), (3, 3)),
            ((3, 3), (2, 2), (5, 5)),
        ],
        PHASES,
        BOUNDARIES,
    )
]


@pytest.mark.parametrize("model", GEOMETRIES + NARROW, ids=name_of)
def test_whitened_misfit_is_that_of_the_laplacian_of_the_residual(model):
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    found = model.statistics(image, data, whitened=True).misfit(kernels)
    expected = []
    for kernel in kernels:
        residual = data.numpy() - brute_forward(model, image.numpy(), kernel.numpy())
        expected.append((whitened_by_hand(model, residual) ** 2).mean())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


@every_block
def test_whitened_misfit_on_a_lattice_is_that_of_its_samples(model):
    sites = 6
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    statistics = model.statistics(image, data, max_sites=sites, whitened=True)
    thin = ceil((np.prod(model.lr_shape) / sites) ** (1 / model.ndim))
    assert thin > 1
    expected = []
    for kernel in kernels:
        residual = data.numpy() - brute_forward(model, image.numpy(), kernel.numpy())
        whitened = whitened_by_hand(model, residual)
        kept = whitened[:, *(slice(None, None, thin),) * model.ndim]
        expected.append((kept**2).mean())
    np.testing.assert_allclose(statistics.misfit(kernels).numpy(), expected, rtol=1e-8)
    assert statistics.count == kept.size


def test_whitened_misfit_does_not_see_a_slope():
    model = Degradation((9, 8), (2, 3), (5, 5))
    image, data, kernels = random_image(model, 1), random_data(model, 1), random_kernels(model, 3)
    rows, columns = np.indices(model.lr_shape)
    sloped = data + torch.from_numpy(3.0 + 0.5 * rows - 0.2 * columns)
    for whitened, same in ((True, True), (False, False)):
        plain = model.statistics(image, data, whitened=whitened).misfit(kernels)
        tilted = model.statistics(image, sloped, whitened=whitened).misfit(kernels)
        assert torch.allclose(plain, tilted) is same


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_misfit_of_a_blend_is_the_blend_of_misfits(share, whitened):
    model = Degradation((9, 7), (2, 2), (5, 5))
    kernels = random_kernels(model, 4)
    data = random_data(model, 1)
    images = random_image(model, 2)
    new, old = (model.statistics(image[None], data, whitened=whitened) for image in images)
    expected = (1 - share) * new.misfit(kernels) + share * old.misfit(kernels)
    torch.testing.assert_close(new.blended(old, share).misfit(kernels), expected)
    assert not torch.allclose(new.misfit(kernels), old.misfit(kernels))


@pytest.mark.parametrize("stiffness", [0.0, 0.3, 1.0])
def test_a_profile_has_the_slope_of_its_image_and_a_share_of_the_curvature(stiffness):
    """In units of the misfit at the kernel under which the image has formed."""
    model = Degradation((9, 7), (2, 2), (5, 5))
    kernel, *others = random_kernels(model, 4)
    statistics = model.statistics(random_image(model, 1), random_data(model, 1))
    misfit, slope = statistics.misfit_and_slope(kernel)
    profile = statistics.profile(kernel, stiffness)
    assert profile.unit == 1.0
    for other in others:
        away = other - kernel
        linear = (slope * away).sum()
        curved = statistics.misfit(other[None])[0] - misfit - linear
        expected = 1 + (linear + stiffness * curved) / misfit
        torch.testing.assert_close(profile.misfit(other[None])[0], expected)
    found, found_slope = profile.misfit_and_slope(kernel)
    assert found.item() == pytest.approx(1)
    torch.testing.assert_close(found_slope, slope / misfit)


def test_a_profile_tells_kernels_apart_below_zero_too():
    model = Degradation((9, 7), (2, 2), (5, 5))
    kernel, other = random_kernels(model, 2)
    statistics = model.statistics(random_image(model, 1), random_data(model, 1))
    profile = statistics.profile(kernel, 0.0)
    _, slope = profile.misfit_and_slope(kernel)
    away = (other - kernel) * (-5 / (slope * (other - kernel)).sum())
    found = profile.misfit(torch.stack([kernel, kernel + away, kernel + 2 * away]))
    torch.testing.assert_close(found, torch.tensor([1.0, -4.0, -9.0]).to(found))
    assert profile.misfit_and_slope(kernel + away)[0].item() == pytest.approx(-4)


def test_gram_misfit_in_single_precision_resolves_small_residuals():
    """An image that nearly explains the data, far from zero mean: as late in a run."""
    model = Degradation((24, 24), (2, 2), (11, 11))
    kernels = random_kernels(model, 4)
    image = random_image(model, 1).float() + 0.5
    noise = 0.01 * torch.randn(1, 24, 24, generator=torch.Generator().manual_seed(4))
    data = model.forward(image.double(), kernels[0]).float() + noise
    expected = [
        (model.forward(image.double(), kernel) - data.double()).square().mean()
        for kernel in kernels
    ]
    found = model.statistics(image, data).misfit(kernels)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=0)


def test_statistics_do_not_depend_on_the_slab(monkeypatch):
    model = Degradation((9, 7), (2, 2), (5, 5))
    image, data, kernels = random_image(model, 2), random_data(model, 2), random_kernels(model, 3)
    whole = model.statistics(image, data).misfit(kernels)
    monkeypatch.setattr(gram, "_SLAB_VALUES", 25 * 7 * 2)  # two rows at a time
    torch.testing.assert_close(model.statistics(image, data).misfit(kernels), whole)
    ones = torch.ones_like(data)
    torch.testing.assert_close(model.statistics(image, data, weights=ones).misfit(kernels), whole)


def test_statistics_hold_no_graph():
    model = Degradation((6, 6), (2, 2), (3, 3))
    image = random_image(model, 1).requires_grad_()
    assert not model.statistics(image, random_data(model, 1)).gram.requires_grad


@every_geometry
def test_extend_mirrors_and_crop_undoes_it(model):
    generator = torch.Generator().manual_seed(5)
    frame = torch.rand(2, *model.hr_shape, generator=generator)
    extended = model.extend(frame)
    assert extended.shape[1:] == model.domain_shape
    torch.testing.assert_close(model.crop(extended), frame, rtol=0, atol=0)
    widths = [(0, 0)]
    for axis, (n, domain) in enumerate(zip(model.hr_shape, model.domain_shape, strict=True)):
        before = axis_origin(model, axis)
        widths.append((before, domain - n - before))
    expected = np.pad(frame.numpy(), widths, mode="symmetric")
    np.testing.assert_array_equal(extended.numpy(), expected)


def test_extend_mirrors_more_than_once_where_the_kernel_is_wider_than_the_frame():
    model = Degradation((2, 2), (1, 1), (11, 11))
    frame = torch.arange(4.0).reshape(2, 2)
    expected = np.pad(frame.numpy(), 5, mode="symmetric")
    np.testing.assert_array_equal(model.extend(frame).numpy(), expected)


@every_geometry
def test_exactly_the_pixels_in_reach_of_a_sample_change_the_data(model):
    kernel = random_kernels(model)[0]
    pixels = int(np.prod(model.domain_shape))
    images = torch.eye(pixels, dtype=torch.float64).reshape(pixels, *model.domain_shape)
    response = model.forward(images, kernel).reshape(pixels, -1).abs().amax(1)
    reached = np.ones((), bool)
    for axis in range(model.ndim):
        reached = np.multiply.outer(reached, axis_weights(model, axis).sum((0, 1)) > 0)
    np.testing.assert_array_equal(response.numpy() > 1e-12, reached.ravel())


# degrade


def gaussian_psf(taps: int, sigma: float, centre: float | None = None) -> np.ndarray:
    offsets = np.arange(taps) - ((taps - 1) / 2 if centre is None else centre)
    profile = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.outer(profile, profile) / profile.sum() ** 2


def texture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("phase", PHASES)
def test_degrade_keeps_a_constant_whatever_the_sum_of_the_kernel(phase, boundary):
    lr = degrade(
        np.full((24, 30), 37, np.uint8),
        7 * texture(5, 5),
        scale=(2, 3),
        phase=phase,
        boundary=boundary,
    )
    assert lr.shape == (12, 10)
    assert lr.dtype == np.float32
    np.testing.assert_allclose(lr, 37, rtol=1e-6)


def test_degrade_keeps_the_flux_of_a_wrapped_image():
    hr = texture(20, 20)
    lr = degrade(hr, texture(7, 7), scale=1, boundary="circular")
    assert lr.sum() == pytest.approx(hr.sum(), rel=1e-5)


def test_degrade_continues_the_image_by_mirroring():
    hr, kernel = texture(16, 16), texture(5, 5)
    expected = ndimage.convolve(hr, kernel / kernel.sum(), mode="reflect")
    np.testing.assert_allclose(degrade(hr, kernel, scale=1, boundary="free"), expected, atol=1e-6)


def test_the_image_of_a_point_is_the_kernel():
    kernel = texture(5, 5)
    point = np.zeros((15, 15), np.float32)
    point[6, 9] = 1
    image = degrade(point, kernel, scale=1)
    np.testing.assert_allclose(image[4:9, 7:12], kernel / kernel.sum(), atol=1e-7)
    assert image.sum() == pytest.approx(1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("scale", [1, 2, 3, (2, 3)])
def test_a_point_lands_where_the_grid_says(scale, phase, boundary):
    scales = np.array(scale if isinstance(scale, tuple) else (scale, scale))
    sign = 1 if phase == "area" else -1
    # Under "fkp" the kernel carries the grid's offset; 25 taps hold sigma 3 within 4e-5.
    shift = np.zeros(2) if phase == "area" else (scales - 1) / 2
    profiles = [np.exp(-0.5 * ((np.arange(25) - 12 - d) / 3) ** 2) for d in shift]
    hr = np.zeros((60, 60), np.float32)
    where = np.array([29, 34])
    hr[tuple(where)] = 100
    lr = degrade(hr, np.outer(*profiles), scale=scale, phase=phase, boundary=boundary)
    centroid = np.array(ndimage.center_of_mass(lr))
    np.testing.assert_allclose(scales * centroid + sign * (scales - 1) / 2, where, atol=2e-3)


def test_noise_has_the_std_asked_for_and_comes_from_the_seed():
    hr, kernel = 1000 * texture(256, 256), gaussian_psf(7, 1.0)
    clean = degrade(hr, kernel)
    noisy = degrade(hr, kernel, noise=5.0, seed=3)
    difference = noisy - clean
    assert difference.std() == pytest.approx(5.0, rel=0.03)
    assert abs(difference.mean()) < 0.2
    np.testing.assert_array_equal(noisy, degrade(hr, kernel, noise=5.0, seed=3))
    assert not np.array_equal(noisy, degrade(hr, kernel, noise=5.0, seed=4))


@pytest.mark.parametrize(
    ("axes", "channel"), [("YXC", 2), ("CYX", 0), ("YCX", 1), ("TCYX", 1), (None, 0)]
)
def test_channels_and_planes_are_blurred_one_by_one(axes, channel):
    shape = {"Y": 20, "X": 24, "C": 3, "T": 2}
    hr = texture(*(shape[letter] for letter in axes or "CYX"))
    kernel = texture(5, 5)
    lr = degrade(hr, kernel, axes=axes)
    assert lr.shape == tuple(
        shape[letter] // (2 if letter in "YX" else 1) for letter in axes or "CYX"
    )
    for plane, source in zip(np.moveaxis(lr, channel, 0), np.moveaxis(hr, channel, 0), strict=True):
        if plane.ndim == 3:
            plane, source = plane[1], source[1]
        np.testing.assert_allclose(plane, degrade(source, kernel), atol=1e-6)


KERNEL = np.ones((3, 3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hr": np.ones((8, 8), bool)}, TypeError, "hr"),
        ({"hr": np.ones((8, 8), complex)}, TypeError, "hr"),
        ({"hr": np.where(np.eye(8), np.nan, 1.0)}, ValueError, "hr.*8 NaN"),
        ({"hr": np.ones((8, 9))}, ValueError, "hr.*multiples"),
        ({"hr": np.ones(8)}, ValueError, "axes"),
        ({"hr": np.ones((2, 2)), "kernel": np.ones((5, 5))}, ValueError, "hr.*kernel"),
        ({"kernel": -KERNEL}, ValueError, "kernel.*negative"),
        ({"kernel": np.zeros((3, 3))}, ValueError, "kernel.*sum"),
        ({"kernel": np.full((3, 3), np.nan)}, ValueError, "kernel.*finite"),
        ({"kernel": np.ones(3)}, ValueError, "kernel.*axes"),
        ({"scale": 9}, ValueError, "scale"),
        ({"scale": 0}, ValueError, "scale"),
        ({"scale": 2.0}, TypeError, "scale"),
        ({"scale": (2, 2, 2)}, ValueError, "scale"),
        ({"axes": "YXC"}, ValueError, "axes"),
        ({"axes": "ZX"}, ValueError, "axes"),
        ({"axes": ("Y", "X")}, TypeError, "axes"),
        ({"phase": "middle"}, ValueError, "phase"),
        ({"boundary": "mirror"}, ValueError, "boundary"),
        ({"noise": -1.0}, ValueError, "noise"),
        ({"noise": np.nan}, ValueError, "noise"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_degrade_names_what_it_cannot_use(change, error, message):
    arguments = {"hr": np.ones((8, 8)), "kernel": KERNEL, "scale": 2} | change
    with pytest.raises(error, match=message):
        degrade(arguments.pop("hr"), arguments.pop("kernel"), **arguments)
