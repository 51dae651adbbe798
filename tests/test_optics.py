"""Point spread functions of microscopes, against formulas worked out in other ways."""

import numpy as np
import pytest
import torch
from scipy.special import j0, j1

from napari_dkp.kernels import fix_centroid
from napari_dkp.optics import ABERRATIONS, airy, pupil

Centre = tuple[float, ...]
Shape = tuple[int, ...]

ODD = ((19, 19), (9.0, 9.0))
EVEN = ((20, 20), (9.5, 9.5))
OFF = ((19, 15), (7.5, 6.25))
PERFECT = (0.0,) * len(ABERRATIONS)


def rendered_airy(cutoff: float, damping: float, shape: Shape, centre: Centre) -> torch.Tensor:
    return airy(torch.tensor([cutoff]), torch.tensor([float(damping)]), shape, centre)[0]


def rendered_pupil(
    cutoff: float, aberrations: tuple[float, ...], shape: Shape, centre: Centre
) -> torch.Tensor:
    modes = torch.tensor([aberrations], dtype=torch.float32)
    return pupil(torch.tensor([cutoff]), modes, shape, centre)[0]


def fine_positions(taps: int, middle: float, nodes: int) -> np.ndarray:
    """Gauss-Legendre nodes within each pixel along an axis, relative to the centre."""
    inside = np.polynomial.legendre.leggauss(nodes)[0] / 2
    return (np.arange(taps)[:, None] - middle + inside).ravel()


def pixel_means(intensity: np.ndarray, nodes: int, centre: Centre) -> np.ndarray:
    """Kernel of an intensity at the fine positions, its centroid put right as documented."""
    weight = np.polynomial.legendre.leggauss(nodes)[1] / 2
    rows, columns = (n // nodes for n in intensity.shape)
    blocks = intensity.reshape(rows, nodes, columns, nodes)
    kernel = np.einsum("aibj,i,j->ab", blocks, weight, weight)
    return fix_centroid(torch.from_numpy(kernel / kernel.sum())[None], centre)[0].numpy()


def radial(profile, shape: Shape, centre: Centre, nodes: int = 6) -> np.ndarray:
    y, x = (fine_positions(n, middle, nodes) for n, middle in zip(shape, centre, strict=True))
    return pixel_means(profile(np.hypot(y[:, None], x)), nodes, centre)


def exact_airy(cutoff: float, shape: Shape, centre: Centre) -> np.ndarray:
    def profile(r: np.ndarray) -> np.ndarray:
        v = np.maximum(np.pi * cutoff * r, 1e-9)
        return (2 * j1(v) / v) ** 2

    return radial(profile, shape, centre)


def hankel_airy(cutoff: float, damping: float, shape: Shape, centre: Centre) -> np.ndarray:
    """Transform the radial transfer function by quadrature."""
    # q = sin² makes both ends of the integrand smooth.
    t, weight = np.polynomial.legendre.leggauss(80)
    t, weight = (t + 1) * np.pi / 4, weight * np.pi / 4
    q, weight = np.sin(t) ** 2, weight * np.sin(2 * t)
    weight = weight * q * (np.arccos(q) - q * np.sqrt(1 - q**2)) * damping**q
    return radial(
        lambda r: j0(2 * np.pi * cutoff * r[..., None] * q) @ weight, shape, centre, nodes=4
    )


def direct_pupil(cutoff: float, aberrations, shape: Shape, centre: Centre) -> np.ndarray:
    """Sum the waves of every point of the pupil, in polar coordinates, at every fine position."""
    rho, weight = np.polynomial.legendre.leggauss(24)
    rho = (rho + 1) / 2
    phi = 2 * np.pi * np.arange(72) / 72
    weight = np.repeat(weight * rho, len(phi))
    rho, phi = (grid.ravel() for grid in np.meshgrid(rho, phi, indexing="ij"))
    modes = (  # Noll (1976)
        np.sqrt(3) * (2 * rho**2 - 1),
        np.sqrt(6) * rho**2 * np.sin(2 * phi),
        np.sqrt(6) * rho**2 * np.cos(2 * phi),
        np.sqrt(8) * (3 * rho**3 - 2 * rho) * np.sin(phi),
        np.sqrt(8) * (3 * rho**3 - 2 * rho) * np.cos(phi),
        np.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1),
    )
    field = weight * np.exp(2j * np.pi * np.tensordot(aberrations, modes, 1))
    # The mean slope of a wavefront moves the centroid; only the comas have one, √8 waves / radius.
    moved = [2 / cutoff * np.sqrt(8) * a for a in aberrations[3:5]]
    nodes = 3
    y, x = (
        fine_positions(n, middle, nodes) - shift
        for n, middle, shift in zip(shape, centre, moved, strict=True)
    )
    rows = np.exp(1j * np.pi * cutoff * y[:, None] * rho * np.sin(phi))
    columns = np.exp(1j * np.pi * cutoff * x[:, None] * rho * np.cos(phi))
    return pixel_means(np.abs((rows * field) @ columns.T) ** 2, nodes, centre)


def assert_near(found: torch.Tensor, expected: np.ndarray, of_peak: float) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=of_peak * expected.max())


def widths(kernels: torch.Tensor) -> np.ndarray:
    """Reciprocal participation: the number of taps that hold the light."""
    return 1 / kernels.double().square().sum((1, 2)).numpy()


# airy


@pytest.mark.parametrize(("shape", "centre"), [ODD, EVEN, OFF, ((41, 41), (20.0, 20.0))])
@pytest.mark.parametrize(
    ("cutoff", "of_peak"), [(0.1, 3e-4), (0.2, 5e-5), (0.3, 3e-5), (0.4, 2e-5), (0.5, 2e-5)]
)
def test_airy_is_the_airy_pattern_averaged_over_pixels(cutoff, of_peak, shape, centre):
    assert_near(rendered_airy(cutoff, 1, shape, centre), exact_airy(cutoff, shape, centre), of_peak)


@pytest.mark.parametrize(("shape", "centre"), [ODD, OFF])
@pytest.mark.parametrize("damping", [0.9, 0.4, 0.1])
@pytest.mark.parametrize("cutoff", [0.2, 0.45])
def test_damped_airy_is_the_hankel_transform_of_its_transfer_function(
    cutoff, damping, shape, centre
):
    expected = hankel_airy(cutoff, damping, shape, centre)
    assert_near(rendered_airy(cutoff, damping, shape, centre), expected, 1e-4)


def test_the_references_agree():
    np.testing.assert_allclose(hankel_airy(0.3, 1, *ODD), exact_airy(0.3, *ODD), atol=1e-7)
    np.testing.assert_allclose(direct_pupil(0.3, PERFECT, *ODD), exact_airy(0.3, *ODD), atol=1e-6)


def test_airy_passes_nothing_beyond_the_cutoff():
    kernel = rendered_airy(0.25, 0.7, (121, 121), (60.0, 60.0))
    transfer = torch.fft.fft2(kernel.double()).abs()
    frequency = torch.fft.fftfreq(121, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency)
    assert transfer[radius > 0.27].max() < 2e-4
    assert transfer[radius < 0.15].min() > 0.1


def test_damping_and_a_lower_cutoff_widen():
    damping = torch.tensor([1.0, 0.7, 0.3, 0.1, 0.01])
    assert (np.diff(widths(airy(torch.full((5,), 0.4), damping, *ODD))) > 0).all()
    cutoff = torch.tensor([1.5, 0.8, 0.5, 0.4, 0.2, 0.1])
    assert (np.diff(widths(airy(cutoff, torch.ones(6), *ODD))) > 0).all()


def test_airy_without_a_cutoff_is_little_more_than_a_pixel():
    kernel = rendered_airy(1e4, 1, *ODD)
    # All that the grid can hold of a square: a pixel and the ripples beside it, where positive.
    assert kernel[9, 9] > 0.65
    assert kernel[8:11, 8:11].sum() > 0.9


# pupil


@pytest.mark.parametrize(("shape", "centre"), [((11, 11), (4.5, 4.5)), ODD, OFF])
@pytest.mark.parametrize(
    ("cutoff", "of_peak"), [(0.1, 5e-4), (0.3, 5e-4), (0.5, 5e-4), (0.7, 2e-3), (1.0, 2e-2)]
)
def test_a_perfect_pupil_gives_the_airy_pattern(cutoff, of_peak, shape, centre):
    expected = rendered_airy(cutoff, 1, shape, centre).numpy()
    assert_near(rendered_pupil(cutoff, PERFECT, shape, centre), expected, of_peak)


@pytest.mark.parametrize("mode", range(len(ABERRATIONS)), ids=ABERRATIONS)
@pytest.mark.parametrize("cutoff", [0.25, 0.5])
def test_each_aberration_is_a_direct_sum_over_the_pupil(cutoff, mode):
    aberrations = np.zeros(len(ABERRATIONS))
    aberrations[mode] = 0.15
    expected = direct_pupil(cutoff, aberrations, *ODD)
    assert_near(rendered_pupil(cutoff, tuple(aberrations), *ODD), expected, 2e-3)


@pytest.mark.parametrize(("shape", "centre"), [OFF, ((31, 31), (15.0, 15.0))])
def test_aberrations_together_are_a_direct_sum_over_the_pupil(shape, centre):
    aberrations = (0.1, -0.12, 0.08, 0.07, -0.1, -0.11)
    expected = direct_pupil(0.4, aberrations, shape, centre)
    assert_near(rendered_pupil(0.4, aberrations, shape, centre), expected, 1e-2)


def test_defocus_to_either_side_looks_the_same():
    above, below = (rendered_pupil(0.4, (side, *PERFECT[1:]), *ODD) for side in (0.2, -0.2))
    torch.testing.assert_close(above, below, atol=1e-6, rtol=1e-4)


def test_defocus_and_astigmatism_together_tell_the_sides_apart():
    above, below = (rendered_pupil(0.4, (side, 0.0, 0.2, 0, 0, 0), *ODD) for side in (0.2, -0.2))
    assert (above - below).abs().max() > 0.2 * above.max()
    torch.testing.assert_close(above, below.T, atol=1e-6, rtol=1e-3)


def test_aberrations_widen():
    amounts = torch.linspace(0, 0.15, 4)[:, None]
    for mode in torch.eye(len(ABERRATIONS)):
        kernels = pupil(torch.full((4,), 0.4), amounts * mode, *ODD)
        assert (np.diff(widths(kernels)) > 0).all()


# Both


def many(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cutoff = 0.1 + 0.6 * torch.rand(32, generator=generator, dtype=dtype)
    if name == "airy":
        return cutoff, 0.05 + 0.95 * torch.rand(32, generator=generator, dtype=dtype)
    return cutoff, 0.08 * torch.randn(32, len(ABERRATIONS), generator=generator, dtype=dtype)


FUNCTIONS = {"airy": airy, "pupil": pupil}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "centre"), [ODD, EVEN, OFF, ((15, 15), (6.0, 6.0))])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_member_is_a_kernel_with_its_centroid_in_place(name, shape, centre, dtype):
    kernels = FUNCTIONS[name](*many(name, dtype), shape, centre)
    assert kernels.shape == (32, *shape)
    assert kernels.dtype == dtype
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(32, dtype=dtype))
    for axis, middle in enumerate(centre):
        profile = kernels.sum(2 - axis)
        mean = profile @ torch.arange(shape[axis], dtype=dtype)
        np.testing.assert_allclose(mean.numpy(), middle, atol=0.01)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_kernel_does_not_depend_on_its_batch(name):
    cutoff, other = many(name)
    together = FUNCTIONS[name](cutoff, other, *ODD)
    alone = FUNCTIONS[name](cutoff[7:8], other[7:8], *ODD)[0]
    torch.testing.assert_close(together[7], alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name):
    # Above the Nyquist frequency the sharp edge of the spectrum moves over the frequencies.
    cutoff = torch.tensor([0.23, 0.44], dtype=torch.float64, requires_grad=True)
    other = many(name, torch.float64)[1][:2].requires_grad_()
    weight = torch.rand(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(*parameters: torch.Tensor) -> torch.Tensor:
        return (FUNCTIONS[name](*parameters, (9, 8), (4.0, 3.5)) * weight).sum((1, 2))

    assert torch.autograd.gradcheck(score, (cutoff, other), atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_in_single_precision_are_finite(name):
    parameters = [parameter.requires_grad_() for parameter in many(name)]
    FUNCTIONS[name](*parameters, *ODD).square().sum().backward()
    for parameter in parameters:
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 0


def test_gradients_are_finite_where_the_cutoff_is_one_of_the_frequencies_summed():
    cutoff = torch.tensor([0.1, 0.25, 0.5, 1.0], requires_grad=True)
    airy(cutoff, torch.ones(4), *ODD).square().sum().backward()
    assert torch.isfinite(cutoff.grad).all()


@pytest.mark.parametrize("shape", [(9,), (9, 9, 9)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_than_two_axes_are_refused(name, shape):
    with pytest.raises(ValueError, match=f"shape: expected two axes; got {len(shape)}"):
        FUNCTIONS[name](*many(name), shape, tuple((n - 1) / 2 for n in shape))


@pytest.mark.parametrize("wrong", [(2, 5), (6,)])
def test_other_than_six_aberrations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"aberrations: expected shape \(N, 6\)"):
        pupil(torch.full((2,), 0.3), torch.zeros(wrong), *ODD)
