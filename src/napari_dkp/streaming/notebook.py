"""What is noted beside a partial image, so that another process can go on with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_dkp import io
from napari_dkp.config import Settings
from napari_dkp.layout import Index
from napari_dkp.plan import Plan
from napari_dkp.report import Report


@dataclass(frozen=True)
class Findings:
    """What a run found out before, and while, it restored planes.

    Attributes
    ----------
    settings : resolved, with the tiles that memory allowed.
    choice, device : of the run.
    notes : of it, and of those that it goes on from.
    plans : per channel; None where nothing was found.
    """

    settings: Settings
    choice: str
    device: str
    notes: tuple[str, ...]
    plans: Mapping[int, Plan | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only."""
        return {
            "settings": self.settings.to_dict(),
            "choice": self.choice,
            "device": self.device,
            "notes": self.notes,
            "plans": {
                str(channel): plan and plan.to_dict() for channel, plan in self.plans.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Findings":
        """Read back what `to_dict` wrote, also after a trip through JSON."""
        plans = values["plans"].items()
        return cls(
            settings=Settings.from_dict(values["settings"]),
            choice=values["choice"],
            device=values["device"],
            notes=tuple(values["notes"]),
            plans={int(channel): plan and Plan.from_dict(plan) for channel, plan in plans},
        )


@dataclass(frozen=True, eq=False)
class PlaneNote:
    """What is noted of a restored plane.

    Attributes
    ----------
    index : of the plane.
    kernel : float32, shape (*K,).
    report : without its images; None where there is none.
    residual : the last one.
    steps, seconds : since the plane before it.
    diverged : whether a fit had diverged by then.
    """

    index: Index
    kernel: np.ndarray
    report: Report | None
    residual: float
    steps: int
    seconds: float
    diverged: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, which lose nothing."""
        return {
            "plane": self.index,
            "kernel": self.kernel.tolist(),
            "report": self.report and self.report.figures(),
            "residual": self.residual,
            "steps": self.steps,
            "seconds": self.seconds,
            "diverged": self.diverged,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlaneNote":
        """Read back what `to_dict` wrote, also after a trip through JSON."""
        report = values["report"]
        return cls(
            index=tuple(values["plane"]),
            kernel=np.asarray(values["kernel"], np.float32),
            report=report and Report.from_figures(report),
            residual=values["residual"],
            steps=values["steps"],
            seconds=values["seconds"],
            diverged=values["diverged"],
        )


class Notebook:
    """Findings and notes on planes, in the folder of a partial image; each is there or not at all.

    Parameters
    ----------
    folder : of the partial image.

    Attributes
    ----------
    planes : the latest note on each plane. It counts once the plane's image is written too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "notes.jsonl"
        if not path.exists():
            io.Lines.begin(path)
        self._lines = io.Lines(path, PlaneNote.from_dict)
        self.planes: dict[Index, PlaneNote] = {note.index: note for note in self._lines.entries}

    @staticmethod
    def findings(folder: Path) -> Findings | None:
        """Return what was found before; None where nothing was."""
        path = folder / _FINDINGS
        if not path.exists():
            return None
        return Findings.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def keep(self, findings: Findings) -> None:
        """Replace the findings."""
        io.write_text(self._folder / _FINDINGS, json.dumps(findings.to_dict()) + "\n")

    def add(self, note: PlaneNote) -> None:
        """Note a plane."""
        self._lines.add(note.to_dict())
        self.planes[note.index] = note

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()


_FINDINGS = "findings.json"
