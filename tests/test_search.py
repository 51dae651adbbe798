"""The kernel search with restorers and priors made up for the test."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from napari_dkp.config import SearchConfig
from napari_dkp.engine import RestorerStep
from napari_dkp.randomness import make_generator
from napari_dkp.search import Hypothesis, KernelSearch
from napari_dkp.state import State, Stop

START = torch.full((1, 4, 4), -1.0)


def kernel(value: float) -> Tensor:
    return torch.full((3, 3), float(value))


class Prior:
    """A prior whose kernel is full of `base` plus the number of the image, from 1."""

    def __init__(self, base: float = 0.0) -> None:
        self.base = base
        self.images = 0
        self.shown: list[list[float]] = []

    def step(self, image: Tensor | None) -> Tensor:
        if image is None:
            self.images += 1
            self.shown.append([])
        else:
            self.shown[-1].append(image.mean().item())
        return kernel(self.base + self.images)


class Fit:
    """A restorer that does nothing; the image of its n-th step is full of number + n / 1000."""

    def __init__(self, number: int, n_steps: int, left_out: float, seed: int) -> None:
        self.number, self.n_steps, self.left_out, self.seed = number, n_steps, left_out, seed
        self.kernels: list[float] = []
        self.diverges_at = math.inf
        self.error_at: Callable[[int], float] = lambda step: 1.0

    def step(self, kernel: Tensor) -> RestorerStep:
        self.kernels.append(kernel[0, 0].item())
        done = len(self.kernels)
        image = torch.full((1, 4, 4), self.number + done / 1000)
        return RestorerStep(image, image, math.nan if done >= self.diverges_at else 1.0, 1.0)

    def prediction_error(self) -> Tensor:
        if len(self.kernels) >= self.diverges_at:
            return torch.tensor(math.nan)
        return torch.tensor(self.error_at(len(self.kernels)))


class Laboratory:
    """Makes the fits of a search and keeps them; `arrange` may spoil them."""

    def __init__(self, arrange: Callable[[Fit], object] = lambda fit: None) -> None:
        self.fits: list[Fit] = []
        self.arrange = arrange

    def __call__(self, n_steps: int, left_out: float, generator: Generator) -> Fit:
        # A draw, not the seed: it also tells whether the generator has been used before.
        seed = int(torch.randint(2**62, (), generator=generator))
        fit = Fit(len(self.fits) + 1, n_steps, left_out, seed)
        self.arrange(fit)
        self.fits.append(fit)
        return fit


CONFIG = SearchConfig(
    rounds=3, steps=10, trials=2, trial_steps=8, left_out=0.1, trial_left_out=0.3, settled=0.4
)
N_ROUNDS, N_TRIALS = CONFIG.rounds, CONFIG.trials


def search(
    *hypotheses: Hypothesis,
    config: SearchConfig = CONFIG,
    laboratory: Laboratory | None = None,
    longest: int = 1000,
    seed: int = 0,
) -> tuple[list[State[Tensor]], Tensor]:
    """Run a search to its end; return its states and the kernel it found."""
    found: list[Tensor] = []

    def states():
        found.append(
            (
                yield from KernelSearch(
                    hypotheses,
                    laboratory or Laboratory(),
                    START,
                    config,
                    kernel_every=2,
                    longest=longest,
                    generator=make_generator(seed),
                ).run()
            )
        )

    return list(states()), found[0]


A, B = kernel(12), kernel(22)


def two(handicap: float = 0.0) -> tuple[Hypothesis, Hypothesis]:
    """Hypotheses whose kernels, means of the last two of three rounds, are A and B."""
    return Hypothesis(Prior(9.5)), Hypothesis(Prior(19.5), handicap)


def nearer(found: Tensor) -> Tensor:
    """Return which of A and B the kernel is nearer to."""
    return min((A, B), key=lambda other: (found - other).abs().sum().item())


Errors = Callable[[int], float]


def trials(a: tuple[Errors, Errors], b: tuple[Errors, Errors]) -> Laboratory:
    """Make fits whose error at each step is that of the trial of A or B."""
    schedule = dict(enumerate((*a, *b), start=2 * N_ROUNDS + 1))

    def arrange(fit: Fit) -> None:
        fit.error_at = schedule.get(fit.number, fit.error_at)

    return Laboratory(arrange)


def constant(a: float, b: float) -> Laboratory:
    return trials((lambda _: a,) * 2, (lambda _: b,) * 2)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("longest", [1000, 9, 3])
def test_there_are_as_many_states_as_the_config_says(count, longest):
    states, _ = search(*(Hypothesis(Prior()) for _ in range(count)), longest=longest)
    assert len(states) == CONFIG.n_steps(count, longest)
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert all(state.searching for state in states)


@pytest.mark.parametrize(
    ("rounds", "mean"), [(1, 1.0), (2, 2.0), (3, 2.5), (4, 3.5), (5, 4.0), (6, 5.0)]
)
def test_the_kernel_is_the_mean_over_the_later_half_of_rounds(rounds, mean):
    _, found = search(Hypothesis(Prior()), config=SearchConfig(rounds=rounds, steps=4))
    torch.testing.assert_close(found, kernel(mean))


def test_a_round_ends_with_its_last_kernel():
    class Moving(Prior):
        def step(self, image: Tensor | None) -> Tensor:
            super().step(image)
            return kernel(100 * self.images + len(self.shown[-1]))

    # Steps 4, 6 and 8 of 10 are followed by an update.
    _, found = search(Hypothesis(Moving()))
    torch.testing.assert_close(found, kernel((203 + 303) / 2))


@pytest.mark.parametrize(
    ("settled", "shown"), [(0.0, [2, 4, 6, 8]), (0.4, [4, 6, 8]), (0.5, [6, 8]), (1.0, [])]
)
def test_an_image_informs_the_kernel_once_it_has_settled(settled, shown):
    """In the later half of rounds."""
    prior = Prior()
    search(Hypothesis(prior), config=SearchConfig(rounds=4, steps=10, settled=settled))
    for number in (3, 4):
        assert prior.shown[number - 1] == pytest.approx([number + step / 1000 for step in shown])


def test_early_rounds_inform_the_kernel_from_the_first_update_on():
    prior = Prior()
    search(Hypothesis(prior), config=SearchConfig(rounds=5, steps=10, settled=0.8))
    assert [len(images) for images in prior.shown] == [4, 4, 1, 1, 1]


def test_a_single_hypothesis_is_not_put_to_trial():
    laboratory = Laboratory()
    _, found = search(Hypothesis(Prior(), handicap=5.0), laboratory=laboratory)
    assert [fit.left_out for fit in laboratory.fits] == [0.1] * N_ROUNDS
    torch.testing.assert_close(found, kernel(2.5))


@pytest.mark.parametrize(("longest", "steps"), [(1000, (10, 8)), (9, (9, 8)), (3, (3, 3))])
def test_no_fit_is_longer_than_the_longest(longest, steps):
    laboratory = Laboratory()
    search(*two(), laboratory=laboratory, longest=longest)
    rounds, trials = laboratory.fits[: 2 * N_ROUNDS], laboratory.fits[2 * N_ROUNDS :]
    assert [fit.n_steps for fit in rounds] == [steps[0]] * (2 * N_ROUNDS)
    assert [fit.n_steps for fit in trials] == [steps[1]] * (2 * N_TRIALS)
    assert all(len(fit.kernels) == fit.n_steps for fit in laboratory.fits)


@pytest.mark.parametrize(("a", "b", "winner"), [(0.2, 0.1, B), (0.1, 0.2, A)])
def test_the_hypothesis_that_predicts_better_wins(a, b, winner):
    _, found = search(*two(), laboratory=constant(a, b))
    torch.testing.assert_close(found, winner)


@pytest.mark.parametrize(("handicap", "winner"), [(0.0, B), (0.02, B), (0.03, A)])
def test_a_handicap_counts_against_half_the_logarithm_of_the_ratio_of_errors(handicap, winner):
    ratio = math.exp(2 * 0.025)
    laboratory = constant(0.1 * ratio, 0.1)
    config = replace(CONFIG, margin=1e-4)
    _, found = search(*two(handicap), laboratory=laboratory, config=config)
    torch.testing.assert_close(found, winner)


@pytest.mark.parametrize("margins", [-1.0, 0.0, 0.5, 2.0])
def test_the_weight_of_a_hypothesis_falls_e_fold_per_margin(margins):
    config = replace(CONFIG, margin=0.03)
    # B is behind by so many margins, handicap included.
    worse = math.exp(2 * 0.03 * (margins + 1))
    laboratory = constant(0.1, 0.1 * worse)
    _, found = search(*two(handicap=-0.03), laboratory=laboratory, config=config)
    weights = torch.softmax(torch.tensor([0.0, -margins]), 0)
    torch.testing.assert_close(found, weights[0] * A + weights[1] * B, rtol=1e-4, atol=0)


def test_errors_of_trials_are_averaged_as_logarithms():
    """Geometric means 0.20 and 0.19; arithmetic means, 0.20 and 0.40, are the other way round."""
    laboratory = trials((lambda _: 0.20, lambda _: 0.20), (lambda _: 0.76, lambda _: 0.0475))
    _, found = search(*two(), laboratory=laboratory)
    assert nearer(found) is B


def test_the_first_steps_of_a_trial_do_not_count():
    late = (lambda step: 9.0 if step <= 3 else 0.2,) * 2
    _, found = search(*two(), laboratory=trials(late, (lambda _: 0.3,) * 2))
    assert nearer(found) is A


def test_a_lucky_last_step_does_not_decide():
    lucky = (lambda step: 0.1 if step == 8 else 0.3,) * 2
    _, found = search(*two(), laboratory=trials((lambda _: 0.2,) * 2, lucky))
    assert nearer(found) is A


def diverging(laboratory: Laboratory, at: int, *numbers: int) -> Laboratory:
    """Let fits of these numbers diverge at a step."""
    arrange = laboratory.arrange

    def also(fit: Fit) -> None:
        arrange(fit)
        if fit.number in numbers:
            fit.diverges_at = at

    return Laboratory(also)


FIRST_TRIAL = {"A": 2 * N_ROUNDS + 1, "B": 2 * N_ROUNDS + N_TRIALS + 1}


@pytest.mark.parametrize("at", [1, 2, 5, 8])
@pytest.mark.parametrize("trial", [0, 1])
@pytest.mark.parametrize(("loser", "winner"), [("A", B), ("B", A)])
def test_a_trial_that_diverges_loses(at, trial, loser, winner):
    errors = {"A": 0.3, "B": 0.3} | {loser: 0.1}
    laboratory = constant(errors["A"], errors["B"])
    broken = diverging(laboratory, at, FIRST_TRIAL[loser] + trial)
    states, found = search(*two(), laboratory=broken)
    torch.testing.assert_close(found, winner)
    assert all(state.image.isfinite().all() for state in states)


def test_where_every_trial_diverges_there_is_a_kernel_all_the_same():
    broken = diverging(constant(0.3, 0.1), 1, *range(2 * N_ROUNDS + 1, 100))
    _, found = search(*two(), laboratory=broken)
    assert (found >= A).all() and (found <= B).all()


@pytest.mark.parametrize(("a", "b", "winner"), [(0.2, 0.1, B), (0.1, 0.2, A)])
def test_with_the_smallest_margin_the_better_prediction_wins(a, b, winner):
    config = replace(CONFIG, margin=1e-6)
    _, found = search(*two(), laboratory=constant(a, b), config=config)
    torch.testing.assert_close(found, winner)


def test_a_round_that_diverges_does_not_end_the_search():
    laboratory = diverging(Laboratory(), 3, 2)
    states, found = search(Hypothesis(Prior()), laboratory=laboratory)
    assert [len(fit.kernels) for fit in laboratory.fits] == [10, 3, 10]
    assert {state.stop for state in states} == {Stop.RUNNING}
    torch.testing.assert_close(found, kernel(2.5))


def test_hypotheses_are_tried_on_the_same_samples_with_the_same_networks():
    laboratory = constant(0.1, 0.2)
    search(*two(), laboratory=laboratory)
    rounds, tried = laboratory.fits[: 2 * N_ROUNDS], laboratory.fits[2 * N_ROUNDS :]
    of_a, of_b = tried[:N_TRIALS], tried[N_TRIALS:]
    assert [fit.seed for fit in of_a] == [fit.seed for fit in of_b]
    assert {fit.left_out for fit in tried} == {0.3}
    assert [set(fit.kernels) for fit in tried] == [{12.0}, {12.0}, {22.0}, {22.0}]
    assert len({fit.seed for fit in [*rounds, *of_a]}) == 2 * N_ROUNDS + N_TRIALS


def test_the_generator_decides_the_seeds_of_all_fits():
    def seeds(seed: int) -> list[int]:
        laboratory = Laboratory()
        search(*two(), laboratory=laboratory, seed=seed)
        return [fit.seed for fit in laboratory.fits]

    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


def test_the_image_of_the_latest_finished_fit_is_shown():
    config = SearchConfig(rounds=2, steps=3, trials=1, trial_steps=2)
    states, _ = search(*two(), config=config)
    # Images of fit n, step m are n + m / 1000: the first fit's own, then the end of the last one.
    first = [1.001, 1.002, 1.003]
    later = [1.003] * 3 + [2.003] * 3 + [3.003] * 3 + [4.003] * 2 + [5.002] * 2
    assert [state.image.mean().item() for state in states] == pytest.approx(first + later)


def test_states_show_the_kernel_at_work():
    config = SearchConfig(rounds=2, steps=3, trials=1, trial_steps=2)
    states, _ = search(*two(), config=config)
    expected = [10.5] * 3 + [11.5] * 3 + [20.5] * 3 + [21.5] * 3 + [11.5] * 2 + [21.5] * 2
    assert [state.kernel[0, 0].item() for state in states] == expected


def test_a_first_fit_that_diverges_at_once_shows_the_start():
    states, _ = search(Hypothesis(Prior()), laboratory=diverging(Laboratory(), 1, 1))
    assert torch.equal(states[0].image, START)
    assert torch.equal(states[1].image, START)
