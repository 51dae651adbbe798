"""Volumes: three spatial axes from the families of kernels to a blind run."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from returned import returned
from scipy.ndimage import gaussian_filter

import napari_dkp as dkp
from napari_dkp import kernels
from napari_dkp.choice import choose
from napari_dkp.config import DIPConfig, NoiseConfig, RKSConfig, Settings
from napari_dkp.degradation import Degradation, degrade
from napari_dkp.families import families
from napari_dkp.kernel_shape import full_widths
from napari_dkp.noise import Noise, estimate
from napari_dkp.resolution import resolution, ring_correlation
from napari_dkp.restorers.penalised import _squared_hessian, hessian, hessian_adjoint
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.risk import Risk
from napari_dkp.spectrum import usual_cutoff
from napari_dkp.stack import Run
from napari_dkp.state import Stop
from napari_dkp.volume_optics import widefield
from napari_dkp.volume_trials import intervals, try_volume

FULL_WIDTH = 2.3548


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(axial: float, lateral: float, shape: tuple[int, ...]) -> torch.Tensor:
    widths = torch.tensor([axial, lateral, lateral], dtype=torch.float64)
    centre = tuple((n - 1) / 2 for n in shape)
    return kernels.gaussian(torch.diag(widths.square())[None], shape, centre)[0]


@cache
def recorded(
    shape: tuple[int, int, int] = (16, 32, 32), photons: float = 800.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, counts and kernel of beads and threads under a Gaussian of widths 1.8 and 1.2."""
    kernel = gaussian(1.8, 1.2, (13, 11, 11)).numpy()
    rng = np.random.default_rng(3)
    truth = np.zeros(shape)
    for _ in range(40):
        truth[tuple(rng.integers(0, n) for n in shape)] += rng.uniform(0.5, 2)
    for _ in range(4):
        z, y = rng.integers(2, shape[0] - 2), rng.integers(2, shape[1] - 2)
        truth[z, y, 3:-3] += 0.7
    truth = gaussian_filter(truth, 0.5)
    mean = degrade(truth, kernel, scale=1).clip(0)
    gain = photons / mean.max()
    counts = np.random.default_rng(1).poisson(gain * mean + 1.0)
    return gain * truth, counts.astype(np.uint16), kernel


def fidelity(truth: np.ndarray, image: np.ndarray) -> float:
    return float(np.corrcoef(truth.ravel(), image.ravel())[0, 1])


def test_gaussians_blur_as_scipy_does():
    truth = np.random.default_rng(0).random((18, 20, 22))
    kernel = gaussian(1.5, 0.9, (15, 11, 11)).numpy()
    found = degrade(truth, kernel, scale=1, boundary="circular")
    expected = gaussian_filter(truth, (1.5, 0.9, 0.9), mode="wrap", truncate=6)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_family_of_gaussians_has_the_widths_it_is_asked_for():
    model = Degradation((16, 24, 24), (3, 1, 1), (31, 15, 15))
    rks = RKSConfig(axial_width=(1.5, 1.5), lateral_width=(1.2, 1.2))
    (family,) = families("gaussian", model, rks)
    kernel = family.render(torch.rand(1, family.n_parameters))[0].numpy()
    # Widths are in pixels of the source, and one along Z is three of the result.
    expected = FULL_WIDTH * np.array([4.5, 1.2, 1.2])
    np.testing.assert_allclose(full_widths(kernel), expected, rtol=0.02)


@pytest.mark.parametrize("family", ["gaussian", "widefield", "confocal"])
def test_a_family_of_volumes_needs_intervals(family):
    model = Degradation((16, 24, 24), (1, 1, 1), (9, 9, 9))
    with pytest.raises(ValueError, match="expected an interval"):
        families(family, model, RKSConfig())


def lens(cutoff: float, defocus: float, shape=(13, 31, 31), aperture=0.8) -> torch.Tensor:
    values = torch.tensor([cutoff], dtype=torch.float64), torch.tensor([defocus]).double()
    return widefield(*values, shape, tuple((n - 1) / 2 for n in shape), aperture)[0]


def test_a_lens_images_points_as_its_pupil_says():
    """Against the Fourier transform of a finely sampled pupil, here without pixels' areas."""
    n, cutoff, defocus, aperture = 512, 0.3, 0.2, 0.8
    frequency = np.fft.fftfreq(n)
    rho = np.hypot(frequency[:, None], frequency) / (cutoff / 2)
    inside = np.clip((1 - rho) * cutoff / 2 * n + 0.5, 0, 1)
    rho = np.minimum(rho, 1)
    away = (1 - np.sqrt(1 - (aperture * rho) ** 2)) / (1 - np.sqrt(1 - aperture**2))
    pixel = np.sinc(frequency[:, None]) * np.sinc(frequency)
    found = lens(cutoff, defocus)
    planes = []
    for z in range(-6, 7):
        field = np.fft.ifft2(inside * np.exp(2j * np.pi * defocus * z * away))
        seen = np.fft.ifft2(np.fft.fft2(np.abs(field) ** 2) * pixel).real
        planes.append(np.roll(seen, (15, 15), (0, 1))[:31, :31])
    expected = np.stack(planes) / np.sum(planes)
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


def test_a_lens_loses_no_light_out_of_focus():
    planes = lens(0.5, 0.05).sum((1, 2))
    assert planes.std() < 0.02 * planes.mean()
    torch.testing.assert_close(planes.sum(), torch.ones((), dtype=torch.float64))


def test_a_lens_has_three_axes():
    with pytest.raises(ValueError, match="shape: expected three axes; got 2"):
        widefield(torch.tensor([0.3]), torch.tensor([0.1]), (9, 9), (4.0, 4.0))


@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 3, 7), (1, 4, 4)])
def test_second_derivatives_and_their_adjoint(shape):
    image = torch.randn(2, 1, *shape, generator=generator(1), dtype=torch.float64)
    found = hessian(image)
    assert found.shape == (2, 1, 6, *shape)

    def ahead(*axes: int) -> torch.Tensor:
        return image.roll([-1] * len(axes), [axis - 3 for axis in axes]) if axes else image

    for axis in range(3):
        expected = ahead(axis) - 2 * image + image.roll(1, axis - 3)
        torch.testing.assert_close(found[:, :, axis], expected)
    for place, (one, other) in enumerate([(0, 1), (0, 2), (1, 2)], start=3):
        expected = 2**0.5 * (ahead(one, other) - ahead(one) - ahead(other) + image)
        torch.testing.assert_close(found[:, :, place], expected)
    derivatives = torch.randn(found.shape, generator=generator(2), dtype=torch.float64)
    left, right = (found * derivatives).sum(), (image * hessian_adjoint(derivatives)).sum()
    torch.testing.assert_close(left, right)
    point = torch.zeros(1, 1, *shape, dtype=torch.float64)
    point[..., 0, 0, 0] = 1
    spectrum = torch.fft.rfftn(hessian_adjoint(hessian(point))[0, 0]).real
    np.testing.assert_allclose(_squared_hessian(shape).numpy(), spectrum.numpy(), atol=1e-5)


@pytest.mark.parametrize("scale", [(1, 2, 2), (3, 1, 1)])
def test_the_passband_is_the_power_of_the_kernel(scale):
    model = Degradation((6, 8, 10), scale, (5, 7, 7))
    kernel = gaussian(1.0, 1.3, (5, 7, 7))
    passed = model.passband(kernel)
    assert passed.shape == (6, 8, 6)
    torch.testing.assert_close(passed[0, 0, 0], torch.ones((), dtype=torch.float64))
    # Half-way between pixels a sample is the mean of two: that lowers these frequencies too.
    assert (passed <= 1 + 1e-12).all()
    assert passed[3, 0, 0] < passed[1, 0, 0] < 1


def test_the_risk_of_a_volume_tells_the_truth_from_a_blur():
    truth, counts, kernel = recorded()
    model = Degradation(counts.shape, (1, 1, 1), kernel.shape)
    data = torch.from_numpy(counts.astype(np.float32))[None]
    halves = PhotonHalves(model, data, Noise(1.0, 0.0), generator())
    psf = torch.from_numpy(kernel).float()
    risk = Risk(model, halves.counts, psf)
    mean = degrade(truth, kernel, scale=1)[None, None] / 2 + 0.5
    right = torch.from_numpy(mean).float().expand(2, 1, *counts.shape)
    blurred = torch.from_numpy(gaussian_filter(mean, (0, 0, 1, 1, 1))).expand(2, 1, *counts.shape)
    assert float(risk(right)) == pytest.approx(1.0, rel=0.1)  # that of the noise alone
    assert float(risk(blurred)) > 1.5


def test_noise_is_estimated_from_volumes():
    rng = np.random.default_rng(0)
    light = gaussian_filter(rng.random((24, 48, 48)), 4)
    mean = 20 + 400 * (light - light.min()) / np.ptp(light)
    found = estimate(2.0 * rng.poisson(mean)[None])
    assert found.gain == pytest.approx(2.0, rel=0.15)


def test_shells_tell_the_resolution_of_volumes():
    rng = np.random.default_rng(0)
    signal = gaussian_filter(rng.normal(size=(1, 32, 48, 48)), (0, 1.5, 1.5, 1.5))
    signal /= signal.std()
    first, second = (signal + 0.3 * rng.normal(size=signal.shape) for _ in range(2))
    period = resolution(first, second, 3)
    assert 2.5 < period < 8
    assert ring_correlation(first, first, 3).correlation == pytest.approx(1)


def test_a_blind_run_finds_the_widths_of_a_gaussian():
    truth, counts, kernel = recorded()
    result = dkp.restore(
        counts, axes="ZYX", volume=True, scale=1, kernel_size=(13, 11, 11), iterations=60,
        noise=NoiseConfig(gain=1.0),
    )  # fmt: skip
    assert result.image.shape == counts.shape
    assert result.image.dtype == np.float32
    assert result.settings.kernel_family == "gaussian"
    assert "confocal" in result.choice
    assert result.kernel.shape == (13, 11, 11)
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)
    assert full_widths(result.kernel) == pytest.approx(full_widths(kernel), rel=0.25)
    assert result.image.sum() == pytest.approx(counts.sum(), rel=0.05)
    assert fidelity(truth, result.image) > fidelity(truth, counts) + 0.15
    (report,) = result.reports
    assert report.misfit == pytest.approx(1, abs=0.3)
    assert report.resolution_after is not None
    again = dkp.restore(counts, **vars_of(result.settings))
    np.testing.assert_array_equal(again.image, result.image)


def vars_of(settings: Settings) -> dict:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


@pytest.mark.parametrize("scale", [(1, 2, 2), (3, 1, 1)])
def test_axes_are_enlarged_each_by_its_own_scale(scale):
    _, counts, _ = recorded()
    small = counts[:10, :20, :18]
    rks = RKSConfig(axial_width=(1.2, 1.4), lateral_width=(1.0, 1.1))
    result = dkp.restore(
        small, axes="ZYX", volume=True, scale=scale, kernel_family="gaussian", rks=rks,
        kernel_size=9, iterations=12, diagnostics=True,
    )  # fmt: skip
    assert result.image.shape == tuple(s * n for s, n in zip(scale, small.shape, strict=True))
    assert result.residual.shape == small.shape
    assert result.uncertainty.shape == result.image.shape
    assert result.image.mean() == pytest.approx(small.mean(), rel=0.15)


def test_an_untrained_network_restores_volumes():
    truth, counts, kernel = recorded()
    result = dkp.restore(
        counts, axes="ZYX", volume=True, scale=1, method="dip", kernel=kernel, iterations=60,
        noise=NoiseConfig(gain=1.0),
    )  # fmt: skip
    assert result.settings.method == "dip"
    assert result.image.shape == counts.shape
    assert fidelity(truth, result.image) > fidelity(truth, counts) + 0.25
    # Points are far brighter before the blur: no bound keeps them down.
    assert result.image.max() > 4 * counts.max()
    assert result.image.sum() == pytest.approx(counts.sum(), rel=0.1)


def test_its_kernel_is_found_by_the_same_trials():
    _, counts, _ = recorded()
    options = Settings(axes="ZYX", volume=True, kernel_size=9, iterations=3)
    small = counts[:10, :20, :20]
    kernels = []
    for method in ("richardson-lucy", "dip"):
        run = Run(small, replace(options, method=method, scale=(1, 2, 2)))
        list(run)
        kernels.append(run.result().kernel)
    np.testing.assert_allclose(*map(full_widths, kernels), rtol=0.02)  # means of a few draws
    assert run.result().image.shape == (10, 40, 40)


@pytest.mark.parametrize(("method", "decibels"), [("richardson-lucy", 45), ("dip", 20)])
def test_volumes_are_restored_in_tiles(method, decibels):
    """Networks are drawn anew in each tile."""
    _, counts, kernel = recorded((16, 72, 32))
    options = {
        "axes": "ZYX", "volume": True, "scale": 1, "method": method,
        "kernel": kernel[2:-2, 2:-2, 2:-2], "iterations": 40, "noise": NoiseConfig(gain=1.0),
    }  # fmt: skip
    whole = dkp.restore(counts, **options).image
    tiled = dkp.restore(counts, **options, tile=48)
    assert tiled.settings.tile == 48
    error = np.mean((tiled.image - whole) ** 2)
    assert 10 * np.log10(whole.max() ** 2 / error) > decibels


def test_trials_of_a_volume_can_be_watched_and_stopped():
    _, counts, _ = recorded()
    options = Settings(axes="ZYX", volume=True, scale=1, kernel_family="gaussian", kernel_size=9)
    run = Run(counts[:10, :20, :20], replace(options, iterations=4))
    shown = []
    for state in run:
        if not state.searching:
            break
        shown.append(state)
    assert len(shown) > 8
    assert len({state.kernel.tobytes() for state in shown}) == len(shown)
    assert all(state.kernel.shape == (9, 9, 9) for state in shown)
    assert [state.step for state in shown] == list(range(1, len(shown) + 1))
    assert state.step > shown[-1].step and run.n_steps > state.step
    assert run.result().stop is Stop.CANCELLED


def test_a_known_kernel_restores_each_channel_and_time():
    truth, counts, kernel = recorded()
    movie = np.stack([counts, counts[::-1]], 1)[None][:, :, :, :24]  # T, Z, C, Y, X
    result = dkp.restore(
        movie, axes="TZCYX", volume=True, scale=1, kernel=kernel, iterations=20,
        noise=NoiseConfig(gain=1.0),
    )  # fmt: skip
    assert result.image.shape == movie.shape
    assert result.kernel.shape == (1, 2, *kernel.shape)
    assert fidelity(truth[:, :24], result.image[0, :, 0]) > fidelity(truth[:, :24], movie[0, :, 0])


def test_light_that_is_the_same_in_every_plane_is_of_a_widefield_microscope():
    truth, counts, _ = recorded()
    settings = Settings(volume=True, axes="ZYX", scale=1)
    rng = np.random.default_rng(0)
    assert choose(lambda: counts[None], settings).settings.kernel_family == "gaussian"
    wide = degrade(np.pad(truth, 8), lens(0.5, 0.4, (27, 27, 27)).numpy(), scale=1)
    wide = rng.poisson(wide[8:-8, 8:-8, 8:-8].clip(0))
    # What leaves the frame is put back: this frame is small.
    even = wide * (wide.mean() / wide.mean((1, 2), keepdims=True))
    chosen = choose(lambda: even[None], settings)
    assert chosen.settings.kernel_family == "widefield"
    assert "out of focus" in chosen.reason
    known = choose(lambda: even[None], settings, known_kernel=True)
    assert known.settings.method == "richardson-lucy"
    assert known.reason == ""


def test_trials_find_the_cone_of_a_widefield_microscope():
    rng = np.random.default_rng(2)
    truth = np.zeros((16, 40, 40))
    for _ in range(60):
        truth[tuple(rng.integers(1, n - 1) for n in truth.shape)] = rng.uniform(0.5, 2)
    kernel = lens(0.5, 0.3, (15, 31, 31)).numpy()
    mean = degrade(truth, kernel, scale=1, boundary="circular").clip(0)
    counts = rng.poisson(2000 * mean / mean.max()).astype(np.float32)
    model = Degradation(counts.shape, (1, 1, 1), (15, 21, 21), boundary="circular")
    data = torch.from_numpy(counts / counts.max())[None]
    noise = Noise(1 / float(counts.max()), 0.0)
    found = returned(try_volume(model, data, noise, "widefield", usual_cutoff(1.0), 0))
    rks = found.within(RKSConfig(), "widefield")
    axial, lateral = intervals("widefield", rks)
    assert np.sqrt(np.prod(axial)) == pytest.approx(0.3, rel=0.4)
    assert np.sqrt(np.prod(lateral)) == pytest.approx(0.5, rel=0.25)
    kept = found.within(RKSConfig(cutoff=(0.1, 0.2)), "widefield")
    assert kept.cutoff == (0.1, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dip": DIPConfig(network="published")}, "dip: expected the 'light' network"),
        ({"method": "diffusion"}, "method: expected 'richardson-lucy' or 'dip' with volume=True"),
        (
            {"kernel_family": "airy"},
            "kernel_family: expected 'auto', 'gaussian', 'widefield' or 'confocal'",
        ),
        ({"preset": "paper"}, "preset: expected another than 'paper'"),
        ({"rks": RKSConfig(sampler="paper")}, "preset: expected another than 'paper'"),
        ({"axes": "TYX"}, "axes: expected Z among them"),
        ({"phase": "fkp"}, "phase: expected 'area'"),
        (
            {"kernel_family": "widefield", "scale": (1, 2, 1)},
            "kernel_family: expected 'gaussian' with unlike scales",
        ),
    ],
)
def test_what_volumes_do_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(volume=True, **changes)


def test_what_is_no_volume_is_refused():
    with pytest.raises(TypeError, match="volume: expected True or False; got 1"):
        Settings(volume=1)
    for family in ("widefield", "confocal"):
        with pytest.raises(ValueError, match=f"kernel_family: expected a family of.*{family}"):
            Settings(kernel_family=family)
    with pytest.raises(ValueError, match="axes: expected Z among them with volume=True; got 'YX'"):
        dkp.restore(np.eye(32), volume=True, scale=1)
    with pytest.raises(ValueError, match="scale: expected one integer, or 3"):
        dkp.restore(np.random.default_rng(0).random((16, 32, 32)), volume=True, scale=(2, 2))
    with pytest.raises(ValueError, match="kernel: expected 3 axes"):
        image = np.random.default_rng(0).random((16, 32, 32))
        dkp.restore(image, volume=True, scale=1, kernel=np.ones((3, 3)))
