"""A widget that shows a blur kernel: its picture, its size in physical units, its profiles."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QLineF, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_dkp._napari.curve_plot import COLOURS, Curve, CurvePlot
from napari_dkp._napari.form import MARGIN
from napari_dkp._napari.layers import METADATA_KEY
from napari_dkp.kernel_shape import KernelShape, Profile, measure

if TYPE_CHECKING:
    from napari.viewer import Viewer

MAX_TAPS = 255
_HINT = "Select a kernel layer: the one that a restoration has made, or a measured PSF."


class KernelInspector(QWidget):
    """Shows the kernel layer that is selected, or that a restoration has just added."""

    def __init__(self, napari_viewer: "Viewer", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._layer: Image | None = None
        self.picture = KernelPicture()
        self.name = QLabel()
        self.values = {title: QLabel() for title in _TITLES}
        self.profile = CurvePlot("Profile", "")
        self.hint = QLabel(_HINT)
        self.name.setWordWrap(True)
        self.hint.setWordWrap(True)

        table = QVBoxLayout()
        table.setSpacing(1)
        for title, label in self.values.items():
            heading = QLabel(title)
            heading.setStyleSheet("font-size: 10px;")
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            for part in (heading, label):
                part.setToolTip(_TITLES[title])
                table.addWidget(part)
            table.addSpacing(5)
        table.addStretch()
        self._found = QWidget()
        found = QGridLayout(self._found)
        found.setContentsMargins(0, 0, 0, 0)
        found.setHorizontalSpacing(12)
        found.setVerticalSpacing(8)
        found.setColumnStretch(1, 1)
        found.addWidget(self.name, 0, 0, 1, 2)
        found.addWidget(self.picture, 1, 0)
        found.addLayout(table, 1, 1)
        found.addWidget(self.profile, 2, 0, 1, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.addWidget(self._found)
        layout.addWidget(self.hint)
        layout.addStretch()

        layers = napari_viewer.layers
        layers.selection.events.active.connect(self._follow_selection)
        layers.events.inserted.connect(self._follow_run)
        layers.events.removed.connect(self._drop)
        napari_viewer.dims.events.current_step.connect(self.refresh)
        self._show(None)
        for layer in (layers.selection.active, *reversed(layers)):
            if self._layer is None and (layer is layers.selection.active or _is_kernel(layer)):
                self._show(layer)

    @property
    def layer(self) -> Image | None:
        """The layer shown."""
        return self._layer

    def refresh(self) -> None:
        """Measure the kernel again and show what was found."""
        if self._layer is None:
            return
        kernel = _plane(self._layer, self._viewer)
        height, width = (float(length) for length in np.abs(self._layer.scale[-2:]))
        spacing = (height, width)
        try:
            shape = measure(kernel, spacing)
        except (ValueError, TypeError) as error:
            self.hint.setText(str(error))
            self._set_found(False)
            return
        unit = f"{self._layer.units[-1]:~P}"
        self.name.setText(f"<b>{self._layer.name}</b>")
        self.picture.show_kernel(kernel, shape, spacing)
        texts = (
            f"{shape.fwhm[0]:.3g} {unit}",
            f"{shape.fwhm[1]:.3g} {unit}",
            f"{round(shape.angle)}°",
            " × ".join(f"{length:.4g}" for length in spacing) + f" {unit}",
        )
        for label, text in zip(self.values.values(), texts, strict=True):
            label.setText(text)
        major, minor = shape.profiles
        reach = min(2.5 * shape.fwhm[0], max(-major.positions[0], -minor.positions[0]))
        self.profile.set_curves(
            *(
                Curve(*_within(profile, reach), name)
                for profile, name in ((major, "long axis"), (minor, "short axis"))
            ),
            x_label=f"distance ({unit})",
            x_range=(-reach, reach),
        )
        self._set_found(True)

    def _follow_selection(self) -> None:
        active = self._viewer.layers.selection.active
        if _could_be_kernel(active):
            self._show(active)

    def _follow_run(self) -> None:
        newest = self._viewer.layers[-1]
        for layer in self._viewer.layers:
            if _is_kernel(layer) and layer is newest:
                self._show(layer)

    def _drop(self) -> None:
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._show(None)

    def _show(self, layer: Layer | None) -> None:
        if self._layer is not None:
            for event in _changes(self._layer):
                event.disconnect(self.refresh)
        self._layer = layer if _could_be_kernel(layer) else None
        if self._layer is None:
            self.hint.setText(_HINT)
            self._set_found(False)
            return
        for event in _changes(self._layer):
            event.connect(self.refresh)
        self.refresh()

    def _set_found(self, found: bool) -> None:
        self._found.setVisible(found)
        self.hint.setVisible(not found)


class KernelPicture(QWidget):
    """A kernel as square pixels in grey, with its principal axes as long as their widths."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._image = QImage()
        self._lines: tuple[QLineF, ...] = ()
        self._aspect = 1.0
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Return a size at which single pixels can be seen."""
        return QSize(168, 168)

    def show_kernel(
        self, kernel: np.ndarray, shape: KernelShape, spacing: tuple[float, ...]
    ) -> None:
        """Draw a kernel, shape (M, N), and what was measured of it."""
        grey = np.ascontiguousarray(255 * kernel / kernel.max()).astype(np.uint8)
        rows, columns = grey.shape
        self._image = QImage(
            grey.tobytes(), columns, rows, columns, QImage.Format.Format_Grayscale8
        ).copy()
        self._aspect = columns * spacing[1] / (rows * spacing[0])
        turn = np.radians(shape.angle)
        lines = []
        for width, angle in zip(shape.fwhm, (turn, turn + np.pi / 2), strict=True):
            half = 0.5 * width * np.array([-np.sin(angle), np.cos(angle)]) / spacing
            start, stop = (shape.centroid + sign * half + 0.5 for sign in (-1, 1))
            lines.append(
                QLineF(start[1] / columns, start[0] / rows, stop[1] / columns, stop[0] / rows)
            )
        self._lines = tuple(lines)
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the kernel as large as fits, in its physical proportions."""
        painter = QPainter(self)
        height = min(float(self.height()), self.width() / self._aspect)
        width = height * self._aspect
        frame = QRectF((self.width() - width) / 2, (self.height() - height) / 2, width, height)
        painter.drawImage(frame, self._image)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for line, colour in zip(self._lines, COLOURS, strict=True):
            painter.setPen(QPen(QColor(colour), 2))
            ends = [
                QPointF(frame.left() + end.x() * width, frame.top() + end.y() * height)
                for end in (line.p1(), line.p2())
            ]
            painter.drawLine(*ends)


_TITLES = {
    "Width, long": "Full width at half maximum along the long axis (orange).",
    "Width, short": "Full width at half maximum along the short axis (blue).",
    "Angle": "Of the long axis: 0° along X, positive anticlockwise.",
    "Pixel": "Size of a kernel pixel, rows × columns; that of the restored image.",
}


def _within(profile: Profile, reach: float) -> Profile:
    near = np.abs(profile.positions) <= reach
    return Profile(profile.positions[near], profile.values[near])


def _plane(layer: Image, viewer: "Viewer") -> np.ndarray:
    """Return the plane of a kernel layer that the viewer is at."""
    data = layer.data[0] if layer.multiscale else layer.data
    point = np.rint(layer.world_to_data(viewer.dims.point[-layer.ndim :])).astype(int)
    leading = np.clip(point[:-2], 0, np.array(data.shape[:-2], int) - 1)
    return np.asarray(data[tuple(leading)], float)


def _could_be_kernel(layer: Layer | None) -> bool:
    if not isinstance(layer, Image) or layer.rgb or layer.ndim < 2:
        return False
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    return max(shape[-2:]) <= MAX_TAPS and (METADATA_KEY not in layer.metadata or _is_kernel(layer))


def _is_kernel(layer: Layer | None) -> bool:
    return layer is not None and layer.metadata.get(METADATA_KEY, {}).get("role") == "kernel"


def _changes(layer: Image) -> tuple[Any, ...]:
    return layer.events.set_data, layer.events.scale, layer.events.units, layer.events.name
