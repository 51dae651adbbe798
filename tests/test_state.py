"""States whose arrays are made when they are looked at."""

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest

from napari_dkp.state import State, Stop, Unfetched

IMAGE, KERNEL = np.ones((4, 5)), np.full((3, 3), 1 / 9)
REPORT = "a report"
NOTE = "a note"


class Source:
    """Hands out the arrays and counts how often."""

    calls = 0

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        Source.calls += 1
        return IMAGE, KERNEL


@pytest.fixture
def state(monkeypatch) -> State[np.ndarray]:
    monkeypatch.setattr(Source, "calls", 0)
    return Unfetched.of(
        Source(),
        step=2,
        n_steps=7,
        loss=0.5,
        residual=0.25,
        stop=Stop.RUNNING,
        plane=(1,),
        searching=True,
        report=REPORT,
        done=True,
        note=NOTE,
    )


def test_numbers_do_not_fetch_and_arrays_fetch_once(state):
    assert isinstance(state, State)
    assert (state.step, state.n_steps, state.loss, state.residual) == (2, 7, 0.5, 0.25)
    assert (state.stop, state.plane, state.searching) == (Stop.RUNNING, (1,), True)
    assert state.report is REPORT
    assert (state.done, state.note) == (True, NOTE)
    assert Source.calls == 0
    for _ in range(2):
        assert state.kernel is KERNEL
        assert state.image is IMAGE
    assert Source.calls == 1


def test_what_is_fetched_lets_go_of_its_source(state):
    assert state._fetch is not None
    assert state.image is IMAGE
    assert state._fetch is None


@pytest.mark.parametrize(
    "handled",
    [lambda state: replace(state, step=2), copy.copy, lambda s: pickle.loads(pickle.dumps(s))],
)
def test_it_is_handled_like_any_state(state, handled):
    again = handled(state)
    np.testing.assert_array_equal(again.image, IMAGE)
    np.testing.assert_array_equal(again.kernel, KERNEL)
    assert (again.step, again.n_steps, again.plane, again.searching) == (2, 7, (1,), True)
    assert again.report == REPORT
    assert (again.done, again.note) == (True, NOTE)
    assert asdict(again).keys() == asdict(state).keys()
    assert repr(again) == repr(state)


def test_it_cannot_be_written_to(state):
    for name in ("image", "step"):
        with pytest.raises(FrozenInstanceError):
            setattr(state, name, 3)


def test_a_source_that_fails_is_asked_again(state):
    """No field is lost, and no other error hides why."""

    def broken() -> tuple[np.ndarray, np.ndarray]:
        raise RuntimeError("out of memory")

    unfetched = Unfetched.of(broken, step=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            _ = unfetched.image
    with pytest.raises(AttributeError, match="colour"):
        _ = state.colour
