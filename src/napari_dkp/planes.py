"""The planes of an image: read and checked, and put back where they belong."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_dkp import _checks
from napari_dkp.block import Block
from napari_dkp.degradation import Degradation
from napari_dkp.intensity import Scaling
from napari_dkp.layout import Index, Layout
from napari_dkp.lone_pixels import Mended, mended
from napari_dkp.report import Report
from napari_dkp.sharing import looked_at
from napari_dkp.state import State

Arrays = tuple[np.ndarray, np.ndarray]


class Planes:
    """The planes of an image, which is read one at a time.

    Pixels that stand alone are taken for missing, see `lone_pixels`.

    Parameters
    ----------
    image : array of integers or floats; lazy ones stay lazy.
    layout : of its axes.

    Raises
    ------
    ValueError
        If an array in memory holds what is not finite, or a single plane has no contrast.
    """

    def __init__(self, image: Any, layout: Layout) -> None:
        self._image = image
        self.layout = layout
        if isinstance(image, np.ndarray):
            _checks.finite("image", image)
        if len(layout.planes) == 1:
            _checks.varying("image", self._read(layout.middle))

    def load(self, index: Index) -> np.ndarray:
        """Load one plane in its own type, shape (C, *lr_shape), and check it."""
        return self.mended(index).plane

    def mended(self, index: Index) -> Mended:
        """Load one plane, and say how many of its pixels stood alone."""
        return mended(self._read(index))

    def telling(self) -> np.ndarray:
        """Load, as it is, the plane in the middle or, if it has no contrast, one that has."""
        first = self._read(self.layout.middle)
        if first.min() < first.max():
            return first
        for index in looked_at(self.layout.planes):
            plane = self._read(index)
            if plane.min() < plane.max():
                return plane
        return first

    def interpolated(self, index: Index, model: Degradation) -> np.ndarray:
        """Return a plane's source on the HR grid, zero where the source is not finite."""
        plane = self.layout.read(self._image, index).astype(np.float32)
        plane = np.nan_to_num(plane, posinf=0.0, neginf=0.0)
        return self.layout.as_read(model.upsample(torch.from_numpy(plane)).numpy())

    def unrestored(self, state: State[Tensor], index: Index, model: Degradation) -> Arrays:
        """Return a plane for whose kernel is being sought: its source, and that kernel."""
        return sealed(self.interpolated(index, model)), _host(state.kernel)

    def _read(self, index: Index) -> np.ndarray:
        plane = self.layout.read(self._image, index)
        name = f"image, plane {index}" if self.layout.looped else "image"
        _checks.finite(name, plane)
        _checks.within_float32("image", plane)
        return plane


def fetched(state: State[Tensor], block: Block, number: int, layout: Layout) -> Arrays:
    """Bring image and kernel of one of a block's planes to the host, as users see them."""
    image = block.of_plane(number, state.image).cpu().numpy()
    return sealed(layout.as_read(block.scaling.restore(image))), _host(state.kernel)


def as_seen(
    report: Report | None, lone_pixels: int, scaling: Scaling, layout: Layout
) -> Report | None:
    """Complete the report on a plane; give its images the axes, and the unit, that users know."""
    if report is None:
        return None
    residual, uncertainty = report.residual, report.uncertainty
    if residual is not None:
        residual = layout.as_read(residual)
    if uncertainty is not None:
        uncertainty = layout.as_read(scaling.range * uncertainty)
    return replace(report, lone_pixels=lone_pixels, residual=residual, uncertainty=uncertainty)


def joined(maps: list[np.ndarray | None], layout: Layout) -> np.ndarray | None:
    """Put what some planes have where the image has its planes, not a number elsewhere."""
    present = [each for each in maps if each is not None]
    if not present:
        return None
    empty = np.full_like(present[0], np.nan)
    return layout.assembled([empty if each is None else each for each in maps])


def sealed(array: np.ndarray) -> np.ndarray:
    """Make what is handed out read-only: the run goes on from it."""
    array.flags.writeable = False
    return array


def as_array(image: Any) -> Any:
    """Return something with shape, dtype and slicing; lazy arrays stay lazy."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        return image
    return np.asarray(image)


def _host(kernel: Tensor) -> np.ndarray:
    return sealed(kernel.cpu().numpy().copy())
