"""What is compared: rows of the quality tables, each a change of one thing in a preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from napari_dkp.config import Precision, PresetName, Settings

Changes = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to restore an image.

    Parameters
    ----------
    preset : what is changed.
    interpolate : nothing is run; the LR image is interpolated.
    known_kernel : the true kernel is given.
    precision : of the image network.
    rks, pke, dip : fields to change in the preset's configs.
    """

    preset: PresetName = "balanced"
    interpolate: bool = False
    known_kernel: bool = False
    precision: Precision = "auto"
    rks: Changes = field(default_factory=dict)
    pke: Changes = field(default_factory=dict)
    dip: Changes = field(default_factory=dict)

    def settings(self, **common: Any) -> Settings:
        """Return resolved settings; `common` holds what all rows share, e.g. scale and seed."""
        base = Settings(preset=self.preset, precision=self.precision, **common).resolve()
        if base.rks is None or base.pke is None or base.dip is None:
            raise ValueError("settings: expected resolved settings; got some with open fields")
        return replace(
            base,
            rks=replace(base.rks, **self.rks),
            pke=replace(base.pke, **self.pke),
            dip=replace(base.dip, **self.dip),
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
    "kernel never stands": Row(rks={"updates": 10**9}),
    "squared distance": Row(pke={"distance": "squared"}),
    "no data term": Row(pke={"data_weight": 0.0}),
    "published network": Row(dip={"network": "published"}),
    "Adam": Row(dip={"optimiser": "adam", "learning_rate": 7e-3}),
    "no gradient prior": Row(dip={"gradient_weight": 0.0}),
    "gradient prior from the start": Row(dip={"gradient_growth": 0.0}),
    "no averaging": Row(dip={"averaging": 0.0}),
    "float32": Row(precision="float32"),
}

ROWS = MAIN | ABLATIONS
