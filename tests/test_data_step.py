"""The data step against linear algebra over all pixels."""

import pytest
import torch

from napari_dkp.degradation import Degradation
from napari_dkp.restorers.data_step import DataStep

CIRCULAR = [
    ((6, 8), (1, 1), (5, 5), "area"),
    ((6, 8), (2, 2), (5, 5), "area"),
    ((6, 8), (3, 3), (5, 3), "area"),
    ((5, 4), (4, 4), (7, 7), "fkp"),
    ((7, 6), (1, 2), (5, 5), "area"),
]
ALPHA = 0.05


class Problem:
    """A random plane, kernel and image, with the operator as a matrix."""

    def __init__(self, lr_shape, scale, kernel_shape, phase, boundary):
        generator = torch.Generator().manual_seed(0)

        def rand(*shape):
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        self.model = Degradation(lr_shape, scale, kernel_shape, phase, boundary)
        kernel = rand(*kernel_shape)
        self.kernel = kernel / kernel.sum()
        shape = self.model.domain_shape
        units = torch.eye(shape[0] * shape[1], dtype=torch.float64).reshape(-1, 1, *shape)
        self.matrix = torch.stack(
            [self.model.forward(unit, self.kernel).flatten() for unit in units], 1
        )
        self.data = rand(1, *lr_shape)
        self.image = rand(1, *shape)

    def step(self, variance=None, n_steps=4):
        return DataStep(self.model, self.data, self.kernel, variance, n_steps)

    def minimum(self, variance=None):
        weights = torch.ones_like(self.data) if variance is None else 1 / variance
        weighted = self.matrix.T * weights.flatten()
        normal = weighted @ self.matrix + ALPHA * torch.eye(self.matrix.shape[1]).double()
        right = weighted @ self.data.flatten() + ALPHA * self.image.flatten()
        return torch.linalg.solve(normal, right).reshape(self.image.shape)


@pytest.mark.parametrize("case", CIRCULAR)
def test_the_residual_is_what_the_operator_leaves(case):
    problem = Problem(*case, "circular")
    residual = problem.step().residual(problem.image)
    expected = problem.data.flatten() - problem.matrix @ problem.image.flatten()
    torch.testing.assert_close(residual.flatten(), expected)


@pytest.mark.parametrize("case", CIRCULAR)
def test_the_closed_form_is_the_minimum_where_samples_tile_the_grid(case):
    problem = Problem(*case, "circular")
    step = problem.step()
    found = step.proximal(problem.image, step.residual(problem.image), ALPHA)
    torch.testing.assert_close(found, problem.minimum())


VARIANCES = {
    "alike": lambda data: None,
    "of a camera": lambda data: (
        1 + 30 * torch.linspace(0, 1, data.numel()).reshape(data.shape) ** 3
    ),
}


def _ramp(data):
    return torch.linspace(0, 1, data.numel()).reshape(data.shape)


@pytest.mark.parametrize("boundary", ["free", "circular"])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("case", CIRCULAR)
def test_elsewhere_the_minimum_is_nearly_reached(case, variance, boundary):
    problem = Problem(*case, boundary)
    given = VARIANCES[variance](problem.data)
    given = None if given is None else given.double()
    step = problem.step(given)
    found = step.proximal(problem.image, step.residual(problem.image), ALPHA)
    expected = problem.minimum(given)
    moved = float((expected - problem.image).norm())
    assert float((found - expected).norm()) < 0.03 * moved


@pytest.mark.parametrize("case", CIRCULAR)
def test_samples_that_are_left_out_say_nothing(case):
    problem = Problem(*case, "circular")
    left_out = torch.rand(problem.data.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    variance = torch.where(left_out, 1e6, 1.0).double()
    found = []
    for offset in (0.0, 1.0):
        problem.data += offset * left_out
        step = problem.step(variance, n_steps=40)
        found.append(step.proximal(problem.image, step.residual(problem.image), ALPHA))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], problem.minimum(variance), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CIRCULAR)
def test_gradient_steps_fall_and_reach_the_data(case):
    problem = Problem(*case, "circular")
    step = problem.step()
    image, before = problem.image, float("inf")
    for _ in range(20):
        residual = step.residual(image)
        misfit = float(residual.square().sum())
        assert misfit < before
        before = misfit
        image = step.gradient(image, residual)
    expected = problem.image - 0.5 * _gradient(problem) / float(step._power.max())
    found = step.gradient(problem.image, step.residual(problem.image))
    torch.testing.assert_close(found, expected)


def _gradient(problem):
    image = problem.image.clone().requires_grad_()
    residual = problem.data.flatten() - problem.matrix @ image.flatten()
    return torch.autograd.grad(residual.square().sum(), image)[0]
