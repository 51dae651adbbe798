"""Non-local means (Buades 2005): pixels are averaged with those whose surroundings are alike."""

import torch
from torch import Tensor
from torch.nn import functional


def nonlocal_means(images: Tensor, level: float) -> Tensor:
    """Return the mean of each pixel and those near by, weighted by how alike their patches are.

    Weights are exp(-d² / level²), d² the mean squared difference of two patches of 7² pixels over
    all channels; rows and columns at the edges are repeated. Pixels up to 6 rows and columns away
    take part. The result has the shape of `images`.

    Parameters
    ----------
    images : shape (B, C, H, W); channels show one scene.
    level : difference, in the unit of the images, at which patches count as e⁻¹ alike.
    """
    rows, columns = images.shape[-2:]
    padded = functional.pad(images, (_RADIUS,) * 4, mode="replicate")
    sharpness = -1 / (level**2 * images.shape[1] * (2 * _RADIUS + 1) ** 2)
    total = images.clone()
    weights = torch.ones_like(images[:, 0])
    # Two pixels weigh each other alike: half of the shifts do.
    for down in range(min(_REACH + 1, rows)):
        for right in range(-_REACH if down else 1, _REACH + 1):
            if abs(right) >= columns:
                continue
            one, other = _pair(padded, down, right)
            alike = _window_sums((one - other).square_().sum(1)).mul_(sharpness).exp_()
            one, other = _pair(images, down, right)
            for into, source in zip(_pair(total, down, right), (other, one), strict=True):
                into.addcmul_(alike[:, None], source)
            for into in _pair(weights, down, right):
                into += alike
    return total / weights[:, None]


def _pair(images: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Return views of pixels and of their neighbours, up by `down` and left by `right`."""
    rows, columns = images.shape[-2:]
    later = images[..., down:, max(right, 0) : columns + min(right, 0)]
    earlier = images[..., : rows - down, max(-right, 0) : columns - max(right, 0)]
    return later, earlier


def _window_sums(values: Tensor) -> Tensor:
    """Return the sums over all windows of 7² pixels, shape (..., H - 6, W - 6)."""
    for axis in (-2, -1):
        n = values.shape[axis] - 2 * _RADIUS
        # By pairs: four additions instead of six.
        two = values.narrow(axis, 0, n + 5) + values.narrow(axis, 1, n + 5)
        six = two.narrow(axis, 0, n) + two.narrow(axis, 2, n) + two.narrow(axis, 4, n)
        values = six.add_(values.narrow(axis, 6, n))
    return values


_RADIUS = 3  # of patches, pixels; `_window_sums` is written for it
_REACH = 6  # pixels; 15 find no more that helps, at five times the cost
