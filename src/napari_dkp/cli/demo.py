"""`napari-dkp demo`."""

from pathlib import Path
from typing import Annotated

import typer

from napari_dkp.cli.running import figures, run_to_end
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

        out.mkdir(parents=True, exist_ok=True)
        image = example.image()
        restoration = run_to_end(image, example.SETTINGS, None)
        path = out / "microaneurysms.png"
        example.figure(image, restoration).save(path)
        typer.echo(figures(restoration, (0.5, 0.5), "source pixels"))
        typer.echo(str(path))
        if viewer and example.has_display():
            from napari_dkp._napari.show import show

            show(image, restoration, "microaneurysms")
