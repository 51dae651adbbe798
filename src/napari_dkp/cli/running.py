"""A run to its end, or to the first Ctrl-C, and what came out in a line."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import typer

from napari_dkp.cli.interrupt import Interrupt
from napari_dkp.durations import duration

if TYPE_CHECKING:
    import numpy as np

    from napari_dkp.io import Record
    from napari_dkp.stack import Run
    from napari_dkp.state import State
    from napari_dkp.streaming import Stream


def announce(run: "Run", *, known_kernel: bool) -> None:
    """Say what was chosen, and what the run will cost."""
    from napari_dkp.device import describe_device, free_memory
    from napari_dkp.estimate import estimate

    if run.choice:
        typer.echo(run.choice, err=True)
    cost = estimate(run.layout.shape, run.settings, known_kernel=known_kernel)
    typer.echo(
        f"Restoring on {describe_device(run.device)}: about {duration(cost.seconds)} and "
        f"{cost.memory / 2**30:.2g} GiB",
        err=True,
    )
    if cost.memory > free_memory(run.device):
        typer.echo("That is more memory than the device has left; it may not suffice.", err=True)


def run_to_end(run: "Run", states: "Run | Stream") -> bool:
    """Run to the end, or to the first Ctrl-C; return whether it came to the end.

    Parameters
    ----------
    run : whose progress is shown.
    states : that run, or the stream that it is a part of.
    """
    with _progress(run) as show, closing(iter(states)) as each, Interrupt() as interrupt:
        for state in each:
            show(state)
            if state.note:
                typer.echo(state.note, err=True)
            interrupt.has_state = True
            if interrupt.asked:
                return False
    return True


def conclude(record: "Record") -> None:
    """Say what there is to know of a result."""
    from napari_dkp.report import summary
    from napari_dkp.state import Stop

    if text := summary(record.reports):
        typer.echo(text, err=True)
    if record.stop is not Stop.COMPLETED:
        typer.echo(record.stop.sentence, err=True)
    if record.stop is Stop.CANCELLED and len(record.reports) > 1:
        typer.echo("Planes that it did not reach hold the interpolated source.", err=True)


def figures(
    shape: tuple[int, ...],
    record: "Record",
    kernel: "np.ndarray",
    spacing: tuple[float, float],
    unit: str,
) -> str:
    """Say in one line what came out; FWHM in the unit of the pixel size.

    Parameters
    ----------
    shape : of the restored image.
    record : of the restoration.
    kernel : of which the width is told if it is that of one plane.
    spacing, unit : of restored pixels, along Y and X.
    """
    from napari_dkp import kernel_shape

    size = " × ".join(str(n) for n in shape)
    parts = [f"{size} pixels in {record.seconds:.1f} s"]
    if record.residual is not None:
        parts.append(f"residual {record.residual:.4g}")
    if kernel.ndim == 2:
        found = kernel_shape.measure(kernel, spacing)
        major, minor = found.fwhm
        parts.append(f"kernel FWHM {major:.3g} × {minor:.3g} {unit} at {found.angle:.0f}°")
    return ", ".join(parts)


@contextmanager
def _progress(run: "Run") -> Iterator[Callable[["State[np.ndarray]"], object]]:
    """Draw a bar on a terminal; the yielded function moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("residual {task.fields[residual]:.4g}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("restoring", total=run.n_steps, residual=float("nan"))

        def show(state: "State[np.ndarray]") -> None:
            doing = "finding the kernel" if state.searching else "restoring"
            if state.plane:
                doing = f"plane {', '.join(map(str, state.plane))}: {doing}"
            bar.update(
                task,
                completed=state.step,
                total=state.n_steps,
                description=doing,
                residual=state.residual,
            )

        yield show
