"""Microscope images: a real pair, and sharp images under an Airy pattern, counted in photons.

Sharp images are files, or structures that are drawn: filaments, puncta, nuclei and others.

Every case is held against Richardson–Lucy as an oracle would stop it: with the true kernel, after
the step that is nearest the truth.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import tifffile
import torch
from scipy.ndimage import shift as shifted
from skimage.metrics import structural_similarity
from skimage.registration import phase_cross_correlation

from benchmarks.records import ROOT, Results, Run, code_version, describe_machine, table
from napari_dkp import api, kernel_shape, stack
from napari_dkp.config import OpticsConfig, Settings
from napari_dkp.degradation import Degradation, degrade
from napari_dkp.optics import airy
from napari_dkp.state import Restoration
from training.structures import KINDS

Array = np.ndarray


@dataclass(frozen=True)
class Simulation:
    """A sharp image under a microscope.

    Attributes
    ----------
    sharp : returns the sharp image, its brightest thousandth at one.
    cutoff : of the Airy pattern, cycles per HR pixel.
    scale : HR pixels per camera pixel.
    photons : of the brightest, per camera pixel.
    """

    sharp: Callable[[], Array]
    cutoff: float
    scale: int
    photons: int

    def render(self, seed: int) -> tuple[Array, Array, Array]:
        """Return the camera's image, the truth in its units, and the kernel."""
        truth = (self.sharp() + _BACKGROUND) * self.photons
        parameters = torch.tensor([self.cutoff]), torch.ones(1)
        kernel = airy(*parameters, (_TAPS, _TAPS), (_TAPS // 2,) * 2)[0].numpy()
        mean = degrade(truth, kernel, scale=self.scale)
        random = np.random.default_rng(seed)
        read = _READ_NOISE * random.standard_normal(mean.shape)
        camera = random.poisson(np.maximum(mean, 0)) + read + _OFFSET
        return camera.astype(np.float32), truth + _OFFSET, kernel


_TAPS = 25
_READ_NOISE, _OFFSET = 2.0, 100.0
# Share of the brightest that lies under the whole image.
_BACKGROUND = 0.02
_SIDE = 256
_DRAWN_SEED = 0
_RIM = 8
_ORACLE_STEPS = 300
# dB: a difference that is worth counting.
_FLOOR = -0.3


def _filed(path: Path) -> Array:
    """Return at most _SIDE² pixels from the middle of an image, or of a stack's middle plane.

    float32, shape (h, w), both even; the darkest at zero, the brightest thousandth at one.
    """
    image = tifffile.imread(path).squeeze().astype(np.float32)
    image = image if image.ndim == 2 else image[len(image) // 2]
    top, left = ((n - min(n, _SIDE)) // 2 for n in image.shape)
    image = image[top : top + _SIDE, left : left + _SIDE]
    height, width = (n // 2 * 2 for n in image.shape)
    image = image[:height, :width] - image.min()
    return normalised(image)


def _drawn(kind: str) -> Array:
    """Return a structure of this kind, always the same: float32, shape (_SIDE, _SIDE).

    Its brightest thousandth is at one.
    """
    return normalised(KINDS[kind](np.random.default_rng(_DRAWN_SEED), _SIDE).astype(np.float32))


def normalised(image: Array) -> Array:
    """Return an image of which the brightest thousandth is at one."""
    bright: Array = image / np.quantile(image, 0.999)
    return bright


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure what is missing, write."""
    options = _parser().parse_args(arguments)
    results = Results(options.output, "microscopy", describe_machine(["cpu"]), tables)
    for what, measure in _cases(options):
        run: Run = {"what": what, "settings": {}, "commit": options.commit or code_version()}
        label = "  ".join(map(str, what.values()))
        if run in results:
            print(f"{label}  is there", flush=True)
            continue
        figures = measure()
        results.add({**run, "figures": figures})
        print(f"{label}  {figures}", flush=True)


def _cases(
    options: argparse.Namespace,
) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Yield what each case is, and what measures it."""
    for preset in options.presets:
        if options.pair:
            for optics in (None, options.optics) if options.optics else (None,):
                what = {
                    "case": options.pair[0].stem,
                    "optics": "given" if optics else "unknown",
                    "preset": preset,
                }
                yield what, partial(real, *options.pair, optics, preset)
        pictures = {path.stem: partial(_filed, path) for path in options.sharp}
        pictures |= {kind: partial(_drawn, kind) for kind in options.drawn}
        for name, cutoff, scale, photons, seed in product(
            pictures, options.cutoffs, options.scales, options.photons, options.seeds
        ):
            simulation = Simulation(pictures[name], cutoff, scale, photons)
            what = {
                "case": name,
                "cutoff": cutoff,
                "scale": scale,
                "photons": photons,
                "seed": seed,
                "preset": preset,
            }
            yield what, partial(simulated, simulation, seed, preset)


def real(
    blurred: Path, truth: Path, optics: tuple[float, float, float] | None, preset: str
) -> dict[str, Any]:
    """Restore a real image and hold it against one of a finer microscope."""
    image, sharp = (tifffile.imread(path).squeeze().astype(np.float32) for path in (blurred, truth))
    known = None
    if optics is not None:
        aperture, wavelength, pixel_size = optics
        known = OpticsConfig(
            numerical_aperture=aperture, wavelength=wavelength, pixel_size=pixel_size
        )
    began = perf_counter()
    result = api.restore(image, scale=1, optics=known, preset=preset)
    seconds = perf_counter() - began
    return {
        "raw": registered(image, sharp),
        "restored": registered(result.image, sharp),
        "fwhm": _fwhm(result.kernel),
        "seconds": seconds,
        "steps": result.steps,
        "choice": result.choice,
    }


def registered(image: Array, truth: Array) -> dict[str, float]:
    """Score an image after the shift and the line of intensities that serve it best."""
    # By plain correlation: of phases, those of frequencies that hold nothing would count as much.
    moved, *_ = phase_cross_correlation(truth, image, upsample_factor=50, normalization=None)
    image = shifted(image, np.clip(moved, -3, 3), order=3, mode="nearest")
    inside = (slice(2 * _RIM, -2 * _RIM),) * 2
    image, truth = image[inside].astype(np.float64), truth[inside].astype(np.float64)
    slope, offset = np.polyfit(image.ravel(), truth.ravel(), 1)
    fitted = slope * image + offset
    return {
        "nrmse": float(np.sqrt(np.mean((fitted - truth) ** 2)) / truth.std()),
        "ssim": float(structural_similarity(fitted, truth, data_range=np.ptp(truth))),
    }


def simulated(simulation: Simulation, seed: int, preset: str) -> dict[str, Any]:
    """Restore a simulated image blindly, and as an oracle would."""
    camera, truth, kernel = simulation.render(seed)
    settings = Settings(scale=simulation.scale, kernel_size=_TAPS, preset=preset, diagnostics=True)
    run = stack.Run(camera, settings)
    began = perf_counter()
    scores = [psnr(state.image, truth) for state in run if not state.searching]
    seconds = perf_counter() - began
    result = run.result()
    return {
        "oracle": oracle(camera, truth, kernel, simulation.scale),
        "blind": psnr(result.image, truth),
        "best step": max(scores),
        "covered": covered(result, truth),
        "width error": _fwhm(result.kernel) / _fwhm(kernel) - 1,
        "seconds": seconds,
        "method": result.settings.method,
        "family": result.settings.kernel_family,
    }


def covered(result: Restoration, truth: Array) -> float | None:
    """Return the share of pixels whose 90 % interval holds the truth, inside the rim."""
    if result.uncertainty is None:
        return None
    inside = (slice(_RIM, -_RIM),) * 2
    return float(np.mean(np.abs(result.image - truth)[inside] <= result.uncertainty[inside]))


def oracle(camera: Array, truth: Array, kernel: Array, scale: int) -> float:
    """Return the best PSNR that plain Richardson–Lucy passes, told offset, noise and kernel."""
    model = Degradation(camera.shape, (scale, scale), kernel.shape)
    psf, read = torch.from_numpy(kernel), _READ_NOISE**2
    counts = torch.from_numpy(camera - np.float32(_OFFSET)).clamp_min(-read) + read
    sensitivity = model.adjoint(torch.ones_like(counts), psf).clamp_min(1e-2)
    image = torch.full(model.domain_shape, float(counts.mean() - read))
    best = -np.inf
    for _ in range(_ORACLE_STEPS):
        ratio = counts / (model.forward(image, psf) + read)
        image = image * model.adjoint(ratio, psf) / sensitivity
        best = max(best, psnr(model.crop(image).numpy() + _OFFSET, truth))
    return best


def psnr(image: Array, truth: Array) -> float:
    """Return the PSNR inside the rim; the peak is the range of the truth."""
    inside = (slice(_RIM, -_RIM),) * 2
    error = np.mean((image[inside] - truth[inside]).astype(np.float64) ** 2)
    return float(10 * np.log10(np.ptp(truth[inside]) ** 2 / error))


def _fwhm(kernel: Array) -> float:
    return float(np.mean(kernel_shape.measure(kernel, (1.0, 1.0)).fwhm))


def tables(runs: Sequence[Run]) -> str:
    """Return the runs as Markdown."""
    pairs = [run for run in runs if "optics" in run["what"]]
    simulations = [run for run in runs if "photons" in run["what"]]
    filed = [run for run in simulations if run["what"]["case"] not in KINDS]
    drawn = [run for run in simulations if run["what"]["case"] in KINDS]
    parts = [_of_pairs(pairs)] if pairs else []
    parts += [_of_simulations("images", filed)] if filed else []
    parts += [_of_simulations("drawn structures", drawn)] if drawn else []
    return "\n".join(parts)


def _of_pairs(runs: Sequence[Run]) -> str:
    columns = ["pair", "optics", "preset", "raw NRMSE", "NRMSE", "SSIM", "FWHM px", "seconds"]
    rows = [
        [
            *(str(run["what"][name]) for name in ("case", "optics", "preset")),
            f"{run['figures']['raw']['nrmse']:.3f}",
            f"{run['figures']['restored']['nrmse']:.3f}",
            f"{run['figures']['restored']['ssim']:.3f}",
            f"{run['figures']['fwhm']:.2f}",
            f"{run['figures']['seconds']:.1f}",
        ]
        for run in runs
    ]
    return table(columns, rows)


def _of_simulations(kind: str, runs: Sequence[Run]) -> str:
    names = ("case", "cutoff", "scale", "photons", "seed", "preset")
    columns = [*names, "oracle dB", "blind − oracle", "last − best", "width error", "covered"]
    columns.append("seconds")
    rows = []
    for run in runs:
        figures = run["figures"]
        rows.append(
            [
                *(str(run["what"][name]) for name in names),
                f"{figures['oracle']:.2f}",
                f"{figures['blind'] - figures['oracle']:+.2f}",
                f"{figures['blind'] - figures['best step']:+.2f}",
                f"{100 * figures['width error']:+.0f} %",
                "–" if figures["covered"] is None else f"{100 * figures['covered']:.0f} %",
                f"{figures['seconds']:.1f}",
            ]
        )
    gains = [run["figures"]["blind"] - run["figures"]["oracle"] for run in runs]
    ends = [run["figures"]["blind"] - run["figures"]["best step"] for run in runs]
    widths = [abs(run["figures"]["width error"]) for run in runs]
    shares = [run["figures"]["covered"] for run in runs]
    shares = [100 * share for share in shares if share is not None]
    good = [sum(value >= _FLOOR for value in values) for values in (gains, ends)]
    held = sum(80 <= share <= 97 for share in shares)
    sentences = (
        f"Over {len(runs)} simulations of {kind}:",
        f"blind − oracle median {median(gains):+.2f} dB, mean {np.mean(gains):+.2f},",
        f"worst {min(gains):+.2f}, {good[0]} of them at {_FLOOR} or better;",
        f"last − best step at {_FLOOR} or better in {good[1]};",
        f"kernel width error median {100 * median(widths):.0f} %;",
        f"intervals of 90 % hold {median(shares or [0]):.0f} % of the pixels in the median,",
        f"80 to 97 % in {held}.",
    )
    return " ".join(sentences) + "\n\n" + table(columns, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.microscopy", description=__doc__)
    parser.add_argument("--pair", nargs=2, type=Path, metavar=("BLURRED", "TRUTH"))
    parser.add_argument(
        "--optics",
        nargs=3,
        type=float,
        metavar=("NA", "WAVELENGTH", "PIXEL"),
        help="of the pair, lengths in one unit: it is then also restored with these known",
    )
    parser.add_argument("--sharp", nargs="*", type=Path, default=[], help="TIFF files to simulate")
    parser.add_argument("--drawn", nargs="*", choices=KINDS, default=[], help="to simulate as well")
    parser.add_argument("--cutoffs", nargs="+", type=float, default=[0.2, 0.28])
    parser.add_argument("--scales", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--photons", nargs="+", type=int, default=[1000, 100, 30])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--presets", nargs="+", default=["balanced"])
    parser.add_argument("--commit", help="of the code; by default what git says")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/microscopy")
    return parser


if __name__ == "__main__":
    main()
