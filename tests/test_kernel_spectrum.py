"""The likelihood of kernels under a power spectrum: against brute force, and known answers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_dkp import kernel_spectrum
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.kernels import gaussian, line, trajectory

CPU = torch.device("cpu")


def power_law(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw an image whose power falls with the square of the frequency, within [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1
    white = torch.fft.rfft2(torch.randn(shape, generator=generator))
    image = torch.fft.irfft2(white / frequency, s=shape)
    return (image - image.min()) / (image.max() - image.min())


def model_of(scale: int = 4, phase: str = "fkp", side: int = 64, taps: int = 19) -> Degradation:
    return Degradation((side, side), (scale, scale), (taps, taps), phase, "circular")


def lines(model: Degradation, *members: tuple[float, float, float]) -> Tensor:
    """Return lines of so many lengths, degrees and widths."""
    length, angle, width = torch.tensor(members).T
    return line(length, torch.deg2rad(angle), width, model.kernel_shape, model.kernel_centre)


def gaussians(model: Degradation, *members: tuple[float, float, float]) -> Tensor:
    """Return Gaussians of so large sigmas, and degrees of the first from the rows' direction."""
    first, second, angle = torch.tensor(members).T
    cosine, sine = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    axes = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    covariance = (axes * torch.stack([first, second], 1).square()[:, None]) @ axes.mT
    return gaussian(covariance, model.kernel_shape, model.kernel_centre)


def seen(model: Degradation, image: Tensor, kernel: Tensor, noise: float = 0.0) -> Tensor:
    data = model.forward(image[None], kernel)
    draw = torch.randn(data.shape, generator=torch.Generator().manual_seed(9))
    return ((data + noise * draw) * 255).round() / 255


def likelihoods(model: Degradation, data: Tensor, kernels: Tensor) -> Tensor:
    return KernelSpectrum(model, data, CPU)(kernels)


@pytest.mark.parametrize("phase", ["area", "fkp"])
@pytest.mark.parametrize("scale", [(4, 4), (2, 2), (3, 2), (1, 1)])
def test_power_is_folded_as_sampling_does(phase, scale):
    block = Degradation((8, 6), scale, (5, 4), phase, "circular")
    kernel = torch.rand(1, 5, 4, generator=torch.Generator().manual_seed(1))
    kept = torch.zeros(8, 6, dtype=torch.bool)
    kept[1:, 1:3] = True
    lags = kernel_spectrum._lags((5, 4))
    of_lags = kernel_spectrum._autocorrelation(kernel.double(), lags)
    folded = of_lags @ kernel_spectrum._folding(block, kept, lags)
    # The power that samples have on average of objects with random phases, one frequency by one.
    rows, columns = 8 * scale[0], 6 * scale[1]
    expected = torch.zeros(8, 6, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            wave = torch.zeros(rows, columns, dtype=torch.complex128)
            wave[row, column] = 1
            along, across = np.fft.fftfreq(rows)[row], np.fft.fftfreq(columns)[column]
            if row % 8 == column % 6 == 0:
                continue
            image = torch.fft.ifft2(wave)
            parts = [
                block.forward(part[None], kernel[0].double())[0]
                for part in (image.real, image.imag)
            ]
            power = torch.fft.fft2(torch.complex(*parts)).abs().square()
            expected += power / (along**2 + across**2)
    ratio = folded[0] / expected[kept]
    assert ratio.std() < 1e-6 * ratio.mean()


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("phase", ["area", "fkp"])
def test_a_line_is_told_by_its_spectrum(scale, phase):
    model = model_of(scale, phase)
    members = [(10.0, angle, 0.6) for angle in range(0, 180, 6)]
    kernels = lines(model, *members)
    for seed, truth in enumerate((4, 11, 25)):
        data = seen(model, power_law(model.domain_shape, seed), kernels[truth])
        assert int(likelihoods(model, data, kernels).argmax()) == truth


def test_its_length_is_told_too():
    model = model_of()
    kernels = lines(model, *((length, 50.0, 0.6) for length in (5.0, 7.0, 8.5, 10.0, 11.5, 14.0)))
    data = seen(model, power_law(model.domain_shape), kernels[3])
    assert int(likelihoods(model, data, kernels).argmax()) == 3


def test_directions_that_are_turned_by_half_are_alike():
    model = model_of()
    path = torch.tensor([[[-5.0, -4.0], [3.0, -3.0], [4.0, 2.0], [4.5, 6.0]]])
    kernel = trajectory(path, torch.tensor([0.6]), model.kernel_shape, model.kernel_centre)
    data = seen(model, power_law(model.domain_shape), kernel[0])
    one, turned = likelihoods(model, data, torch.cat([kernel, kernel.flip(1, 2)]))
    assert one.item() == pytest.approx(turned.item(), abs=1e-3)


@pytest.mark.parametrize("slope", [0.7, 1.4])
def test_objects_may_have_other_slopes(slope):
    model = model_of()
    kernels = lines(model, *((10.0, angle, 0.6) for angle in range(0, 180, 10)))
    image = power_law(model.domain_shape)
    frequency = torch.hypot(
        torch.fft.fftfreq(image.shape[0])[:, None], torch.fft.rfftfreq(image.shape[1])
    ).clamp_min(1e-3)
    image = torch.fft.irfft2(torch.fft.rfft2(image) * frequency ** (1 - slope), s=image.shape)
    data = seen(model, (image - image.min()) / (image.max() - image.min()), kernels[6])
    assert int(likelihoods(model, data, kernels).argmax()) == 6


def test_a_strong_edge_hides_no_line():
    """It is a streak in the spectrum of the whole, across which a line might seem to lie."""
    model = model_of()
    kernels = lines(model, *((10.0, angle, 0.6) for angle in range(0, 180, 10)))
    image = 0.3 * power_law(model.domain_shape)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in image.shape), indexing="ij")
    image = image + 0.6 * (rows + 0.4 * columns > 90)
    data = seen(model, image, kernels[13])
    assert int(likelihoods(model, data, kernels).argmax()) == 13


@pytest.mark.parametrize("noise", [2 / 255, 4 / 255])
def test_noise_is_not_taken_for_what_a_narrow_kernel_leaves(noise):
    model = model_of()
    kernels = lines(model, *((length, 30.0, 0.6) for length in (3.0, 6.0, 9.0, 12.0)))
    data = seen(model, power_law(model.domain_shape), kernels[2], noise)
    assert int(likelihoods(model, data, kernels).argmax()) == 2


def test_much_noise_is_fitted_where_a_kernel_lets_nothing_pass():
    model = model_of()
    kernels = lines(model, (9.0, 35.0, 0.6), (10.0, 40.0, 0.6), (11.0, 45.0, 0.6))
    for seed in range(3):
        data = seen(model, power_law(model.domain_shape, seed), kernels[1], noise=4 / 255)
        assert int(likelihoods(model, data, kernels).argmax()) == 1


@pytest.mark.parametrize("shape", [(4, 4), (3, 40), (9, 9)])
def test_very_small_planes_tell_nothing(shape):
    model = Degradation(shape, (4, 4), (7, 7))
    data = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    found = likelihoods(model, data, torch.rand(5, 7, 7))
    assert found.shape == (5,)
    assert (found == found[0]).all()


@pytest.mark.parametrize("noise", [0.0, 1 / 255])
@pytest.mark.parametrize("scale", [2, 4])
def test_it_tells_the_axes_of_a_gaussian(scale, noise):
    """Of those that differ by a quarter in an axis, or by thirty degrees, the true one is best."""
    model = model_of(scale=scale, phase="area")
    truth = (0.35 * scale, 0.7 * scale, 35.0)
    others = [
        (first * truth[0], second * truth[1], truth[2] + turn)
        for first in (0.75, 1.0, 1.25)
        for second in (0.75, 1.0, 1.25)
        for turn in (-30.0, 0.0, 30.0)
    ]
    kernels = gaussians(model, *others)
    data = seen(model, power_law(model.domain_shape), gaussians(model, truth)[0], noise)
    found = others[int(likelihoods(model, data, kernels).argmax())]
    assert found == pytest.approx(truth)


def test_a_plane_without_contrast_tells_nothing():
    model = model_of()
    kernels = lines(model, (3, 0, 1), (9, 0, 1))
    judge = KernelSpectrum(model, torch.full((1, 64, 64), 0.5), CPU)
    assert judge(kernels).tolist() == [0, 0]
    assert not judge.explained(kernels[0])


def test_each_kernel_is_judged_by_itself():
    model = model_of()
    kernels = lines(model, *((4 + n % 9, 7.0 * n, 0.6) for n in range(70)))
    judge = KernelSpectrum(model, seen(model, power_law(model.domain_shape), kernels[0]), CPU)
    together, alone = judge(kernels), torch.cat([judge(kernels[n : n + 1]) for n in range(70)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-2)
    assert math.isfinite(together.sum().item())


def test_stripes_are_not_explained_and_scatter_is():
    model = model_of()
    kernel = lines(model, (10.0, 40.0, 0.6))
    image = power_law(model.domain_shape)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in image.shape), indexing="ij")
    stripes = 0.5 + 0.5 * torch.sin((0.5 * rows + columns) * 2 * math.pi / 24)
    for picture, expected in ((image, True), (0.2 * image + 0.8 * stripes, False)):
        judge = KernelSpectrum(model, seen(model, picture, kernel[0]), CPU)
        assert judge.explained(kernel[0]) is expected


def test_many_planes_do_not_average_stripes_away():
    """Each has its own: where one has power the others have none."""
    model = model_of()
    kernel = lines(model, (10.0, 40.0, 0.6))
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in model.domain_shape), indexing="ij")
    planes = []
    for number in range(24):
        angle, period = 0.7 * number, 18.0 + number
        along = math.cos(angle) * rows + math.sin(angle) * columns
        stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * along / period)
        image = 0.2 * power_law(model.domain_shape, number) + 0.8 * stripes
        planes.append(seen(model, image, kernel[0]))
    assert not KernelSpectrum(model, torch.cat(planes), CPU).explained(kernel[0])


@pytest.mark.parametrize("noise", [0.0, 4 / 255])
def test_what_suits_an_object_is_fitted_as_well_as_it_can_be(noise, monkeypatch):
    """Under likely kernels; what does not suit at all need not be fitted to the end."""
    model = model_of()
    truth = (10.0, 40.0, 0.6)
    kernels = lines(model, *((truth[0] + d, truth[1] + 5 * d, truth[2]) for d in (-1.0, 0.0, 1.0)))
    judge = KernelSpectrum(
        model, seen(model, power_law(model.domain_shape), kernels[1], noise), CPU
    )
    found = judge(kernels)
    monkeypatch.setattr(kernel_spectrum, "_NEWTON_STEPS", 40)
    torch.testing.assert_close(found, judge(kernels), rtol=0, atol=0.3)


def test_fine_samples_and_long_kernels_cost_no_more():
    """Blocks of 186 samples have sixteen thousand frequencies; a line is told by few of them."""
    model = model_of(scale=1, side=256, taps=31)
    kernels = lines(model, *((18.0, angle, 0.8) for angle in range(0, 180, 6)))
    data = seen(model, power_law(model.domain_shape), kernels[7], noise=1 / 255)
    judge = KernelSpectrum(model, data, CPU)
    assert judge._power.shape[1] <= 512
    assert int(judge(kernels).argmax()) == 7
