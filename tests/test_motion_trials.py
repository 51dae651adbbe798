"""Trials of kernels of motion on images whose model is known in closed form."""

import pytest
import torch
from diffused import GaussianField, natural_power
from returned import returned

from napari_dkp.config import DiffusionConfig
from napari_dkp.degradation import Degradation
from napari_dkp.kernels import line
from napari_dkp.left_out import LeftOut
from napari_dkp.motion_trials import most_steps, try_motions

SIDE = 96
MODEL = Degradation((SIDE // 2, SIDE // 2), (2, 2), (15, 15), boundary="circular")


def streak(length: float, angle: float) -> torch.Tensor:
    length, angle, width = torch.tensor([[length], [angle], [0.7]])
    return line(length, angle, width, MODEL.kernel_shape, MODEL.kernel_centre)[0]


TRUE, TURNED, SHORT = streak(9.0, 0.6), streak(9.0, 1.7), streak(2.0, 0.6)


class Case:
    """A blurred and decimated image of a natural spectrum, in which edges wrap."""

    def __init__(self, noise: float = 0.002, side: int = SIDE, seed: int = 0) -> None:
        self.diffusion = GaussianField(natural_power(side))
        model = Degradation((side // 2, side // 2), (2, 2), (15, 15), boundary="circular")
        truth = self.diffusion.draw(torch.Generator().manual_seed(3))
        data = model.forward(truth, TRUE)
        data = data + noise * torch.randn(data.shape, generator=torch.Generator().manual_seed(4))
        self.left_out = LeftOut(
            model,
            data,
            torch.full_like(data, noise**2),
            (-1.0, 1.0),
            self.diffusion,
            DiffusionConfig(),
            torch.Generator().manual_seed(seed),
        )

    def settled(self, *kernels: torch.Tensor) -> torch.Tensor:
        return returned(try_motions(self.left_out, kernels))


@pytest.mark.parametrize("wrong", [TURNED, SHORT], ids=["turned", "short"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_kernel_that_foretells_worse_is_left_out(wrong, seed):
    case = Case(seed=seed)
    assert torch.equal(case.settled(TRUE, wrong), TRUE)
    assert torch.equal(case.settled(wrong, TRUE), TRUE)


def test_of_kernels_that_foretell_alike_the_mean_is_taken():
    longer, shorter = streak(9.2, 0.6), streak(8.8, 0.6)
    found = Case().settled(longer, TURNED, shorter)
    torch.testing.assert_close(found, (longer + shorter) / 2)


def test_what_hardly_foretells_worse_is_kept():
    """In noise, all do."""
    aslant = streak(9.0, 0.8)
    assert torch.equal(Case().settled(TRUE, aslant), TRUE)
    torch.testing.assert_close(Case(noise=0.3).settled(TRUE, aslant), (TRUE + aslant) / 2)


def test_a_small_plane_takes_the_mean_of_all():
    case = Case(side=64)
    torch.testing.assert_close(case.settled(TRUE, TURNED), (TRUE + TURNED) / 2)
    assert case.diffusion.calls == 0


def test_without_a_model_the_mean_is_that_of_all():
    torch.testing.assert_close(returned(try_motions(None, [TRUE, TURNED])), (TRUE + TURNED) / 2)


@pytest.mark.parametrize("count", [2, 3])
def test_the_steps_are_counted(count):
    case = Case(noise=0.1)  # so much that all noise levels are tried
    case.settled(*[TRUE] * count)
    assert case.diffusion.calls == most_steps(count)


def test_a_single_kernel_needs_no_steps():
    assert most_steps(1) == 0
