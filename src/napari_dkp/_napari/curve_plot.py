"""A small line plot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

# As far as labels beside the plot are set in.
_INSET = 5

COLOURS = ("#f0a848", "#59b3e6")
"""Orange and blue that stand out on dark and light, also for colour-blind eyes."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Points to connect, shape (n,) each, and what the legend calls them ("" for no legend)."""

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    name: str = ""


class CurvePlot(QWidget):
    """Curves over a common frame, with the ends of both axes written out.

    Parameters
    ----------
    title : stands above the frame.
    empty : stands in the frame while there is nothing to plot.
    """

    def __init__(self, title: str, empty: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self._empty = empty
        self._x_label = ""
        self._x_range: tuple[float, float] | None = None
        self._curves: tuple[Curve, ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Return the size that shows a curve's course and no more."""
        return QSize(220, 7 * self.fontMetrics().height())

    @property
    def curves(self) -> tuple[Curve, ...]:
        """What is plotted."""
        return self._curves

    def set_curves(
        self, *curves: Curve, x_label: str, x_range: tuple[float, float] | None = None
    ) -> None:
        """Plot curves; those of fewer than two points wait."""
        self._curves = tuple(curve for curve in curves if len(curve.x) > 1)
        self._x_label = x_label
        self._x_range = x_range
        self.update()

    def clear(self) -> None:
        """Show that there is nothing yet."""
        self.set_curves(x_label="")

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw frame, curves and the ends of the axes."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        faint = QColor(text)
        faint.setAlpha(90)
        line = self.fontMetrics().height()
        frame = QRectF(0.5, line + 3.5, self.width() - 1, self.height() - 2 * line - 7)
        painter.setPen(text)
        painter.drawText(
            QRectF(_INSET, 0, self.width(), line), Qt.AlignmentFlag.AlignLeft, self._title
        )
        painter.setPen(faint)
        painter.drawRoundedRect(frame, 3, 3)
        if not self._curves:
            painter.drawText(frame, Qt.AlignmentFlag.AlignCenter, self._empty)
            return
        x = np.concatenate([np.asarray(curve.x, float) for curve in self._curves])
        y = np.concatenate([np.asarray(curve.y, float) for curve in self._curves])
        left, right = self._x_range or (float(x.min()), float(x.max()))
        low, high = min(0.0, float(y.min())), float(y.max()) or 1.0
        inner = frame.adjusted(6, 6, -6, -6)

        def place(px: np.ndarray, py: np.ndarray) -> QPolygonF:
            across = inner.left() + (px - left) / (right - left) * inner.width()
            down = inner.bottom() - (py - low) / (high - low) * inner.height()
            return QPolygonF([QPointF(a, b) for a, b in zip(across, down, strict=True)])

        legend = inner.top() + line - 4
        for curve, colour in zip(self._curves, COLOURS, strict=False):
            stride = max(1, len(curve.x) // max(1, int(inner.width())))
            xs = np.asarray(curve.x, float)[::-stride][::-1]
            ys = np.asarray(curve.y, float)[::-stride][::-1]
            painter.setPen(QPen(QColor(colour), 1.8))
            painter.drawPolyline(place(xs, ys))
            width = self.fontMetrics().horizontalAdvance(curve.name)
            painter.drawText(QPointF(inner.right() - width, legend), curve.name)
            legend += line
        painter.setPen(faint)
        below = QRectF(0, frame.bottom() + 2, self.width(), line)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, f"{left:.4g}")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"{right:.4g}")
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, self._x_label)
        above = QRectF(0, 0, self.width(), line)
        painter.drawText(above, Qt.AlignmentFlag.AlignRight, f"{low:.3g} to {high:.3g}")
