"""What became of one file of a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from napari_dkp import io
from napari_dkp.report import Report, summary
from napari_dkp.state import Stop

Status = Literal["done", "skipped", "failed", "stopped", "waiting"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a file.

    Attributes
    ----------
    source : the file.
    status : "done"; "skipped", for it was done before; "failed"; "stopped" on the way, to be gone
        on with; "waiting".
    sentence : why, where it is neither done nor waiting.
    planes, n_planes : that are restored, and that there are; 0 where that is not known.
    seconds : that the restoration took.
    choice : what "auto" took.
    kernel_width : smallest and greatest full width at half maximum, in restored pixels; None where
        it is not known.
    summary : what the reports on its planes say.
    warnings : what a user should know before the result is used.
    notes : what was done otherwise than planned.
    outputs : what was written.
    trace : traceback of an error that should not be.
    """

    source: Path
    status: Status = "waiting"
    sentence: str = ""
    planes: int = 0
    n_planes: int = 0
    seconds: float = 0.0
    choice: str = ""
    kernel_width: tuple[float, float] | None = None
    summary: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()
    trace: str = ""

    @classmethod
    def of_record(cls, source: Path, outputs: io.Outputs, status: Status) -> "Outcome":
        """Return that of a file that is done, as its settings file tells it."""
        values: dict[str, Any] = io.read_record(outputs.settings) or {}
        figures = values.get("reports", [])
        reports = [None if each is None else Report.from_figures(each) for each in figures]
        present = [report for report in reports if report is not None]
        widths = [report.kernel_width for report in present]
        notes = list(values.get("notes", []))
        if values.get("stop") == Stop.DIVERGED.name.lower():
            notes.append(Stop.DIVERGED.sentence)
        elif len(present) < len(reports):
            n = len(reports) - len(present)
            notes.append(f"Planes without contrast, which hold their source: {n}.")
        return cls(
            source=source,
            status=status,
            sentence="It was done before, from the same file with the same settings."
            if status == "skipped"
            else "",
            planes=len(reports),
            n_planes=len(reports),
            seconds=values.get("seconds", 0.0),
            choice=values.get("choice", ""),
            kernel_width=(min(widths), max(widths)) if widths else None,
            summary=summary(reports),
            warnings=tuple(dict.fromkeys(w for report in present for w in report.warnings)),
            notes=tuple(notes),
            outputs=tuple(path for path in outputs.paths if path.exists()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without those that say nothing."""
        values = {
            "source": str(self.source),
            "status": self.status,
            "sentence": self.sentence,
            "planes": self.planes,
            "n_planes": self.n_planes,
            "seconds": round(self.seconds, 3),
            "choice": self.choice,
            "kernel_width": self.kernel_width,
            "summary": self.summary,
            "warnings": self.warnings,
            "notes": self.notes,
            "outputs": [path.name for path in self.outputs],
            "trace": self.trace,
        }
        return {name: value for name, value in values.items() if value or name == "seconds"}
