"""Small images of counted photons, of which the truth is known."""

from collections.abc import Callable
from collections.abc import Generator as Iteration

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep, TrialStep
from napari_dkp.noise import Noise
from napari_dkp.optics import airy
from napari_dkp.optics_trials import N_TRIALS, AiryIntervals
from napari_dkp.restorers.photon_halves import PhotonHalves

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


def clouds(model: Degradation, photons: float) -> torch.Tensor:
    """Mean photons on the domain: smooth light of so many photons at its peak."""
    light = np.random.default_rng(0).random((1, *model.domain_shape))
    light = gaussian_filter(light, (0, 5, 5), mode="wrap")
    light = (light - light.min()) / np.ptp(light)
    return torch.from_numpy(photons * light).float()


def photographed(model: Degradation, truth: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.poisson(model.forward(truth, kernel).clamp_min(0), generator=generator(5))


def simulated(photons: float = 400.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth on the domain, data and kernel of a small fluorescence image."""
    kernel = optics(0.25, SCENE)
    truth = points_and_lines(SCENE, photons)
    return truth, photographed(SCENE, truth, kernel), kernel


def halves_of(
    data: torch.Tensor, model: Degradation = SCENE, noise: Noise = PHOTONS, seed: int = 0
) -> PhotonHalves:
    return PhotonHalves(model, data, noise, generator(seed))


def until_done(restorer, kernel: torch.Tensor, most: int = 250) -> list[RestorerStep]:
    steps = [restorer.step(kernel)]
    while not steps[-1].done:
        assert len(steps) < most
        steps.append(restorer.step(kernel))
    return steps


def trials_that_find(intervals: AiryIntervals) -> Callable[..., Iteration]:
    """Stand in for `try_optics`: as many trials, whatever the data."""

    def trials(model: Degradation, *_: object) -> Iteration:
        for number in range(N_TRIALS):
            yield TrialStep(optics(0.2 + 0.01 * number, model), torch.tensor(1.0))
        return intervals

    return trials
