"""Muon against an SVD and the published rule, Adam against torch's; who takes which weights."""

import pytest
import torch
from torch import nn

from napari_dkp.adam import Adam
from napari_dkp.config import DIPConfig
from napari_dkp.restorers.networks import make_network
from napari_dkp.restorers.optimisers import (
    Muon,
    make_optimisers,
    orthogonalised,
    set_learning_rate,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16), (4, 1, 9)])
def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values(shape):
    matrices = random(*shape)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ torch.diag_embed(values) @ right
    torch.testing.assert_close(orthogonalised(matrices), expected, atol=2e-4, rtol=0)
    assert (orthogonalised(matrices) @ orthogonalised(matrices).mT).diagonal(0, 1, 2).max() < 1.5


def test_orthogonalised_does_not_mix_the_batch_and_ignores_scale():
    matrices = random(3, 6, 9)
    alone = torch.cat([orthogonalised(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalised(matrices), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(orthogonalised(1e-6 * matrices), alone, atol=1e-4, rtol=1e-4)


def test_orthogonalised_bears_matrices_of_low_rank_and_coarse_products(monkeypatch):
    """Products rounded to ten bits, as in TF32, must not raise directions that are not there."""
    matrices = random(2, 8, 2) @ random(2, 2, 20, seed=1)
    product = torch.Tensor.__matmul__

    def coarse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        step = 2.0**-10
        mantissa, exponent = torch.frexp(product(a, b))
        return torch.ldexp(torch.round(mantissa / step) * step, exponent)

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    steps = orthogonalised(matrices)
    monkeypatch.undo()
    assert torch.linalg.svdvals(steps).max() < 1.4


def test_orthogonalised_of_zero_is_zero():
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (32, 4, 1, 1)])
def test_steps_are_those_of_torch(shape):
    """torch's own Muon takes matrices only, in bfloat16; the rule is the same."""
    ours, theirs = nn.Parameter(random(*shape)), nn.Parameter(random(*shape).flatten(1))
    optimiser = Muon([ours], 0.02, momentum=0.9)
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.0)
    for seed in range(1, 5):
        ours.grad = random(*shape, seed=seed)
        theirs.grad = ours.grad.flatten(1)
        before = ours.detach().clone()
        optimiser.step()
        reference.step()
    moved = (ours.detach() - before).norm()
    assert (ours.detach().flatten(1) - theirs.detach()).norm() < 0.1 * moved


def test_every_weight_has_one_optimiser():
    network = make_network(DIPConfig(channels=8), 3, (64, 64))
    optimisers = make_optimisers(network, DIPConfig(channels=8))
    taken = [weight for optimiser in optimisers for weight in optimiser.weights]
    assert {id(p) for p in taken} == {id(p) for p in network.parameters()}
    assert len(taken) == len(list(network.parameters()))
    muon = {id(p) for p in optimisers[0].weights}
    assert id(network.head.weight) not in muon
    assert id(network.up[0][2].weight) in muon


@pytest.mark.parametrize("make", [Muon, Adam])
def test_a_missing_gradient_is_named(make):
    with pytest.raises(ValueError, match="backward"):
        make([nn.Parameter(random(3, 4))], 0.1).step()


@pytest.mark.parametrize("in_tensor", [False, True], ids=["number", "tensor"])
def test_adam_steps_as_that_of_torch_does(in_tensor):
    rates = [0.1, 0.1, 0.02, 0.3]
    ours = [nn.Parameter(random(3, 4)), nn.Parameter(random(5, seed=1))]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    optimiser = Adam(ours, torch.tensor(0.0) if in_tensor else 0.0)
    reference = torch.optim.Adam(theirs)
    for seed, rate in enumerate(rates):
        set_learning_rate([optimiser], rate)
        reference.param_groups[0]["lr"] = rate
        for one, other in zip(ours, theirs, strict=True):
            one.grad = random(*one.shape, seed=seed)
            other.grad = one.grad.clone()
        optimiser.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert (ours[0] - random(3, 4)).abs().min() > 0.01
