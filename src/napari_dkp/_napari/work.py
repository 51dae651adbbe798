"""What is done in a thread of its own: it can be paused and stopped, and fails in one sentence."""

import logging
import sys
import traceback
from collections.abc import Generator
from threading import Event
from typing import Any

from napari_dkp.device import is_out_of_memory

_log = logging.getLogger(__name__)


class RunFailed(Exception):
    """Why a run ended without a result, in one sentence.

    No RuntimeError: superqt's generator workers swallow those, and never report an end.
    """


class Work:
    """Steps that are steered from the thread of the viewer and done in another.

    Parameters
    ----------
    name : of what is restored.
    device : of the settings.
    steps : yields what there is to show, None where there is nothing, and returns the result.
    """

    def __init__(self, name: str, device: str, steps: Generator[Any, None, Any]) -> None:
        self.name = name
        self._device = device
        self._stop = Event()
        self._left = False
        self._goes_on = Event()
        self._goes_on.set()
        # What is large lives in this generator alone: napari keeps every worker it ever had.
        self._steps = steps

    @property
    def is_paused(self) -> bool:
        """Whether the run waits, or will after its present step."""
        return not self._goes_on.is_set()

    @property
    def is_ending(self) -> bool:
        """Whether the run ends after its present step."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the run after its present step; what it has reached is its result."""
        self._stop.set()
        self._goes_on.set()

    def leave(self) -> None:
        """End the run after its present step, where nobody has asked for what it has reached.

        What lies in a file is then left for another run to go on with.
        """
        if not self._stop.is_set():
            self._left = True
        self.stop()

    def pause(self) -> None:
        """Wait after the present step until the run is resumed or stopped."""
        if not self._stop.is_set():
            self._goes_on.clear()

    def resume(self) -> None:
        """Go on."""
        self._goes_on.set()

    def events(self) -> Generator[Any, None, Any]:
        """Yield what there is to show, None where there is nothing, and return the result.

        Raises
        ------
        RunFailed
            Whatever went wrong, as a sentence.
        """
        try:
            return (yield from self._steps)
        except Exception as error:
            failure = RunFailed(explain(error, self._device))
            # A traceback would keep the run's tensors alive.
            traceback.clear_frames(error.__traceback__)
        raise failure

    def release(self) -> None:
        """Free what an interrupted run still holds; only once its thread is done."""
        self._steps.close()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch is not None and torch.backends.mps.is_available():
            torch.mps.empty_cache()


class UnderWay:
    """The work of a widget; outlives it, so that it can be stopped when the widget goes."""

    job: Work | None = None

    def stop(self, _: Any = None) -> None:
        """End what is under way, if anything is."""
        if self.job is not None:
            self.job.stop()

    def leave(self, _: Any = None) -> None:
        """End what is under way, if anything is, where nobody is there for its result."""
        if self.job is not None:
            self.job.leave()


def explain(error: Exception, device: str) -> str:
    """Return one sentence for the user; the traceback of what nobody foresaw goes to the log."""
    text = str(error).strip()
    if is_out_of_memory(error):
        where = "" if device == "auto" else f" on {device}"
        return f"There is not enough memory{where}: choose a smaller region or another device."
    if isinstance(error, ValueError | TypeError):
        return text
    _log.error("A restoration failed", exc_info=error)
    if isinstance(error, ImportError | OSError) and "torch" not in sys.modules:
        return (
            f"PyTorch could not be loaded ({_first_line(text)}). On Windows, start Python, import "
            "torch first and open napari from there."
        )
    return f"The run failed: {_first_line(text) or type(error).__name__}."


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].rstrip(".")
