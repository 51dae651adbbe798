"""Score restorations of a benchmark folder by the published protocol.

    python -m benchmarks.quality --data DIR [--images butterfly head woman] [--preset balanced]

DIR holds triples <name>_hr.png, <name>_lr.png, <name>_kernel.npy (kernels in correlation
orientation). Luma, border of `scale` pixels, no alignment. Prints a Markdown table.
"""

import argparse
from pathlib import Path

import numpy as np
from skimage.io import imread

import napari_dkp as dkp
from napari_dkp import metrics


def score(
    folder: Path, name: str, non_blind: bool, settings: dict[str, object]
) -> dict[str, float]:
    """Restore one image and score it against its ground truth."""
    hr, lr = (imread(folder / f"{name}_{kind}.png") for kind in ("hr", "lr"))
    truth = np.load(folder / f"{name}_kernel.npy")[::-1, ::-1]
    scale = hr.shape[0] // lr.shape[0]
    result = dkp.restore(
        lr,
        scale=scale,
        axes="YXC" if lr.ndim == 3 else "YX",
        kernel=np.maximum(truth, 0) if non_blind else None,  # splines left tiny negative taps
        kernel_size=truth.shape,
        phase="fkp",
        boundary="circular",
        **settings,
    )
    image = metrics.luma(result.image)
    reference = metrics.luma(hr[: image.shape[0], : image.shape[1]])
    return {
        "PSNR": metrics.psnr(image, reference, scale),
        "SSIM": metrics.ssim(image, reference, scale),
        "kernel PSNR": metrics.kernel_psnr(result.kernel, truth),
        "kernel NCC": metrics.kernel_ncc(result.kernel, truth),
        "steps": len(result.history),
        "seconds": result.seconds,
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", nargs="*", help="default: all in the folder")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--family", default="auto")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--non-blind", action="store_true", help="give the true kernel: the ceiling"
    )
    options = parser.parse_args()
    names = options.images or sorted(
        path.name.removesuffix("_lr.png") for path in options.data.glob("*_lr.png")
    )
    settings = {
        "preset": options.preset,
        "kernel_family": options.family,
        "iterations": options.iterations,
        "seed": options.seed,
        "device": options.device,
    }
    rows = {}
    for name in names:
        rows[name] = score(options.data, name, options.non_blind, settings)
        if len(rows) == 1:
            print("| image |", " | ".join(rows[name]), "|")
            print("|---" * (len(rows[name]) + 1) + "|")
        _print_row(name, rows[name])
    columns = zip(*(row.values() for row in rows.values()), strict=True)
    _print_row("mean", dict(zip(rows[names[0]], map(np.mean, columns), strict=True)))


def _print_row(name: str, row: dict[str, float]) -> None:
    print(f"| {name} |", " | ".join(f"{value:.4g}" for value in row.values()), "|", flush=True)


if __name__ == "__main__":
    main()
