"""The search for a kernel, with scouts and a prior made up for the test."""

import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from napari_dkp.engine import RestorerStep
from napari_dkp.search import Forming, KernelSearch, SearchPlan, settling
from napari_dkp.state import State, Stop

START = torch.full((1, 4, 4), -1.0)
EVERY = 2


def kernel(value: float) -> Tensor:
    return torch.full((3, 3), float(value))


class Prior:
    """A prior whose kernel is the number of the image, from 1, and a hundredth per update of it.

    Its candidates are -1, -2 and so on, whose images have some misfits, or 1; what it learns is a
    hundred more than the kernel before.
    """

    def __init__(self, candidates: int = 0, misfits: dict[int, float] | None = None) -> None:
        self.followed: list[list[float]] = []
        self.n_candidates = candidates
        self.misfits = misfits or {}
        self.judged: list[tuple[float, float]] = []
        self.kept: list[int] = []
        self.learnt: list[tuple[float, float]] = []
        self.remembers_after: list[int] = []

    def remember(self) -> None:
        self.remembers_after.append(len(self.followed))

    def candidates(self) -> list[Tensor]:
        return [kernel(-1 - number) for number in range(self.n_candidates)]

    def gradient_misfit(self, image: Tensor, under: Tensor) -> float:
        self.judged.append((image.mean().item(), under.mean().item()))
        return self.misfits.get(int(image.mean()), 1.0)

    def keep(self, number: int) -> None:
        self.kept.append(number)

    def step(self, image: Tensor | None) -> Tensor:
        if image is None:
            self.followed.append([])
        else:
            self.followed[-1].append(image.mean().item())
        return kernel(len(self.followed) + len(self.followed[-1]) / 100)

    def learned(self, image: Tensor, under: Tensor) -> Tensor:
        self.learnt.append((image.mean().item(), under.mean().item()))
        return under + 100


class Scout:
    """A restorer that does nothing; the image of its n-th step is full of number + n / 1000.

    Its estimate is that and a half: images for priors have more pixels than those that are shown.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.done = 0
        self.diverges_at = math.inf
        self.kernels: list[float] = []

    def step(self, kernel: Tensor) -> RestorerStep:
        self.done += 1
        self.kernels.append(kernel.mean().item())
        image = torch.full((1, 4, 4), self.number + self.done / 1000)
        loss = torch.tensor(math.nan if self.done >= self.diverges_at else 1.0)
        return RestorerStep(image, image + 0.5, loss, torch.tensor(1.0))


class Laboratory:
    """Makes the scouts of a search and keeps them; those of some numbers diverge at a step."""

    def __init__(self, diverging: dict[int, int] | None = None) -> None:
        self.scouts: list[Scout] = []
        self.asked: list[Forming] = []
        self.diverging = diverging or {}

    def __call__(self, forming: Forming) -> Scout:
        scout = Scout(len(self.scouts) + 1)
        self.asked.append(forming)
        scout.diverges_at = self.diverging.get(scout.number, math.inf)
        self.scouts.append(scout)
        return scout


def search(
    plan: SearchPlan,
    prior: Prior,
    make_scout: Callable[[Forming], Scout] | None = None,
    before: int = 0,
    n_steps: int = 99,
) -> tuple[list[State[Tensor]], Tensor | None]:
    """Run a search to its end; return its states and the kernel it found."""
    found: list[Tensor | None] = []

    def states():
        searching = KernelSearch(prior, make_scout or Laboratory(), START, plan, EVERY)
        found.append((yield from searching.run(prior.candidates(), before, n_steps)))

    return list(states()), found[0]


@pytest.mark.parametrize(
    ("plan", "steps", "followed"),
    [
        (SearchPlan(15, 1, 4, following=10, settled=5), 60, 6),
        (SearchPlan(20, 2, 3, following=10, settled=5), 80, 8),
        (SearchPlan(20, 1, 1, following=20, settled=5), 20, 1),
        (SearchPlan(7, 1, 1, following=4, settled=2), 7, 1),
    ],
)
def test_images_that_are_followed_take_no_more_steps(plan, steps, followed):
    assert (plan.n_steps, plan.followed) == (steps, followed)


# Candidates

JUDGED = SearchPlan(steps=6, candidates=2, learnt=3, following=6, settled=3)


@pytest.mark.parametrize(("misfits", "kept"), [({1: 2.0}, 1), ({2: 2.0}, 0), ({}, 0)])
def test_the_candidate_whose_image_fits_best_is_kept_and_learnt_from(misfits, kept):
    prior = Prior(candidates=2, misfits=misfits)
    search(JUDGED, prior)
    assert prior.judged == [pytest.approx((1.006, -1)), pytest.approx((2.006, -2))]
    assert prior.kept == [kept]
    assert prior.learnt[0] == pytest.approx((1 + kept + 0.006, -1 - kept))


def test_every_image_forms_under_one_kernel():
    laboratory = Laboratory()
    _, found = search(JUDGED, Prior(candidates=2), laboratory)
    assert [scout.kernels for scout in laboratory.scouts] == [
        [value] * 6 for value in (-1, -2, 99, 199)
    ]
    assert found.mean() == 299


def test_candidates_are_compared_from_the_same_draws_and_later_images_are_not():
    laboratory = Laboratory()
    search(JUDGED, Prior(candidates=2), laboratory)
    assert laboratory.asked == [Forming(6, alike=True)] * 2 + [Forming(6)] * 2


def test_the_kernel_learns_from_whole_images_and_what_they_formed_under():
    prior = Prior(candidates=2)
    search(JUDGED, prior)
    assert prior.followed == []
    assert prior.learnt == [
        pytest.approx(pair) for pair in ((1.006, -1), (3.006, 99), (4.006, 199))
    ]


def test_a_single_candidate_needs_no_judge():
    prior, laboratory = Prior(candidates=1), Laboratory()
    _, found = search(SearchPlan(6, 1, 2), prior, laboratory)
    assert prior.kept == []
    assert prior.judged == []
    assert prior.learnt == [pytest.approx(pair) for pair in ((1.006, -1), (2.006, 99))]
    assert laboratory.asked == [Forming(6)] * 2
    assert found.mean() == 199


def test_a_single_candidate_whose_images_diverge_is_what_there_is():
    prior = Prior(candidates=1)
    states, found = search(SearchPlan(6, 1, 2), prior, Laboratory({1: 3, 2: 3}))
    assert prior.learnt == []
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert found.mean() == -1


def test_where_there_is_nothing_to_learn_a_single_candidate_is_the_kernel():
    plan = SearchPlan(6, 1, 0)
    states, found = search(plan, Prior(candidates=1))
    assert (plan.n_steps, states) == (0, [])
    assert found.mean() == -1


@pytest.mark.parametrize(("diverging", "kept"), [({1: 2}, 1), ({2: 2}, 0)])
def test_a_candidate_whose_image_diverges_is_not_kept(diverging, kept):
    prior = Prior(candidates=2, misfits={1 + kept: math.inf})
    search(JUDGED, prior, Laboratory(diverging))
    assert prior.kept == [kept]


# Without candidates


def following(n_images: int, settled: int) -> SearchPlan:
    return SearchPlan(10, 1, n_images, following=10, settled=settled)


def test_where_nothing_is_known_the_kernel_follows_images():
    prior, laboratory = Prior(), Laboratory()
    search(following(3, 5), prior, laboratory)
    # The first one from its second step on, the others once they are settled.
    steps = [(2, 4, 6, 8), (6, 8), (6, 8)]
    assert prior.followed == [
        pytest.approx([number + step / 1000 for step in informing])
        for number, informing in enumerate(steps, start=1)
    ]
    assert prior.kept == prior.learnt == []
    assert laboratory.asked == [Forming(10, partial=True)] * 3


@pytest.mark.parametrize(("n_images", "near"), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_images_that_only_bring_the_kernel_near_are_not_remembered(n_images, near):
    prior = Prior()
    search(following(n_images, 5), prior)
    assert prior.remembers_after == [near]


@pytest.mark.parametrize(
    ("n_images", "settled", "mean"),
    [
        # Kernels of steps 5 to 10: updates follow steps 4, 6 and 8.
        (1, 4, 1.02),
        (2, 4, 2.02),
        (4, 4, 3.52),
        # Kernels of steps 1 to 10, with updates after steps 2, 4, 6 and 8; of step 10 alone.
        (2, 0, 2.02),
        (2, 9, 2.0),
    ],
)
def test_what_follows_is_its_mean_over_settled_steps_of_images_that_count(n_images, settled, mean):
    _, found = search(following(n_images, settled), Prior())
    torch.testing.assert_close(found, kernel(mean))


# States


@pytest.mark.parametrize("candidates", [0, 2])
def test_states_are_numbered_over_all_images(candidates):
    states, _ = search(JUDGED, Prior(candidates), before=7, n_steps=50)
    assert [state.step for state in states] == list(range(8, 8 + 24))
    assert {state.n_steps for state in states} == {50}
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert all(state.searching for state in states)


def test_a_kernel_that_settles_takes_no_step():
    def kernels():
        yield from map(kernel, [5, 6])
        return "settled"

    found = []

    def states():
        found.append((yield from settling(kernels(), 7, 50, START)))

    shown = list(states())
    assert found == ["settled"]
    assert [state.kernel.mean().item() for state in shown] == [5, 6]
    for state in shown:
        assert (state.step, state.n_steps) == (7, 50)
        assert state.searching
        assert state.stop is Stop.RUNNING
        assert state.image is START
        assert math.isnan(state.residual)


def test_states_show_the_kernel_at_work():
    states, _ = search(SearchPlan(2, 2, 2, 2, settled=1), Prior(candidates=2))
    assert [state.kernel.mean().item() for state in states] == [-1, -1, -2, -2, 99, 99]


def test_the_latest_image_that_has_formed_is_shown():
    states, _ = search(SearchPlan(3, 2, 2, 3, settled=1), Prior())
    expected = [-1] * 3 + [1.503] * 3 + [2.503] * 3
    assert [state.image.mean().item() for state in states] == pytest.approx(expected)


def test_one_scout_works_at_a_time():
    """Networks take memory."""
    alive = weakref.WeakSet()
    most = []

    def make_scout(forming: Forming) -> Scout:
        scout = Scout(1)
        alive.add(scout)
        most.append(len(alive))
        return scout

    gc.disable()
    try:
        search(JUDGED, Prior(candidates=2), make_scout)
    finally:
        gc.enable()
    assert len(most) == 4
    assert max(most) <= 2  # the last one goes when the next one is there


# Divergence


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_later_image_that_diverges_says_nothing(at):
    prior, laboratory = Prior(candidates=2), Laboratory({3: at})
    states, found = search(JUDGED, prior, laboratory)
    assert [scout.done for scout in laboratory.scouts] == [6, 6, at, 6]
    assert [state.step for state in states] == [*range(1, 13 + at), *range(19, 25)]
    assert {state.stop for state in states} == {Stop.RUNNING}
    assert [image for image, _ in prior.learnt] == pytest.approx([1.006, 4.006])
    assert found.mean() == 199


@pytest.mark.parametrize("at", [1, 2, 6])
def test_an_image_that_diverges_is_not_shown(at):
    states, _ = search(JUDGED, Prior(), Laboratory({2: at}))
    expected = [-1] * 6 + [1.506] * (at + 6) + [3.506] * 6
    assert [state.image.mean().item() for state in states] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("at", "mean"),
    # The third image is whole, the second has steps 5 to `at` - 1 that count.
    [
        (1, 3.02),
        (4, 3.02),
        (5, 3.02),
        (6, (2 + 6 * 3.02) / 7),
        (8, (2 * 2 + 2.01 + 6 * 3.02) / 9),
    ],
)
def test_of_images_that_are_followed_one_may_diverge(at, mean):
    _, found = search(following(3, 4), Prior(), Laboratory({2: at}))
    torch.testing.assert_close(found, kernel(mean), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("candidates", "images"), [(0, 4), (2, 2)])
def test_where_no_image_forms_there_is_no_kernel(candidates, images):
    laboratory = Laboratory(dict.fromkeys(range(1, 5), 2))
    states, found = search(JUDGED, Prior(candidates), laboratory)
    assert found is None
    assert len(laboratory.scouts) == images
    assert [state.stop for state in states[-2:]] == [Stop.RUNNING, Stop.DIVERGED]
    assert states[-1].step == states[-2].step


# Stopping

CANDIDATES = [kernel(-1), kernel(-2)]


@pytest.mark.parametrize("stop_at", [1, 5, 6, 10])
def test_a_search_that_is_closed_does_no_more(stop_at):
    laboratory = Laboratory()
    states = KernelSearch(Prior(2), laboratory, START, JUDGED, EVERY).run(CANDIDATES, 0, 99)
    for _ in range(stop_at):
        next(states)
    states.close()
    assert sum(scout.done for scout in laboratory.scouts) == stop_at
    assert len(laboratory.scouts) == (1 if stop_at <= 6 else 2)
    assert list(states) == []


def test_a_search_that_is_closed_lets_its_scout_go():
    made = []

    def make_scout(forming: Forming) -> Scout:
        scout = Scout(1)
        made.append(weakref.ref(scout))
        return scout

    states = KernelSearch(Prior(2), make_scout, START, JUDGED, EVERY).run(CANDIDATES, 0, 99)
    next(states)
    gc.disable()
    try:
        states.close()
        assert made[0]() is None
    finally:
        gc.enable()
