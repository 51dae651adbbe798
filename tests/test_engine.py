"""The loop with a restorer and a prior made up for the test, and its adaptors."""

import math
from collections.abc import Iterator

import pytest
import torch
from returned import returned
from torch import Tensor

from napari_dkp import engine
from napari_dkp.engine import RestorerStep, alternate, at_most, every, mapped, watched
from napari_dkp.state import State, Stop


class Counting:
    """A restorer whose n-th image is full of n; replies can be overruled step by step."""

    def __init__(self, **overruled: dict[int, float]) -> None:
        self.steps = 0
        self.kernels: list[Tensor] = []
        self.overruled = overruled

    def step(self, kernel: Tensor) -> RestorerStep:
        self.steps += 1
        self.kernels.append(kernel)
        values = {
            name: self.overruled.get(name, {}).get(self.steps, default)
            for name, default in (("loss", 1 / self.steps), ("residual", 2 / self.steps))
        }
        image = torch.full((1, 6, 6), float(self.steps))
        loss, residual = torch.tensor([values["loss"], values["residual"]], dtype=torch.float64)
        return RestorerStep(image, image[:, 1:-1, 1:-1], loss, residual)


class Recording:
    """A prior that keeps what it was shown; its n-th kernel is full of n, from 0."""

    def __init__(self) -> None:
        self.shown: list[Tensor | None] = []

    def step(self, image: Tensor | None) -> Tensor:
        self.shown.append(image)
        return torch.full((3, 3), float(len(self.shown) - 1))


START = torch.full((1, 4, 4), -1.0)


def run(restorer: Counting, n_steps: int = 12, **options: int) -> list[State[Tensor]]:
    return list(alternate(restorer, Recording(), START, n_steps, **options))


def test_one_state_per_image_step():
    states = run(Counting(), 12)
    assert [state.step for state in states] == list(range(1, 13))
    assert {state.n_steps for state in states} == {12}
    assert [state.stop for state in states] == [Stop.RUNNING] * 11 + [Stop.COMPLETED]
    assert [state.residual for state in states] == [2 / step for step in range(1, 13)]
    assert [state.loss for state in states] == [1 / step for step in range(1, 13)]


def test_the_kernel_follows_every_few_images():
    restorer, prior = Counting(), Recording()
    states = list(alternate(restorer, prior, START, 8, kernel_every=3))
    assert prior.shown[0] is None
    # The prior sees the whole domain of the images before steps 4 and 7.
    assert [image[0, 0, 0].item() for image in prior.shown[1:]] == [3, 6]
    assert all(image.shape == (1, 6, 6) for image in prior.shown[1:])
    assert [kernel[0, 0].item() for kernel in restorer.kernels] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [state.kernel[0, 0].item() for state in states] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("after", "informed_by"), [(1, [2, 4, 6]), (3, [4, 6]), (4, [4, 6]), (7, []), (8, [])]
)
def test_the_kernel_waits_for_the_image_to_settle(after, informed_by):
    prior = Recording()
    list(alternate(Counting(), prior, START, 8, kernel_every=2, kernel_after=after))
    assert prior.shown[0] is None
    assert [image[0, 0, 0].item() for image in prior.shown[1:]] == informed_by


def test_states_hold_the_estimate_and_later_steps_leave_them_alone():
    for step, state in enumerate(run(Counting()), start=1):
        assert torch.equal(state.image, torch.full((1, 4, 4), float(step)))


def test_nothing_runs_ahead_of_the_consumer():
    restorer = Counting()
    states = alternate(restorer, Recording(), START, 100)
    assert restorer.steps == 0
    next(states)
    next(states)
    assert restorer.steps == 2


@pytest.mark.parametrize("term", ["loss", "residual"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_end_the_run_with_the_last_image(term, value):
    states = run(Counting(**{term: {4: value}}))
    assert [state.stop for state in states] == [Stop.RUNNING] * 3 + [Stop.DIVERGED]
    last = states[-1]
    assert last.step == 4
    assert torch.equal(last.image, states[2].image)
    assert torch.equal(last.kernel, states[2].kernel)
    assert (last.loss, last.residual) == (states[2].loss, states[2].residual)


@pytest.mark.parametrize("term", ["loss", "residual"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_at_the_first_step_the_start_image_is_handed_out(term, value):
    (state,) = run(Counting(**{term: {1: value}}))
    assert state.stop is Stop.DIVERGED
    assert torch.equal(state.image, START)
    assert torch.equal(state.kernel, torch.zeros(3, 3))


def test_a_first_kernel_that_is_not_finite_ends_the_run_with_a_flat_one():
    class Broken:
        def step(self, image: Tensor | None) -> Tensor:
            return torch.full((3, 3), math.nan)

    (state,) = alternate(Counting(), Broken(), START, 5)
    assert state.stop is Stop.DIVERGED
    assert torch.equal(state.image, START)
    torch.testing.assert_close(state.kernel, torch.full((3, 3), 1 / 9))


def test_an_exploding_residual_ends_the_run():
    states = run(Counting(residual={7: 1e6}))
    assert states[-1].stop is Stop.DIVERGED
    assert states[-1].step == 7
    assert torch.equal(states[-1].image, states[5].image)


def test_a_residual_that_merely_fluctuates_does_not():
    states = run(Counting(residual={7: 20.0}))
    assert states[-1].stop is Stop.COMPLETED


# Blocks


def outline(states: list[State[Tensor]]) -> list[tuple[object, ...]]:
    return [
        (
            state.step,
            state.image[0, 0, 0].item(),
            state.kernel[0, 0].item(),
            state.loss,
            state.residual,
            state.stop,
        )
        for state in states
    ]


@pytest.mark.parametrize("block", [2, 3, 5, 100])
@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("overruled", [{}, *({"loss": {at: math.nan}} for at in range(1, 13))])
def test_blocks_yield_the_states_of_single_steps(block, every, overruled):
    """What diverges in the middle of a block is not shown to the prior either."""
    seen = []
    for length in (1, block):
        prior = Recording()
        states = alternate(Counting(**overruled), prior, START, 12, every, 2, length)
        seen.append((outline(list(states)), [None if x is None else x.mean() for x in prior.shown]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_a_block_ends_where_the_kernel_changes(block):
    restorer = Counting()
    states = alternate(restorer, Recording(), START, 13, kernel_every=5, block=block)
    taken = []
    for _ in states:
        if restorer.steps not in taken:
            taken.append(restorer.steps)
    steps = range(1, 14)
    assert taken == [n for n in steps if n % 5 == 0 or (n % 5) % block == 0 or n == 13]


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 1), ("meta", 4)])
def test_numbers_are_read_together_where_reading_is_dear(device, ahead):
    restorer = Counting()
    next(alternate(restorer, Recording(), START.to(device), 100, kernel_every=4))
    assert restorer.steps == ahead


# Adaptors


class Source:
    """States whose clean-up can be seen."""

    def __init__(self, n_steps: int = 10) -> None:
        self.n_steps = n_steps
        self.closed = False
        self.drawn = 0

    def __call__(self) -> Iterator[State[Tensor]]:
        try:
            for state in alternate(Counting(), Recording(), START, self.n_steps):
                self.drawn += 1
                yield state
        finally:
            self.closed = True


ADAPTORS = {
    "every": lambda states: every(2, states),
    "at_most": lambda states: at_most(1e9, states),
    "watched": lambda states: watched(lambda state: None, states),
    "all": lambda states: every(2, at_most(1e9, watched(lambda state: None, states))),
}
every_adaptor = pytest.mark.parametrize("adapt", ADAPTORS.values(), ids=ADAPTORS.keys())


@every_adaptor
def test_closing_an_adaptor_closes_its_source(adapt):
    source = Source()
    states = adapt(source())
    next(states)
    assert not source.closed
    states.close()
    assert source.closed


@every_adaptor
def test_an_error_downstream_closes_the_source(adapt):
    source = Source()
    states = adapt(source())
    next(states)
    with pytest.raises(RuntimeError, match="downstream"):
        states.throw(RuntimeError("downstream"))
    assert source.closed


@every_adaptor
def test_a_finished_adaptor_has_finished_its_source(adapt):
    source = Source()
    assert list(adapt(source()))[-1].stop is Stop.COMPLETED
    assert source.closed


@every_adaptor
def test_adaptors_take_iterables_that_cannot_be_closed(adapt):
    assert list(adapt(list(Source()())))[-1].step == 10


@pytest.mark.parametrize(
    ("n", "n_steps", "steps"),
    [(1, 3, [1, 2, 3]), (4, 10, [4, 8, 10]), (5, 10, [5, 10]), (9, 2, [2])],
)
def test_every_nth_state_and_the_last(n, n_steps, steps):
    assert [state.step for state in every(n, Source(n_steps)())] == steps


def test_every_passes_a_last_state_that_diverged():
    states = alternate(Counting(loss={7: math.nan}), Recording(), START, 20)
    assert [state.step for state in every(5, states)] == [5, 7]


def test_at_most_keeps_to_its_rate_and_passes_the_last(monkeypatch):
    clock = iter([0.0, 0.1, 0.2, 0.3, 0.31, 0.4, 0.5, 0.61, 0.62, 0.63])
    monkeypatch.setattr(engine, "monotonic", lambda: next(clock) + 100)
    assert [state.step for state in at_most(4, Source()())] == [1, 4, 8, 10]


def test_watched_shows_each_state_before_it_passes():
    seen: list[int] = []
    for state in watched(lambda state: seen.append(state.step), Source(3)()):
        assert seen[-1] == state.step
    assert seen == [1, 2, 3]


def test_an_error_of_the_watcher_closes_the_source():
    source = Source()

    def watch(state: State[Tensor]) -> None:
        raise RuntimeError("watcher")

    with pytest.raises(RuntimeError, match="watcher"):
        list(watched(watch, source()))
    assert source.closed


def test_values_of_a_generator_are_changed_one_by_one_and_its_result_is_not():
    asked = []

    def counting():
        for number in range(3):
            asked.append(number)
            yield number
        return "all"

    values = mapped(counting(), lambda number: 10 * number)
    assert next(values) == 0
    assert asked == [0]
    assert returned(values) == "all"
    assert list(mapped(counting(), lambda number: 10 * number)) == [0, 10, 20]


def test_who_closes_changed_values_closes_the_generator():
    source = iter(number for number in range(3))
    values = mapped(source, lambda number: 10 * number)
    next(values)
    values.close()
    assert list(source) == []


def test_of_a_kernel_that_settles_no_state_is_one_of_every_few_steps():
    tensor = torch.zeros(1)
    settles = State(0, 9, tensor, tensor, math.nan, math.nan, searching=True)
    steps = [State(step, 9, tensor, tensor, 1.0, 1.0) for step in range(1, 10)]
    assert [state.step for state in every(3, [settles, settles, *steps])] == [3, 6, 9]
