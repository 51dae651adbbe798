"""What a batch shows while it runs: a line that changes on a terminal, a log elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from napari_dkp.batch import Event
from napari_dkp.batch.where import where
from napari_dkp.durations import duration


@contextmanager
def progress() -> Iterator[Callable[[Event], object]]:
    """Show events on the standard error; the yielded function takes them."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        said = monotonic()

        def say(text: str) -> None:
            nonlocal said
            said = monotonic()
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        def show(event: Event) -> None:
            if event.note:
                say(f"{event.job.source.name}: {event.note}")
            if event.outcome is not None:
                say(_outcome(event))
            elif event.state is not None:
                state = event.state
                text = f"{event.job.source.name}: {where(event)}"
                bar.update(task, description=text, completed=state.step, total=state.n_steps)
                if not console.is_terminal and monotonic() - said > _SILENCE:
                    say(text)

        yield show


# Seconds after which a log is told that there is progress.
_SILENCE = 30.0


def _outcome(event: Event) -> str:
    outcome = event.outcome
    assert outcome is not None
    text = f"file {event.number} of {event.n_files}, {outcome.source}: {outcome.status}"
    if outcome.status == "done":
        text += f" in {duration(outcome.seconds)}"
    for said in (outcome.sentence, *outcome.warnings, *outcome.notes):
        text += f"\n  {said}" if said else ""
    return text + (f"\n{outcome.trace}" if outcome.trace else "")
