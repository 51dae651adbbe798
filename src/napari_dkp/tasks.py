"""What the tasks of a cluster do: find what planes have in common, and restore some planes."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import psutil
import torch

from napari_dkp import memory
from napari_dkp.config import Settings
from napari_dkp.layout import Index, Layout
from napari_dkp.plan import Plan
from napari_dkp.stack import Run
from napari_dkp.state import Stop

Value = TypeVar("Value")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """What all tasks of a restoration have in common.

    Attributes
    ----------
    settings : with nothing left "auto" that the image decides.
    layout : of the image.
    dtype : of the image.
    kernel : known PSF, shape (*K,), or None.
    plans : per channel, what was found in this process: who asks again for other planes, as a
        viewer does, need not wait for it a second time.
    """

    settings: Settings
    layout: Layout
    dtype: np.dtype
    kernel: np.ndarray | None
    plans: dict[int, Plan | None] = field(default_factory=dict)

    def run(self, numbers: Sequence[int], planes: Any, room: int | None) -> Run:
        """Return the run of which a task is a part.

        Parameters
        ----------
        numbers : of the planes that are at hand, as the layout counts them.
        planes : these, each with all axes of the image; or an array that has all of them.
        room : bytes of memory that may be taken.
        """
        image = planes
        if isinstance(planes, list):
            indices = [self.layout.planes[number] for number in numbers]
            only = self.layout.where((0,) * len(self.layout.looped))
            at_hand = {i: plane[only] for i, plane in zip(indices, planes, strict=True)}
            image = _SomePlanes(self.layout.shape, self.dtype, at_hand)
        return Run(image, self.settings, self.kernel, keep=False, memory=room)


class Restored(NamedTuple):
    """A plane that is restored.

    Attributes
    ----------
    image : float32, with all axes of the image, those along which planes lie of length 1.
    kernel : float32, shape (1 ..., *K), likewise.
    """

    image: np.ndarray
    kernel: np.ndarray


class Held(Generic[Value]):
    """What a task returns, closed to dask, which looks for tasks in lists and dataclasses.

    So it would with results that napari remembers and puts in the place of their tasks.
    """

    def __init__(self, value: Value) -> None:
        self.value = value


def find_plan(job: Job, channel: int, numbers: list[int], planes: Any) -> Held[Plan | None]:
    """Find what the planes of a channel have in common, in those that `sharing.looked_at` names.

    Parameters
    ----------
    job, numbers, planes : see `Job.run`.
    channel : to find it for.
    """
    with _turn() as room:
        if channel not in job.plans:
            job.plans[channel] = job.run(numbers, planes, room).find_plan(channel)
        return Held(job.plans[channel])


def restore_planes(
    job: Job, channel: int, numbers: list[int], planes: Any, plan: Held[Plan | None] | None
) -> Held[list[Restored]]:
    """Restore planes that are restored together.

    Parameters
    ----------
    job, numbers, planes : see `Job.run`.
    channel : of these planes.
    plan : of their channel; None where none is sought.
    """
    with _turn() as room:
        run = job.run(numbers, planes, room)
        run.plans[channel] = plan.value if plan else None
        indices = [run.layout.planes[number] for number in numbers]
        found = {}
        for state in run.iterate(done=set(run.layout.planes).difference(indices)):
            if state.note or state.stop is Stop.DIVERGED:
                _log.warning("planes %s: %s", indices, state.note or state.stop.sentence)
            if state.done:
                found[state.plane] = state.image, state.kernel
    looped = run.layout.looped
    at = tuple(axis for axis, letter in enumerate(run.layout.axes) if letter in looped)
    ahead = tuple(range(len(looped)))
    return Held(
        [
            Restored(np.expand_dims(image, at), np.expand_dims(kernel, ahead))
            for image, kernel in (found[index] for index in indices)
        ]
    )


def image_of(restored: Held[list[Restored]], number: int) -> np.ndarray:
    """Return the image of one of some planes."""
    return restored.value[number].image


def kernel_of(restored: Held[list[Restored]], number: int) -> np.ndarray:
    """Return the kernel of one of some planes."""
    return restored.value[number].kernel


@dataclass(frozen=True, eq=False)
class _SomePlanes:
    """An image of which a task has only some planes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    planes: dict[Index, np.ndarray]

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        return self.planes[tuple(number for number in where if isinstance(number, int))]


# Two restorations at a time would take twice the memory, and threads from each other.
_lock = Lock()


@contextmanager
def _turn() -> Iterator[int | None]:
    """Wait until no other task of this process restores; yield the memory that there then is.

    Workers of `distributed` are started with one thread for each library, whatever number of
    cores they are given, and with a limit to their memory: both are for the task alone.
    """
    with _lock:
        worker = _worker()
        if worker is None:
            yield None
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(worker.state.nthreads)
        try:
            with memory.untrimmed():
                yield _left(worker.memory_manager.memory_limit)
        finally:
            torch.set_num_threads(threads)


def _worker() -> Any:
    """Return the worker of `distributed` that this task runs on; None elsewhere."""
    distributed: Any = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def _left(limit: int | None) -> int | None:
    """Return the bytes that a limit of this process leaves."""
    return limit and max(0, limit - int(psutil.Process().memory_info().rss))
