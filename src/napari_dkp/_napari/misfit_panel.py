"""The panel of a run that is watched step by step."""

from napari_dkp._napari.curve_plot import Curve, CurvePlot
from napari_dkp._napari.run_panel import RunPanel


class MisfitPanel(RunPanel):
    """Cost, buttons and progress of a run, and its misfit over steps.

    Attributes
    ----------
    plot : misfit over steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plot = CurvePlot("Misfit to the image", "appears when the restoration begins")
        self.plot.setToolTip(
            "How far the restored image, blurred again, is from the image: root mean square, in "
            "the image's intensity units."
        )
        self._residuals: list[float] = []
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self.plot)

    def clear(self) -> None:
        """Forget the last run."""
        self._residuals = []
        self.plot.clear()
        self.tell("")

    def add_residuals(self, residuals: tuple[float, ...]) -> None:
        """Plot further steps."""
        self._residuals += residuals
        steps = range(1, len(self._residuals) + 1)
        self.plot.set_curves(Curve(steps, self._residuals), x_label="step")
