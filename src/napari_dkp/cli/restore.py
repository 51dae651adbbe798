"""`napari-dkp restore`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from napari_dkp.cli.options import Options, with_options
from napari_dkp.cli.running import figures, run_to_end
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

    OUT.tif comes with OUT_kernel.tif and OUT_settings.json. Ctrl-C ends a run early and keeps what
    it has reached; a second Ctrl-C gives up.
    """
    with one_sentence():
        from napari_dkp import io
        from napari_dkp.stated_optics import with_optics_of

        chosen = options.chosen()
        settings = chosen.settings
        outputs = io.Outputs.beside(output, diagnostics=settings.diagnostics)
        for given_file in (source, *chosen.given_files):
            outputs.spare(given_file)
        picture = io.read(source)
        settings = replace(settings, axes=settings.axes or picture.axes)
        scales = tuple(settings.spatial_scales.values())
        outputs.check(4 * picture.image.size * math.prod(scales), overwrite=overwrite)
        psf = io.read_kernel(chosen.psf_file, settings.spatial) if chosen.psf_file else None
        if chosen.stated_optics:
            settings, said = with_optics_of(source, settings)
            if said:
                typer.echo(said, err=True)
        if picture.others:
            typer.echo(
                f"{picture.name} holds {picture.others + 1} images; this is the first.", err=True
            )
        restoration = run_to_end(picture.image, settings, psf)
        written = io.write(outputs, restoration, picture, overwrite=overwrite)
        pixel_size = picture.pixel_size.enlarged(scales)
        spacing = (pixel_size.sizes["Y"], pixel_size.sizes["X"])
        typer.echo(figures(restoration, spacing, pixel_size.unit))
        typer.echo("\n".join(map(str, written)))
