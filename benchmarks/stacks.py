"""What planes cost together, and one by one: processor time and quality of a simulated stack.

python -m benchmarks.stacks STACK.tif --scale 1 --photons 2 --method auto
"""

import argparse
from dataclasses import replace
from time import process_time

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio

from napari_dkp import io
from napari_dkp.config import Settings
from napari_dkp.degradation import degrade
from napari_dkp.optics import airy
from napari_dkp.stack import Run

_MARGIN = 6  # HR pixels: past the frame nothing is known


def simulated(truth: np.ndarray, scale: int, photons: float) -> np.ndarray:
    """Return planes as a microscope sees them, in hundredths of the truth's unit."""
    cutoff = torch.tensor([0.25 / scale])
    kernel = airy(cutoff, torch.tensor([0.7]), (25, 25), (12.0, 12.0))[0].numpy()
    noise = np.random.default_rng(0)
    blurred = [np.clip(degrade(plane, kernel, scale=scale), 0, None) for plane in truth]
    counts = [100 * noise.poisson(plane * photons) / photons for plane in blurred]
    return np.round(counts).astype(np.uint16)


def psnr(plane: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR in dB; the truth's range is its peak."""
    inner = (slice(_MARGIN, -_MARGIN),) * 2
    truth = truth[inner]
    return float(
        peak_signal_noise_ratio(truth, plane[inner] / 100, data_range=float(np.ptp(truth)))
    )


def main() -> None:
    """Print processor seconds and PSNR of planes alone and of the stack, and the ratio of times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", help="planes along T or Z; taken as the truth")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--photons", type=float, default=2.0, help="per unit of intensity")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--crop", type=int, nargs=2, help="rows and columns of the middle")
    parser.add_argument("--alone", type=int, help="so many planes alone; all of them if left out")
    options = parser.parse_args()
    truth = io.read(options.stack).image.astype(np.float32)
    if options.crop:
        first = [(n - side) // 2 for n, side in zip(truth.shape[1:], options.crop, strict=True)]
        rows, columns = (slice(a, a + n) for a, n in zip(first, options.crop, strict=True))
        truth = truth[:, rows, columns]
    data = simulated(truth, options.scale, options.photons)
    settings = Settings(
        axes="TYX", scale=options.scale, method=options.method, preset=options.preset
    )
    numbers = np.unique(np.linspace(0, len(data) - 1, options.alone or len(data), dtype=int))
    seconds = []
    alone = {}
    for number in numbers:
        began = process_time()
        run = Run(data[number], replace(settings, axes="YX"))
        for _ in run:
            pass
        seconds.append(process_time() - began)
        alone[number] = psnr(run.result().image, truth[number])
    began = process_time()
    run = Run(data, settings)
    together: dict[int, float] = {}
    found = None
    for state in run:
        if found is None and not state.searching:
            found = process_time() - began
        if state.done:
            together[state.plane[0]] = psnr(state.image, truth[state.plane[0]])
    whole = process_time() - began
    print(run.choice)
    for number in numbers:
        print(
            f"plane {number:3d}: {alone[number]:.2f} dB alone, {together[number]:.2f} in the stack"
        )
    differences = [together[number] - alone[number] for number in numbers]
    each = sum(seconds) / len(seconds)
    print(
        f"{len(data)} planes of {data.shape[1]} × {data.shape[2]}, scale {options.scale}: "
        f"{each:.2f} s alone each, {whole:.2f} s the stack, {found:.2f} s of it before the first "
        f"plane; ratio {whole / (each * len(data)):.3f}; PSNR {np.mean(differences):+.2f} dB, "
        f"worst {min(differences):+.2f}"
    )


if __name__ == "__main__":
    main()
