"""Blind kernels of simulated volumes: how wide, with stated optics, wrong ones, and without.

python -m benchmarks.lenses
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

import napari_dkp as dkp
from napari_dkp.config import NoiseConfig, OpticsConfig, RKSConfig
from napari_dkp.degradation import Degradation, degrade
from napari_dkp.families import families
from napari_dkp.kernel_shape import full_widths

TAPS = (31, 31, 31)
SHAPE, MARGIN = (16, 32, 32), 8
# Nanometres: an oil lens and a dry one.
LENSES = (
    {"numerical_aperture": 1.4, "refractive_index": 1.518, "z_step": 150, "pixel_size": 80},
    {"numerical_aperture": 0.8, "refractive_index": 1.0, "z_step": 300, "pixel_size": 110},
)
# Factors of the aperture that is stated.
STATED = {"right": 1.0, "NA 6 % too small": 0.94, "NA 4 % too large": 1.04}


def kernel_of(family: str, optics: OpticsConfig) -> np.ndarray:
    """Return the kernel of a microscope."""
    waves = optics.waves_per_plane
    if waves is None:
        raise ValueError("optics: expected a z_step; got None")
    rks = RKSConfig(cutoff=(optics.cutoff, optics.cutoff), defocus=(waves, waves))
    (lens,) = families(family, Degradation(TAPS, (1, 1, 1), TAPS), rks, optics)
    return lens.render(torch.full((1, 2), 0.5, dtype=torch.float64))[0].numpy()


def counts_of(kernel: np.ndarray, softness: float, photons: float, seed: int) -> np.ndarray:
    """Return photons of points and threads, softened by a Gaussian of that sigma in pixels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(tuple(n + 2 * MARGIN for n in SHAPE))
    for _ in range(60):
        truth[tuple(rng.integers(1, n - 1) for n in truth.shape)] += rng.uniform(0.5, 2)
    for _ in range(6):
        start, way = [rng.uniform(2, n - 2) for n in truth.shape], rng.normal(size=3)
        path = np.array(start) + np.linspace(-15, 15, 120)[:, None] * way / np.linalg.norm(way)
        inside = (path >= 0).all(1) & (path < np.array(truth.shape) - 1).all(1)
        np.add.at(truth, tuple(path[inside].round().astype(int).T), 0.15)
    mean = degrade(gaussian_filter(truth, softness), kernel, scale=1).clip(0)
    seen = mean[(slice(MARGIN, -MARGIN),) * 3]
    counts: np.ndarray = rng.poisson(photons * seen / seen.max() + 1).astype(np.uint16)
    return counts


def errors(
    family: str, optics: OpticsConfig | None, counts: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Return how much wider a blind kernel is than the true one, along Z and across, in percent."""
    result = dkp.restore(
        counts, axes="ZYX", volume=True, scale=1, kernel_family=family, kernel_size=(15, 31, 31),
        optics=optics, noise=NoiseConfig(gain=1.0), iterations=2,
    )  # fmt: skip
    cut = truth[MARGIN:-MARGIN]
    found = np.array(full_widths(result.kernel)) / full_widths(cut) - 1
    return 100 * found[:2]


def main() -> None:
    """Print mean and worst error of full widths at half maximum, per family, lens and statement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--softness", type=float, default=1.2, help="of what is imaged, pixels")
    parser.add_argument("--photons", type=float, default=60, help="in the brightest pixel")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for family in ("widefield", "confocal"):
        for lens in LENSES:
            true = OpticsConfig(wavelength=525, **lens)
            kernel = kernel_of(family, true)
            volumes = [
                counts_of(kernel, options.softness, options.photons, seed)
                for seed in range(options.seeds)
            ]
            cases: dict[str, OpticsConfig | None] = {
                said: replace(true, numerical_aperture=factor * true.numerical_aperture)
                for said, factor in STATED.items()
            }
            for said, optics in (cases | {"nothing": None}).items():
                found = np.array([errors(family, optics, volume, kernel) for volume in volumes])
                worst = np.abs(found).max(0)
                axial, lateral = (
                    f"{mean:+.0f} % (worst {most:.0f})"
                    for mean, most in zip(found.mean(0), worst, strict=True)
                )
                na = true.numerical_aperture
                print(f"{family}, NA {na:g}, stated {said}: Z {axial}, XY {lateral}", flush=True)


if __name__ == "__main__":
    main()
