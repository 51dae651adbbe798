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
from napari_dkp.search import Hypothesis, KernelSearch, Schedule, n_search_steps, schedules
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
        loss = torch.tensor(math.nan if done >= self.diverges_at else 1.0)
        return RestorerStep(image, image, loss, torch.ones(()))

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


CONFIG = SearchConfig(trials=2, trial_steps=8, left_out=0.1, trial_left_out=0.3)
SCHEDULE = Schedule("trajectory", rounds=3, burn_in=1, steps=10, settled=4)
N_ROUNDS, N_TRIALS = SCHEDULE.rounds, CONFIG.trials
EVERY = 2


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
                    kernel_every=EVERY,
                    longest=longest,
                    generator=make_generator(seed),
                ).run()
            )
        )

    return list(states()), found[0]


A, B = kernel(12), kernel(22)


def hypothesis(base: float = 0.0, **changes: object) -> Hypothesis:
    return Hypothesis(Prior(base), replace(SCHEDULE, **changes))


def two(handicap: float = 0.0) -> tuple[Hypothesis, Hypothesis]:
    """Hypotheses whose kernels, means of the last two of three rounds, are A and B."""
    return hypothesis(9.5), hypothesis(19.5, handicap=handicap)


Errors = Callable[[int], float]


def trials(a: tuple[Errors, Errors], b: tuple[Errors, Errors]) -> Laboratory:
    """Make fits whose error at each step is that of the trial of A or B."""
    errors = dict(enumerate((*a, *b), start=2 * N_ROUNDS + 1))

    def arrange(fit: Fit) -> None:
        fit.error_at = errors.get(fit.number, fit.error_at)

    return Laboratory(arrange)


def constant(a: float, b: float) -> Laboratory:
    return trials((lambda _: a,) * 2, (lambda _: b,) * 2)


# Schedules


NUMBERS = SearchConfig(
    rounds=5,
    steps=20,
    gaussian_rounds=3,
    gaussian_steps=30,
    settled=0.4,
    chains=2,
    trials=2,
    trial_steps=25,
    margin=0.07,
)
GAUSSIAN = Schedule("gaussian", 3, 3, 30, 12, afresh=True)
PATH = Schedule("trajectory", 5, 2, 20, 8, handicap=0.07)
LINE = replace(PATH, family="line")


@pytest.mark.parametrize(
    ("family", "plan"),
    [
        ("auto", [GAUSSIAN, PATH, PATH]),
        ("gaussian", [GAUSSIAN]),
        ("line", [LINE, LINE]),
        ("trajectory", [PATH, PATH]),
    ],
)
def test_motion_has_chains_and_a_handicap_and_gaussians_burn_in_to_the_end(family, plan):
    assert schedules(family, NUMBERS, 1000) == plan


@pytest.mark.parametrize(
    ("longest", "steps", "settled"),
    [(30, (30, 20), (12, 8)), (25, (25, 20), (10, 8)), (10, (10, 10), (4, 4)), (1, (1, 1), (0, 0))],
)
def test_no_round_is_longer_than_the_longest(longest, steps, settled):
    gaussian, path, _ = schedules("auto", NUMBERS, longest)
    assert (gaussian.steps, path.steps) == steps
    assert (gaussian.settled, path.settled) == settled
    assert (gaussian.rounds, path.rounds) == (3, 5)


@pytest.mark.parametrize(("rounds", "burn_in"), [(1, 0), (2, 1), (3, 1), (8, 4)])
def test_motion_burns_in_for_half_of_its_rounds(rounds, burn_in):
    config = replace(NUMBERS, rounds=rounds, gaussian_rounds=rounds)
    gaussian, path, _ = schedules("auto", config, 1000)
    assert (gaussian.burn_in, path.burn_in) == (rounds, burn_in)


@pytest.mark.parametrize(
    ("family", "longest", "steps"),
    [
        ("gaussian", 1000, 3 * 30),
        ("line", 1000, 2 * (5 * 20 + 2 * 25)),
        ("auto", 1000, 3 * 30 + 2 * 5 * 20 + 3 * 2 * 25),
        ("auto", 22, 3 * 22 + 2 * 5 * 20 + 3 * 2 * 22),
        ("auto", 4, (3 + 2 * 5 + 3 * 2) * 4),
    ],
)
def test_a_search_is_the_rounds_of_all_and_trials_where_there_are_several(family, longest, steps):
    plan = schedules(family, NUMBERS, longest)
    assert n_search_steps(plan, NUMBERS, longest) == steps


@pytest.mark.parametrize("chains", [0, 1])
def test_motion_that_is_named_has_one_chain_at_least_which_alone_is_not_tried(chains):
    config = replace(NUMBERS, chains=chains)
    for family, schedule in (("line", LINE), ("trajectory", PATH)):
        plan = schedules(family, config, 1000)
        assert plan == [schedule]
        assert n_search_steps(plan, config, 1000) == 5 * 20


def test_without_chains_optics_are_taken_for_granted():
    config = replace(NUMBERS, chains=0)
    assert schedules("auto", config, 1000) == schedules("gaussian", config, 1000) == [GAUSSIAN]
    assert n_search_steps([GAUSSIAN], config, 1000) == 3 * 30


@pytest.mark.parametrize(
    ("burn_in", "settled", "first"),
    [
        (0, 4, [4, 4, 4]),
        (1, 4, [7, 4, 4]),
        (3, 4, [7, 7, 7]),
        (1, 0, [7, 1, 1]),
        (1, 10, [7, 10, 10]),
    ],
)
def test_kernels_move_at_once_in_the_burn_in_and_later_once_the_image_has_settled(
    burn_in, settled, first
):
    schedule = replace(SCHEDULE, burn_in=burn_in, settled=settled)
    assert [schedule.first_update(number, 7) for number in range(3)] == first


@pytest.mark.parametrize(
    ("burn_in", "settled", "rounds", "steps"),
    [
        (0, 4, [0, 1, 2], range(5, 11)),
        (1, 4, [1, 2], range(5, 11)),
        (2, 0, [2], range(1, 11)),
        # Where all is burn-in, all rounds count.
        (3, 5, [0, 1, 2], range(6, 11)),
        # The last step of a round counts always.
        (1, 10, [1, 2], [10]),
    ],
)
def test_settled_kernels_count_past_the_burn_in_or_if_there_is_nothing_else(
    burn_in, settled, rounds, steps
):
    schedule = replace(SCHEDULE, burn_in=burn_in, settled=settled)
    counted = [(n, step) for n in range(3) for step in range(1, 11) if schedule.counts(n, step)]
    assert counted == [(n, step) for n in rounds for step in steps]


# Rounds


@pytest.mark.parametrize("family", ["gaussian", "line", "auto"])
@pytest.mark.parametrize("longest", [1000, 22, 3])
def test_there_are_as_many_states_as_foretold(family, longest):
    plan = schedules(family, NUMBERS, longest)
    several = [Hypothesis(Prior(), schedule) for schedule in plan]
    states, _ = search(*several, config=NUMBERS, longest=longest)
    assert len(states) == n_search_steps(plan, NUMBERS, longest)
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert all(state.searching for state in states)


@pytest.mark.parametrize(
    ("rounds", "burn_in", "mean"), [(1, 0, 1.0), (1, 1, 1.0), (4, 2, 3.5), (5, 2, 4.0), (4, 4, 2.5)]
)
def test_the_kernel_is_the_mean_over_the_rounds_that_count(rounds, burn_in, mean):
    _, found = search(hypothesis(rounds=rounds, burn_in=burn_in))
    torch.testing.assert_close(found, kernel(mean))


class Moving(Prior):
    """Adds a hundredth per update of the image to the kernel."""

    def step(self, image: Tensor | None) -> Tensor:
        return super().step(image) + len(self.shown[-1]) / 100


@pytest.mark.parametrize(
    ("burn_in", "settled", "mean"),
    [
        # Kernels of steps 5 to 10: updates follow steps 4, 6 and 8.
        (1, 4, 2.5 + 0.02),
        # Kernels of steps 6 to 10: updates follow steps 2, 4, 6 and 8.
        (3, 5, 2.0 + 0.032),
        # Kernel of step 10, without and with updates.
        (1, 10, 2.5),
        (3, 10, 2.0 + 0.04),
    ],
)
def test_a_round_counts_with_the_kernels_of_its_settled_steps(burn_in, settled, mean):
    schedule = replace(SCHEDULE, burn_in=burn_in, settled=settled)
    _, found = search(Hypothesis(Moving(), schedule))
    torch.testing.assert_close(found, kernel(mean))


@pytest.mark.parametrize(
    ("settled", "shown"), [(0, [2, 4, 6, 8]), (4, [4, 6, 8]), (5, [6, 8]), (10, [])]
)
def test_past_the_burn_in_an_image_informs_the_kernel_once_it_has_settled(settled, shown):
    followed = hypothesis(rounds=4, burn_in=2, settled=settled)
    search(followed)
    for number in (1, 2):
        images = [number + step / 1000 for step in (2, 4, 6, 8)]
        assert followed.prior.shown[number - 1] == pytest.approx(images)
    for number in (3, 4):
        images = [number + step / 1000 for step in shown]
        assert followed.prior.shown[number - 1] == pytest.approx(images)


def test_without_an_end_to_the_burn_in_every_image_informs_the_kernel_at_once():
    followed = hypothesis(rounds=3, burn_in=3, settled=8)
    search(followed)
    assert [len(images) for images in followed.prior.shown] == [4, 4, 4]


# Trials


def test_a_single_hypothesis_is_not_put_to_trial():
    laboratory = Laboratory()
    _, found = search(hypothesis(handicap=5.0), laboratory=laboratory)
    assert [fit.left_out for fit in laboratory.fits] == [0.1] * N_ROUNDS
    torch.testing.assert_close(found, kernel(2.5))


@pytest.mark.parametrize(("longest", "n_trial_steps"), [(1000, 8), (3, 3)])
def test_fits_are_as_long_as_their_schedules_and_trials_no_longer_than_the_longest(
    longest, n_trial_steps
):
    laboratory = Laboratory()
    brief = hypothesis(rounds=2, burn_in=2, steps=3, settled=1)
    search(brief, hypothesis(), laboratory=laboratory, longest=longest)
    assert [fit.n_steps for fit in laboratory.fits] == [3] * 2 + [10] * 3 + [n_trial_steps] * 4
    assert all(len(fit.kernels) == fit.n_steps for fit in laboratory.fits)


@pytest.mark.parametrize(("a", "b", "winner"), [(0.2, 0.1, B), (0.1, 0.2, A)])
def test_the_hypothesis_that_predicts_better_wins(a, b, winner):
    _, found = search(*two(), laboratory=constant(a, b))
    torch.testing.assert_close(found, winner)


@pytest.mark.parametrize(("handicap", "winner"), [(0.0, B), (0.02, B), (0.03, A), (9.0, A)])
def test_a_handicap_counts_against_half_the_logarithm_of_the_ratio_of_errors(handicap, winner):
    """Whoever wins, wins alone."""
    ratio = math.exp(2 * 0.025)
    _, found = search(*two(handicap), laboratory=constant(0.1 * ratio, 0.1))
    assert torch.equal(found, winner)


def test_the_margin_counts_by_way_of_the_handicap_alone():
    config = replace(CONFIG, margin=100.0)
    _, found = search(*two(), laboratory=constant(0.101, 0.1), config=config)
    assert torch.equal(found, B)


def test_of_equal_predictions_the_first_is_taken():
    _, found = search(*two(), laboratory=constant(0.1, 0.1))
    assert torch.equal(found, A)


@pytest.mark.parametrize("winner", [0, 1, 2])
def test_of_many_hypotheses_the_one_that_predicts_best_wins(winner):
    first_trial = 3 * N_ROUNDS + 1

    def arrange(fit: Fit) -> None:
        number = (fit.number - first_trial) // N_TRIALS
        fit.error_at = lambda _: 0.1 if number == winner else 0.2

    many = [hypothesis(base) for base in (0, 10, 20)]
    _, found = search(*many, laboratory=Laboratory(arrange))
    torch.testing.assert_close(found, kernel(10 * winner + 2.5))


def test_errors_of_trials_are_averaged_as_logarithms():
    """Geometric means 0.20 and 0.19; arithmetic means, 0.20 and 0.40, are the other way round."""
    laboratory = trials((lambda _: 0.20, lambda _: 0.20), (lambda _: 0.76, lambda _: 0.0475))
    _, found = search(*two(), laboratory=laboratory)
    torch.testing.assert_close(found, B)


def test_the_first_steps_of_a_trial_do_not_count():
    late = (lambda step: 9.0 if step <= 3 else 0.2,) * 2
    _, found = search(*two(), laboratory=trials(late, (lambda _: 0.3,) * 2))
    torch.testing.assert_close(found, A)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_lucky_last_step_does_not_decide(monkeypatch, device):
    """Nor where an accelerator would take steps ahead of their states."""
    monkeypatch.setitem(globals(), "START", START.to(device))
    lucky = (lambda step: 0.1 if step == 8 else 0.3,) * 2
    _, found = search(*two(), laboratory=trials((lambda _: 0.2,) * 2, lucky))
    torch.testing.assert_close(found, A)


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


@pytest.mark.parametrize(("handicaps", "winner"), [((0, 0), A), ((0, 0.1), A), ((0.1, 0), B)])
def test_where_every_trial_diverges_handicaps_decide(handicaps, winner):
    broken = diverging(constant(0.3, 0.1), 1, *range(2 * N_ROUNDS + 1, 100))
    pair = [hypothesis(base, handicap=h) for base, h in zip((9.5, 19.5), handicaps, strict=True)]
    _, found = search(*pair, laboratory=broken)
    assert torch.equal(found, winner)


@pytest.mark.parametrize(
    ("at", "mean"),
    # The third image is whole, the second has steps 5 to `at`.
    [(3, 3.0), (4, 3.0), (5, (1 * 2 + 6 * 3) / 7), (8, (4 * 2 + 6 * 3) / 10)],
)
def test_a_round_that_diverges_does_not_end_the_search(at, mean):
    laboratory = diverging(Laboratory(), at, 2)
    states, found = search(hypothesis(), laboratory=laboratory)
    assert [len(fit.kernels) for fit in laboratory.fits] == [10, at, 10]
    assert {state.stop for state in states} == {Stop.RUNNING}
    torch.testing.assert_close(found, kernel(mean))


def test_where_no_round_gets_so_far_as_to_count_the_last_kernel_is_taken():
    _, found = search(hypothesis(), laboratory=diverging(Laboratory(), 2, 1, 2, 3))
    torch.testing.assert_close(found, kernel(3))


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


def two_brief() -> list[Hypothesis]:
    return [hypothesis(base, rounds=2, steps=3, settled=1) for base in (9.5, 19.5)]


def test_the_image_of_the_latest_finished_fit_is_shown():
    states, _ = search(*two_brief(), config=replace(CONFIG, trials=1, trial_steps=2))
    # Images of fit n, step m are n + m / 1000: the first fit's own, then the end of the last one.
    first = [1.001, 1.002, 1.003]
    later = [1.003] * 3 + [2.003] * 3 + [3.003] * 3 + [4.003] * 2 + [5.002] * 2
    assert [state.image.mean().item() for state in states] == pytest.approx(first + later)


def test_states_show_the_kernel_at_work():
    states, _ = search(*two_brief(), config=replace(CONFIG, trials=1, trial_steps=2))
    expected = [10.5] * 3 + [11.5] * 3 + [20.5] * 3 + [21.5] * 3 + [11.5] * 2 + [21.5] * 2
    assert [state.kernel[0, 0].item() for state in states] == expected


def test_a_first_fit_that_diverges_at_once_shows_the_start():
    states, _ = search(hypothesis(), laboratory=diverging(Laboratory(), 1, 1))
    assert torch.equal(states[0].image, START)
    assert torch.equal(states[1].image, START)
