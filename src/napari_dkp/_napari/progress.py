"""How far a run is, and how long it will take, in words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from napari_dkp._napari.appraiser import duration
from napari_dkp.state import State


class Watch:
    """Seconds since it was made, pauses left out."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds by now."""
        return self._clock() - self._began

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Leave out what is waited for meanwhile."""
        began = self._clock()
        yield
        self._began += self._clock() - began


class Progress:
    """Follows the states of a run; what it tells of the time left was measured in this run.

    Parameters
    ----------
    watch : of the run.
    n_planes, n_channels : to be restored; channels with kernels of their own.
    shared : whether planes share their kernel.
    each : what the planes are called: of three axes, they are volumes.
    before : planes that were done before the run.
    """

    def __init__(
        self,
        watch: Watch,
        n_planes: int,
        n_channels: int = 1,
        *,
        shared: bool,
        each: str = "plane",
        before: int = 0,
    ) -> None:
        self._watch = watch
        self._n_planes = n_planes
        self._n_channels = n_channels
        self._shared = shared
        self._each = each
        self._paces = {True: _Pace(), False: _Pace()}
        self._before = self._n_done = before
        self._at: float | None = None
        self._state: State[Any] | None = None

    def take(self, state: State[Any], channel: int = 0) -> None:
        """Note a state of a plane of some channel."""
        if state.note:
            # Other tiles, or another device: what was measured no longer holds.
            self._paces = {True: _Pace(), False: _Pace()}
            self._at = None
        now = self._watch.elapsed
        before = self._state
        # Between a search and what follows it, things are set up once.
        if before is not None and self._at is not None and before.searching is state.searching:
            # By the plan: restorations that end early count as all their steps.
            # What is no step, a kernel that settles, says nothing of how long steps take.
            if steps := state.step - before.step:
                self._paces[state.searching].add(steps, now - self._at, state.own_steps)
        self._at = now
        self._state, self._channel = state, channel
        if state.together == 1 or not state.done:
            self._before = self._n_done
        self._n_done += state.done

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run is done; None as long as nothing alike was measured."""
        state = self._state
        if state is None:
            return None
        here, there = self._paces[state.searching].seconds, self._paces[False].seconds
        own = max(0, state.own_steps - state.own_step)
        later = max(0, state.n_steps - state.step - own)
        if here is None or (later and there is None):
            return None
        return own * here + later * (there or 0.0)

    def __str__(self) -> str:
        state = self._state
        if state is None:
            return ""
        seconds = self.seconds_left
        left = "" if seconds is None else f", {duration(seconds)} left"
        step = f"step {state.own_step} of {state.own_steps}"
        if not state.searching:
            return _capital(f"{self._planes}{step}{left}")
        if self._shared or self._n_planes == 1:
            of = f" of channel {self._channel + 1} of {self._n_channels}"
            return f"Finding the kernel{of if self._n_channels > 1 else ''}: {step}{left}"
        return _capital(f"{self._planes}finding the kernel: {step}{left}")

    @property
    def _planes(self) -> str:
        if self._n_planes == 1 or self._state is None:
            return ""
        first, last = self._before + 1, self._before + self._state.together
        if first == last:
            return f"{self._each} {first} of {self._n_planes}, "
        return f"{self._each}s {first} to {last} of {self._n_planes}, "


class _Pace:
    """Seconds per step, of about as many steps as were last made for one plane."""

    def __init__(self) -> None:
        self._steps = 0.0
        self._time = 0.0

    def add(self, steps: int, seconds: float, memory: int) -> None:
        kept: float = 0.5 ** (steps / max(memory, _FEWEST))
        self._steps = kept * self._steps + steps
        self._time = kept * self._time + seconds

    @property
    def seconds(self) -> float | None:
        return self._time / self._steps if self._steps >= _ENOUGH else None


# Steps by which a pace is known, however few a plane takes.
_FEWEST = 20
_ENOUGH = 2


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
