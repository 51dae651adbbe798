"""A real image to try the method on, and the picture of what came out."""

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_dkp.config import DIPConfig, Settings

if TYPE_CHECKING:
    from napari_dkp.state import Restoration

# Few steps and more smoothness: the picture's compression noise is faint but real, and the fit
# would bring it out.
SETTINGS = Settings(scale=2, axes="YX", iterations=120, dip=DIPConfig(gradient_weight=1e-2))

_PANEL = 408  # pixels; a whole multiple of the sample's 102 and of its restored 204
_MARGIN = 24
_CAPTION = 44
_INK, _PAPER = 0, 255


def image() -> np.ndarray:
    """Return microaneurysms in a retina, (102, 102) uint8, from scikit-image's own files."""
    from skimage import data

    return np.asarray(data.microaneurysms())


def figure(lr: np.ndarray, restoration: "Restoration") -> Image.Image:
    """Draw source, restored image and kernel side by side.

    Both images share one grey scale; pixels are drawn as they are, never smoothed.

    Parameters
    ----------
    lr : source, shape (Y, X).
    restoration : of `lr`.
    """
    low, high = float(lr.min()), float(lr.max())
    kernel = restoration.kernel
    panels = (
        (lr, low, high, f"source, {_size(lr)}"),
        (restoration.image, low, high, f"restored, {_size(restoration.image)}"),
        (kernel, 0.0, float(kernel.max()), f"blur kernel, {_size(kernel)} restored pixels"),
    )
    width = _MARGIN + len(panels) * (_PANEL + _MARGIN)
    sheet = Image.new("L", (width, _CAPTION + _PANEL + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for index, (values, bottom, top, caption) in enumerate(panels):
        left = _MARGIN + index * (_PANEL + _MARGIN)
        draw.text((left, _CAPTION // 2), caption, fill=_INK, font=font, anchor="lm")
        sheet.paste(_panel(values, bottom, top), (left, _CAPTION))
    return sheet


def has_display() -> bool:
    """Tell whether a window could be opened: a desktop session, and napari installed."""
    desktop = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return desktop and find_spec("napari") is not None


def _panel(values: np.ndarray, low: float, high: float) -> Image.Image:
    grey = np.clip((values - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).resize((_PANEL, _PANEL), Image.Resampling.NEAREST)


def _size(values: np.ndarray) -> str:
    return " x ".join(str(n) for n in values.shape)  # the built-in font has no ×
