"""`napari-dkp restore`."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from napari_dkp.cli.options import Options, with_options
from napari_dkp.cli.running import announce, conclude, figures, run_to_end
from napari_dkp.cli.sentences import one_sentence


@with_options
def restore(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="TIFF, OME-TIFF, ImageJ TIFF, OME-Zarr, PNG or JPEG."),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="TIFF to write; .ome.tif for OME-TIFF, .ome.zarr for OME-Zarr."
        ),
    ],
    options: Options,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Restore an image: write the sharp image, its kernel beside it, and the settings of the run.

    OUT.tif comes with OUT_kernel.tif and OUT_settings.json. Planes are read as they are restored,
    and written as they are done. Ctrl-C ends a run early and keeps what it has reached; a second
    Ctrl-C gives up. After that, a crash or a power cut, the same command goes on with the planes
    that were not done.
    """
    with one_sentence():
        from napari_dkp import io
        from napari_dkp.stated_optics import with_optics_of
        from napari_dkp.streaming import Stream, identity

        chosen = options.chosen()
        settings = chosen.settings
        outputs = io.Outputs.beside(output, diagnostics=settings.diagnostics)
        for given_file in (source, *chosen.given_files):
            outputs.spare(given_file)
        picture = io.open(source)
        settings = replace(settings, axes=settings.axes or picture.axes)
        psf = io.read_kernel(chosen.psf_file, settings.spatial) if chosen.psf_file else None
        if chosen.stated_optics:
            settings, said = with_optics_of(source, settings)
            if said:
                typer.echo(said, err=True)
        if picture.others:
            typer.echo(
                f"{picture.name} holds {picture.others + 1} images; this is the first.", err=True
            )
        made_of = identity(source, settings, psf)
        with closing(
            Stream(picture, settings, psf, outputs, made_of, overwrite=overwrite)
        ) as stream:
            n_planes = stream.run.n_planes
            if stream.before:
                typer.echo(f"{stream.before} of {n_planes} planes were done before.", err=True)
            announce(stream.run, known_kernel=psf is not None)
            try:
                if not run_to_end(stream.run, stream):
                    stream.conclude()
            except BaseException:
                stream.abandon()
                if stream.done:
                    typer.echo(
                        f"{stream.done} of {n_planes} planes are kept; the same command goes on.",
                        err=True,
                    )
                raise
            finished = stream.finish()
        conclude(finished.record)
        size = stream.pixel_size
        spacing = (size.sizes["Y"], size.sizes["X"])
        typer.echo(figures(stream.run.shape, finished.record, finished.kernels, spacing, size.unit))
        typer.echo("\n".join(map(str, finished.paths)))
