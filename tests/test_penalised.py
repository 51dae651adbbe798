"""Penalised likelihood against another minimiser, and its operators against their definition."""

from functools import cached_property
from itertools import pairwise

import numpy as np
import pytest
import torch
from photons import (
    PHOTONS,
    SCENE,
    clouds,
    generator,
    halves_of,
    optics,
    photographed,
    points_and_lines,
    simulated,
)
from scipy.optimize import minimize

from napari_dkp.degradation import Degradation
from napari_dkp.restorers import penalised
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.penalised import (
    PenalisedSolver,
    _padded,
    _squared_hessian,
    hessian,
    hessian_adjoint,
)
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.restorers.risk import Risk

SHAPES = [(7, 9), (8, 6), (3, 3), (2, 5), (1, 4)]


def test_the_hessian_is_that_of_a_quadratic():
    y, x = np.indices((6, 7)).astype(float)
    image = torch.from_numpy(1.5 * y**2 - 2 * x**2 + 0.7 * x * y + 3 * x - y + 4)[None, None]
    found = hessian(image)[0, 0]
    torch.testing.assert_close(found[0, 1:-1], torch.full((4, 7), 3.0).double())
    torch.testing.assert_close(found[1, :, 1:-1], torch.full((6, 5), -4.0).double())
    torch.testing.assert_close(found[2, :-1, :-1], torch.full((5, 6), 0.7 * 2**0.5).double())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_hessian_wraps(shape):
    image = torch.randn(2, 3, *shape, generator=generator(1), dtype=torch.float64)
    found = hessian(image)
    assert found.shape == (2, 3, 3, *shape)
    np.testing.assert_allclose(found.numpy(), by_rolling(image).numpy(), atol=1e-12)


def by_rolling(image: torch.Tensor) -> torch.Tensor:
    """The Hessian by its definition, of images on a torus."""

    def at(row: int, column: int) -> torch.Tensor:
        return image.roll((-row, -column), (-2, -1))

    along = at(1, 0) - 2 * image + at(-1, 0)
    across = at(0, 1) - 2 * image + at(0, -1)
    mixed = at(1, 1) - at(1, 0) - at(0, 1) + image
    return torch.stack([along, across, 2**0.5 * mixed], -3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_of_the_hessian_is_its_transpose(shape):
    image = torch.randn(2, 3, *shape, generator=generator(1), dtype=torch.float64)
    derivatives = torch.randn(2, 3, 3, *shape, generator=generator(3), dtype=torch.float64)
    left = (hessian(image) * derivatives).sum().item()
    right = (image * hessian_adjoint(derivatives)).sum().item()
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_squared_hessian_is_diagonal_in_the_fourier_domain(shape):
    point = torch.zeros(1, 1, *shape, dtype=torch.float64)
    point[..., 0, 0] = 1
    spectrum = torch.fft.rfft2(hessian_adjoint(hessian(point)))[0, 0]
    np.testing.assert_allclose(_squared_hessian(shape).numpy(), spectrum.real.numpy(), atol=1e-5)
    assert spectrum.imag.abs().max() < 1e-12


def test_a_start_goes_on_past_the_domain_as_it_ends():
    images = torch.arange(6.0).reshape(1, 1, 2, 3)
    expected = [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert _padded(images, (4, 4))[0, 0].tolist() == expected
    assert torch.equal(_padded(images, (2, 3)), images)


class Problem:
    """A plane so small that any minimiser can do it."""

    def __init__(self, model: Degradation) -> None:
        self.model = model
        kernel = 0.3 + torch.rand(model.kernel_shape, generator=generator(1), dtype=torch.float64)
        kernel[[0, 0, -1, -1], [0, -1, 0, -1]] *= 0.05
        self.kernel = kernel / kernel.sum()
        truth = torch.full(model.domain_shape, 2.0, dtype=torch.float64)
        rows, columns = model.domain_shape
        truth[rows // 3 : rows // 3 + 2, 1 : columns - 2] = 60
        self.data = torch.poisson(model.forward(truth[None], self.kernel), generator=generator(2))
        self.data[0, -2:] = 0  # where there is no light, x ≥ 0 binds
        self.halves: PhotonHalves = halves_of(self.data, model)

    @cached_property
    def blur(self) -> torch.Tensor:
        """The forward model as a matrix from the whole grid; no sample sees the padding."""
        (rows, columns), (height, width) = self.model.domain_shape, self.model.grid_shape
        points = torch.eye(rows * columns, dtype=torch.float64).reshape(-1, rows, columns)
        points = self.model.forward(points, self.kernel).flatten(1).T.reshape(-1, rows, columns)
        grid = points.new_zeros(len(points), height, width)
        grid[:, :rows, :columns] = points
        return grid.flatten(1)

    def weight(self, half: int) -> torch.Tensor:
        """Slope of the square root of the image, from the photons by themselves."""
        counts = self.halves.counts[half].flatten()
        level = (self.blur.T @ counts) / (self.blur.T @ torch.ones_like(counts)).clamp_min(0.02)
        return 1 / (2 * (level + 0.25).sqrt())

    def objective(
        self, image: torch.Tensor, half: int, strength: float, soft: float = 0.0
    ) -> torch.Tensor:
        counts = self.halves.counts[half].flatten()
        mean = self.blur @ image + self.halves.background
        misfit = (mean - torch.xlogy(counts, mean)).sum()
        bent = by_rolling(image.reshape(self.model.grid_shape)).flatten(1)
        length = (bent.square().sum(0) + soft**2).sqrt()
        return misfit + strength * (self.weight(half) * length).sum()

    def minimiser(self, half: int, strength: float) -> torch.Tensor:
        """What L-BFGS-B finds, the norm ever less softened."""

        def value_and_slope(x: np.ndarray, soft: float) -> tuple[float, np.ndarray]:
            image = torch.from_numpy(x.copy()).requires_grad_()
            value = self.objective(image, half, strength, soft)
            value.backward()
            return value.item(), image.grad.numpy()

        x = np.full(int(np.prod(self.model.grid_shape)), float(self.halves.level))
        for soft in (1.0, 0.1, 0.01, 1e-3):
            x = minimize(
                value_and_slope,
                x,
                (soft,),
                "L-BFGS-B",
                jac=True,
                bounds=[(0, None)] * x.size,
                options={"maxiter": 600, "maxfun": 900, "ftol": 1e-13, "gtol": 1e-7},
            ).x
        return torch.from_numpy(x)

    def start(self) -> torch.Tensor:
        return self.halves.level.expand(2, 1, *self.model.domain_shape).clone()

    def solver(self, strength: float, start: torch.Tensor | None = None) -> PenalisedSolver:
        start = self.start() if start is None else start
        risk = Risk(self.model, self.halves.counts, self.kernel)
        return PenalisedSolver(self.model, self.halves, self.kernel, risk, strength, start)


PROBLEMS = {
    "wrapped": Degradation((6, 7), (1, 1), (3, 3), "area", "circular"),
    "padded": Degradation((7, 5), (1, 1), (3, 3)),
    "enlarged": Degradation((4, 4), (2, 2), (4, 4)),
}


def test_one_of_the_problems_has_a_grid_larger_than_its_domain():
    padded, wrapped = PROBLEMS["padded"], PROBLEMS["wrapped"]
    assert np.prod(padded.grid_shape) > np.prod(padded.domain_shape)
    assert wrapped.grid_shape == wrapped.domain_shape == wrapped.lr_shape


def after(solver: PenalisedSolver, n_steps: int) -> Candidate:
    for _ in range(n_steps):
        candidate = solver.step()
    return candidate


@pytest.mark.parametrize(
    ("name", "strength"), [("wrapped", 0.3), ("wrapped", 1.0), ("padded", 0.3), ("enlarged", 0.3)]
)
def test_many_steps_come_to_the_minimiser(name, strength):
    problem = Problem(PROBLEMS[name])
    solver = problem.solver(strength)
    start = solver._positive.flatten(1)
    candidate = after(solver, 800)
    found = solver._positive.flatten(1)
    rows, columns = problem.model.domain_shape
    assert torch.equal(candidate.images, solver._positive[..., :rows, :columns])
    for half in range(2):
        best = problem.minimiser(half, strength)
        assert (best < 1e-6).any()  # x ≥ 0 binds
        least = problem.objective(best, half, strength).item()
        ours = problem.objective(found[half], half, strength).item()
        assert ours == pytest.approx(least, abs=0.01)
        assert problem.objective(start[half], half, strength).item() > least + 5
        np.testing.assert_allclose(found[half].numpy(), best.numpy(), atol=0.05)
    means = problem.model.forward(candidate.images, problem.kernel) + problem.halves.background
    np.testing.assert_allclose(candidate.means.numpy(), means.numpy(), atol=0.01)


def test_the_weight_is_the_slope_of_the_square_root_of_the_light():
    """Also in corners of the domain, of which samples see next to nothing."""
    problem = Problem(PROBLEMS["padded"])
    seen = problem.blur.sum(0)
    assert ((seen > 1e-3) & (seen < 0.015)).any()
    weight = problem.solver(1.0)._weight()
    assert weight.shape == (2, 1, *problem.model.grid_shape)
    for half in range(2):
        found = weight[half].flatten().numpy()
        np.testing.assert_allclose(found, problem.weight(half).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["padded", "enlarged"])
def test_where_many_steps_come_to_depends_on_no_start_and_no_pace(name, monkeypatch):
    problem = Problem(PROBLEMS[name])
    expected = after(problem.solver(0.5), 600).images
    start = 60 * torch.rand(expected.shape, generator=generator(9), dtype=torch.float64)
    monkeypatch.setattr(penalised, "_RHO_HESSIAN", 0.8)
    monkeypatch.setattr(penalised, "_RHO_POSITIVE", 0.3)
    other = problem.solver(0.5, start)
    assert not torch.allclose(after(other, 1).images, expected, atol=1)
    np.testing.assert_allclose(after(other, 600).images.numpy(), expected.numpy(), atol=0.05)


def test_less_strength_comes_nearer_to_the_likelihood():
    problem = Problem(PROBLEMS["wrapped"])
    misfits = [
        problem.objective(problem.solver(0.0)._positive[0].flatten(), 0, 0.0).item(),
        *(
            problem.objective(after(problem.solver(s), 500).images[0].flatten(), 0, 0.0).item()
            for s in (1.0, 0.3, 0.03, 0.0)
        ),
    ]
    assert misfits == sorted(misfits, reverse=True)
    likeliest = problem.objective(problem.minimiser(0, 0.0), 0, 0.0).item()
    assert misfits[-1] == pytest.approx(likeliest, abs=0.2)
    assert misfits[-2] < likeliest + 0.1 * (misfits[1] - likeliest)


def solver_of(
    halves: PhotonHalves, kernel: torch.Tensor, strength: float = 0.4, model: Degradation = SCENE
) -> PenalisedSolver:
    start = halves.level.expand(*halves.counts.shape[:2], *model.domain_shape).clone()
    risk = Risk(model, halves.counts, kernel)
    return PenalisedSolver(model, halves, kernel, risk, strength, start)


def test_the_penalty_takes_the_ripple_of_noise():
    _, data, kernel = simulated(60)
    halves = halves_of(data)
    ripple = [
        float(hessian(after(solver_of(halves, kernel, strength), 40).images).abs().mean())
        for strength in (0.0, 0.2, 0.8, 3.0)
    ]
    for more, less in pairwise(ripple):
        assert more > 1.5 * less


def test_the_penalised_image_of_smooth_light_is_near_the_truth():
    kernel = optics(0.25, SCENE)
    truth = clouds(SCENE, 30)
    halves = halves_of(photographed(SCENE, truth, kernel))
    found = halves.estimate(after(solver_of(halves, kernel), 40).images)
    truth = SCENE.crop(truth)
    assert (SCENE.crop(found) - truth).norm() < 0.12 * truth.norm()


@pytest.mark.parametrize("strength", [0.0, 0.4, 20.0])
def test_the_image_is_never_negative(strength):
    _, data, kernel = simulated(20)
    solver = solver_of(halves_of(data), kernel, strength)
    for _ in range(30):
        candidate = solver.step()
        assert (candidate.images >= 0).all()
    assert (candidate.images == 0).any()


def test_an_image_is_judged_by_its_own_blurred_image():
    _, data, kernel = simulated(60)
    halves = halves_of(data)
    found = after(solver_of(halves, kernel), 60)
    risk = Risk(SCENE, halves.counts, kernel)
    assert found.risk == float(risk(found.means))
    means = SCENE.forward(found.images, kernel) + halves.background
    assert float((found.means - means).norm() / means.norm()) < 0.02
    assert float(risk(means)) == pytest.approx(found.risk, rel=0.01)


def test_a_plane_without_light_stays_dark():
    halves = halves_of(torch.zeros(1, 80, 72))
    found = after(solver_of(halves, optics(0.25, SCENE)), 20)
    assert found.images.isfinite().all()
    assert float(found.images.max()) < 0.01


def test_neither_the_start_nor_an_earlier_image_is_written_again():
    _, data, kernel = simulated(60)
    halves = halves_of(data)
    start = torch.rand(2, 1, *SCENE.domain_shape, generator=generator(1))
    risk = Risk(SCENE, halves.counts, kernel)
    solver = PenalisedSolver(SCENE, halves, kernel, risk, 0.4, start)
    kept = [(start, start.clone())]
    for _ in range(5):
        candidate = solver.step()
        kept += [(each, each.clone()) for each in (candidate.images, candidate.means)]
    for now, then in kept:
        assert torch.equal(now, then)
    assert not torch.equal(kept[-2][1], kept[-4][1])


@pytest.mark.parametrize("boundary", ["free", "circular"])
def test_channels_and_scale_are_kept_in_shape_and_apart(boundary):
    model = Degradation((20, 24), (2, 2), (11, 11), "area", boundary)
    kernel = optics(0.2, model)
    truth = points_and_lines(model, 300, channels=2)
    halves = halves_of(photographed(model, truth, kernel), model, PHOTONS)
    found = after(solver_of(halves, kernel, 0.4, model), 30)
    assert found.images.shape == (2, 2, *model.domain_shape)
    assert found.means.shape == (2, 2, 20, 24)
    image, truth = model.crop(halves.estimate(found.images)), model.crop(truth)
    for channel in range(2):
        near, far = (float((image[channel] - truth[n]).norm()) for n in (channel, 1 - channel))
        assert near < 0.8 * far
    halves.counts = halves.counts.flip(1)
    swapped = after(solver_of(halves, kernel, 0.4, model), 30)
    torch.testing.assert_close(swapped.images, found.images.flip(1), rtol=1e-3, atol=1e-2)
    halves.counts = halves.counts.flip(0)
    swapped = after(solver_of(halves, kernel, 0.4, model), 30)
    torch.testing.assert_close(swapped.images, found.images.flip(0, 1), rtol=1e-3, atol=1e-2)
