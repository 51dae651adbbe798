"""`napari-dkp demo`."""

from pathlib import Path
from typing import Annotated

import typer

from napari_dkp.cli.running import announce, conclude, figures, run_to_end
from napari_dkp.cli.sentences import one_sentence


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("demo"),
    viewer: Annotated[bool, typer.Option(help="Open napari if there is a display.")] = True,
) -> None:
    """Restore a real image, twice as large, and show what came out.

    The image is a piece of a retina photograph with microaneurysms that ships with scikit-image.
    """
    with one_sentence():
        from napari_dkp import demo as example
        from napari_dkp.io import Record
        from napari_dkp.stack import Run

        out.mkdir(parents=True, exist_ok=True)
        image = example.image()
        run = Run(image, example.SETTINGS)
        announce(run, known_kernel=False)
        run_to_end(run, run)
        restoration = run.result()
        record = Record.of(restoration)
        conclude(record)
        path = out / "microaneurysms.png"
        example.figure(image, restoration).save(path)
        shape, kernel = restoration.image.shape, restoration.kernel
        typer.echo(figures(shape, record, kernel, (0.5, 0.5), "source pixels"))
        typer.echo(str(path))
        if viewer and example.has_display():
            from napari_dkp._napari.show import show

            show(image, restoration, "microaneurysms")
