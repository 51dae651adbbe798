"""Steps in place of the soft edges of an image, as objects have them before they are blurred.

An image that has formed under a wrong kernel is blurred by what that lacks, or rings where it has
too much; but its edges are about where they belong, and of a sharp image an edge is a step. An
image of such steps tells what its own kernel has kept from it (Cho and Lee 2009).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def stepped(image: Tensor, scale: Sequence[int]) -> Tensor:
    """Return an image whose edges a shock filter has made steps (Osher and Rudin 1990).

    Each pixel goes up to its neighbours on the bright side of an edge, and down on the dark side;
    the second derivative along the gradient of all channels' mean tells which. The image is
    smoothed before, so that what is finer than a sample, ringing above all, makes no edges.

    Parameters
    ----------
    image : normalised intensity, shape (C, H, W).
    scale : HR pixels per LR sample, per axis.
    """
    widths = [_WIDTH * s for s in scale]
    image = _smoothed(image, widths)
    for _ in range(_STEPS):
        rows, columns, bend = _derivatives(_smoothed(image.mean(0, keepdim=True), widths))
        side = torch.tanh(_STEEPNESS * bend / (rows.square() + columns.square() + _FLAT))
        image = image - _STEP * side * _least_slope(image)
    return image


def _derivatives(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient, and its square times the second derivative along it."""
    x = _padded(image)
    above, below, left, right = x[:, :-2, 1:-1], x[:, 2:, 1:-1], x[:, 1:-1, :-2], x[:, 1:-1, 2:]
    rows, columns = (below - above) / 2, (right - left) / 2
    corners = x[:, 2:, 2:] - x[:, 2:, :-2] - x[:, :-2, 2:] + x[:, :-2, :-2]
    bend = rows.square() * (above + below - 2 * image)
    bend += columns.square() * (left + right - 2 * image)
    bend += 0.5 * rows * columns * corners
    return rows, columns, bend


def _least_slope(image: Tensor) -> Tensor:
    """Return the size of the gradient by the smaller of one-sided differences; 0 at extrema."""
    x = _padded(image)
    squares = torch.zeros_like(image)
    for axis, rim in ((1, 2), (2, 1)):
        difference = x.narrow(rim, 1, image.shape[rim]).diff(dim=axis)
        before, after = (difference.narrow(axis, n, image.shape[axis]) for n in (0, 1))
        least = torch.minimum(before.abs(), after.abs())
        squares += torch.where(before * after > 0, least, 0).square()
    return squares.sqrt()


def _padded(image: Tensor) -> Tensor:
    return functional.pad(image, (1, 1, 1, 1), mode="replicate")


def _smoothed(image: Tensor, widths: Sequence[float]) -> Tensor:
    """Return an image (C, H, W) under a Gaussian of standard deviations in pixels."""
    for axis, width in enumerate(widths, start=1):
        reach = min(math.ceil(_REACH * width), image.shape[axis] - 1)
        place = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
        weights = torch.softmax(-0.5 * (place / width).square(), 0)
        line = image.movedim(axis, -1)
        padded = functional.pad(line, (reach, reach), mode="replicate")
        line = functional.conv1d(padded.reshape(-1, 1, padded.shape[-1]), weights[None, None])
        image = line.reshape(*padded.shape[:-1], -1).movedim(-1, axis)
    return image


# Of a Gaussian, in LR samples and in widths.
_WIDTH, _REACH = 0.5, 4.0
# Edges go some tenths of a pixel per step.
_STEPS, _STEP = 80, 0.4
# Of the change of sides, per normalised intensity and squared pixel.
_STEEPNESS = 30.0
_FLAT = 1e-8
