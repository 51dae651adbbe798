"""The smallest networks of diffusers, untrained, in folders as diffusers saves them."""

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")


def network(channels: int = 3, seed: int = 0, **changes: Any) -> Any:
    kind = changes.pop("block", "")
    usual = {
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", f"{kind}DownBlock2D"),
        "up_block_types": (f"{kind}UpBlock2D", "UpBlock2D"),
        "add_attention": False,
        "layers_per_block": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return diffusers.UNet2DModel(**(usual | changes))


def saved(folder: Path, *, parts: bool = False, **changes: Any) -> Path:
    """Save a network with its schedule: both in `folder`, or in a folder of their own each."""
    save(network(**changes), folder / "unet" if parts else folder)
    schedule = diffusers.DDPMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)
    schedule.save_pretrained(folder / "scheduler" if parts else folder)
    return folder


def save(net: Any, folder: Path) -> Path:
    net.save_pretrained(folder)
    return folder
