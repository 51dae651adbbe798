"""Sample data: pictures that ship with scikit-image, and a simulation. Nothing is downloaded."""

from importlib.resources import as_file, files
from typing import Any

import numpy as np

LayerData = tuple[np.ndarray, dict[str, Any], str]

_SIZE = 256
_SCALE = 2
_PIXEL = 0.05
_TAPS = 11


def clock() -> list[LayerData]:
    """Return a photograph of a clock that moved, 300 × 400 pixels: real motion blur."""
    return [(_picture("clock_motion.png"), {"name": "clock"}, "image")]


def microaneurysms() -> list[LayerData]:
    """Return microaneurysms of a retina, 102 × 102 pixels: a real biomedical image."""
    return [(_picture("microaneurysms.png"), {"name": "microaneurysms"}, "image")]


def retina() -> list[LayerData]:
    """Return the optic disc of a retina, 256 × 256 pixels, RGB."""
    disc = _picture("retina.jpg")[520:776, 110:366]
    return [(disc, {"name": "retina", "rgb": True}, "image")]


def filaments() -> list[LayerData]:
    """Return simulated fluorescent filaments, the sharp truth and the PSF that blurred them.

    The blurred image has 128 × 128 pixels of 0.1 µm and noise; truth and PSF have pixels of
    0.05 µm, so that the PSF is what a restoration at scale 2 should find.
    """
    from napari_dkp.degradation import degrade

    truth = _draw_filaments(np.random.default_rng(7))
    psf = _tilted_gaussian(sigmas=(2.0, 1.1), angle=np.radians(35))
    blurred = degrade(truth, psf, scale=_SCALE, noise=8.0, seed=7)
    fine = {"scale": (_PIXEL, _PIXEL), "units": ("um", "um"), "axis_labels": ("y", "x")}
    coarse = {**fine, "scale": (_SCALE * _PIXEL, _SCALE * _PIXEL)}
    # Over the blurred image as the area grid has it, and right of it.
    shift = (1 - _SCALE) / 2 * _PIXEL
    beside = (_SIZE + 4) * _PIXEL + shift
    limits = [float(blurred.min()), float(blurred.max())]
    return [
        (
            truth,
            {"name": "filaments, truth", "translate": (shift, shift), "visible": False, **fine},
            "image",
        ),
        (
            psf,
            {
                "name": "filaments, true PSF",
                "translate": (shift, beside),
                "colormap": "inferno",
                "interpolation2d": "nearest",
                **fine,
            },
            "image",
        ),
        (blurred, {"name": "filaments", "contrast_limits": limits, **coarse}, "image"),
    ]


def _picture(name: str) -> np.ndarray:
    from skimage.io import imread

    with as_file(files("skimage.data") / name) as path:
        return np.asarray(imread(path))


def _draw_filaments(rng: np.random.Generator, count: int = 26) -> np.ndarray:
    """Draw smooth random curves of varying brightness on a faint background."""
    from scipy.ndimage import gaussian_filter

    image = np.zeros((_SIZE, _SIZE))
    for _ in range(count):
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.02, 4 * _SIZE))
        steps = 0.5 * np.stack([np.sin(heading), np.cos(heading)], axis=1)
        path = rng.uniform(0, _SIZE, 2) + np.cumsum(steps, axis=0)
        # From the middle of the curve, so that it crosses the frame and does not only leave it.
        path += rng.uniform(0, _SIZE, 2) - path[len(path) // 2]
        rows, columns = np.rint(path).astype(int).T
        inside = (rows >= 0) & (rows < _SIZE) & (columns >= 0) & (columns < _SIZE)
        np.add.at(image, (rows[inside], columns[inside]), rng.uniform(0.4, 1.0))
    image = gaussian_filter(image, 0.8)
    scaled: np.ndarray = 100 + 1500 * image / np.quantile(image, 0.999)
    return scaled.astype(np.float32)


def _tilted_gaussian(sigmas: tuple[float, float], angle: float) -> np.ndarray:
    """Return a Gaussian of sum 1; sigmas in pixels, angle anticlockwise from X in radians."""
    y, x = np.indices((_TAPS, _TAPS)) - _TAPS // 2
    along = x * np.cos(angle) - y * np.sin(angle)
    across = x * np.sin(angle) + y * np.cos(angle)
    psf = np.exp(-0.5 * ((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2))
    normalised: np.ndarray = psf / psf.sum()
    return normalised.astype(np.float32)
