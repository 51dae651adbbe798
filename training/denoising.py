"""Measure how well a diffusion model removes noise, beside methods that have learned nothing.

python -m training.denoising --model small --images FOLDER [--bm3d] --output FILE.md
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from skimage import io
from skimage.restoration import denoise_nl_means

from napari_dkp.config import SHIPPED_MODEL, DiffusionConfig
from napari_dkp.device import resolve_device, resolve_precision
from napari_dkp.diffusion.loading import load
from napari_dkp.diffusion.model import DiffusionModel
from training.patches import SUFFIXES

SIGMAS = (15, 25, 50)

# Makes an image of 0 to 255, shape (H, W, C), of one with noise of a standard deviation.
Denoiser = Callable[[np.ndarray, float], np.ndarray]


def read_images(paths: Sequence[Path], side: int) -> dict[str, np.ndarray]:
    """Read the middles of pictures, of files and of all files of folders.

    Returns
    -------
    By file name, from 0 to 255, float64, shape (H, W, C), C = 1 or 3, H and W at most `side`. What
    is not of 8 bits is scaled from its own least to its largest value.

    Raises
    ------
    ValueError
        If there are none, or one is neither grey nor RGB.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise ValueError(f"images: expected {', '.join(SUFFIXES)}; got {[str(p) for p in paths]}")
    return {file.stem: _middle(io.imread(file), side, file.name) for file in files}


def nonlocal_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Denoise with scikit-image's exact non-local means, all channels together."""
    grey = noisy.shape[-1] == 1  # an axis of one channel is not understood
    clean = denoise_nl_means(
        noisy[..., 0] if grey else noisy,
        patch_size=5,
        patch_distance=6,
        h=0.8 * sigma,
        sigma=sigma,
        fast_mode=False,
        channel_axis=None if grey else -1,
    )
    return clean[..., None] if grey else clean


def bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Denoise with the package bm3d, which is for non-commercial use and not among those needed."""
    from bm3d import bm3d as of_grey
    from bm3d import bm3d_rgb as of_colour

    if noisy.shape[-1] == 3:
        return of_colour(noisy / 255, sigma / 255) * 255
    return of_grey(noisy[..., 0] / 255, sigma / 255)[..., None] * 255


def of_model(model: DiffusionModel, device: torch.device) -> Denoiser:
    """Return how a model denoises: as x_t at the time t whose noise is that of the image.

    Colours are shown to a model of grey one by one. A model of colours knows noise that differs
    between channels: grey images are shown to it thrice, with noise added that brings each to √3
    times the noise, independent of the others, while their mean stays the image that was given.
    """

    def denoise(noisy: np.ndarray, sigma: float) -> np.ndarray:
        images = torch.from_numpy(noisy / 127.5 - 1).float().permute(2, 0, 1)[None]
        sigma = sigma / 127.5
        if model.channels == 1:
            images = images.transpose(0, 1)
        elif images.shape[1] == 1:
            sigma *= math.sqrt(model.channels)
            shape = (1, model.channels, *images.shape[2:])
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            images = images + sigma * (drawn - drawn.mean(1, keepdim=True))
        time = model.time_of(sigma)
        clean = model.denoise(math.sqrt(model.alpha(time)) * images.to(device), time)
        clean = clean.transpose(0, 1) if model.channels == 1 else clean
        clean = clean.mean(1, keepdim=True) if noisy.shape[2] == 1 else clean
        return (clean[0].cpu().permute(1, 2, 0).double().numpy() + 1) * 127.5

    return denoise


def measure(images: Sequence[np.ndarray], methods: dict[str, Denoiser]) -> dict[str, list[float]]:
    """Return the mean PSNR over images at each of `SIGMAS`, by method.

    All methods see the same noise, which is neither clipped nor rounded; what they return is
    clipped to 0 to 255.
    """
    figures: dict[str, list[float]] = {name: [] for name in methods}
    for sigma in SIGMAS:
        found: dict[str, list[float]] = {name: [] for name in methods}
        for index, image in enumerate(images):
            noise = np.random.default_rng(index).standard_normal(image.shape)
            noisy = image + sigma * noise
            for name, denoise in methods.items():
                error = np.mean((denoise(noisy, sigma) - image) ** 2)
                found[name].append(10 * math.log10(255**2 / error))
        for name, values in found.items():
            figures[name].append(float(np.mean(values)))
    return figures


def table(figures: dict[str, list[float]], title: str) -> str:
    """Return Markdown."""
    head = [f"| {title} | " + " | ".join(f"σ = {sigma}" for sigma in SIGMAS) + " |"]
    head.append("|---" * (1 + len(SIGMAS)) + "|")
    rows = [
        f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |"
        for name, values in figures.items()
    ]
    return "\n".join(head + rows)


def _middle(image: np.ndarray, side: int, name: str) -> np.ndarray:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"images: expected grey or RGB; got {name}, shape {image.shape}")
    picture = (image[..., None] if image.ndim == 2 else image[..., :3]).astype(np.float64)
    if image.dtype != np.uint8:
        picture = 255 * (picture - picture.min()) / max(np.ptp(picture), 1e-12)
    rows, columns = (slice(max((n - side) // 2, 0), None) for n in picture.shape[:2])
    return picture[rows, columns][:side, :side]


def _clipped(denoise: Denoiser) -> Denoiser:
    return lambda noisy, sigma: np.clip(denoise(noisy, sigma), 0, 255)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SHIPPED_MODEL, help="as of DiffusionConfig.model")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders or files")
    parser.add_argument("--crop", type=int, default=256, help="side of the middle that is used")
    parser.add_argument("--bm3d", action="store_true", help="measure BM3D too; pip install bm3d")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="Markdown file")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    config = DiffusionConfig(model=options.model)
    model = load(config, resolve_precision("auto", device), device)
    methods: dict[str, Denoiser] = {
        "noisy": lambda noisy, _: noisy,
        "non-local means": _clipped(nonlocal_means),
    }
    if options.bm3d:
        methods["BM3D"] = _clipped(bm3d)
    methods["diffusion model"] = _clipped(of_model(model, device))
    images = read_images(options.images, options.crop)
    tables = []
    for kind, channels in (("colour", 3), ("grey", 1)):
        names = [name for name, image in images.items() if image.shape[2] == channels]
        if names:
            figures = measure([images[name] for name in names], methods)
            tables.append(f"{table(figures, kind)}\n\nMean over {', '.join(names)}.")
    text = (
        f"PSNR in dB under Gaussian noise of standard deviation σ, of 255; model "
        f"'{Path(options.model).name}', the middle {options.crop}² of each image, "
        f"noise of fixed seeds.\n\n" + "\n\n".join(tables) + "\n"
    )
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
