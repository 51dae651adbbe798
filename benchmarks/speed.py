"""Time the parts of a run, as shares of an image step measured in the same process.

    python -m benchmarks.speed [--side 256] [--scale 4] [--preset balanced] [--device cpu]

Prints seconds per image step, the share of a step that RKS and PKE add, and what importing costs.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from napari_dkp.config import KERNEL_FAMILIES, PRECISIONS, PRESETS, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import describe_device, resolve_device
from napari_dkp.engine import KERNEL_EVERY
from napari_dkp.stack import build


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 9) -> float:
    """Return the median time of a call after two warm-up calls."""
    times = []
    for _ in range(repeats + 2):
        began = perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - began)
    return median(times[2:])


def import_seconds(statement: str) -> float:
    """Return how much longer a fresh interpreter takes with an import than without."""

    def spawn(code: str) -> float:
        began = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return perf_counter() - began

    return median(spawn(statement) - spawn("pass") for _ in range(5))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256, help="HR pixels")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--preset", choices=PRESETS, default="balanced")
    parser.add_argument("--family", choices=KERNEL_FAMILIES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    settings = Settings(
        scale=options.scale,
        kernel_family=options.family,
        preset=options.preset,
        precision=options.precision,
    ).resolve()
    device = resolve_device(options.device)
    side = options.side // options.scale
    model = Degradation(
        (side, side), settings.scales(2), settings.kernel_sizes(2), boundary="circular"
    )
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(options.channels, side, side, generator=generator).to(device)
    restorer, prior = build(model, data, (0.0, 1.0), settings)
    kernel = prior.step(None)
    image = restorer.step(kernel).image
    image_step = seconds(lambda: restorer.step(kernel), device)
    kernel_step = seconds(lambda: prior.step(image), device) / KERNEL_EVERY
    print(f"device          {describe_device(device)}")
    print(f"image step      {image_step:.4f} s  ({options.side}² HR, preset {options.preset})")
    share = kernel_step / (image_step + kernel_step)
    print(f"RKS + PKE       {kernel_step:.4f} s per image step, {share:.1%} of the whole")
    print(f"import          {import_seconds('import napari_dkp'):.3f} s for napari_dkp")


if __name__ == "__main__":
    main()
