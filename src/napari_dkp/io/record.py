"""The settings file of a restoration: what made it, and what there is to say of it."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dkp import __version__
from napari_dkp.config import Settings
from napari_dkp.io.durable import write_text
from napari_dkp.io.picture import Picture
from napari_dkp.state import Stop

if TYPE_CHECKING:
    from napari_dkp.io.outputs import Outputs
    from napari_dkp.report import Report
    from napari_dkp.state import Restoration


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is told of a restoration beside its images.

    Attributes
    ----------
    settings, device, seconds, stop, steps, known_kernel, choice, notes, reports : as of
        `Restoration`.
    residual : the last one; None where it is not known.
    run : whatever, as JSON, tells what the restoration was made of; None where nobody asks.
    """

    settings: Settings
    device: str
    seconds: float
    stop: Stop
    steps: int
    known_kernel: bool
    residual: float | None
    choice: str = ""
    notes: tuple[str, ...] = ()
    reports: "tuple[Report | None, ...]" = ()
    run: Any = None

    @classmethod
    def of(cls, restoration: "Restoration") -> "Record":
        """Return that of a restoration in memory."""
        return cls(
            settings=restoration.settings,
            device=restoration.device,
            seconds=restoration.seconds,
            stop=restoration.stop,
            steps=restoration.steps,
            known_kernel=restoration.known_kernel,
            residual=restoration.history[-1] if restoration.history else None,
            choice=restoration.choice,
            notes=restoration.notes,
            reports=restoration.reports,
        )

    def write(self, outputs: "Outputs", source: Picture) -> None:
        """Write the settings file; what it replaces was agreed to."""
        size = source.pixel_size.enlarged(tuple(self.settings.spatial_scales.values()))
        finite = self.residual is not None and math.isfinite(self.residual)
        values = {
            "napari_dkp": __version__,
            "source": source.name,
            "image": outputs.image.name,
            "kernel": outputs.kernel.name,
            "known_kernel": self.known_kernel,
            "settings": self.settings.to_dict(),
            "seed": self.settings.seed,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "stop": self.stop.name.lower(),
            "steps": self.steps,
            "choice": self.choice,
            "notes": self.notes,
            "reports": [None if r is None else r.figures() for r in self.reports],
            "residual": self.residual if finite else None,
            "pixel_size": {**size.sizes, "unit": size.unit},
        }
        if self.run is not None:
            values["run"] = self.run
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(outputs.settings, text)


def read_record(path: Path) -> Any:
    """Return what a settings file holds, as JSON does; None where there is none of ours."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and "napari_dkp" in values else None


def read_settings(path: str | os.PathLike[str]) -> tuple[Settings, Path | None]:
    """Read the settings of an earlier run, and where its kernel lies if that was given to it.

    Parameters
    ----------
    path : a `_settings.json` that `write` made.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, or is not one of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"settings: there is no file '{path}'")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings.from_dict(record["settings"])
        kernel = path.with_name(record["kernel"]) if record["known_kernel"] else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"settings: '{path.name}' holds no settings of a run: {error}") from error
    return settings, kernel
