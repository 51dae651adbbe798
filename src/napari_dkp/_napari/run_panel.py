"""What is said of a run, and the buttons that steer it."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

_PROBLEM_STYLE = "color: #e5695f;"


class RunPanel(QWidget):
    """What a run would be, buttons, progress during it, and what came out.

    Attributes
    ----------
    restore, pause, stop : buttons.
    estimate, status, report : labels.
    """

    paused = Signal()
    resumed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.estimate = QLabel()
        self.restore = QPushButton("Restore")
        self.pause = QPushButton()
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("Stop and keep what has been reached.")
        self.status = QLabel()
        self.report = QLabel()
        self.report.setToolTip(
            "What was chosen for the image, and what there is to trust in the result."
        )
        self._is_paused = False
        self.pause.clicked.connect(self._toggle)
        self._arrange()
        self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Offer what can be done now."""
        self.restore.setEnabled(not running)
        self.pause.setEnabled(running)
        self.stop.setEnabled(running)
        # Else everything moves whenever what is said takes a second line.
        self.status.setMinimumHeight(2 * self.fontMetrics().lineSpacing() if running else 0)
        self._show_paused(False)

    def show_stopping(self) -> None:
        """Offer nothing until the run has ended."""
        self.pause.setEnabled(False)
        self.stop.setEnabled(False)

    def say(self, text: str, *, problem: bool = False) -> None:
        """Say how the run goes, or why there is none."""
        self.status.setText(text)
        self.status.setStyleSheet(_PROBLEM_STYLE if problem else "")

    def say_cost(self, text: str, *, problem: bool = False) -> None:
        """Say what a run would cost, or why there cannot be one."""
        self.estimate.setText(text)
        self.estimate.setStyleSheet(_PROBLEM_STYLE if problem else "")

    def tell(self, *texts: str) -> None:
        """Say what there is to know of the result."""
        found = "\n".join(text for text in texts if text)
        self.report.setText(found)
        self.report.setVisible(bool(found))

    def _toggle(self) -> None:
        self._show_paused(not self._is_paused)
        (self.paused if self._is_paused else self.resumed).emit()

    def _show_paused(self, paused: bool) -> None:
        self._is_paused = paused
        self.pause.setText("Resume" if paused else "Pause")
        self.pause.setToolTip(
            "Go on from where the run is." if paused else "Halt the run, to go on with it later."
        )

    def _arrange(self) -> None:
        buttons = QWidget()
        row = QHBoxLayout(buttons)
        row.setContentsMargins(0, 0, 0, 0)
        for button, width in ((self.restore, 2), (self.pause, 1), (self.stop, 1)):
            row.addWidget(button, width)
        for label in (self.estimate, self.status, self.report):
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.report.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        for part in (self.estimate, buttons, self.status, self.report):
            layout.addWidget(part)
