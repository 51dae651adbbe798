"""What is compared: rows of the quality tables, each a change of one thing in a preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from napari_dkp.config import KernelFamilyName, Method, Precision, PresetName, Settings

Changes = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to restore an image.

    Parameters
    ----------
    preset : what is changed.
    interpolate : nothing is run; the LR image is interpolated.
    known_kernel : the true kernel is given.
    method : image restorer; "auto" fits a network to photographs.
    family : that kernels are sampled from, whatever the other rows are told; None: as they are.
    precision : of the image network.
    rks, pke, search, dip, diffusion : fields to change in the preset's configs.
    """

    preset: PresetName = "balanced"
    interpolate: bool = False
    known_kernel: bool = False
    method: Method = "auto"
    family: KernelFamilyName | None = None
    precision: Precision = "auto"
    rks: Changes = field(default_factory=dict)
    pke: Changes = field(default_factory=dict)
    search: Changes = field(default_factory=dict)
    dip: Changes = field(default_factory=dict)
    diffusion: Changes = field(default_factory=dict)

    def settings(self, **common: Any) -> Settings:
        """Return resolved settings; `common` holds what all rows share, e.g. scale and seed."""
        if self.family is not None:
            common["kernel_family"] = self.family
        common = {"method": self.method, **common}
        base = Settings(preset=self.preset, precision=self.precision, **common).resolve()
        if not (base.rks and base.pke and base.search and base.dip and base.diffusion):
            raise ValueError("settings: expected resolved settings; got some with open fields")
        return replace(
            base,
            rks=replace(base.rks, **self.rks),
            pke=replace(base.pke, **self.pke),
            search=replace(base.search, **self.search),
            dip=replace(base.dip, **self.dip),
            diffusion=replace(base.diffusion, **self.diffusion),
        )


MAIN = {
    "bicubic": Row(interpolate=True),
    "non-blind": Row(known_kernel=True),
    "fast": Row(preset="fast"),
    "balanced": Row(),
    "best": Row(preset="best"),
    "paper": Row(preset="paper"),
}

# Each differs from "balanced" in one thing.
ABLATIONS = {
    "one random draw for RKS": Row(rks={"sampler": "paper", "draws": 1}),
    "no PKE data term": Row(
        pke={"data_weight": 0.0}, search={"data_weight": 0.0, "profile_weight": 0.0}
    ),
    "kernel never stands": Row(rks={"updates": 10**6}),
    "no rounds of search": Row(search={"rounds": 0}),
    "motion: images take up nothing": Row(search={"stiffness": 1.0}),
    "squared distance": Row(pke={"distance": "squared"}),
    "published network": Row(dip={"network": "published"}),
    "Adam": Row(dip={"optimiser": "adam", "learning_rate": 7e-3}),
    "no gradient prior": Row(dip={"gradient_weight": 0.0}),
    "gradient prior from the start": Row(dip={"gradient_growth": 0.0}),
    "no polishing": Row(dip={"polishing": 0}),
    "float32": Row(precision="float32"),
}

DIFFUSION = {
    "diffusion, balanced": Row(method="diffusion"),
    "diffusion, fast": Row(method="diffusion", preset="fast"),
    "diffusion, best": Row(method="diffusion", preset="best"),
    "diffusion, non-blind": Row(method="diffusion", known_kernel=True),
    "diffusion: one random draw for RKS": Row(
        method="diffusion", rks={"sampler": "paper", "draws": 1}
    ),
    "diffusion: no PKE data term": Row(method="diffusion", pke={"data_weight": 0.0}),
    "diffusion: no trials": Row(method="diffusion", diffusion={"trials": 0}),
    "diffusion: no data step": Row(method="diffusion", diffusion={"trust": 1e-6}),
    "diffusion: gradient data step": Row(method="diffusion", diffusion={"data_step": "gradient"}),
    "diffusion: DDPM": Row(method="diffusion", diffusion={"sampler": "ddpm", "first": 10.0}),
    "diffusion: DDPM, mean of 8": Row(
        method="diffusion", diffusion={"sampler": "ddpm", "first": 10.0, "samples": 8}
    ),
    "diffusion: DDIM": Row(method="diffusion", diffusion={"sampler": "ddim", "first": 10.0}),
}

ROWS = MAIN | ABLATIONS | DIFFUSION
