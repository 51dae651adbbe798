"""What the name of a diffusion model stands for: the shipped one, a folder, a file, or the hub."""

import os
import re
from pathlib import Path

from napari_dkp.config import SHIPPED_MODEL


def find(model: str) -> Path | None:
    """Return the file or folder that a name stands for; None for a name of the hub.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if model == SHIPPED_MODEL:
        return Path(__file__).parent / SHIPPED_MODEL
    source = Path(os.path.expanduser(model))
    if model and source.exists():
        return source
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return None
    raise ValueError(
        f"model: expected '{SHIPPED_MODEL}', a folder, a file of weights, or a name of the "
        f"Hugging Face hub such as 'owner/name'; got {model!r}, which does not exist"
    )


def describe(model: str) -> str:
    """Return in a few words what a name stands for, without reading it."""
    if model == SHIPPED_MODEL:
        return "9.7 million parameters, for a CPU: photographs and drawn fluorescence."
    try:
        source = find(model)
        if source is None:
            return (
                "No such path; as a name of the Hugging Face hub, fetched where Download is ticked."
            )
        if source.is_file():
            return f"A checkpoint, {_size(source)}."
        weights = weights_of(source / "unet" if (source / "unet").is_dir() else source)
        return f"A folder, {_size(weights)} of weights." if weights else "A folder without weights."
    except (OSError, ValueError):
        return "No such file or folder."


def weights_of(folder: Path) -> Path | None:
    """Return the file of weights that diffusers saved in a folder; None if there is none."""
    files = (folder / f"diffusion_pytorch_model.{ending}" for ending in ("safetensors", "bin"))
    return next(filter(Path.is_file, files), None)


def _size(file: Path) -> str:
    megabytes = file.stat().st_size / 1e6
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.1f} MB"
