"""What there is to trust in a restored plane: its residual, its resolution, how sure its kernel is.

Nothing here knows the truth. What it says comes from the plane itself: from its expected noise,
and from two images that were restored from one half of the photons each.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from torch import Tensor

from napari_dkp.kernel_shape import full_widths
from napari_dkp.noise import Noise
from napari_dkp.resolution import foretold_resolution, resolution
from napari_dkp.restorers.evidence import Evidence


@dataclass(frozen=True, eq=False)
class Report:
    """Of one plane.

    Attributes
    ----------
    kernel_width : full width at half maximum in restored pixels, geometric mean over all axes.
    kernel_width_interval : 90 % of what the data leave open of it; None where it was given, or
        where the method does not say.
    resolution_before, resolution_after : period of the finest detail that is no noise, in source
        pixels, see `resolution`; None where photons are not counted, or nothing is seen.
    misfit : mean square of the residual, in units of its expected variance; about 1.
    correlation : of residuals one pixel apart, over both axes; about 0.
    lone_pixels : of the source, that were taken for missing, see `lone_pixels.mended`.
    residual : source minus re-blurred result, in units of the expected standard deviation; the axes
        of a plane of the source. None unless asked for.
    uncertainty : half of a 90 % interval about each value of the image, in its units; the axes of
        a plane of the result. None unless asked for, or where neither photons are counted nor
        several images drawn.
    """

    kernel_width: float
    kernel_width_interval: tuple[float, float] | None
    resolution_before: float | None
    resolution_after: float | None
    misfit: float
    correlation: float
    lone_pixels: int = 0
    residual: np.ndarray | None = None
    uncertainty: np.ndarray | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before the result is used; empty where all is well."""
        return tuple(self._warnings())

    def figures(self) -> dict[str, Any]:
        """Return all but the images, plain values only."""
        figures = asdict(replace(self, residual=None, uncertainty=None))
        del figures["residual"], figures["uncertainty"]
        return figures

    @classmethod
    def from_figures(cls, figures: Mapping[str, Any]) -> "Report":
        """Read back what `figures` returned, also after a trip through JSON."""
        interval = figures["kernel_width_interval"]
        return cls(**{**figures, "kernel_width_interval": interval and tuple(interval)})

    def __str__(self) -> str:
        lines = [f"Kernel {self.kernel_width:.1f} pixels wide at half its height"]
        if self.kernel_width_interval is not None:
            low, high = self.kernel_width_interval
            lines[0] += f", {low:.1f} to {high:.1f} with 90 % confidence"
        lines[0] += "."
        if self.resolution_before is not None and self.resolution_after is not None:
            lines.append(
                f"Finest detail above the noise: {self.resolution_before:.1f} pixels of the source "
                f"before, {self.resolution_after:.1f} after."
            )
        lines.append(
            f"Residual: {self.misfit:.2f} times the variance of the noise (1 is right), neighbours "
            f"correlated by {self.correlation:+.2f} (0 is right)."
        )
        if self.lone_pixels:
            lines.append(_of_lone_pixels(self.lone_pixels))
        return "\n".join((*lines, *self.warnings)).replace("-", "−")

    def _warnings(self) -> Iterator[str]:
        if self.kernel_width_interval is not None:
            low, high = self.kernel_width_interval
            if high > _UNDETERMINED * low:
                yield (
                    "The data hardly determine the kernel: its width is mostly what is usual for "
                    "microscopes. State the optics, or give a measured PSF."
                )
        # Only photons have a noise that is known well enough.
        counted = self.resolution_before is not None
        if counted and (self.misfit > _MISFIT or self.correlation > _CORRELATION):
            yield (
                "The residual is more than noise: the kernel, or the noise if it was stated, may "
                "be wrong."
            )


def summary(reports: Sequence[Report | None]) -> str:
    """Return in words what the reports on some planes say; empty where there is none."""
    present = [report for report in reports if report is not None]
    if len(reports) < 2 or not present:
        return "".join(map(str, present))
    widths = [report.kernel_width for report in present]
    misfits = [report.misfit for report in present]
    lines = [
        f"{len(present)} of {len(reports)} planes, kernels {min(widths):.1f} to "
        f"{max(widths):.1f} pixels wide at half their height.",
        f"Residuals: {min(misfits):.2f} to {max(misfits):.2f} times the variance of the noise "
        f"(1 is right).",
    ]
    if lone := sum(report.lone_pixels for report in present):
        lines.append(_of_lone_pixels(lone))
    found = Counter(warning for report in present for warning in report.warnings)
    lines += [f"In {n} of {len(present)} planes: {warning}" for warning, n in found.items()]
    return "\n".join(lines)


def _of_lone_pixels(count: int) -> str:
    which = "1 pixel stands" if count == 1 else f"{count} pixels stand"
    return f"{which} alone, as no light does (hot, dead, cosmic rays): taken for missing."


# Ratio of the ends of the interval: a kernel sharper or wider by a third to either side.
_UNDETERMINED = 1.8
_MISFIT = 1.5
# Below zero is no fault: what is fitted of the noise is smooth, and what is left of it is not.
_CORRELATION = 0.15


def examine(
    data: Tensor,
    evidence: Evidence,
    noise: Noise,
    kernel: Tensor,
    *,
    width_spread: float | None,
    maps: bool,
) -> Report:
    """Report on one plane.

    Parameters
    ----------
    data : y in normalised intensity, shape (C, *lr_shape).
    evidence : of the restorer.
    noise : of the data.
    kernel : shape (*K,).
    width_spread : posterior standard deviation of the logarithm of the kernel's width; None where
        that is not known.
    maps : keep the images.
    """
    mean = _array(evidence.mean)
    variance = np.maximum(noise.variance(mean), noise.least_variance)
    residual = (_array(data) - mean) / np.sqrt(variance)
    widths = full_widths(_array(kernel))
    width = float(np.prod(widths) ** (1 / len(widths)))
    ndim = len(widths)
    before = after = interval = uncertain = None
    if evidence.halves is not None:
        images, means, photons = map(_array, evidence.halves)
        before = resolution(photons[0], photons[1], ndim)
        after = foretold_resolution(means, photons, ndim)
        photon = noise.gain * images[0].size / data.numel()
        uncertain = uncertainty(images, widths, photon) if maps else None
    if evidence.deviation is not None and maps:
        uncertain = (_NINETY_PERCENT * _array(evidence.deviation)).astype(np.float32)
    if width_spread is not None:
        factor = np.exp(_NINETY_PERCENT * width_spread)
        interval = (float(width / factor), float(width * factor))
    return Report(
        kernel_width=width,
        kernel_width_interval=interval,
        resolution_before=before,
        resolution_after=after,
        misfit=float(np.mean(residual**2)),
        correlation=_correlation(residual),
        residual=residual.astype(np.float32) if maps else None,
        uncertainty=uncertain,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy(), np.float64)


def uncertainty(
    images: np.ndarray, kernel_width: float | tuple[float, ...], photon: float
) -> np.ndarray:
    """Return half of a 90 % interval for the mean of two images.

    Two errors are told from the images themselves. Noise: the halves differ by it. And what the
    optics do not pass, which no method brings back with certainty: structure in proportion to the
    finest that there is, what another blur by the kernel's width would take from the image. It
    hides in light only: darkness less some of it would be less than none, so that no more is
    hidden than there is, or than a photon that did not happen to come.

    Parameters
    ----------
    images : from independent halves of the photons, shape (2, ..., *spatial).
    kernel_width : full width at half maximum, pixels; one for a plane, or one per axis.
    photon : intensity of one photon that falls into one pixel.

    Returns
    -------
    float32 array, shape (..., *spatial). Of texture far below the resolution nothing is to be seen
    in the images, and there it is too small.
    """
    widths = kernel_width if isinstance(kernel_width, tuple) else (kernel_width,) * 2
    sigmas = (width / _WIDTH_OF_SIGMA for width in widths)
    blur = (0,) * (images.ndim - 1 - len(widths)) + tuple(sigmas)
    about = partial(gaussian_filter, sigma=tuple(_NEIGHBOURHOOD * sigma for sigma in blur))
    image = images.mean(0)
    noise = about((0.5 * (images[0] - images[1])) ** 2)
    fine = about((image - gaussian_filter(image, blur)) ** 2)
    light = about(image)
    spatial = tuple(range(-len(widths), 0))
    light -= np.quantile(light, _DARK_SHARE, spatial, keepdims=True)
    hidden = np.minimum(_HIDDEN * fine, light.clip(0) ** 2)
    unseen = photon / np.prod(widths)  # spread by the kernel
    return np.asarray(_NINETY_PERCENT * np.sqrt(noise + hidden + unseen**2), np.float32)


def _correlation(residual: np.ndarray) -> float:
    """Return the correlation of neighbours along all axes; 0 for a residual that is none."""
    moved = (np.moveaxis(residual, axis, 0) for axis in range(1, residual.ndim))
    neighbours = [each[1:] * each[:-1] for each in moved]
    products = [product.mean() for product in neighbours if product.size]
    square = np.mean(residual**2)
    return float(np.mean(products) / square) if products and square else 0.0


_NINETY_PERCENT = 1.645
_WIDTH_OF_SIGMA = 2.355
# Times the energy of the finest that there is; fitted, as is the next, to the share of pixels that
# intervals hold over drawn structures, textures and photographs under Airy patterns.
_HIDDEN = 16.0
# Standard deviations of the kernel.
_NEIGHBOURHOOD = 0.7
# Of an image, that is taken for dark.
_DARK_SHARE = 1e-3
