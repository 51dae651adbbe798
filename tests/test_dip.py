"""The deep image prior: losses against formulas, and what a step hands out."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_dkp.config import DIPConfig
from napari_dkp.degradation import Degradation
from napari_dkp.restorers.dip import DIPRestorer, SSIMLoss, sparse_gradients

MODEL = Degradation((14, 13), (2, 2), (5, 5))
KERNEL = torch.full((5, 5), 1 / 25)


def data(channels: int = 1, model: Degradation = MODEL) -> torch.Tensor:
    rows, columns = np.indices(model.lr_shape)
    image = np.sin(rows / 2) * np.cos(columns / 3) + (rows > 6) + 0.05 * columns
    image = (image - image.min()) / np.ptp(image)
    planes = [image, image[::-1], image[:, ::-1]][:channels]
    return torch.from_numpy(np.stack(planes).astype(np.float32))


def restorer(
    channels: int = 1,
    n_steps: int = 20,
    seed: int = 0,
    bounds: tuple[float, float] = (-0.1, 1.5),
    model: Degradation = MODEL,
    weights: torch.Tensor | None = None,
    **config: object,
) -> DIPRestorer:
    return DIPRestorer(
        model,
        data(channels, model),
        bounds,
        DIPConfig(**{"channels": 8} | config),
        n_steps,
        torch.float32,
        torch.Generator().manual_seed(seed),
        weights=weights,
    )


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Mean SSIM over positions and channels, 11 taps, sigma 1.5, zeros outside."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(image: np.ndarray) -> np.ndarray:
        return ndimage.correlate(image, window, mode="constant")

    maps = []
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        ma, mb = mean(a), mean(b)
        va, vb, vab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        c1, c2 = 0.01**2, 0.03**2
        maps.append((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(maps))


@pytest.mark.parametrize("shape", [(1, 20, 17), (3, 12, 30), (1, 4, 5)])
def test_ssim_loss_is_the_formula_with_zero_padding(shape):
    generator = torch.Generator().manual_seed(0)
    truth, predicted = torch.rand(2, *shape, generator=generator)
    expected = 1 - ssim_by_hand(predicted.numpy(), truth.numpy())
    assert SSIMLoss(truth)(predicted).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_loss_of_the_data_itself_is_zero():
    assert SSIMLoss(data(3))(data(3)).item() == pytest.approx(0, abs=1e-6)


def test_sparse_gradients_of_a_plane():
    """A ramp of slope a along columns: three of four directions see it."""
    ramp = 0.3 * torch.arange(9.0).expand(2, 7, 9)
    flat = sparse_gradients(torch.ones(1, 5, 5)).item()
    assert sparse_gradients(ramp).item() == pytest.approx(3 * 0.3**0.67 + flat / 4, rel=1e-3)
    assert flat < 0.02
    assert sparse_gradients(ramp.mT).item() == pytest.approx(sparse_gradients(ramp).item())


def test_sparse_gradients_prefers_one_edge_to_many_steps():
    edge = (torch.arange(16.0) > 7).float().expand(1, 16, 16)
    ramp = torch.linspace(0, 1, 16).expand(1, 16, 16)
    assert sparse_gradients(edge) < sparse_gradients(ramp)


def test_sparse_gradients_has_finite_gradients_on_a_constant():
    image = torch.ones(1, 5, 5, requires_grad=True)
    sparse_gradients(image).backward()
    assert torch.isfinite(image.grad).all()


def test_sparse_gradients_of_a_volume_are_those_of_each_two_axes():
    """Along its axes and the diagonals of its faces, at the far corner of each eight voxels."""
    image = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eight = image.unfold(1, 2, 1).unfold(2, 2, 1).unfold(3, 2, 1)
    pairs = []
    for one in np.ndindex(2, 2, 2):
        for other in np.ndindex(2, 2, 2):
            shift = np.subtract(one, other)
            # Each axis and face once: those that the far corner is on.
            if 1 <= np.abs(shift).sum() <= 2 and all(
                max(a, b) == 1 for a, b in zip(one, other, strict=True)
            ):
                pairs.append((one, other))
    found = sparse_gradients(image)
    energy = [((eight[..., *a] - eight[..., *b]) ** 2 + 1e-8) ** 0.335 for a, b in pairs]
    assert len(pairs) == 2 * 9
    assert found.item() == pytest.approx(sum(e.mean().item() for e in energy) / 2)
    image.requires_grad_()
    assert torch.autograd.gradcheck(sparse_gradients, image, atol=1e-4)


def test_the_ssim_of_a_volume_is_the_mean_of_its_planes():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 2, 3, 12, 14, generator=generator)
    planes = [
        SSIMLoss(one[None])(other[None])
        for one, other in zip(first.flatten(0, 1), second.flatten(0, 1), strict=True)
    ]
    torch.testing.assert_close(SSIMLoss(first)(second), torch.stack(planes).mean())


def test_light_without_an_upper_bound_starts_where_even_light_leads():
    """By one step of Richardson and Lucy. A network's first answer is small."""
    model = Degradation((10, 12, 14), (1, 2, 2), (3, 5, 5))
    kernel = torch.full((3, 5, 5), 1 / 75)
    truth = torch.zeros(1, *model.domain_shape)
    truth[0, 3::5, 4::7, 5::9] = 1
    seen = model.forward(truth, kernel)
    seen /= seen.max()
    made = DIPRestorer(
        model, seen, (-0.1, math.inf), DIPConfig(channels=8, ssim_fraction=0.0), 60,
        torch.float32, torch.Generator().manual_seed(0),
    )  # fmt: skip
    first = made.step(kernel)
    assert first.estimate.shape == (1, *model.hr_shape)
    passed = model.adjoint(torch.ones_like(seen), kernel)
    start = model.crop(model.adjoint(seen + 0.1, kernel) / passed)
    ratio = (first.estimate + 0.1) / start
    assert ratio.min() > 0
    assert ratio.log().std() < 0.5 < start.log().std()
    for _ in range(59):
        step = made.step(kernel)
    assert step.residual < 0.5 * first.residual
    assert step.estimate.max() > 2


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_a_step(channels):
    step = restorer(channels).step(KERNEL)
    assert step.image.shape == (channels, *MODEL.domain_shape)
    assert step.estimate.shape == (channels, *MODEL.hr_shape)
    assert step.image.dtype == step.estimate.dtype == torch.float32
    assert not step.image.requires_grad
    assert not step.estimate.requires_grad


def test_the_residual_is_that_of_the_image():
    dip = restorer(3)
    for _ in range(3):
        step = dip.step(KERNEL)
        expected = (MODEL.forward(step.image, KERNEL) - data(3)).square().mean().sqrt()
        assert step.residual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_new_kernel_is_used_at_once():
    dip = restorer()
    other = torch.zeros(5, 5)
    other[0, 3] = 1
    for kernel in (KERNEL, other, KERNEL):
        step = dip.step(kernel)
        expected = (MODEL.forward(step.image, kernel) - data()).square().mean().sqrt()
        assert step.residual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_is_ssim_first_and_squared_error_later():
    dip = restorer(n_steps=10, ssim_fraction=0.4, gradient_weight=0.0)
    steps = [dip.step(KERNEL) for _ in range(10)]
    for step in steps[:4]:
        predicted = MODEL.forward(step.image, KERNEL).numpy()
        assert step.loss.item() == pytest.approx(
            1 - ssim_by_hand(predicted, data().numpy()), abs=1e-4
        )
    for step in steps[4:]:
        assert step.loss.item() == pytest.approx(step.residual.item() ** 2, rel=1e-4)


def test_weights_are_of_the_squared_error_and_not_of_the_residual():
    weights = torch.rand(2, *MODEL.lr_shape, generator=torch.Generator().manual_seed(3))
    dip = restorer(2, n_steps=6, weights=weights, ssim_fraction=0.5, gradient_weight=0.0)
    for number in range(6):
        step = dip.step(KERNEL)
        away = MODEL.forward(step.image, KERNEL) - data(2)
        assert step.residual.item() == pytest.approx(away.square().mean().sqrt().item(), rel=1e-4)
        if number >= 3:
            expected = (weights * away.square()).mean().item()
            assert step.loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_gradient_prior_adds_to_the_loss():
    """Its weight counts HR pixels per LR sample, as published."""
    plain = restorer(gradient_weight=0.0).step(KERNEL)
    step = restorer(gradient_weight=0.1, gradient_growth=0.0).step(KERNEL)
    expected = 0.1 * 4 * sparse_gradients(step.image).item()
    assert (step.loss - plain.loss).item() == pytest.approx(expected, rel=1e-3)


def test_the_gradient_prior_grows_by_its_power():
    late = restorer(n_steps=10, gradient_weight=0.1, gradient_growth=2.0, learning_rate=1e-8)
    plain = restorer(n_steps=10, gradient_weight=0.0, learning_rate=1e-8)
    for done in range(10):
        step = late.step(KERNEL)
        expected = 0.1 * (done / 10) ** 2 * 4 * sparse_gradients(step.image).item()
        grown = (step.loss - plain.step(KERNEL).loss).item()
        assert grown == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_the_frame_of_the_iterate_is_handed_out():
    dip = restorer()
    for _ in range(3):
        step = dip.step(KERNEL)
        assert torch.equal(step.estimate, MODEL.crop(step.image))


def test_the_evidence_is_the_latest_image_seen_through_the_latest_kernel():
    dip = restorer(3)
    other = torch.zeros(5, 5)
    other[0, 3] = 1
    for kernel in (KERNEL, KERNEL, other):
        step = dip.step(kernel)
        evidence = dip.evidence()
        expected = MODEL.forward(step.image, kernel)
        torch.testing.assert_close(evidence.mean, expected, rtol=0, atol=1e-5)
        assert evidence.mean.shape == (3, *MODEL.lr_shape)
        assert not evidence.mean.requires_grad
        assert evidence.halves is None


# Samples left out of the fit


def mask(share: float = 0.7) -> torch.Tensor:
    return torch.rand(MODEL.lr_shape, generator=torch.Generator().manual_seed(5)) < share


def leaving_out(
    seen: torch.Tensor | None, target: torch.Tensor, n_steps: int = 20, **config: object
) -> DIPRestorer:
    return DIPRestorer(
        MODEL,
        target,
        (-0.1, 1.5),
        DIPConfig(**{"channels": 8, "gradient_weight": 0.0} | config),
        n_steps,
        torch.float32,
        torch.Generator().manual_seed(0),
        seen,
    )


def changed_at(where: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.where(where, 1 - target, target)


def test_samples_left_out_leave_the_squared_error_fit_alone():
    seen = mask()
    images = {}
    for name, target in (
        ("plain", data(3)),
        ("unseen changed", changed_at(~seen, data(3))),
        ("seen changed", changed_at(seen, data(3))),
    ):
        dip = leaving_out(seen, target, ssim_fraction=0.0)
        for _ in range(6):
            images[name] = dip.step(KERNEL).image
    assert torch.equal(images["plain"], images["unseen changed"])
    assert not torch.allclose(images["plain"], images["seen changed"], atol=1e-2)


@pytest.mark.parametrize("ssim_fraction", [0.0, 1.0])
def test_the_loss_takes_samples_left_out_as_fitted(ssim_fraction):
    seen, target = mask(), data(3)
    dip = leaving_out(seen, target, ssim_fraction=ssim_fraction)
    for _ in range(3):
        step = dip.step(KERNEL)
        fitted = torch.where(seen, MODEL.forward(step.image, KERNEL), target).numpy()
        squared = ((fitted - target.numpy()) ** 2).mean()
        expected = 1 - ssim_by_hand(fitted, target.numpy()) if ssim_fraction else squared
        assert step.loss.item() == pytest.approx(expected, rel=1e-3)
        share = seen.float().mean().item()
        assert step.residual.item() == pytest.approx((squared / share) ** 0.5, rel=1e-3)


def test_a_restorer_that_sees_everything_is_one_without_a_mask():
    everything = leaving_out(torch.ones(MODEL.lr_shape, dtype=torch.bool), data())
    unmasked = leaving_out(None, data())
    for _ in range(3):
        assert torch.equal(everything.step(KERNEL).image, unmasked.step(KERNEL).image)


def test_what_was_handed_out_is_not_written_again():
    dip = restorer()
    steps = [dip.step(KERNEL) for _ in range(2)]
    copies = [(step.image.clone(), step.estimate.clone()) for step in steps]
    for _ in range(4):
        dip.step(KERNEL)
    for step, (image, estimate) in zip(steps, copies, strict=True):
        assert torch.equal(step.image, image)
        assert torch.equal(step.estimate, estimate)


def test_the_image_keeps_to_its_bounds():
    dip = restorer(bounds=(0.2, 0.7), learning_rate=0.1, n_steps=40)
    steps = [dip.step(KERNEL) for _ in range(40)]
    assert min(step.image.min() for step in steps) >= 0.2
    assert max(step.image.max() for step in steps) <= 0.7
    # The data reach beyond: the image has to lie at its bounds.
    assert steps[-1].image.min() < 0.25
    assert steps[-1].image.max() > 0.65


def test_steps_fit_the_data():
    dip = restorer(n_steps=80, channels=1)
    residuals = [dip.step(KERNEL).residual.item() for _ in range(80)]
    assert np.mean(residuals[-5:]) < 0.3 * residuals[0]


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    first = restorer(seed=3).step(KERNEL)
    torch.manual_seed(2)
    assert torch.equal(first.image, restorer(seed=3).step(KERNEL).image)
    assert not torch.equal(first.image, restorer(seed=4).step(KERNEL).image)


def test_building_a_restorer_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    restorer().step(KERNEL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", ["light", "published"])
@pytest.mark.parametrize(
    ("lr", "scale", "kernel"), [((3, 3), 1, 3), ((1, 2), 3, 3), ((5, 9), 3, 5)]
)
@pytest.mark.parametrize("boundary", ["free", "circular"])
def test_small_and_odd_planes_fit(lr, scale, kernel, boundary, network):
    model = Degradation(lr, (scale, scale), (kernel, kernel), "area", boundary)
    dip = restorer(model=model, network=network)
    for _ in range(2):
        step = dip.step(torch.full((kernel, kernel), kernel**-2.0))
    assert step.estimate.shape == (1, *model.hr_shape)
    assert torch.isfinite(step.loss)
    assert torch.isfinite(step.estimate).all()


@pytest.mark.parametrize("shape", [(2, 16, 16), (6, 20, 2)])
def test_gradients_in_half_precision_are_those_of_thin_volumes_too(shape):
    """A library of the CPU has wrong ones, or ends the process: they are taken in another way."""
    model = Degradation(shape, (1, 1, 1), (1, 1, 1), "reflect")
    volume = torch.from_numpy(np.random.default_rng(0).random((1, *shape), np.float32))
    fits = []
    for precision in (torch.float32, torch.bfloat16):
        dip = DIPRestorer(
            model,
            volume,
            (-0.1, 1.5),
            DIPConfig(channels=8, ssim_fraction=0.0),
            20,
            precision,
            torch.Generator().manual_seed(0),
        )
        fits.append([dip.step(torch.ones(1, 1, 1)).image for _ in range(4)][-1])
    assert (fits[0] - fits[1]).abs().mean() < 0.02


def test_half_precision_is_near_single_precision():
    steps = []
    for precision in (torch.float32, torch.bfloat16):
        dip = DIPRestorer(
            MODEL,
            data(),
            (-0.1, 1.5),
            DIPConfig(channels=8),
            20,
            precision,
            torch.Generator().manual_seed(0),
        )
        steps.append(dip.step(KERNEL))
    assert steps[1].image.dtype == torch.float32
    assert (steps[0].image - steps[1].image).abs().mean() < 0.02
    assert not torch.equal(steps[0].image, steps[1].image)
