"""Richardson–Lucy against its formula in dense matrices, and its penalty by brute force."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from napari_dkp import engine
from napari_dkp.config import RichardsonLucyConfig
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.noise import Noise
from napari_dkp.optics import airy
from napari_dkp.restorers import richardson_lucy
from napari_dkp.restorers.richardson_lucy import (
    RichardsonLucyRestorer,
    _hessian,
    _hessian_adjoint,
)
from napari_dkp.state import Stop

PLAIN = RichardsonLucyConfig(strength=0.0)
PHOTONS = Noise(1.0, 0.0)
SCENE = Degradation((80, 72), (1, 1), (15, 15))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def optics(cutoff: float, model: Degradation) -> torch.Tensor:
    parameters = torch.tensor([cutoff]), torch.tensor([1.0])
    return airy(*parameters, model.kernel_shape, model.kernel_centre)[0]


def points_and_lines(model: Degradation, photons: float, channels: int = 1) -> torch.Tensor:
    """Mean photons on the domain: points and thin lines over a dim background."""
    rng = np.random.default_rng(0)
    shape = model.domain_shape
    rows, columns = np.indices(shape)
    image = np.full((channels, *shape), 0.02)
    for channel in image:
        for _ in range(8):
            angle, row, column = rng.uniform(0, np.pi), *(rng.uniform(0, n) for n in shape)
            away = np.cos(angle) * (rows - row) + np.sin(angle) * (columns - column)
            channel += rng.uniform(0.2, 0.5) * np.clip(1.2 - np.abs(away), 0, 1)
        for _ in range(50):
            channel[tuple(rng.integers(0, n) for n in shape)] += rng.uniform(0.5, 2)
    # Nothing that is imaged is as sharp as a pixel.
    return torch.from_numpy(photons * gaussian_filter(image, (0, 0.8, 0.8))).float()


def photographed(model: Degradation, truth: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.poisson(model.forward(truth, kernel).clamp_min(0), generator=generator(5))


def simulated(photons: float = 400.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth on the domain, data and kernel of a small fluorescence image."""
    kernel = optics(0.25, SCENE)
    truth = points_and_lines(SCENE, photons)
    return truth, photographed(SCENE, truth, kernel), kernel


def restorer_of(
    data: torch.Tensor, config: RichardsonLucyConfig = PLAIN, seed: int = 0
) -> RichardsonLucyRestorer:
    return RichardsonLucyRestorer(SCENE, data, PHOTONS, config, generator(seed))


def until_done(restorer, kernel: torch.Tensor, most: int = 200) -> list[engine.RestorerStep]:
    steps = []
    while not (steps and steps[-1].done) and len(steps) < most:
        steps.append(restorer.step(kernel))
    return steps


def dense(model: Degradation, kernel: np.ndarray) -> np.ndarray:
    """Convolution as a matrix from the domain to the samples; odd kernels and scale 1 only."""
    matrix = np.zeros((*model.lr_shape, *model.domain_shape))
    rows, columns = model.kernel_shape
    for j, i, m, n in product(*map(range, (*model.lr_shape, rows, columns))):
        matrix[j, i, j + rows - 1 - m, i + columns - 1 - n] += kernel[m, n]
    return matrix.reshape(np.prod(model.lr_shape), np.prod(model.domain_shape))


def test_plain_steps_are_those_of_richardson_and_lucy_on_each_half():
    model = Degradation((6, 7), (1, 1), (3, 3))
    kernel = 0.3 + torch.rand(3, 3, generator=generator(1), dtype=torch.float64)
    kernel = kernel / kernel.sum()
    data = 40 * torch.rand(1, 6, 7, generator=generator(2), dtype=torch.float64)
    noise = Noise(1.3, 2.0)
    restorer = RichardsonLucyRestorer(model, data, noise, PLAIN, generator(3))
    blur = dense(model, kernel.numpy())
    halves = restorer._halves.reshape(2, -1).numpy()
    background = float(restorer._background)
    assert halves.sum() == pytest.approx(float(noise.counts(data).round().sum()))
    images = restorer._image.reshape(2, -1).numpy().copy()
    assert np.ptp(images) == 0
    for _ in range(2):
        found = restorer.step(kernel)
        for half in range(2):
            mean = blur @ images[half] + background
            images[half] *= blur.T @ (halves[half] / mean) / blur.sum(0)
        np.testing.assert_allclose(restorer._image.reshape(2, -1).numpy(), images, rtol=1e-9)
    counts = images.sum(0) + 2 * background
    np.testing.assert_allclose(
        found.image.flatten().numpy(), noise.intensity(torch.from_numpy(counts)).numpy(), rtol=1e-9
    )
    held_out = halves[::-1]
    mean = np.stack([blur @ image + background for image in images])
    part = np.where(held_out > 0, held_out * np.log(np.maximum(held_out, 1) / mean), 0)
    assert float(found.loss) == pytest.approx(2 * (mean - held_out + part).mean(), rel=1e-6)
    residual = 1.3 * np.sqrt(((mean - halves).sum(0) ** 2).mean())
    assert float(found.residual) == pytest.approx(residual, rel=1e-6)


def test_extrapolated_steps_gain_on_plain_ones(monkeypatch):
    _, data, kernel = simulated()
    fits = []
    for unaccelerated in (richardson_lucy._UNACCELERATED, 10**6):
        monkeypatch.setattr(richardson_lucy, "_UNACCELERATED", unaccelerated)
        restorer = restorer_of(data)
        fits.append([float(restorer.step(kernel).residual) for _ in range(25)])
    accelerated, plain = fits
    assert accelerated[:6] == plain[:6]
    assert accelerated[-1] < plain[-1]


def test_the_hessian_is_that_of_a_quadratic():
    y, x = np.indices((6, 7)).astype(float)
    image = torch.from_numpy(1.5 * y**2 - 2 * x**2 + 0.7 * x * y + 3 * x - y + 4)[None, None]
    found = _hessian(image)[0, 0]
    torch.testing.assert_close(found[0, 1:-1], torch.full((4, 7), 3.0).double())
    torch.testing.assert_close(found[1, :, 1:-1], torch.full((6, 5), -4.0).double())
    torch.testing.assert_close(found[2, :-1, :-1], torch.full((5, 6), 0.7 * 2**0.5).double())
    assert not found[0, [0, -1]].any()
    assert not found[1, :, [0, -1]].any()
    assert not found[2, -1].any()
    assert not found[2, :, -1].any()


@pytest.mark.parametrize("shape", [(7, 9), (3, 3), (2, 5)])
def test_the_adjoint_of_the_weighted_hessian_is_its_transpose(shape):
    image = torch.randn(2, 3, *shape, generator=generator(1), dtype=torch.float64)
    weight = torch.rand(2, 3, *shape, generator=generator(2), dtype=torch.float64)
    dual = torch.randn(2, 3, 3, *shape, generator=generator(3), dtype=torch.float64)
    left = (weight.unsqueeze(2) * _hessian(image) * dual).sum()
    right = (image * _hessian_adjoint(dual, weight)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


def test_no_step_on_the_dual_of_the_hessian_is_too_long():
    """The norm that sets the pace is an upper bound, and not a loose one."""
    image = torch.randn(1, 1, 24, 24, generator=generator(1), dtype=torch.float64)
    ones = torch.ones_like(image)
    for _ in range(200):
        image = _hessian_adjoint(_hessian(image), ones)
        norm = float(image.norm())
        image = image / norm
    assert 0.8 * richardson_lucy._HESSIAN_NORM < norm <= richardson_lucy._HESSIAN_NORM


def penalised(
    x: np.ndarray, image: np.ndarray, metric: np.ndarray, weight: np.ndarray, soft: float
) -> tuple[float, np.ndarray]:
    """Objective of the proximal map and its gradient, by automatic differentiation."""
    variable = torch.from_numpy(x.copy()).requires_grad_()
    square = variable.reshape(image.shape)
    hessian = _hessian(square[None, None])[0, 0]
    length = (hessian.square().sum(0) + soft**2).sqrt()
    away = (square - torch.from_numpy(image)) ** 2 / (2 * torch.from_numpy(metric))
    value = away.sum() + (torch.from_numpy(weight) * length).sum()
    value.backward()
    return value.item(), variable.grad.numpy()


def test_the_proximal_map_with_many_steps_is_the_minimiser(monkeypatch):
    monkeypatch.setattr(richardson_lucy, "_DUAL_STEPS", 2500)
    model = Degradation((4, 5), (1, 1), (3, 3))
    data = torch.full((1, 4, 5), 9.0, dtype=torch.float64)
    restorer = RichardsonLucyRestorer(model, data, PHOTONS, PLAIN, generator())
    rng = np.random.default_rng(0)
    shape = (2, 1, *model.domain_shape)
    image = rng.exponential(3.0, shape)
    image[..., 2:4, 2:5] = 0
    image[..., 0, 0] = 30
    metric, weight = rng.uniform(0.5, 2, shape), rng.uniform(0.3, 0.6, shape)
    restorer._weight = torch.from_numpy(weight)
    found = restorer._proximal(torch.from_numpy(image), torch.from_numpy(metric))
    for half in range(2):
        case = image[half, 0], metric[half, 0], weight[half, 0]
        x = image[half, 0].flatten()
        for soft in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
            options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-9}
            x = minimize(
                penalised,
                x,
                (*case, soft),
                "L-BFGS-B",
                jac=True,
                bounds=[(0, None)] * x.size,
                options=options,
            ).x
        ours = found[half, 0].numpy()
        np.testing.assert_allclose(ours, x.reshape(ours.shape), atol=0.02)
        best, _ = penalised(x, *case, 0.0)
        assert penalised(ours.flatten(), *case, 0.0)[0] <= best + 1e-3
        assert penalised(image[half, 0].flatten(), *case, 0.0)[0] > best + 1


def test_the_penalty_takes_the_ripple_of_noise():
    _, data, kernel = simulated(60)
    ripple = []
    for strength in (0.0, 0.5, 5.0):
        restorer = restorer_of(data, RichardsonLucyConfig(strength=strength))
        for _ in range(15):
            image = restorer.step(kernel).image
        ripple.append(float(_hessian(image[None]).abs().mean()))
    assert ripple[0] > 1.1 * ripple[1]
    assert ripple[1] > ripple[2]


@pytest.mark.parametrize("strength", [0.0, 0.5, 20.0])
def test_the_image_is_never_negative(strength):
    _, data, kernel = simulated(20)
    restorer = restorer_of(data, RichardsonLucyConfig(strength=strength))
    for _ in range(40):
        step = restorer.step(kernel)
        assert (restorer._image > 0).all()
        assert (step.image >= 0).all()


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_the_blurred_image_holds_the_light_of_the_data(strength):
    _, data, kernel = simulated()
    restorer = restorer_of(data, RichardsonLucyConfig(strength=strength))
    light = [float(SCENE.forward(restorer.step(kernel).image, kernel).sum()) for _ in range(20)]
    ratio = np.array(light) / float(data.sum())
    assert ratio[0] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(ratio, 1, atol=0.05)
    np.testing.assert_allclose(ratio[-5:], 1, atol=0.01)


def test_a_run_ends_when_held_out_photons_are_no_longer_better_told():
    _, data, kernel = simulated(100)
    restorer = restorer_of(data, RichardsonLucyConfig(strength=0.0, patience=5))
    steps = until_done(restorer, kernel)
    losses = [float(step.loss) for step in steps]
    best = int(np.argmin(losses))
    assert 2 < best < len(steps) - 1
    assert len(steps) == best + 1 + 5
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    for number, step in enumerate(steps):
        so_far = int(np.argmin(losses[: number + 1]))
        torch.testing.assert_close(step.estimate, SCENE.crop(steps[so_far].image), rtol=0, atol=0)


def test_the_engine_ends_the_run_with_it():
    _, data, kernel = simulated(100)
    config = RichardsonLucyConfig(patience=3)
    states = list(engine.alternate(restorer_of(data, config), KnownKernel(kernel), data, 200))
    assert states[-1].stop is Stop.COMPLETED
    assert states[-1].step < 200


def test_another_kernel_makes_what_was_best_forgotten():
    _, data, kernel = simulated()
    restorer = restorer_of(data)
    good = [restorer.step(kernel) for _ in range(12)]
    wide = torch.full_like(kernel, 1 / kernel.numel())
    changed = restorer.step(wide)
    assert float(changed.loss) > float(good[-1].loss)
    torch.testing.assert_close(changed.estimate, SCENE.crop(changed.image))
    assert not torch.allclose(changed.estimate, good[-1].estimate)


def test_patience_begins_anew_with_another_kernel():
    _, data, kernel = simulated(100)
    config = RichardsonLucyConfig(strength=0.0, patience=5)
    n_steps = len(until_done(restorer_of(data, config), kernel))
    restorer = restorer_of(data, config)
    for _ in range(n_steps - 1):
        assert not restorer.step(kernel).done
    assert not restorer.step(kernel.clone()).done


def test_the_same_seed_gives_the_same_image():
    _, data, kernel = simulated()
    config = RichardsonLucyConfig()
    first, again, other = (
        [restorer.step(kernel).estimate for _ in range(8)][-1]
        for restorer in (restorer_of(data, config, seed) for seed in (1, 1, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_earlier_steps_are_never_written_again():
    _, data, kernel = simulated()
    restorer = restorer_of(data, RichardsonLucyConfig())
    steps = [restorer.step(kernel)]
    image, estimate = steps[0].image.clone(), steps[0].estimate.clone()
    for _ in range(10):
        steps.append(restorer.step(kernel))
    assert torch.equal(steps[0].image, image)
    assert torch.equal(steps[0].estimate, estimate)


@pytest.mark.parametrize("photons", [60.0, 400.0])
def test_a_restored_image_is_nearer_the_truth_than_the_data(photons):
    truth, data, kernel = simulated(photons)
    restored = until_done(restorer_of(data, RichardsonLucyConfig()), kernel)[-1].estimate
    truth = SCENE.crop(truth)
    assert (restored - truth).norm() < 0.85 * (data - truth).norm()


def test_the_gain_and_offset_of_the_camera_change_nothing_but_the_unit():
    _, data, kernel = simulated()
    camera = Noise(2.0, -2.0 * 100)
    plain = restorer_of(data, RichardsonLucyConfig())
    shifted = RichardsonLucyRestorer(
        SCENE, 2 * data + 100, camera, RichardsonLucyConfig(), generator()
    )
    for _ in range(10):
        expected, found = plain.step(kernel), shifted.step(kernel)
    torch.testing.assert_close(found.estimate, 2 * expected.estimate + 100, rtol=1e-4, atol=1e-2)
    assert float(found.residual) == pytest.approx(2 * float(expected.residual), rel=1e-4)


@pytest.mark.parametrize("boundary", ["free", "circular"])
def test_channels_and_scale_are_kept_in_shape(boundary):
    model = Degradation((20, 24), (2, 2), (11, 11), "area", boundary)
    kernel = optics(0.2, model)
    truth = points_and_lines(model, 300, channels=2)
    data = photographed(model, truth, kernel)
    restorer = RichardsonLucyRestorer(model, data, PHOTONS, RichardsonLucyConfig(), generator())
    for _ in range(12):
        step = restorer.step(kernel)
    assert step.image.shape == (2, *model.domain_shape)
    assert step.estimate.shape == (2, 40, 48)
    assert step.loss.shape == step.residual.shape == ()
    sharp = model.crop(truth)
    for channel in range(2):
        errors = [
            float((step.estimate[channel] - other).norm())
            for other in (sharp[channel], sharp[1 - channel])
        ]
        assert errors[0] < errors[1]
    assert (step.estimate - sharp).norm() < (model.upsample(data) - sharp).norm()
