"""Jobs without the viewer's thread."""

from napari_dkp._napari.job import Drawing


def events(made):
    """Run a job in this thread, as if all was drawn at once."""
    steps = made.events()
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            yield end.value
            return
        if isinstance(event, Drawing):
            made.drawn(made._shown)
        yield event
