"""What is said while a run is under way."""

import pytest

from napari_dkp._napari.progress import Progress, Watch
from napari_dkp.state import State


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def state(step, n_steps, own_step, own_steps, **options):
    return State(
        step=step,
        n_steps=n_steps,
        image=None,
        kernel=None,
        loss=0.0,
        residual=0.0,
        own_step=own_step,
        own_steps=own_steps,
        **options,
    )


def follow(progress, clock, states, seconds=1.0):
    for each in states:
        clock.now += seconds
        progress.take(each)
    return str(progress)


def test_a_plane_of_a_stack_its_steps_and_the_time_of_all(clock):
    progress = Progress(Watch(clock), 4, shared=True)
    planes = [(n,) for n in range(4)]
    steps = [
        state(10 * n + own, 40, own, 10, plane=plane, done=own == 10)
        for n, plane in enumerate(planes)
        for own in range(1, 11)
    ]
    assert follow(progress, clock, steps[:1]) == "Plane 1 of 4, step 1 of 10"
    assert follow(progress, clock, steps[1:25]) == "Plane 3 of 4, step 5 of 10, about 15 s left"


def test_time_in_which_a_kernel_settles_is_not_that_of_steps(clock):
    progress = Progress(Watch(clock), 1, shared=True)
    settling = [state(0, 10, 0, 10, searching=True) for _ in range(4)]
    expected = "Finding the kernel: step 0 of 10"
    assert follow(progress, clock, settling, seconds=100.0) == expected
    steps = [state(own, 10, own, 10, searching=True) for own in range(1, 5)]
    expected = "Finding the kernel: step 4 of 10, about 6 s left"
    assert follow(progress, clock, steps) == expected


def test_planes_that_are_restored_together_are_named_together(clock):
    progress = Progress(Watch(clock), 7, shared=True)
    first = [state(own, 15, own, 5, together=4, plane=(0,)) for own in range(1, 5)]
    assert follow(progress, clock, first).startswith("Planes 1 to 4 of 7, step 4 of 5")
    done = [state(5, 15, 5, 5, together=4, plane=(n,), done=True) for n in range(4)]
    assert follow(progress, clock, done[:2], 0).startswith("Planes 1 to 4 of 7, step 5 of 5")
    follow(progress, clock, done[2:], 0)
    rest = state(6, 10, 1, 5, together=3, plane=(4,))
    assert follow(progress, clock, [rest]).startswith("Planes 5 to 7 of 7, step 1 of 5")


def test_no_time_is_told_from_a_search_that_says_nothing_of_what_follows(clock):
    progress = Progress(Watch(clock), 40, 3, shared=True)
    search = [state(own, 4160, own, 160, searching=True) for own in range(1, 31)]
    assert follow(progress, clock, search) == "Finding the kernel of channel 1 of 3: step 30 of 160"
    # It ends early, and what is found makes the plan shorter.
    clock.now += 100
    restored = [state(160 + own, 560, own, 10) for own in range(1, 5)]
    said = follow(progress, clock, restored, 0.5)
    assert said == "Plane 1 of 40, step 4 of 10, about 3 min left"


def test_the_kernel_of_one_plane(clock):
    progress = Progress(Watch(clock), 1, shared=True)
    search = [state(own, 40, own, 40, searching=True) for own in range(1, 11)]
    assert follow(progress, clock, search) == "Finding the kernel: step 10 of 40, about 30 s left"
    progress = Progress(Watch(clock), 3, shared=False)
    search = [state(own, 120, own, 40, searching=True) for own in range(1, 11)]
    assert follow(progress, clock, search) == "Plane 1 of 3, finding the kernel: step 10 of 40"


def test_pauses_count_neither_as_time_gone_nor_as_time_left(clock):
    watch = Watch(clock)
    progress = Progress(watch, 1, shared=True)
    follow(progress, clock, [state(own, 30, own, 30) for own in range(1, 11)])
    with watch.halted():
        clock.now += 1000
    assert follow(progress, clock, [state(11, 30, 11, 30)]) == "Step 11 of 30, about 19 s left"
    assert watch.elapsed == 11


def test_what_was_measured_before_the_plan_changed_is_forgotten(clock):
    progress = Progress(Watch(clock), 1, shared=True)
    follow(progress, clock, [state(own, 30, own, 30) for own in range(1, 11)])
    assert follow(progress, clock, [state(11, 40, 1, 30, note="Memory ran out.")]).endswith("30")
    slower = [state(10 + own, 40, own, 30) for own in range(2, 11)]
    assert follow(progress, clock, slower, 3.0).endswith("about 60 s left")
