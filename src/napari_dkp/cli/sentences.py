"""Errors as users see them."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from napari_dkp.mendable import sentence


@contextmanager
def one_sentence(stopped: str = "Stopped before the result was complete.") -> Iterator[None]:
    """Print what a user can mend as one sentence; leave bugs their traceback.

    Parameters
    ----------
    stopped : what to say when the user gave up.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        said = None if isinstance(error, typer.Exit) else sentence(error)
        if said is None:
            raise
        typer.echo(f"napari-dkp: {said}", err=True)
        raise typer.Exit(1) from None
