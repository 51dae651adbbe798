"""Time the parts of a run over image sizes, precisions and devices.

    python -m benchmarks.speed [--sides 128 256 512 1024] [--precisions float32 bfloat16]

Writes NAME.json and NAME.md after every configuration; one that is in there already is not
measured again. The columns are explained in the README.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.records import (
    Results,
    Run,
    code_version,
    describe_machine,
    in_fresh_process,
    peak_memory,
    table,
)
from napari_dkp.config import KERNEL_FAMILIES, PRECISIONS, PRESETS, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import resolve_device, resolve_precision
from napari_dkp.diffusion.loading import load
from napari_dkp.estimate import Counts
from napari_dkp.noise import Noise
from napari_dkp.parts import Parts, Restorer
from napari_dkp.randomness import make_generator
from napari_dkp.schedule import own_steps, search_plan


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure what is missing, write."""
    options = _parser().parse_args(arguments)
    devices = [str(resolve_device(name)) for name in options.devices]
    results = Results(options.output, "speed", describe_machine(devices), tables)
    for device, precision, side in product(devices, options.precisions, options.sides):
        settings = Settings(
            scale=options.scale,
            method=options.method,
            kernel_family=options.family,
            preset=options.preset,
            boundary="circular",
            device=device,
            precision=precision,
        ).resolve()
        run: Run = {
            "what": {
                "device": device,
                "precision": precision,
                "preset": options.preset if options.method == "dip" else _label(options),
                "channels": options.channels,
                "side": side,
            },
            "settings": settings.to_dict(),
            "commit": options.commit or code_version(),
        }
        label = f"{device}  {precision}  {side}²"
        if run in results:
            print(f"{label}  is there", flush=True)
            continue
        figures = in_fresh_process(measure, settings, side, options.channels, options.repeats)
        results.add({**run, "figures": figures})
        print(f"{label}  {figures['image step']:.4f} s per step", flush=True)
    print(f"import napari_dkp  {import_seconds('import napari_dkp'):.3f} s")


def measure(settings: Settings, side: int, channels: int, repeats: int) -> dict[str, Any]:
    """Time the steps of a run on random data, and hold them against the machine's best."""
    device = torch.device(settings.device)
    precision = resolve_precision(settings.precision, device)
    figures = _time_steps(settings, side, channels, repeats)
    image_step = figures["image step"]
    flop_rate = _flop(replace(settings, precision="float32"), side, channels) / image_step
    return figures | {
        "model share": model_share(settings, figures, side, channels, repeats),
        "ns per pixel": 1e9 * image_step / side**2,
        "FLOP per second": flop_rate,
        "share of peak": flop_rate / matmul_rate(device, precision),
        "precision": str(precision).removeprefix("torch."),
    }


def _time_steps(settings: Settings, side: int, channels: int, repeats: int) -> dict[str, float]:
    """Return seconds per step and the bytes that it took."""
    device = torch.device(settings.device)
    parts = _parts(settings, side, channels)
    generator = make_generator(settings.seed)
    restorer = parts.restorer(generator, 10 * repeats)
    scout = parts.scout(10 * repeats, generator)
    prior = (parts.search_prior if search_plan(settings) else parts.prior)(generator)
    began = perf_counter()
    kernel = prior.step(None)
    _finish(device)
    warm_up = perf_counter() - began
    image = restorer.step(kernel).image
    with parts.kept_memory():
        return {
            "image step": seconds(lambda: restorer.step(kernel), device, repeats),
            "search step": seconds(lambda: scout.step(kernel), device, repeats),
            "kernel step": seconds(lambda: prior.step(image), device, repeats),
            "kernel warm-up": warm_up,
            "peak memory": peak_memory(device),
        }


def model_share(
    settings: Settings, figures: Mapping[str, float], side: int, channels: int, repeats: int
) -> float | None:
    """Return the share of a diffusion model's own work in a whole blind run; None without one."""
    if settings.method != "diffusion" or settings.diffusion is None:
        return None
    device = torch.device(settings.device)
    model = load(settings.diffusion, resolve_precision(settings.precision, device), device)
    restorer = _restorer(settings, side, channels)
    sizes = settings.kernel_sizes(2)
    kernel = torch.full(sizes, 1 / math.prod(sizes), device=device)
    same = channels == model.channels
    shape = _model(settings, side).domain_shape
    noisy = torch.randn(1 if same else channels, model.channels, *shape).to(device)
    time = model.time_of(0.3)
    # In turns: a machine that is shared is slow for both.
    pairs = [
        (
            seconds(lambda: model.denoise(noisy, time), device, 1, warm_up=0),
            seconds(lambda: restorer.step(kernel), device, 1, warm_up=0),
        )
        for _ in range(repeats + 2)
    ]
    of_a_step = median(call / step for call, step in pairs[2:])
    image = _image_seconds(settings, figures)
    return of_a_step * image / (_kernel_seconds(settings, figures) + image)


def _kernel_seconds(settings: Settings, figures: Mapping[str, float]) -> float:
    count = Counts.of(settings)
    return count.warm_ups * figures["kernel warm-up"] + count.updates * figures["kernel step"]


def _image_seconds(settings: Settings, figures: Mapping[str, float]) -> float:
    count = Counts.of(settings)
    steps = count.steps + count.trial_steps
    return count.search_steps * figures["search step"] + steps * figures["image step"]


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return FLOP per second of a large matrix product: what the machine reaches at its best."""
    n = 8192 if device.type == "cuda" else 2048
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")  # TF32, which convolutions then use as well
    first, second = torch.rand(2, n, n, device=device).to(dtype)
    return 2 * n**3 / seconds(lambda: first @ second, device, repeats)


def seconds(
    call: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2
) -> float:
    """Return the median time of a call after so many warm-up calls."""
    times = []
    for _ in range(repeats + warm_up):
        began = perf_counter()
        call()
        _finish(device)
        times.append(perf_counter() - began)
    return median(times[warm_up:])


def import_seconds(statement: str) -> float:
    """Return how much longer a fresh interpreter takes with an import than without."""

    def spawn(code: str) -> float:
        began = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return perf_counter() - began

    return median(spawn(statement) - spawn("pass") for _ in range(5))


def tables(runs: Sequence[Run]) -> str:
    """Return Markdown, one line per configuration."""
    lines = []
    for run in sorted(runs, key=lambda run: tuple(run["what"].values())):
        what, figures = run["what"], run["figures"]
        lines.append(
            [
                what["device"],
                figures["precision"],
                what["preset"],
                str(what["side"]),
                f"{figures['image step']:.4f}",
                f"{figures['ns per pixel']:.0f}",
                f"{figures['search step']:.4f}",
                f"{figures['kernel step']:.4f}",
                f"{figures['kernel warm-up']:.2f}",
                "–" if (share := figures.get("model share")) is None else f"{share:.1%}",
                f"{figures['peak memory'] / 2**30:.2f}",
                f"{figures['FLOP per second'] / 1e12:.3g}",
                f"{figures['share of peak']:.0%}",
            ]
        )
    return table(_COLUMNS, lines)


_COLUMNS = (
    "device",
    "precision",
    "preset",
    "HR side",
    "s per image step",
    "ns per pixel",
    "s per search step",
    "s per kernel step",
    "warm-up s",
    "model share",
    "peak GiB",
    "TFLOP/s",
    "of peak",
)


def _label(options: argparse.Namespace) -> str:
    return f"{options.method}, {options.preset}"


def _model(settings: Settings, side: int) -> Degradation:
    scales, sizes = settings.scales(2), settings.kernel_sizes(2)
    lr_shape = tuple(side // scale for scale in scales)
    return Degradation(lr_shape, scales, sizes, settings.phase, settings.boundary)


def _parts(settings: Settings, side: int, channels: int) -> Parts:
    """Return what restores a plane of random data."""
    model = _model(settings, side)
    data = torch.rand(channels, *model.lr_shape, generator=make_generator(0)).to(settings.device)
    return Parts(model, data, (0.0, 1.0), Noise(1e-3, 0.0), settings)


def _restorer(settings: Settings, side: int, channels: int) -> Restorer:
    parts = _parts(settings, side, channels)
    return parts.restorer(make_generator(settings.seed), own_steps(settings, None))


def _flop(settings: Settings, side: int, channels: int) -> int:
    """Count the multiplications and additions of one image step; FFTs are not counted."""
    restorer = _restorer(settings, side, channels)
    sizes = settings.kernel_sizes(2)
    kernel = torch.full(sizes, 1 / math.prod(sizes), device=settings.device)
    with FlopCounterMode(display=False) as counter:
        restorer.step(kernel)
    return int(counter.get_total_flops())


def _finish(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[128, 256, 512, 1024], help="HR pixels"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"]
    )
    parser.add_argument("--devices", nargs="+", default=["auto"])
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--method", choices=("dip", "diffusion"), default="dip")
    parser.add_argument("--preset", choices=PRESETS, default="balanced")
    parser.add_argument("--family", choices=KERNEL_FAMILIES, default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--commit", help="name of the code where there is no git to ask")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/speed"), metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    main()
