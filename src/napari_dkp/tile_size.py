"""How large tiles are: as memory allows, and smaller where it runs out."""

import math
from bisect import bisect_right

import torch

from napari_dkp.config import LEAST_TILE, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import free_memory
from napari_dkp.restorers.networks import finest_channels
from napari_dkp.tiling import Tiling


class TileSize:
    """Decides on the tiles of planes that are restored together.

    Parameters
    ----------
    settings : resolved settings; `tile` is kept to, where it is not None.
    model : forward model of a plane.
    channels : of all planes together.
    device : that they are restored on.
    memory : bytes that a restoration may take on the CPU, at most; None for those that are free.

    Attributes
    ----------
    side : samples along each axis of a tile, at most.
    overlap : samples that neighbours share.
    tiling : of a plane.

    Raises
    ------
    ValueError
        If tiles are asked for where the image wraps.
    """

    def __init__(
        self,
        settings: Settings,
        model: Degradation,
        channels: int,
        device: torch.device,
        memory: int | None = None,
    ) -> None:
        self._model = model
        self._wraps = model.boundary == "circular"
        # Neighbours share what the kernel reaches, and the image beyond as far again.
        reach = zip(model.kernel_shape, model.scale, strict=True)
        self.overlap = max(math.ceil(_REACH * taps / s) for taps, s in reach)
        asked = settings.tile
        if asked is None:
            asked = self._affordable(bytes_per_pixel(settings, channels), device, memory)
        self._set(asked)

    @property
    def tiled(self) -> bool:
        """Whether planes are taken apart."""
        return len(self.tiling) > 1

    def halve(self) -> bool:
        """Take tiles of half the side; False where that is too small, or the image wraps."""
        if self._wraps or self.side // 2 < self._least:
            return False
        self._set(self.side // 2)
        return True

    @property
    def _least(self) -> int:
        return max(2 * self.overlap, LEAST_TILE)

    def _set(self, side: int) -> None:
        whole = max(self._model.lr_shape)
        if side < whole:
            if self._wraps:
                raise ValueError("tile: expected none with boundary 'circular': a tile cannot wrap")
            side = max(side, self._least)
        self.side = min(side, whole)
        self.tiling = Tiling(self._model.lr_shape, self.side, self.overlap)

    def _affordable(self, each: float, device: torch.device, memory: int | None) -> int:
        """Return the side of a tile that memory allows, at `each` bytes per restored pixel."""
        model = self._model
        whole = max(model.lr_shape)
        if self._wraps or each * math.prod(model.domain_shape) <= _SURELY_FREE:
            return whole  # what wraps and does not fit goes to the CPU
        free = free_memory(device)
        if memory is not None and device.type == "cpu":
            free = min(free, memory)
        room = _SHARE_OF_MEMORY * free

        def needed(side: int) -> float:
            axes = zip(model.scale, model.lr_shape, model.kernel_shape, strict=True)
            return each * math.prod(s * min(side, n) + taps for s, n, taps in axes)

        return bisect_right(range(1, whole + 1), room, key=needed)


def bytes_per_pixel(settings: Settings, channels: int) -> float:
    """Return the memory that a restoration takes, roughly, bytes per pixel of a restored plane.

    Parameters
    ----------
    settings : resolved settings.
    channels : of all planes that are restored together.
    """
    if settings.method == "richardson-lucy":
        return COUNTING_BYTES * channels
    if settings.method == "diffusion":
        assert settings.diffusion
        return _DIFFUSED_BYTES * channels * settings.diffusion.samples
    assert settings.dip
    fitted = _FITTED_IN_VOLUMES if settings.volume else _FITTED_BYTES
    return fitted * finest_channels(settings.dip) + _OUTPUT_BYTES * channels


# Neighbouring tiles share so many times what a kernel spans.
_REACH = 2.0
# Bytes that are not worth to look whether they are free, and the share of those free to be taken.
_SURELY_FREE = 2**30
_SHARE_OF_MEMORY = 0.6
# Of penalised likelihoods: two images, their derivatives, multipliers, and temporaries of these.
COUNTING_BYTES = 550
# Of a diffusion model's images, and of a small one's network.
_DIFFUSED_BYTES = 800
# Of a network that is fitted, per channel at full resolution, and per image that it makes.
_FITTED_BYTES = 62
_FITTED_IN_VOLUMES = 80
_OUTPUT_BYTES = 60
