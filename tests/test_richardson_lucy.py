"""Richardson–Lucy against its formula in dense matrices."""

from itertools import product

import numpy as np
import pytest
import torch
from photons import (
    SCENE,
    generator,
    halves_of,
    optics,
    photographed,
    points_and_lines,
    simulated,
    until_done,
)

from napari_dkp import engine
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_prior import KnownKernel
from napari_dkp.noise import Noise
from napari_dkp.restorers import richardson_lucy
from napari_dkp.restorers.deviance import Deviance
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.restorers.risk import Risk
from napari_dkp.state import Stop


def restorer_of(data: torch.Tensor, patience: int = 15, seed: int = 0) -> RichardsonLucyRestorer:
    return RichardsonLucyRestorer(SCENE, halves_of(data, seed=seed), patience)


def dense(model: Degradation, kernel: np.ndarray) -> np.ndarray:
    """Convolution as a matrix from the domain to the samples; odd kernels and scale 1 only."""
    matrix = np.zeros((*model.lr_shape, *model.domain_shape))
    rows, columns = model.kernel_shape
    for j, i, m, n in product(*map(range, (*model.lr_shape, rows, columns))):
        matrix[j, i, j + rows - 1 - m, i + columns - 1 - n] += kernel[m, n]
    return matrix.reshape(np.prod(model.lr_shape), np.prod(model.domain_shape))


def by_formula(
    blur: np.ndarray, counts: np.ndarray, background: float, level: float, n_steps: int
) -> list[np.ndarray]:
    """Points of one half: six plain steps, then Biggs and Andrews' extrapolation."""
    image = point = np.full(blur.shape[1], level)
    changes: list[np.ndarray] = []
    points = []
    for step in range(n_steps):
        before = image
        image = point * (blur.T @ (counts / (blur @ point + background))) / blur.sum(0)
        changes.append(image - point)
        point = image
        if step >= 6:
            share = changes[-1] @ changes[-2] / (changes[-2] @ changes[-2])
            point = np.maximum(image + np.clip(share, 0, 0.9) * (image - before), 1e-8)
        points.append(point)
    return points


def test_steps_are_those_of_richardson_and_lucy_on_each_half_then_extrapolated():
    model = Degradation((6, 7), (1, 1), (3, 3))
    kernel = 0.3 + torch.rand(3, 3, generator=generator(1), dtype=torch.float64)
    kernel = kernel / kernel.sum()
    light = torch.linspace(5, 40, 7, dtype=torch.float64).expand(1, 6, 7)
    data = torch.poisson(light, generator=generator(4))
    noise = Noise(1.3, 2.0)
    halves = halves_of(data, model, noise, seed=3)
    blur = dense(model, kernel.numpy())
    counts = halves.counts.reshape(2, -1).numpy()
    background = float(halves.background)
    level = counts.mean() - background
    points = np.stack([by_formula(blur, half, background, level, 14) for half in counts], 1)
    assert np.abs(points[6:] / points[5:-1] - 1).max() > 0.05  # it has not come to rest
    restorer = RichardsonLucyRestorer(model, halves, patience=100)
    risk = Risk(model, halves.counts, kernel)
    risks, residuals = [], []
    for point in points:
        found = restorer.step(kernel)
        intensity = 1.3 * (point.sum(0) + 2 * background) - 2.0 / 1.3
        np.testing.assert_allclose(found.image.flatten().numpy(), intensity, rtol=1e-8)
        mean = point @ blur.T + background
        risks.append(float(risk(torch.from_numpy(mean).reshape(2, 1, 6, 7))))
        residuals.append(1.3 * np.sqrt(((mean - counts).sum(0) ** 2).mean()))
        best = int(np.argmin(risks))
        assert float(found.loss) == pytest.approx(risks[-1], rel=1e-8)
        assert float(found.residual) == pytest.approx(residuals[best], rel=1e-8)
        for candidate, number in ((restorer.latest, len(risks) - 1), (restorer.best, best)):
            assert candidate.risk == pytest.approx(risks[number], rel=1e-8)
            images = candidate.images.reshape(2, -1).numpy()
            np.testing.assert_allclose(images, points[number], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(restorer.latest.means.reshape(2, -1).numpy(), mean, rtol=1e-8)
    assert best < len(points) - 1


def test_extrapolated_steps_gain_on_plain_ones(monkeypatch):
    _, data, kernel = simulated()
    counts = halves_of(data).counts
    misfits = []
    for unaccelerated in (richardson_lucy._UNACCELERATED, 10**6):
        monkeypatch.setattr(richardson_lucy, "_UNACCELERATED", unaccelerated)
        restorer = restorer_of(data)
        misfits.append([])
        for _ in range(25):
            restorer.step(kernel)
            misfits[-1].append(float((restorer._mean - counts).norm()))
    accelerated, plain = misfits
    assert accelerated[:6] == plain[:6]
    assert accelerated[-1] < 0.99 * plain[-1]


def test_the_image_is_never_negative():
    _, data, kernel = simulated(20)
    restorer = restorer_of(data)
    for _ in range(40):
        step = restorer.step(kernel)
        assert (restorer._point > 0).all()
        assert (step.image >= 0).all()


def test_the_blurred_image_holds_the_light_of_the_data():
    _, data, kernel = simulated()
    restorer = restorer_of(data)
    light = [float(SCENE.forward(restorer.step(kernel).image, kernel).sum()) for _ in range(20)]
    ratio = np.array(light) / float(data.sum())
    assert ratio[0] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(ratio, 1, atol=0.05)
    np.testing.assert_allclose(ratio[-5:], 1, atol=0.01)


def test_a_run_ends_when_its_risk_no_longer_falls():
    _, data, kernel = simulated(100)
    steps = until_done(restorer_of(data, patience=5), kernel)
    losses = [float(step.loss) for step in steps]
    best = int(np.argmin(losses))
    assert 2 < best < len(steps) - 1
    assert len(steps) == best + 1 + 5
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    for number, step in enumerate(steps):
        so_far = int(np.argmin(losses[: number + 1]))
        torch.testing.assert_close(step.estimate, SCENE.crop(steps[so_far].image), rtol=0, atol=0)


def test_a_judge_takes_the_place_of_the_risk_under_every_kernel():
    _, data, kernel = simulated(100)
    halves = halves_of(data)
    plain = restorer_of(data)
    deviance_of = Deviance(halves.counts)
    judged = RichardsonLucyRestorer(SCENE, halves, 15, deviance_of)
    for each in (kernel, optics(0.2, SCENE)):
        for _ in range(3):
            expected, found = plain.step(each), judged.step(each)
            assert torch.equal(found.image, expected.image)
            deviance = float(deviance_of(judged.latest.means))
            assert judged.latest.risk == deviance
            assert float(found.loss) == pytest.approx(deviance)
            assert abs(deviance - float(expected.loss)) > 1e-3


def test_the_judge_tells_which_image_is_best_and_patience_waits_for_it():
    _, data, kernel = simulated(100)
    verdicts = [5.0, 4.0, 4.5, 4.0, 3.0, 3.5, 3.25, 3.0, 1.0]
    given = iter(verdicts)
    restorer = RichardsonLucyRestorer(
        SCENE, halves_of(data), 3, lambda _: torch.tensor(next(given))
    )
    steps = until_done(restorer, kernel)
    # As good as the best is no gain.
    assert [float(step.loss) for step in steps] == verdicts[:8]
    for number, best in enumerate([0, 1, 1, 1, 4, 4, 4, 4]):
        assert torch.equal(steps[number].estimate, SCENE.crop(steps[best].image))
    assert (restorer.best.risk, restorer.latest.risk) == (3.0, 3.0)
    assert torch.equal(restorer.latest.images, restorer._point)
    assert not torch.equal(restorer.best.images, restorer._point)


def test_the_engine_ends_the_run_with_it():
    _, data, kernel = simulated(100)
    restorer = restorer_of(data, patience=3)
    states = list(engine.alternate(restorer, KnownKernel(kernel), data, 200))
    assert states[-1].stop is Stop.COMPLETED
    assert states[-1].step == len(until_done(restorer_of(data, patience=3), kernel))


def test_another_kernel_makes_what_was_best_forgotten():
    _, data, kernel = simulated()
    restorer = restorer_of(data)
    good = [restorer.step(kernel) for _ in range(12)]
    wide = torch.full_like(kernel, 1 / kernel.numel())
    changed = restorer.step(wide)
    assert float(changed.loss) > float(good[-1].loss)
    assert restorer.best.risk == pytest.approx(float(changed.loss))
    torch.testing.assert_close(changed.estimate, SCENE.crop(changed.image))
    assert not torch.allclose(changed.estimate, good[-1].estimate)


def test_the_step_after_another_kernel_is_one_under_it():
    """The blurred image of the last step is one of the old kernel."""
    _, data, kernel = simulated()
    halves = halves_of(data)
    restorer = RichardsonLucyRestorer(SCENE, halves, 15)
    for _ in range(3):
        restorer.step(kernel)
    point = restorer._point
    wide = torch.full_like(kernel, 1 / kernel.numel())
    restorer.step(wide)
    ratio = halves.counts / (SCENE.forward(point, wide) + halves.background)
    seen = SCENE.adjoint(torch.ones_like(halves.counts), wide).clamp_min(1e-2)
    expected = point * SCENE.adjoint(ratio, wide) / seen
    torch.testing.assert_close(restorer._point, expected, rtol=1e-4, atol=1e-4)


def test_patience_begins_anew_with_another_kernel():
    _, data, kernel = simulated(100)
    n_steps = len(until_done(restorer_of(data, patience=5), kernel))
    restorer = restorer_of(data, patience=5)
    for _ in range(n_steps - 1):
        assert not restorer.step(kernel).done
    assert not restorer.step(kernel.clone()).done


def test_the_same_seed_gives_the_same_image():
    _, data, kernel = simulated()
    first, again, other = (
        [restorer.step(kernel).estimate for _ in range(8)][-1]
        for restorer in (restorer_of(data, seed=seed) for seed in (1, 1, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_earlier_steps_are_never_written_again():
    _, data, kernel = simulated()
    restorer = restorer_of(data)
    steps = [restorer.step(kernel) for _ in range(7)]
    kept = [(step.image.clone(), step.estimate.clone()) for step in steps]
    for _ in range(10):
        restorer.step(kernel)
    for step, (image, estimate) in zip(steps, kept, strict=True):
        assert torch.equal(step.image, image)
        assert torch.equal(step.estimate, estimate)


@pytest.mark.parametrize("photons", [60.0, 400.0])
def test_a_restored_image_is_nearer_the_truth_than_the_data(photons):
    truth, data, kernel = simulated(photons)
    restored = until_done(restorer_of(data), kernel)[-1].estimate
    truth = SCENE.crop(truth)
    assert (restored - truth).norm() < 0.85 * (data - truth).norm()


def test_the_gain_and_offset_of_the_camera_change_nothing_but_the_unit():
    _, data, kernel = simulated()
    plain = restorer_of(data)
    camera = halves_of(2 * data + 100, noise=Noise(2.0, -2.0 * 100))
    shifted = RichardsonLucyRestorer(SCENE, camera, 15)
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
    restorer = RichardsonLucyRestorer(model, halves_of(data, model), 15)
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
