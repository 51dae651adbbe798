"""The diffusion restorer under models that are known in closed form."""

import math

import pytest
import torch
from diffused import ALPHAS, GaussianField, natural_power

from napari_dkp import engine, metrics
from napari_dkp.config import DiffusionConfig, PKEConfig, RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_prior import DynamicKernelPrior, StandingKernel
from napari_dkp.kernels import gaussian
from napari_dkp.restorers.diffusion import DiffusionRestorer, levels

BLACK_TO_WHITE = (-1.0, 1.0)  # the model's own units


def restorer_of(model, data, diffusion, config, n_steps, n_seeking=None, seed=0, **options):
    seeking = n_steps if n_seeking is None else n_seeking
    generator = torch.Generator().manual_seed(seed)
    planned = levels(diffusion, config, n_steps, seeking)
    return DiffusionRestorer(
        model, data, BLACK_TO_WHITE, diffusion, config, planned, generator, **options
    )


class TestPosterior:
    """White Gaussian images, blurred, decimated and noisy: the posterior is Gaussian."""

    noise = 0.1
    model = Degradation((8, 8), (2, 2), (5, 5), boundary="circular")

    def setup_method(self):
        generator = torch.Generator().manual_seed(1)
        kernel = torch.rand(5, 5, generator=generator) ** 2
        self.kernel = kernel / kernel.sum()
        image = torch.randn(1, 16, 16, generator=generator)
        noise = self.noise * torch.randn(1, 8, 8, generator=generator)
        self.data = self.model.forward(image, self.kernel) + noise
        units = torch.eye(256).reshape(-1, 1, 16, 16)
        rows = [self.model.forward(unit, self.kernel).flatten() for unit in units]
        matrix = torch.stack(rows, 1).double()
        self.covariance = torch.linalg.inv(
            matrix.T @ matrix / self.noise**2 + torch.eye(256, dtype=torch.float64)
        )
        self.mean = self.covariance @ matrix.T @ self.data.flatten().double() / self.noise**2

    def samples(self, sampler, n_steps, seeds):
        white = GaussianField(torch.ones(16, 16))
        config = DiffusionConfig(
            sampler=sampler, samples=64, first=150.0, last=0.01, noise=self.noise, trust=1.0
        )
        drawn = []
        for seed in seeds:
            restorer = restorer_of(self.model, self.data, white, config, n_steps, seed=seed)
            for _ in range(n_steps):
                restorer.step(self.kernel)
            drawn.append(restorer._clean.flatten(1).double())
        return torch.cat(drawn)

    def test_ddpm_draws_from_it(self):
        drawn = self.samples("ddpm", 300, range(4))
        error = (drawn.mean(0) - self.mean).square().mean().sqrt()
        expected = math.sqrt(float(self.covariance.trace()) / 256 / len(drawn))
        assert float(error) < 1.15 * expected
        # In all, and in the directions that the data say most of.
        spread = torch.cov(drawn.T)
        ratio = float(spread.trace() / self.covariance.trace())
        assert ratio == pytest.approx(1, abs=0.05)
        vectors = torch.linalg.svd(self.covariance).U[:, -20:]
        told = (vectors.T @ spread @ vectors).trace()
        assert float(told / (vectors.T @ self.covariance @ vectors).trace()) == pytest.approx(
            1, abs=0.1
        )

    def test_few_steps_draw_less_than_all_of_it(self):
        spread = torch.cov(self.samples("ddpm", 20, range(2)).T)
        assert float(spread.trace()) < 0.8 * float(self.covariance.trace())

    def test_ddim_has_its_mean(self):
        drawn = self.samples("ddim", 300, range(2))
        error = (drawn.mean(0) - self.mean).square().mean().sqrt()
        expected = math.sqrt(float(self.covariance.trace()) / 256 / len(drawn))
        assert float(error) < 1.15 * expected

    def test_annealing_ends_at_its_mean(self):
        white = GaussianField(torch.ones(16, 16))
        config = DiffusionConfig(noise=self.noise, first=150.0, last=0.01, trust=1.0)
        restorer = restorer_of(self.model, self.data, white, config, 40, n_seeking=0)
        for _ in range(40):
            step = restorer.step(self.kernel)
        # Refined without noise an image is the less shrunk the lower the level: near the data.
        residual = self.data - self.model.forward(step.estimate, self.kernel)
        assert float(residual.square().mean().sqrt()) < self.noise


class TestBlind:
    """Natural spectra, a kernel that is not known."""

    def setup_method(self):
        self.model = Degradation((48, 48), (2, 2), (11, 11), boundary="circular")
        self.diffusion = GaussianField(natural_power(96))
        self.truth = self.diffusion.draw(torch.Generator().manual_seed(3))
        covariance = torch.tensor([[[2.5, 0.8], [0.8, 1.0]]])
        self.psf = gaussian(covariance, (11, 11), self.model.kernel_centre)[0]
        self.data = self.model.forward(self.truth, self.psf)
        self.data += 0.002 * torch.randn(
            self.data.shape, generator=torch.Generator().manual_seed(4)
        )

    def run(self, n_steps=32, n_seeking=24, **options):
        generator = torch.Generator().manual_seed(0)
        config = DiffusionConfig()
        restorer = restorer_of(
            self.model, self.data, self.diffusion, config, n_steps, n_seeking, **options
        )
        dynamic = DynamicKernelPrior(
            self.model,
            self.data,
            "gaussian",
            RKSConfig(max_sites=10**6),
            PKEConfig(warm_up=50),
            generator,
            whitened=True,
        )
        prior = StandingKernel(dynamic, n_seeking)
        start = self.model.upsample(self.data)
        return list(engine.alternate(restorer, prior, start, n_steps, 1))

    def test_the_kernel_is_learned(self):
        states = self.run()
        errors = [float((state.kernel - self.psf).norm()) for state in states]
        assert errors[-1] < 0.5 * errors[0]
        assert metrics.kernel_ncc(states[-1].kernel.numpy(), self.psf.numpy()) > 0.97

    def test_the_image_gains_by_it(self):
        states = self.run()
        error = [
            float((state.image - self.truth).square().mean()) for state in (states[0], states[-1])
        ]
        assert error[1] < error[0]

    def test_the_kernel_stands_while_the_image_is_finished(self):
        states = self.run()
        assert torch.equal(states[24].kernel, states[-1].kernel)
        assert not torch.equal(states[22].kernel, states[23].kernel)

    def test_one_call_of_the_model_a_step(self):
        self.run(n_steps=10, n_seeking=4)
        assert self.diffusion.calls == 10


def test_levels_of_the_annealed_run_fall_twice():
    white = GaussianField(torch.ones(8, 8))
    config = DiffusionConfig(seek=(0.1, 0.8), first=1.0, last=0.02)
    found = levels(white, config, 12, 5)
    sigmas = [math.sqrt((1 - level.alpha) / level.alpha) for level in found]
    assert sigmas[0] == pytest.approx(0.8, rel=0.05)
    assert sigmas[4] == pytest.approx(0.1, rel=0.05)
    assert sigmas[5] == pytest.approx(1.0, rel=0.05)
    assert sigmas[-1] == pytest.approx(0.02, rel=0.1)
    assert found[0].fresh == 1
    assert all(level.fresh**2 + level.kept**2 == pytest.approx(1) for level in found[:5])
    assert all(level.fresh == level.kept == 0 for level in found[5:])


@pytest.mark.parametrize("n_steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", ["anneal", "ddim", "ddpm"])
def test_there_is_a_level_for_each_step(sampler, n_steps):
    white = GaussianField(torch.ones(8, 8))
    config = DiffusionConfig(sampler=sampler)
    assert len(levels(white, config, n_steps, min(1, n_steps))) == n_steps


def test_the_shares_of_noise_are_those_of_the_published_step():
    """Equation 22: variance and mean of x_{t-1}, from neighbouring levels."""
    white = GaussianField(torch.ones(8, 8))
    config = DiffusionConfig(sampler="ddpm", first=150.0, last=0.011)
    found = levels(white, config, 2000, 2000)
    for before, after in zip(found[600:-1:97], found[601::97], strict=False):
        if before.time - after.time != 1:
            continue
        alpha, alpha_after = float(ALPHAS[before.time]), float(ALPHAS[after.time])
        beta = 1 - alpha / alpha_after
        # x_{t-1} = a x̂₀ + b x_t + σ n, as published
        a = math.sqrt(alpha_after) * beta / (1 - alpha)
        b = math.sqrt(1 - beta) * (1 - alpha_after) / (1 - alpha)
        variance = beta * (1 - alpha_after) / (1 - alpha)
        deviation = math.sqrt(1 - alpha_after)
        kept = deviation * after.kept / math.sqrt(1 - alpha)
        assert (deviation * after.fresh) ** 2 == pytest.approx(variance, rel=1e-6)
        assert kept == pytest.approx(b, rel=1e-6)
        assert math.sqrt(alpha_after) - kept * math.sqrt(alpha) == pytest.approx(a, rel=1e-6)


class TestChannels:
    """Planes of other channels than the model's."""

    model = Degradation((8, 8), (2, 2), (5, 5), boundary="circular")
    kernel = torch.full((5, 5), 0.04)

    def run(self, planes, channels, samples=1, sampler="anneal"):
        data = torch.rand(planes, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
        white = GaussianField(torch.ones(16, 16), channels)
        config = DiffusionConfig(sampler=sampler, samples=samples)
        restorer = restorer_of(self.model, data, white, config, 4, 2)
        for _ in range(4):
            step = restorer.step(self.kernel)
        return data, restorer, step

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("planes", [1, 2, 3, 4])
    def test_any_number_is_restored(self, planes, channels):
        _, _, step = self.run(planes, channels)
        assert step.estimate.shape == (planes, 16, 16)
        assert step.image.shape == (planes, 16, 16)
        assert step.estimate.isfinite().all()

    def test_channels_that_the_model_does_not_mix_are_restored_as_if_alone(self):
        config = DiffusionConfig(first=1.0)
        data = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
        both, alone = (
            restorer_of(self.model, part, GaussianField(torch.ones(16, 16)), config, 4, 0)
            for part in (data, data[1:])
        )
        for _ in range(4):
            of_both, of_one = both.step(self.kernel), alone.step(self.kernel)
        torch.testing.assert_close(of_both.estimate[1:], of_one.estimate)

    def test_samples_are_averaged_and_their_spread_is_evidence(self):
        _, restorer, step = self.run(2, 1, samples=5, sampler="ddpm")
        assert step.estimate.shape == (2, 16, 16)
        evidence = restorer.evidence()
        assert evidence.deviation is not None
        expected = restorer._clean.std(0)
        torch.testing.assert_close(evidence.deviation, expected)
        torch.testing.assert_close(step.estimate, restorer._clean.mean(0))

    def test_evidence_is_the_reblurred_estimate(self):
        _, restorer, step = self.run(1, 1)
        blurred = self.model.forward(step.estimate, self.kernel)
        torch.testing.assert_close(restorer.evidence().mean, blurred, atol=1e-5, rtol=1e-5)
        assert restorer.evidence().deviation is None

    def test_the_residual_is_that_of_the_estimate(self):
        data, _, step = self.run(1, 1)
        residual = data - self.model.forward(step.estimate, self.kernel)
        assert float(step.residual) == pytest.approx(
            float(residual.square().mean().sqrt()), rel=1e-4
        )


def test_intensities_are_mapped_to_black_and_white_and_back():
    model = Degradation((8, 8), (2, 2), (5, 5), boundary="circular")
    data = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    kernel = torch.full((5, 5), 0.04)
    estimates = []
    for low, half in ((-1.0, 1.0), (100.0, 25.0)):
        white = GaussianField(torch.ones(16, 16))
        restorer = DiffusionRestorer(
            model,
            (data + 1) * half + low,
            (low, low + 2 * half),
            white,
            DiffusionConfig(),
            levels(white, DiffusionConfig(), 6, 3),
            torch.Generator().manual_seed(0),
        )
        for _ in range(6):
            step = restorer.step(kernel)
        estimates.append((step.estimate - low) / half - 1)
    torch.testing.assert_close(estimates[0], estimates[1], atol=1e-4, rtol=1e-4)


def test_noisy_data_are_followed_less():
    model = Degradation((16, 16), (1, 1), (3, 3), boundary="circular")
    kernel = torch.zeros(3, 3)
    kernel[1, 1] = 1
    field = GaussianField(natural_power(16))
    truth = field.draw(torch.Generator().manual_seed(0))
    noise = 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    noise[..., :8] *= 0.01
    variance = torch.full_like(truth, 0.3**2)
    variance[..., :8] *= 1e-4
    errors = {}
    for name, given in (("told", variance), ("not told", None)):
        restorer = restorer_of(
            model, truth + noise, field, DiffusionConfig(), 20, 0, variance=given
        )
        for _ in range(20):
            step = restorer.step(kernel)
        errors[name] = (step.estimate - truth)[..., 8:].square().mean().sqrt()
    assert float(errors["told"]) < 0.9 * float(errors["not told"])
