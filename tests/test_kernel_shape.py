import numpy as np
import pytest

from napari_dkp.kernel_shape import measure

FWHM = 2 * np.sqrt(2 * np.log(2))


def gaussian(sigmas, angle, *, shape=(41, 41), centre=(20.0, 20.0), spacing=(1.0, 1.0)):
    """A sampled Gaussian; sigmas (major, minor) and the centre's offsets in physical units."""
    y, x = np.indices(shape)
    y, x = (y - centre[0]) * spacing[0], (x - centre[1]) * spacing[1]
    turn = np.radians(angle)
    along = x * np.cos(turn) - y * np.sin(turn)
    across = x * np.sin(turn) + y * np.cos(turn)
    return np.exp(-(along**2) / (2 * sigmas[0] ** 2) - across**2 / (2 * sigmas[1] ** 2))


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, -60.0, 89.0])
@pytest.mark.parametrize("sigmas", [(3.0, 1.2), (4.0, 3.0)])
def test_gaussian_widths_and_angle(sigmas, angle):
    shape = measure(gaussian(sigmas, angle))
    assert shape.fwhm == pytest.approx((FWHM * sigmas[0], FWHM * sigmas[1]), rel=0.01)
    assert shape.angle == pytest.approx(angle, abs=0.5)
    assert shape.centroid == pytest.approx((20, 20), abs=1e-6)


def test_widths_are_in_physical_units_on_anisotropic_pixels():
    spacing = (0.3, 0.1)
    kernel = gaussian((0.9, 0.5), 90.0, shape=(31, 61), centre=(15, 30), spacing=spacing)
    shape = measure(kernel, spacing)
    assert shape.fwhm == pytest.approx((FWHM * 0.9, FWHM * 0.5), rel=0.01)
    assert shape.angle == pytest.approx(90, abs=0.5)


def test_angle_is_physical_on_anisotropic_pixels():
    spacing = (0.4, 0.1)
    kernel = gaussian((1.6, 0.8), 35.0, shape=(41, 121), centre=(20, 60), spacing=spacing)
    assert measure(kernel, spacing).angle == pytest.approx(35, abs=0.5)


def test_centre_between_pixels():
    shape = measure(gaussian((3.0, 2.0), 10.0, centre=(19.6, 20.3)))
    assert shape.centroid == pytest.approx((19.6, 20.3), abs=0.01)
    assert shape.fwhm == pytest.approx((FWHM * 3, FWHM * 2), rel=0.01)


def test_round_kernel_has_angle_zero():
    assert measure(gaussian((2.0, 2.0), 40.0)).angle == 0


def test_faint_floor_does_not_turn_the_axes():
    clean = gaussian((2.5, 1.5), 25.0, centre=(15, 25))
    shape = measure(clean + 1e-3)
    assert shape.angle == pytest.approx(25, abs=1)
    assert shape.centroid == pytest.approx((15, 25), abs=0.1)


def test_delta_is_about_one_pixel_wide():
    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    shape = measure(kernel, (0.2, 0.2))
    assert shape.fwhm == pytest.approx((0.24, 0.24), rel=0.05)
    assert shape.angle == 0


def test_line_has_its_length_and_direction():
    kernel = np.zeros((21, 21))
    kernel[10, 4:17] = 1
    shape = measure(kernel)
    assert shape.fwhm[0] == pytest.approx(13, abs=0.5)
    assert shape.fwhm[1] < 1.5
    assert shape.angle == pytest.approx(0, abs=1e-6)
    vertical = measure(kernel.T)
    assert vertical.angle == pytest.approx(90, abs=1e-6)
    falling = measure(np.diag(np.ones(15)))
    assert falling.angle == pytest.approx(-45, abs=1e-6)


def test_profile_runs_through_the_centroid():
    kernel = gaussian((3.0, 1.5), 0.0)
    major, minor = measure(kernel).profiles
    for profile in (major, minor):
        assert profile.positions[0] == -profile.positions[-1]
        assert profile.positions[profile.values.argmax()] == pytest.approx(0, abs=1e-9)
        assert profile.values.max() == pytest.approx(kernel.max() / kernel.sum(), rel=1e-5)
    assert np.interp(3.0, *major) / major.values.max() == pytest.approx(np.exp(-0.5), rel=0.01)


def test_scaling_the_values_changes_nothing_but_the_input_counts():
    kernel = gaussian((3.0, 1.5), 20.0)
    assert measure(kernel * 7).fwhm == pytest.approx(measure(kernel).fwhm)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.zeros((5, 5)), "kernel: expected a positive sum"),
        (np.full((5, 5), np.nan), "kernel: expected finite"),
        (np.ones(5), "kernel: expected 2 axes"),
        (-np.ones((5, 5)), "kernel: expected non-negative"),
    ],
)
def test_bad_kernels_are_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        measure(kernel)
