"""Patches to train on: photographs and drawn structures, turned, mirrored and made smaller."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from skimage import color, io
from torch import Tensor
from torch.nn import functional

from training.structures import draw_structures

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


def read_images(folder: Path) -> list[np.ndarray]:
    """Read all pictures of a folder, sorted by name.

    Returns
    -------
    uint8, shape (H, W, 3) each; grey ones thrice.

    Raises
    ------
    ValueError
        If there is no such folder, none are in it, or one is neither grey nor RGB of 8 bits.
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"images: expected a folder with {', '.join(SUFFIXES)}; got {folder}")
    return [_as_rgb(io.imread(file), file.name) for file in files]


def sample_images(names: Sequence[str]) -> list[np.ndarray]:
    """Return pictures that come with scikit-image, by name, as `read_images` does."""
    from skimage import data

    return [_as_rgb(getattr(data, name)(), name) for name in names]


def drawn_images(generator: Generator, count: int) -> list[np.ndarray]:
    """Draw structures; half of the pictures have three channels of their own, as stains have."""
    pictures = []
    for _ in range(count):
        channels = [draw_structures(generator) for _ in range(3 if generator.random() < 0.5 else 1)]
        picture = np.stack(channels if len(channels) == 3 else channels * 3, -1)
        pictures.append(np.rint(255 * picture).astype(np.uint8))
    return pictures


class Patches:
    """Random patches of pictures, in the range -1 to 1 of diffusion models.

    Parameters
    ----------
    sources : lists of pictures, uint8, shape (H, W, 3).
    shares : how often each list is drawn from.
    size : side of the patches.
    channels : 3, or 1 for grey.
    seed : of every draw.

    Raises
    ------
    ValueError
        If a list has no picture that is large enough; smaller ones are left out.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[np.ndarray]],
        shares: Sequence[float],
        size: int,
        channels: int,
        seed: int,
    ) -> None:
        self._sources = [
            [image for image in source if min(image.shape[:2]) >= size] for source in sources
        ]
        if not all(self._sources):
            raise ValueError(f"images: expected some of at least {size} by {size} pixels; got none")
        self._areas = [
            np.array([image.shape[0] * image.shape[1] for image in source], float)
            for source in self._sources
        ]
        self._shares = np.array(shares) / np.sum(shares)
        self._size = size
        self._channels = channels
        self.generator = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """Return float32, shape (count, channels, size, size)."""
        return torch.stack([self._patch() for _ in range(count)])

    def _patch(self) -> Tensor:
        draw = self.generator
        which = draw.choice(len(self._sources), p=self._shares)
        source, areas = self._sources[which], self._areas[which]
        image = source[draw.choice(len(source), p=areas / areas.sum())]
        # A picture made smaller is sharper, and a patch of it has more in it.
        shrink = draw.uniform(1, min(_SHRINK, min(image.shape[:2]) / self._size))
        side = int(self._size * shrink)
        top, left = (draw.integers(0, n - side + 1) for n in image.shape[:2])
        patch = torch.from_numpy(image[top : top + side, left : left + side]).permute(2, 0, 1)
        patch = patch.float() / 127.5 - 1
        if side != self._size:
            shape = (self._size, self._size)
            patch = functional.interpolate(patch[None], shape, mode="bicubic", antialias=True)[0]
            patch = patch.clamp(-1, 1)
        patch = torch.rot90(patch, int(draw.integers(4)), (1, 2))
        if draw.random() < 0.5:
            patch = patch.flip(2)
        if self._channels == 1:
            return patch.mul(_LUMA[:, None, None]).sum(0, keepdim=True)
        if draw.random() < _GREY_SHARE:
            return patch.mul(_LUMA[:, None, None]).sum(0, keepdim=True).expand(3, -1, -1)
        return patch


_SHRINK = 2.5
# Grey images are restored by a model of colours too.
_GREY_SHARE = 0.15
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def _as_rgb(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] > (4,):
        raise ValueError(
            f"images: expected 8-bit grey or RGB; got {name}, {image.dtype}, shape {image.shape}"
        )
    if image.ndim == 2:
        return color.gray2rgb(image)
    return image[..., :3] if image.shape[2] >= 3 else color.gray2rgb(image[..., 0])
