"""The search for motion: its plan, and its rounds with scouts and a prior made up for the test."""

import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from napari_dkp.config import SearchConfig
from napari_dkp.engine import RestorerStep
from napari_dkp.search import KernelSearch, Round, burn_in, plan
from napari_dkp.state import State, Stop

START = torch.full((1, 4, 4), -1.0)


def kernel(value: float) -> Tensor:
    return torch.full((3, 3), float(value))


class Prior:
    """A prior whose kernel is the number of the image, from 1, and a hundredth per update of it."""

    def __init__(self, candidates: int = 0) -> None:
        self.shown: list[list[float]] = []
        self.n_candidates = candidates
        self.kept: list[int] = []

    def candidates(self) -> list[Tensor]:
        return [kernel(-1 - number) for number in range(self.n_candidates)]

    def keep(self, number: int) -> None:
        self.kept.append(number)

    def step(self, image: Tensor | None) -> Tensor:
        if image is None:
            self.shown.append([])
        else:
            self.shown[-1].append(image.mean().item())
        return kernel(len(self.shown) + len(self.shown[-1]) / 100)


class Scout:
    """A restorer that does nothing; the image of its n-th step is full of number + n / 1000."""

    def __init__(self, number: int, n_steps: int) -> None:
        self.number, self.n_steps = number, n_steps
        self.done = 0
        self.diverges_at = math.inf
        self.residual = 1.0
        self.kernels: list[Tensor] = []

    def step(self, kernel: Tensor) -> RestorerStep:
        self.done += 1
        self.kernels.append(kernel)
        image = torch.full((1, 4, 4), self.number + self.done / 1000)
        loss = torch.tensor(math.nan if self.done >= self.diverges_at else 1.0)
        return RestorerStep(image, image, loss, torch.tensor(self.residual))


class Laboratory:
    """Makes the scouts of a search and keeps them; those of some numbers diverge at a step."""

    def __init__(
        self, diverging: dict[int, int] | None = None, residuals: dict[int, float] | None = None
    ) -> None:
        self.scouts: list[Scout] = []
        self.diverging = diverging or {}
        self.residuals = residuals or {}

    def __call__(self, each: Round) -> Scout:
        scout = Scout(len(self.scouts) + 1, each.steps)
        scout.diverges_at = self.diverging.get(scout.number, math.inf)
        scout.residual = self.residuals.get(scout.number, 1.0)
        self.scouts.append(scout)
        return scout


NEAR, STEADY = Round(10, 2, None), Round(10, 4, 4)
EVERY = 2


def search(
    *rounds: Round,
    diverging: dict[int, int] | None = None,
    prior: Prior | None = None,
    make_scout: Callable[[Round], Scout] | None = None,
    n_steps: int = 99,
) -> tuple[list[State[Tensor]], Tensor]:
    """Run a search to its end; return its states and the kernel it found."""
    found: list[Tensor] = []

    def states():
        searching = KernelSearch(
            prior or Prior(), make_scout or Laboratory(diverging), START, list(rounds), EVERY
        )
        found.append((yield from searching.run(0, n_steps)))

    return list(states()), found[0]


# The plan


def test_first_rounds_bring_the_kernel_near_and_later_ones_count():
    config = SearchConfig(rounds=5, steps=20, settled=0.4)
    assert plan(config, 1000, 3) == [Round(20, 3, None)] * 2 + [Round(20, 8, 8)] * 3


@pytest.mark.parametrize(("rounds", "near"), [(1, 0), (2, 1), (3, 1), (6, 3), (10, 5)])
def test_half_of_the_rounds_never_count(rounds, near):
    config = SearchConfig(rounds=rounds)
    planned = plan(config, 1000, 5)
    assert burn_in(config) == near
    assert [each.counted_after is None for each in planned] == [True] * near + [False] * (
        rounds - near
    )


@pytest.mark.parametrize(
    ("longest", "steps", "settled"),
    [(1000, 20, 8), (20, 20, 8), (15, 15, 6), (4, 4, 2), (2, 2, 1), (1, 1, 0)],
)
def test_no_round_is_longer_than_the_longest(longest, steps, settled):
    near, steady = plan(SearchConfig(rounds=2, steps=20, settled=0.4), longest, 5)
    assert near.steps == steady.steps == steps
    assert steady.counted_after == settled


@pytest.mark.parametrize("settled", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("longest", [1, 2, 7, 100])
def test_the_last_step_of_a_later_round_counts_always(longest, settled):
    (steady,) = plan(SearchConfig(rounds=1, settled=settled), longest, 5)
    assert 0 <= steady.counted_after < steady.steps


# Rounds


def test_states_are_numbered_over_all_rounds():
    laboratory = Laboratory()
    rounds = [Round(3, 1, None), Round(5, 1, 2), Round(4, 1, 2)]
    states, _ = search(*rounds, make_scout=laboratory, n_steps=50)
    assert [state.step for state in states] == list(range(1, 13))
    assert {state.n_steps for state in states} == {50}
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert all(state.searching for state in states)
    assert [(scout.n_steps, scout.done) for scout in laboratory.scouts] == [(3, 3), (5, 5), (4, 4)]


def test_one_scout_works_at_a_time():
    """Networks take memory."""
    alive = weakref.WeakSet()
    most = []

    def make_scout(each: Round) -> Scout:
        scout = Scout(1, each.steps)
        alive.add(scout)
        most.append(len(alive))
        return scout

    gc.disable()
    try:
        search(NEAR, NEAR, STEADY, STEADY, make_scout=make_scout)
    finally:
        gc.enable()
    assert len(most) == 4
    assert max(most) <= 2  # the last one goes when the next one is there


@pytest.mark.parametrize(
    ("rounds", "mean"),
    [
        # Kernels of steps 5 to 10: updates follow steps 4, 6 and 8.
        ([STEADY], 1.02),
        ([NEAR, STEADY], 2.02),
        ([NEAR, NEAR, STEADY, STEADY], 3.52),
        # Kernels of steps 1 to 10, with updates after steps 2, 4, 6 and 8.
        ([NEAR, Round(10, 1, 0)], 2.02),
        # Kernel of step 10, without updates and with all.
        ([NEAR, Round(10, 9, 9)], 2.0),
        ([NEAR, Round(10, 1, 9)], 2.04),
        # A longer round counts for more.
        ([Round(4, 99, 2), Round(10, 99, 2)], (2 * 1 + 8 * 2) / 10),
    ],
)
def test_the_kernel_is_the_mean_over_settled_steps_of_rounds_that_count(rounds, mean):
    _, found = search(*rounds)
    torch.testing.assert_close(found, kernel(mean))


def test_each_round_informs_the_kernel_with_images_of_its_own_scout():
    prior = Prior()
    search(NEAR, Round(10, 5, 5), Round(10, 10, 9), prior=prior)
    images = [[number + step / 1000 for step in (2, 4, 6, 8)] for number in (1, 2)]
    assert prior.shown[0] == pytest.approx(images[0])
    assert prior.shown[1] == pytest.approx(images[1][2:])
    assert prior.shown[2] == []


def test_states_show_the_kernel_at_work():
    states, _ = search(Round(5, 1, None), Round(4, 3, 2))
    expected = [1, 1, 1.01, 1.01, 1.02, 2, 2, 2, 2]
    assert [state.kernel[0, 0].item() for state in states] == pytest.approx(expected)


def test_the_image_of_the_latest_finished_round_is_shown():
    states, _ = search(Round(3, 1, None), Round(2, 1, None), Round(4, 1, 2))
    expected = [-1] * 3 + [1.003] * 2 + [2.002] * 4
    assert [state.image.mean().item() for state in states] == pytest.approx(expected)


# Divergence


@pytest.mark.parametrize(
    ("at", "mean"),
    # The third image is whole, the second has steps 5 to `at` - 1 that count.
    [
        (1, 3.02),
        (4, 3.02),
        (5, 3.02),
        (6, (2.01 + 6 * 3.02) / 7),
        (8, (2 * 2.01 + 2.02 + 6 * 3.02) / 9),
    ],
)
def test_a_round_that_diverges_does_not_end_the_search(at, mean):
    laboratory = Laboratory({2: at})
    states, found = search(NEAR, STEADY, STEADY, make_scout=laboratory)
    assert [scout.done for scout in laboratory.scouts] == [10, at, 10]
    steps = [*range(1, 11), *range(11, 11 + at), *range(21, 31)]
    assert [state.step for state in states] == steps
    assert {state.stop for state in states} == {Stop.RUNNING}
    torch.testing.assert_close(found, kernel(mean))


@pytest.mark.parametrize("at", [1, 2, 10])
def test_the_image_of_a_round_that_diverges_is_not_shown(at):
    states, _ = search(NEAR, NEAR, STEADY, diverging={2: at})
    expected = [-1] * 10 + [1.01] * (at + 10)
    assert [state.image.mean().item() for state in states] == pytest.approx(expected)


def test_a_first_round_that_diverges_leaves_the_start_to_be_shown():
    states, _ = search(NEAR, STEADY, diverging={1: 3})
    assert all(torch.equal(state.image, START) for state in states)


def test_where_no_round_gets_so_far_as_to_count_there_is_no_kernel():
    states, found = search(NEAR, STEADY, STEADY, diverging={1: 2, 2: 2, 3: 2})
    assert found is None
    assert [state.stop for state in states[-2:]] == [Stop.RUNNING, Stop.DIVERGED]
    assert states[-1].step == states[-2].step


# Candidates

JUDGED = [Round(6, 6, None, number) for number in range(2)]


@pytest.mark.parametrize(("residuals", "kept"), [({1: 2.0}, 1), ({2: 2.0}, 0), ({}, 0)])
def test_the_candidate_whose_image_fits_best_is_kept(residuals, kept):
    prior, laboratory = Prior(candidates=2), Laboratory(residuals=residuals)
    search(*JUDGED, STEADY, prior=prior, make_scout=laboratory)
    assert prior.kept == [kept]


def test_images_of_candidates_form_under_these_kernels_which_stand():
    laboratory = Laboratory()
    prior = Prior(candidates=2)
    _, found = search(*JUDGED, STEADY, prior=prior, make_scout=laboratory)
    first, second, later = laboratory.scouts
    assert [each.mean().item() for each in first.kernels] == [-1] * 6
    assert [each.mean().item() for each in second.kernels] == [-2] * 6
    assert all(each.mean() >= 1 for each in later.kernels)
    assert len(prior.shown) == 1  # the prior saw the later image alone
    assert found.mean() >= 1


@pytest.mark.parametrize(("diverging", "kept"), [({1: 2}, 1), ({2: 2}, 0)])
def test_a_candidate_whose_image_diverges_is_not_kept(diverging, kept):
    prior = Prior(candidates=2)
    laboratory = Laboratory(diverging, residuals={1: 1.0 + (kept == 0), 2: 1.0 + (kept == 1)})
    search(*JUDGED, STEADY, prior=prior, make_scout=laboratory)
    assert prior.kept == [kept]


def test_where_there_are_none_rounds_of_theirs_bring_the_kernel_near():
    prior = Prior()
    search(*JUDGED, STEADY, prior=prior)
    assert prior.kept == []
    assert [len(shown) for shown in prior.shown] == [2, 2, 3]


def test_candidates_are_judged_by_longer_rounds_of_their_own():
    config = SearchConfig(rounds=2, steps=20, settled=0.4)
    judged = [Round(40, 40, None, 0), Round(40, 40, None, 1)]
    assert plan(config, 1000, 3, 2) == [*judged, Round(20, 3, None), Round(20, 8, 8)]
    assert [each.steps for each in plan(config, 30, 3, 2)] == [30, 30, 20, 20]


# Stopping


@pytest.mark.parametrize("stop_at", [1, 5, 10, 14])
def test_a_search_that_is_closed_does_no_more(stop_at):
    laboratory = Laboratory()
    states = KernelSearch(Prior(), laboratory, START, [NEAR, STEADY], EVERY).run(0, 99)
    for _ in range(stop_at):
        next(states)
    states.close()
    assert sum(scout.done for scout in laboratory.scouts) == stop_at
    assert len(laboratory.scouts) == (1 if stop_at <= 10 else 2)
    assert list(states) == []


def test_a_search_that_is_closed_lets_its_scout_go():
    made = []

    def make_scout(each: Round) -> Scout:
        scout = Scout(1, each.steps)
        made.append(weakref.ref(scout))
        return scout

    states = KernelSearch(Prior(), make_scout, START, [NEAR, STEADY], EVERY).run(0, 99)
    next(states)
    gc.disable()
    try:
        states.close()
        assert made[0]() is None
    finally:
        gc.enable()
