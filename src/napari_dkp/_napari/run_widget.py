"""What widgets that run something have in common: buttons, one run at a time, problems said."""

from collections.abc import Sequence

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from napari_dkp._napari import worker
from napari_dkp._napari.run_panel import RunPanel
from napari_dkp._napari.work import RunFailed, UnderWay, Work


class RunWidget(QWidget):
    """A widget with a panel whose buttons pause and stop what is under way.

    Parameters
    ----------
    panel : not yet in a layout.
    """

    panel: RunPanel

    def __init__(self, panel: RunPanel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.panel = panel
        self._running = UnderWay()
        panel.paused.connect(self.pause)
        panel.resumed.connect(self.resume)
        panel.stop.clicked.connect(self.stop)
        # Not a method of this widget, which is gone by then.
        self.destroyed.connect(self._running.leave)

    def pause(self) -> None:
        """Halt the run after its present step."""
        if self._running.job is not None:
            self._running.job.pause()
            self.panel.say("Pausing …")

    def resume(self) -> None:
        """Go on with a run that was halted."""
        if self._running.job is not None:
            self._running.job.resume()
            self.panel.say("Going on …")

    def stop(self) -> None:
        """End the run after its present step and keep what it has reached."""
        self._running.stop()
        self.panel.show_stopping()
        self.panel.say("Stopping …")

    def event(self, event: QEvent | None) -> bool:
        """Stop the run when the widget is taken out of the viewer."""
        if event is not None and event.type() == QEvent.Type.ParentChange and not self.parent():
            self._running.stop()
        return bool(super().event(event))

    def _begin(
        self,
        job: Work,
        *,
        yielded: worker.Slot,
        returned: worker.Slot,
        finished: Sequence[worker.Slot],
    ) -> bool:
        """Start a job; where another one is under way, say so and return False."""
        try:
            worker.start(
                job, yielded=yielded, returned=returned, errored=self._fail, finished=finished
            )
        except worker.Busy as busy:
            self.panel.say(str(busy), problem=True)
            show_info(str(busy))
            return False
        self._running.job = job
        return True

    def _fail(self, error: Exception) -> None:
        self._show_problem(
            str(error) if isinstance(error, RunFailed) else f"The run failed: {error}"
        )

    def _show_problem(self, sentence: str) -> None:
        self.panel.say(sentence, problem=True)
        show_error(sentence)
