"""`napari-dkp batch`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_dkp.cli.interrupt import Interrupt
from napari_dkp.cli.options import Options, with_options
from napari_dkp.cli.sentences import one_sentence


@with_options
def batch(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUTS...",
            help="Files, folders and patterns: TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, PNG, JPEG.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    options: Options,
    format: Annotated[
        str, typer.Option(metavar="ome-tiff|ome-zarr", help="Format of the images.")
    ] = "ome-tiff",
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also look into folders of folders.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results of other settings, or of files that changed."
        ),
    ] = False,
) -> None:
    """Restore many images, one after the other; a bad one does not stop the others.

    In DIR come NAME.ome.tif, NAME_kernel.tif and NAME_settings.json for each, and batch.md and
    batch.json, which say what became of all. Planes are written as they are done: after Ctrl-C, a
    crash or a power cut the same command goes on where it was, and skips what is done.
    """
    with one_sentence("Stopped at once; the same command goes on."):
        from napari_dkp import io
        from napari_dkp.batch import Batch, account
        from napari_dkp.cli.batch_progress import progress

        chosen = options.chosen()
        kinds: dict[str, Any] = {"format": format}
        known, spatial = chosen.psf_file, chosen.settings.spatial
        files = Batch(
            inputs,
            out,
            chosen.settings,
            kernel=io.read_kernel(known, spatial) if known else None,
            **kinds,
            overwrite=overwrite,
            recursive=recursive,
            stated_optics=chosen.stated_optics,
        )
        for given_file in chosen.given_files:
            for job in files.jobs:
                job.outputs.spare(given_file)
        with (
            progress() as show,
            closing(iter(files)) as events,
            Interrupt(has_state=True) as interrupt,
        ):
            for event in events:
                show(event)
                if interrupt.asked:
                    break
        typer.echo(account.in_words(files.outcomes))
        typer.echo(str(out / account.MARKDOWN))
        if not files.settled:
            typer.echo("It was stopped; the same command goes on.", err=True)
            raise typer.Exit(130)
        if files.n_failed:
            raise typer.Exit(1)
