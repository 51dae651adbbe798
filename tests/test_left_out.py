"""What restorations from some samples see, and what they say of the others."""

import pytest
import torch
from diffused import GaussianField, natural_power
from returned import returned

from napari_dkp.config import DiffusionConfig
from napari_dkp.degradation import Degradation
from napari_dkp.left_out import LeftOut

DELTA = torch.zeros(5, 5).index_put_((torch.tensor(2), torch.tensor(2)), torch.tensor(1.0))


def left_out(data: torch.Tensor, channels: int = 1, noise: float = 1e-3) -> LeftOut:
    side = data.shape[-1]
    return LeftOut(
        Degradation((side, side), (1, 1), (5, 5), boundary="circular"),
        data,
        torch.full_like(data, noise**2),
        (-1.0, 1.0),
        GaussianField(natural_power(side), channels),
        DiffusionConfig(noise=1e-4),
        torch.Generator().manual_seed(0),
    )


def test_samples_left_out_are_foretold_and_the_others_fitted():
    """White noise cannot be foretold; under a kernel that blurs nothing it is fitted as it is."""
    data = 0.3 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    samples = left_out(data)
    levels = samples.levels(1.0, 0.03, 6)
    trial = returned(samples.trials(levels)[0].under(DELTA, levels))
    assert 0.13 < len(trial.errors) / data.numel() < 0.17
    assert trial.misfit == pytest.approx(float(trial.errors.abs().mean()))
    residual = data - trial._restorer.evidence().mean
    assert float(residual.square().sum()) == pytest.approx(
        float(trial.errors.square().sum()), rel=0.05
    )


def test_a_trial_goes_on_from_where_another_ended_and_leaves_it_as_it_was():
    data = 0.3 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    samples = left_out(data)
    levels = samples.levels(1.0, 0.03, 3)
    first = returned(samples.trials(levels)[0].under(DELTA, levels))
    before = first.errors.clone()
    again, once_more = (returned(first.under(DELTA, levels)) for _ in range(2))
    assert torch.equal(again.errors, once_more.errors)
    assert not torch.equal(again.errors, before)
    del first.errors
    assert torch.equal(first.errors, before)


def test_of_more_images_than_the_model_has_channels_the_liveliest_is_looked_at():
    data = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1))
    data *= torch.tensor([0.1, 0.2, 0.4, 0.3])[:, None, None]
    samples = left_out(data, channels=3)
    assert torch.equal(samples._data, data[2:3])
    assert len(left_out(data[:3], channels=3)._data) == 3


@pytest.mark.parametrize(("noise", "count"), [(0.1, 3), (5e-4, 2), (1e-6, 1)])
def test_no_variance_is_tried_below_the_least(noise, count):
    """The least is that of 2e-4 here: a ten-thousandth of the range from black to white."""
    samples = left_out(torch.zeros(1, 64, 64), noise=noise)
    assert len(samples.trials(samples.levels(1.0, 0.03, 3))) == count
