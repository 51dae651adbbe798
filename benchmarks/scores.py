"""Restore one image of a benchmark folder and score it by the published protocol.

A folder holds triples <name>_hr.png, <name>_lr.png, <name>_kernel.npy: 8-bit images, circular
boundary, phase "fkp", kernels in correlation orientation.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.io import imread

from benchmarks.kernel_clock import kernel_clock
from benchmarks.records import peak_memory
from benchmarks.rows import Row
from napari_dkp import metrics
from napari_dkp.config import Settings
from napari_dkp.device import resolve_precision
from napari_dkp.stack import Run

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Triple:
    """An image, what is given of it, and the point spread function between them."""

    hr: Array
    lr: Array
    psf: Array

    @classmethod
    def load(cls, folder: Path, name: str) -> "Triple":
        """Read a triple; splines left tiny negative taps in some kernels, which are cut."""
        hr, lr = (imread(folder / f"{name}_{kind}.png") for kind in ("hr", "lr"))
        kernel = np.load(folder / f"{name}_kernel.npy")
        return cls(hr, lr, np.maximum(kernel[::-1, ::-1], 0))

    @property
    def protocol(self) -> dict[str, Any]:
        """What the protocol tells every method, as fields of `Settings`."""
        return {
            "scale": self.hr.shape[0] // self.lr.shape[0],
            "axes": "YXC" if self.lr.ndim == 3 else "YX",
            "kernel_size": self.psf.shape,
            "phase": "fkp",
            "boundary": "circular",
        }


def measure(folder: Path, name: str, row: Row, settings: Settings) -> dict[str, Any]:
    """Restore an image as a row says; return its figures, named as in the README."""
    triple = Triple.load(folder, name)
    device = torch.device(settings.device)
    torch.zeros(1, device=device)  # a device's own start is not the method's time
    if row.interpolate:
        began = perf_counter()
        image = bicubic(triple.lr, triple.protocol["scale"])
        cost = {"seconds": perf_counter() - began, "steps": 0}
        return score(image, triple) | cost | {"peak memory": peak_memory(device)}
    run = Run(triple.lr, settings, triple.psf if row.known_kernel else None)
    with kernel_clock() as clock:
        for _ in run:
            pass
    result = run.result()
    figures = score(result.image, triple, None if row.known_kernel else result.kernel)
    if not row.known_kernel and device.type == "cpu":
        figures["kernel share"] = clock.seconds / result.seconds
    return figures | {
        "seconds": result.seconds,
        "steps": result.steps,
        "peak memory": peak_memory(device),
        "stop": result.stop.name.lower(),
        "precision": str(resolve_precision(settings.precision, device)).removeprefix("torch."),
    }


def score(image: Array, triple: Triple, kernel: Array | None = None) -> dict[str, Any]:
    """Score a restored image, and the kernel if one was estimated."""
    scale = triple.protocol["scale"]
    image = metrics.luma(image)
    truth = metrics.luma(triple.hr[: image.shape[0], : image.shape[1]])
    aligned, shift = metrics.aligned_psnr(image, truth, scale)
    figures = {
        "PSNR": metrics.psnr(image, truth, scale),
        "aligned PSNR": aligned,
        "shift": shift,
        "SSIM": metrics.ssim(image, truth, scale),
    }
    if kernel is not None:
        figures["kernel PSNR"] = metrics.kernel_psnr(kernel, triple.psf)
        figures["kernel NCC"] = metrics.kernel_ncc(kernel, triple.psf)
    return figures


def bicubic(lr: Array, scale: int) -> Array:
    """Return an LR image interpolated where phase "fkp" has it: sample j at s j - (s - 1)/2.

    Keys' cubic convolution (a = -1/2), wrapping; float32, shape (s h, s w) or (s h, s w, C).
    """
    if lr.ndim == 3:
        return np.stack([bicubic(channel, scale) for channel in np.moveaxis(lr, -1, 0)], -1)
    height, width = lr.shape
    padded = Image.fromarray(np.pad(lr.astype(np.float32), _PAD, mode="wrap"))
    # Pillow would put sample j at s j + (s - 1)/2, which is 1 - 1/s of a sample further on.
    first = _PAD + 1 - 1 / scale
    box = (first, first, first + width, first + height)
    size = (scale * width, scale * height)
    return np.asarray(padded.resize(size, Image.Resampling.BICUBIC, box=box))


# LR samples: at least the reach of the interpolation.
_PAD = 4
