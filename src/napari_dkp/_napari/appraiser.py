"""What a run will cost, found out beside the viewer's thread."""

import logging
from dataclasses import dataclass

from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import FunctionWorker

from napari_dkp._napari.source import Source
from napari_dkp.config import Settings
from napari_dkp.layout import Layout

_log = logging.getLogger(__name__)

_PATIENCE_MS = 300


@dataclass(frozen=True)
class Appraisal:
    """Devices, and the cost of a run on one of them.

    Attributes
    ----------
    devices : what to call each device, by its name as in `Settings.device`.
    cost : a sentence, or "" if no run was asked for.
    problem : why the run is impossible or unwise, or "".
    """

    devices: dict[str, str]
    cost: str = ""
    problem: str = ""


class Appraiser(QObject):
    """Answers the last question asked once nobody has asked for a moment."""

    found = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._question: tuple[Source | None, Settings, bool] | None = None
        self._busy = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PATIENCE_MS)
        self._timer.timeout.connect(self._work)

    def ask(self, source: Source | None, settings: Settings, *, known_kernel: bool = False) -> None:
        """Ask for the cost of a run on a source, or, without one, for the devices alone."""
        self._question = source, settings, known_kernel
        self._timer.start()

    def _work(self) -> None:
        if self._busy or self._question is None:
            return
        self._busy = True
        question = self._question
        self._question = None
        worker: FunctionWorker[Appraisal] = FunctionWorker(appraise, *question)
        worker.returned.connect(self._answer)
        worker.errored.connect(self._give_up)
        worker.start()

    def _give_up(self, error: Exception) -> None:
        """Stay able to answer the next question."""
        self._busy = False
        _log.warning("No estimate of a run's cost", exc_info=error)

    def _answer(self, appraisal: Appraisal) -> None:
        self._busy = False
        if self._question is None:
            self.found.emit(appraisal)
        else:
            self._timer.start()


def appraise(source: Source | None, settings: Settings, known_kernel: bool = False) -> Appraisal:
    """Return devices and cost; whatever is wrong with the question is the problem found."""
    try:
        from napari_dkp.choice import choose
        from napari_dkp.device import (
            available_devices,
            describe_device,
            free_memory,
            resolve_device,
        )
        from napari_dkp.estimate import estimate

        chosen = resolve_device("auto")
        devices = {"auto": f"Automatic ({chosen.type.upper()})"}
        for name in available_devices():
            devices[name] = f"{describe_device(name)}, {size(free_memory(name))} free"
    except (ImportError, OSError, RuntimeError) as error:
        return Appraisal({}, problem=f"PyTorch could not be loaded: {error}")
    if source is None:
        return Appraisal(devices)
    try:
        device = resolve_device(settings.device)
        layout = Layout(source.axes, source.shape, source.spatial)
        channel = layout.channel(layout.middle)
        settings = settings if settings.volume else settings.of_channel(channel)
        settings = choose(source.sample, settings, known_kernel=known_kernel).settings
        settings = settings.of_channel(channel)
        cost = estimate(source.shape, settings, device=str(device), known_kernel=known_kernel)
        free = free_memory(device)
    except (ValueError, TypeError, RuntimeError) as error:
        return Appraisal(devices, problem=str(error))
    sentence = f"{duration(cost.seconds)}, {size(cost.memory)} of {size(free)} free memory"
    problem = ""
    if cost.memory > free:
        problem = (
            f"This needs {size(cost.memory)} of memory and {size(free)} are free: choose a region "
            "or another device."
        )
    return Appraisal(devices, sentence, problem)


def duration(seconds: float) -> str:
    """Write a time as a person says it."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Write a number of bytes as a person says it."""
    if count < 1e9:
        return f"{max(1, round(count / 1e6))} MB"
    return f"{count / 1e9:.3g} GB"
