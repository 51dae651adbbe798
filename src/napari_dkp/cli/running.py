"""A run to its end, or to the first Ctrl-C, and what came out in a line."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import typer

from napari_dkp.cli.interrupt import Interrupt
from napari_dkp.config import Settings
from napari_dkp.durations import duration

if TYPE_CHECKING:
    import numpy as np

    from napari_dkp.io import LazyArray
    from napari_dkp.stack import Run
    from napari_dkp.state import Restoration, State


def run_to_end(
    image: "np.ndarray | LazyArray", settings: Settings, kernel: "np.ndarray | None"
) -> "Restoration":
    """Run to the end, or to the first Ctrl-C."""
    from napari_dkp.device import describe_device, free_memory
    from napari_dkp.estimate import estimate
    from napari_dkp.report import summary
    from napari_dkp.stack import Run
    from napari_dkp.state import Stop

    run = Run(image, settings, kernel=kernel)
    if run.choice:
        typer.echo(run.choice, err=True)
    cost = estimate(image.shape, run.settings, known_kernel=kernel is not None)
    typer.echo(
        f"Restoring on {describe_device(run.device)}: about {duration(cost.seconds)} and "
        f"{cost.memory / 2**30:.2g} GiB",
        err=True,
    )
    if cost.memory > free_memory(run.device):
        typer.echo("That is more memory than the device has left; it may not suffice.", err=True)
    with _progress(run) as show, closing(iter(run)) as states, Interrupt() as interrupt:
        for state in states:
            show(state)
            if state.note:
                typer.echo(state.note, err=True)
            interrupt.has_state = True
            if interrupt.asked:
                break
    restoration = run.result()
    if text := summary(restoration.reports):
        typer.echo(text, err=True)
    if restoration.stop is not Stop.COMPLETED:
        typer.echo(restoration.stop.sentence, err=True)
    if restoration.stop is Stop.CANCELLED and run.n_planes > 1:
        typer.echo("Planes that it did not reach hold the interpolated source.", err=True)
    return restoration


def figures(restoration: "Restoration", spacing: tuple[float, float], unit: str) -> str:
    """Say in one line what came out; FWHM in the unit of the pixel size."""
    from napari_dkp import kernel_shape

    size = " × ".join(str(n) for n in restoration.image.shape)
    parts = [f"{size} pixels in {restoration.seconds:.1f} s"]
    if restoration.history:
        parts.append(f"residual {restoration.history[-1]:.4g}")
    if restoration.kernel.ndim == 2:
        shape = kernel_shape.measure(restoration.kernel, spacing)
        major, minor = shape.fwhm
        parts.append(f"kernel FWHM {major:.3g} × {minor:.3g} {unit} at {shape.angle:.0f}°")
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
