"""Trials of Gaussian kernels on images whose model is known in closed form."""

from dataclasses import replace

import pytest
import torch
from diffused import GaussianField, natural_power
from returned import returned

from napari_dkp import gaussian_trials
from napari_dkp.config import DiffusionConfig
from napari_dkp.degradation import Degradation
from napari_dkp.gaussian_trials import most_steps, try_gaussians
from napari_dkp.kernels import covariance, gaussian

BLACK_TO_WHITE = (-1.0, 1.0)
TRUE = torch.tensor([[[4.0, 1.2], [1.2, 2.0]]])


class Case:
    """A blurred and decimated image of a natural spectrum, in which edges wrap."""

    def __init__(self, side=96, noise=0.002, boundary="circular", true=TRUE):
        self.model = Degradation((side // 2, side // 2), (2, 2), (15, 15), boundary=boundary)
        shape = self.model.domain_shape
        self.diffusion = GaussianField(natural_power(shape[0]))
        truth = self.diffusion.draw(torch.Generator().manual_seed(3))
        self.psf = self.kernel(true)
        data = self.model.forward(truth, self.psf)
        self.data = data + noise * torch.randn(
            data.shape, generator=torch.Generator().manual_seed(4)
        )
        self.variance = torch.full_like(self.data, noise**2)

    def kernel(self, spread):
        return gaussian(spread, self.model.kernel_shape, self.model.kernel_centre)[0]

    def settled(self, kernel, seed=0, **changes):
        trials = try_gaussians(
            self.model,
            self.data,
            self.variance,
            BLACK_TO_WHITE,
            self.diffusion,
            DiffusionConfig(**changes),
            kernel,
            torch.Generator().manual_seed(seed),
        )
        return returned(trials)


def off(kernel, psf):
    return float((kernel - psf).norm() / psf.norm())


@pytest.mark.parametrize(
    ("start", "left"),
    [(0.55 * TRUE, 0.4), (1.7 * TRUE, 0.75), (torch.tensor([[[2.0, 0.0], [0.0, 4.0]]]), 0.5)],
    ids=["narrow", "wide", "turned"],
)
def test_a_kernel_that_is_off_is_mended(start, left):
    case = Case()
    before = case.kernel(start)
    assert off(case.settled(before), case.psf) < left * off(before, case.psf)


def test_more_rounds_come_nearer():
    case = Case()
    before = case.kernel(0.4 * TRUE)
    errors = [off(case.settled(before, trials=trials), case.psf) for trials in (1, 3)]
    assert errors[1] < errors[0] < off(before, case.psf)


def test_noise_that_is_estimated_too_high_is_noticed():
    """The noise of texture, say: ten times what it is."""
    case = Case(noise=0.004)
    before = case.kernel(0.55 * TRUE)
    right = off(case.settled(before), case.psf)
    case.variance = 100 * case.variance
    assert off(case.settled(before), case.psf) < right + 0.05


def test_a_kernel_of_another_shape_stays_where_no_gaussian_foretells_better():
    case = Case()
    box = torch.zeros(15, 15)
    box[5:10, 3:12] = 1 / 45
    case.psf = box
    truth = case.diffusion.draw(torch.Generator().manual_seed(3))
    case.data = case.model.forward(truth, box)
    case.data += 0.002 * torch.randn(case.data.shape, generator=torch.Generator().manual_seed(4))
    assert torch.equal(case.settled(box), box)


def test_a_large_plane_is_tried_in_a_piece(monkeypatch):
    case = Case(side=128, boundary="free")
    monkeypatch.setattr(gaussian_trials, "WINDOW", 96)
    shapes = set()

    class Piece(GaussianField):
        def denoise(self, noisy, time):
            shapes.add(tuple(noisy.shape[-2:]))
            self.power = natural_power(noisy.shape[-1])
            return super().denoise(noisy, time)

    case.diffusion = Piece(natural_power(128))
    before = case.kernel(0.55 * TRUE)
    found = case.settled(before)
    model = replace(case.model, lr_shape=(48, 48))
    assert shapes == {model.domain_shape}
    assert off(found, case.psf) < off(before, case.psf)


def test_a_small_plane_keeps_its_kernel():
    case = Case(side=64)
    before = case.kernel(0.55 * TRUE)
    assert torch.equal(case.settled(before), before)
    assert case.diffusion.calls == 0


def test_samples_that_no_kernel_foretells_better_change_nothing():
    errors = torch.ones(20, dtype=torch.float64)
    step = gaussian_trials._step(errors, torch.zeros(20, 3, dtype=torch.float64))
    assert torch.equal(step, torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_the_steps_are_counted(trials):
    case = Case(noise=0.1)  # so much that all noise levels are tried
    case.settled(case.psf, trials=trials)
    assert case.diffusion.calls == most_steps(DiffusionConfig(trials=trials))


def test_second_moments_are_those_of_the_gaussian():
    case = Case()
    spread = covariance(case.kernel(TRUE)[None], case.model.kernel_centre)
    torch.testing.assert_close(spread, TRUE, rtol=0.02, atol=0.02)


def test_the_step_leads_to_the_least_mean_absolute_error():
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    change = torch.tensor([0.1, -0.05, 0.02]).double()
    errors = -slopes @ change
    errors[::10] += 30.0  # no one can foretell these
    step = gaussian_trials._step(errors, slopes)
    expected = torch.tensor([[0.05, 0.02], [0.02, 0.15]]).double()
    torch.testing.assert_close(step, expected, atol=0.01, rtol=0)
    assert float(gaussian_trials._step(10 * errors, slopes).abs().max()) < 0.51
