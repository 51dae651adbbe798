"""Where a diffusion model comes from: the one that is shipped, a folder, a file, or the hub."""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_dkp.config import DiffusionConfig
from napari_dkp.diffusion.checkpoint import read_weights, verify
from napari_dkp.diffusion.guided import convert, is_guided, scheduler_for
from napari_dkp.diffusion.model import DiffusionModel
from napari_dkp.diffusion.names import find, weights_of

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel


def check(config: DiffusionConfig) -> None:
    """Refuse what cannot be loaded, as far as it shows without weights and without the network.

    Raises
    ------
    ValueError
        If a package is missing, there is no such model on this machine, or it is of another kind.
    """
    missing = next((package for package in _PACKAGES if find_spec(package) is None), None)
    if missing:
        raise ValueError(
            f"method: expected 'dip' or 'richardson-lucy' where {missing} is not installed; got "
            "'diffusion'. Install it with: pip install napari-dkp[diffusion]"
        )
    source = find(config.model)
    if source is None and config.download:
        return
    source = source or _from_hub(config)
    if source.is_dir():
        _parts(source)


_PACKAGES = ("diffusers", "safetensors")


def load(config: DiffusionConfig, precision: torch.dtype, device: torch.device) -> DiffusionModel:
    """Return the model that a configuration names; the last one is kept.

    Parameters
    ----------
    config : its `model`, `class_label` and `download`.
    precision : dtype of the convolutions.
    device : to run on.

    Raises
    ------
    ValueError
        If there is no such model, or it cannot be used; the message says why.
    """
    named = DiffusionConfig(
        model=config.model, class_label=config.class_label, download=config.download
    )
    return _load(named, precision, device)


@lru_cache(maxsize=1)  # the planes of a stack share it; two large ones may not fit
def _load(config: DiffusionConfig, precision: torch.dtype, device: torch.device) -> DiffusionModel:
    check(config)
    network, scheduler = _read(config)
    settings = network.config
    if settings.in_channels not in (1, 3) or settings.out_channels % settings.in_channels:
        raise ValueError(
            "model: expected a network from 1 or 3 channels to as many, or twice as many with the "
            f"variance; got one from {settings.in_channels} to {settings.out_channels}"
        )
    classes = settings.num_class_embeds
    label = config.class_label
    if label is not None and not (classes and label < classes):
        expected = f"0 to {classes - 1}" if classes else "None, for the model knows no classes"
        raise ValueError(f"class_label: expected {expected}; got {label}")
    if label is None and classes:
        if (local := find(config.model)) is None or local.is_dir():
            raise ValueError(
                f"class_label: expected 0 to {classes - 1}, for the model has to be told a class; "
                "got None"
            )
        label = classes - 1  # of converted networks the class that adds nothing
    # Attention compares all pixels that it was trained to see; convolutions look near by.
    attends = any("Attn" in kind for kind in settings.down_block_types)
    sides = settings.sample_size if attends and settings.sample_size else _WINDOW
    window = sides if isinstance(sides, int) else min(sides)
    return DiffusionModel(network, scheduler, window, label, precision, device, shrinks=not attends)


# Pixels, of networks that see any size: bounds memory.
_WINDOW = 512


def _read(config: DiffusionConfig) -> "tuple[UNet2DModel, DDPMScheduler]":
    source = find(config.model) or _from_hub(config)
    if source.is_dir():
        return _from_folder(source)
    verify(source)
    return _from_file(source)


def _parts(folder: Path) -> tuple[Path, Path]:
    """Return where network and scheduler lie that diffusers saved: a folder each, or both in one.

    Only their settings are read.
    """
    places = []
    kinds = []
    for part, file in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        place = folder / part if (folder / part).is_dir() else folder
        try:
            kinds.append(json.loads((place / file).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(
                f"model: expected a folder that diffusers saved, with '{file}'; '{folder}' has none"
            ) from None
        except ValueError as error:
            raise ValueError(f"model: '{place / file}' is damaged: {error}") from None
        places.append(place)
    network, scheduler = kinds
    if (kind := network.get("_class_name")) != "UNet2DModel":
        raise ValueError(f"model: expected an unconditional UNet2DModel; '{folder}' has a {kind}")
    if "beta_schedule" not in scheduler:
        raise ValueError(
            "model: expected a schedule of betas, such as a DDPMScheduler; "
            f"'{folder}' has a {scheduler.get('_class_name')}"
        )
    return places[0], places[1]


def _from_folder(folder: Path) -> "tuple[UNet2DModel, DDPMScheduler]":
    """Read what diffusers saved.

    Its own `from_pretrained` is not used: it takes the initial values from every network that is
    made meanwhile, in whatever thread, and runs code in files that are no safetensors.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    place, schedule = _parts(folder)
    file = weights_of(place)
    if file is None:
        raise ValueError(
            f"model: expected a file 'diffusion_pytorch_model.safetensors'; '{place}' has none"
        )
    weights = {_renamed(name): value.float() for name, value in read_weights(file).items()}
    try:
        with torch.device("meta"):  # without memory for weights
            network = UNet2DModel.from_config(UNet2DModel.load_config(place))
        network.load_state_dict(weights, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"model: '{place}' holds weights of another network than its config.json describes: "
            f"{why[:200]}"
        ) from error
    return network.eval().requires_grad_(False), DDPMScheduler.from_pretrained(schedule)


def _renamed(weight: str) -> str:
    """Return the name that a weight of attention has had since diffusers 0.15."""
    *layers, layer, kind = weight.split(".")
    return ".".join((*layers, _RENAMED.get(layer, layer), kind)) if layers else weight


_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _from_file(file: Path) -> "tuple[UNet2DModel, DDPMScheduler]":
    """Read a checkpoint of guided-diffusion."""
    weights = read_weights(file)
    if not is_guided(weights):
        raise ValueError(
            f"model: expected the weights of a guided-diffusion network, or the folder that "
            f"diffusers saved; '{file.name}' has others, the first is '{next(iter(weights))}'"
        )
    return convert(weights), scheduler_for(weights)


def _from_hub(config: DiffusionConfig) -> Path:
    """Return where a model of the hub lies; fetch it only if asked to."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                config.model,
                allow_patterns=["*.json", "*diffusion_pytorch_model.*"],
                local_files_only=not config.download,
            )
        )
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"model: {config.model!r} is not on this machine; download=True fetches it from the "
            "Hugging Face hub"
            if not config.download
            else f"model: {config.model!r} could not be fetched from the Hugging Face hub: "
            f"{_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
