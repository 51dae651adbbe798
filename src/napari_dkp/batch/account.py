"""What became of a batch, for machines (batch.json) and for people (batch.md)."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from napari_dkp import __version__, io
from napari_dkp.batch.outcome import STATUSES, Outcome
from napari_dkp.config import Settings
from napari_dkp.durations import duration


def write(
    folder: Path, outcomes: Sequence[Outcome], settings: Settings, notes: Sequence[str]
) -> None:
    """Replace both files in a folder; each is whole at any time.

    What a process left that died over them goes.

    Parameters
    ----------
    folder : of the results.
    outcomes : of all files.
    settings : as they were given; what became of them stands beside each result.
    notes : on the batch as a whole.
    """
    values = {
        "napari_dkp": __version__,
        "versions": _versions(),
        "totals": totals(outcomes),
        "notes": list(notes),
        "settings": settings.to_dict(),
        "files": [outcome.to_dict() for outcome in outcomes],
    }
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with io.Claim(folder / JSON, wait=10):  # another batch may be writing its own
        for name, content in ((JSON, text), (MARKDOWN, _markdown(outcomes, values))):
            io.remove_parts(folder / name)
            io.write_text(folder / name, content)


def totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return how many files came to what, planes and seconds in sum."""
    found: Counter[str] = Counter(outcome.status for outcome in outcomes)
    return {
        "files": len(outcomes),
        **{status: found[status] for status in STATUSES if found[status]},
        "planes": sum(outcome.planes for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 3),
    }


def in_words(outcomes: Sequence[Outcome]) -> str:
    """Say in one line how many files came to what."""
    found: Counter[str] = Counter(outcome.status for outcome in outcomes)
    parts = [f"{found[status]} {status}" for status in STATUSES if found[status]]
    files = "file" if len(outcomes) == 1 else "files"
    return f"{len(outcomes)} {files}: {', '.join(parts)}."


JSON, MARKDOWN = "batch.json", "batch.md"


def _markdown(outcomes: Sequence[Outcome], values: dict[str, Any]) -> str:
    seconds = values["totals"]["seconds"]
    lines = ["# Restored files", "", f"{in_words(outcomes)} {duration(seconds)} of work.", ""]
    lines += [f"{note}\n" for note in values["notes"]]
    if failed := [outcome for outcome in outcomes if outcome.status == "failed"]:
        lines += ["## Failed", "", "| File | Why |", "|---|---|"]
        lines += [f"| {_cell(each.source)} | {_cell(each.sentence)} |" for each in failed]
        lines.append("")
    lines += [
        "## All files",
        "",
        "| File | | Planes | Time | Kernel, restored pixels | Result | To know |",
        "|---|---|---|---|---|---|---|",
        *(_row(outcome) for outcome in outcomes),
        "",
        "Widths are full widths at half maximum. Settings, kernels and the figures of every plane "
        f"stand beside each result, those of the batch in `{JSON}`.",
        "",
        ", ".join(f"{name} {version}" for name, version in values["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> str:
    width = ""
    if outcome.kernel_width is not None:
        width = " to ".join(dict.fromkeys(f"{each:.1f}" for each in outcome.kernel_width))
    planes = f"{outcome.planes} of {outcome.n_planes}" if outcome.n_planes else ""
    said = [outcome.sentence, outcome.choice, *outcome.warnings, *outcome.notes]
    cells = [
        outcome.source,
        outcome.status,
        planes,
        duration(outcome.seconds) if outcome.seconds else "",
        width,
        outcome.outputs[0].name if outcome.outputs else "",
        " ".join(filter(None, said)),
    ]
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("napari-dkp", "torch", "numpy", "tifffile", "zarr"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
