"""Jobs in a thread of their own, one at a time."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from napari.qt.threading import create_worker
from superqt.utils import GeneratorWorker

from napari_dkp._napari.work import Work

BUSY = "A restoration is running already. Stop it, or wait until it is done."

Slot = Callable[..., Any]


class Busy(Exception):
    """Another run is under way; one at a time has the device."""


class _Task(partial[Generator[Any, None, Any]]):
    """Tells napari what is under way; it names its workers' functions when it asks to close."""

    job: Work

    def __str__(self) -> str:
        return f"the restoration of {self.job.name!r}"


class _Worker(GeneratorWorker[Any, None, Any]):
    """A worker whose job may be paused; not napari's own, which shows every error a second time."""

    def __init__(self, task: _Task, **options: Any) -> None:
        super().__init__(task, **options)
        self._job = task.job

    def quit(self) -> None:
        """End at the next yield, which a job that is paused has to come to first."""
        super().quit()
        self._job.leave()


_active: Work | None = None


def start(job: Work, *, finished: Sequence[Slot], **connect: Slot) -> None:
    """Run a job in a thread; call from the viewer's.

    Parameters
    ----------
    finished : slots to call in every case once the thread is done and its memory is free.
    **connect : slots for the worker's other signals: `yielded`, `returned`, `errored`.

    Raises
    ------
    Busy
        If another job is under way, in whatever widget or viewer.
    """
    global _active
    if _active is not None:
        raise Busy(BUSY)
    _active = job
    task = _Task(job.events)
    task.job = job
    create_worker(
        task,
        _worker_class=_Worker,
        _ignore_errors=True,
        _connect={**connect, "finished": [_release, *finished]},
    )


def _release() -> None:
    global _active
    if _active is not None:
        _active.release()
        _active = None
