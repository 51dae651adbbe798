"""How far a batch is, in words."""

from napari_dkp.batch.running import Event
from napari_dkp.durations import duration


def where(event: Event) -> str:
    """Say how far a batch is."""
    parts = [f"file {event.number} of {event.n_files}"]
    if event.n_planes > 1:
        parts.append(f"plane {min(event.planes + 1, event.n_planes)} of {event.n_planes}")
    if event.state is not None:
        parts.append(f"step {event.state.step} of {event.state.n_steps}")
    if event.seconds_left is not None:
        parts.append(f"about {duration(event.seconds_left)} left")
    return ", ".join(parts)
