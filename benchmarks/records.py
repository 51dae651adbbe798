"""Results of one machine: JSON that grows run by run, and its Markdown.

A run is a dict with "what" (its identity), "settings", "commit" and "figures".
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil
import torch

from napari_dkp.device import describe_device

Run = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")

ROOT = Path(__file__).parents[1]
# What decides a figure; the desktop and the layout of tables do not.
_SOURCES = ("src", ":!src/napari_dkp/_napari", "benchmarks/scores.py")


class Results:
    """Runs kept in `path`.json and shown in `path`.md, both written after every run.

    Parameters
    ----------
    path : of both files, without suffix.
    kind : "quality" or "speed": what `benchmarks.plot` makes of it.
    machine : see `describe_machine`.
    tables : turns runs into Markdown.

    Raises
    ------
    ValueError
        If the file holds results of another kind or machine.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        machine: dict[str, Any],
        tables: Callable[[Sequence[Run]], str],
    ) -> None:
        self._json, self._markdown = path.with_suffix(".json"), path.with_suffix(".md")
        self._machine = machine
        self._head = {"kind": kind, "machine": machine}
        self._tables = tables
        self.runs: list[Run] = []
        if self._json.exists():
            stored = json.loads(self._json.read_text())
            self.runs = stored.pop("runs")
            if stored != self._head:
                raise ValueError(f"output: {self._json} holds results of another kind or machine")

    def __contains__(self, run: Run) -> bool:
        """Tell whether the same run, of the same code with the same settings, is there."""
        return _plain(run) in [{key: old.get(key) for key in run} for old in self.runs]

    def add(self, run: Run) -> None:
        """Keep a run in place of an older one of the same identity, and write."""
        run = _plain(run)
        self.runs = [old for old in self.runs if old["what"] != run["what"]] + [run]
        self._json.parent.mkdir(parents=True, exist_ok=True)
        _write(self._json, json.dumps({**self._head, "runs": self.runs}, indent=1) + "\n")
        commits = ", ".join(sorted({run["commit"] for run in self.runs}))
        facts = "; ".join(f"{name} {value}" for name, value in self._machine.items())
        head = f"Measured at {commits}: {facts}.\n\n"
        _write(self._markdown, head + self._tables(self.runs))


def describe_machine(devices: Sequence[str]) -> dict[str, Any]:
    """Return what decides how fast a run is, as plain values."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "devices": " and ".join(describe_device(device) for device in devices),
    }


def code_version() -> str:
    """Return the commit that last changed the code, with a hash of what is not committed."""
    try:
        commit = _git("log", "-1", "--format=%h", "--abbrev=12", "--", *_SOURCES).strip()
        changes = _git("diff", "HEAD", "--", *_SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (f"+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function where nothing ran before, so that peak memory is the call's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: by tensors on CUDA, else by this process in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory as well
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(run: Run) -> Run:
    """Return a run as it comes back from JSON."""
    plain: Run = json.loads(json.dumps(run))
    return plain


def _write(path: Path, text: str) -> None:
    """Replace a file in one go: an interrupted write leaves the old one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
