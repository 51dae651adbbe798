"""Command line: `napari-dkp restore`, `batch`, `demo` and `info`.

torch is imported inside the commands, so that help and wrong arguments are answered at once.
"""

import typer

from napari_dkp.cli.batch import batch
from napari_dkp.cli.demo import demo
from napari_dkp.cli.info import info
from napari_dkp.cli.restore import restore

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Blind super-resolution and deblurring: the sharp image and its blur kernel from one "
    "image alone.",
)
for command in (restore, batch, demo, info):
    app.command()(command)
