"""`napari-dkp info`."""

import sys

import typer

from napari_dkp.cli.sentences import one_sentence


def info() -> None:
    """Print versions, devices and free memory."""
    with one_sentence():
        from importlib import metadata

        from napari_dkp.device import (
            available_devices,
            describe_device,
            free_memory,
            resolve_device,
        )

        typer.echo(f"{'python':12}{sys.version.split()[0]}")
        for name in ("napari-dkp", "torch", "numpy", "napari"):
            try:
                typer.echo(f"{name:12}{metadata.version(name)}")
            except metadata.PackageNotFoundError:
                typer.echo(f"{name:12}not installed")
        chosen = str(resolve_device("auto"))
        for name in available_devices():
            free = free_memory(name) / 2**30
            mark = " (auto)" if name.split(":")[0] == chosen.split(":")[0] else ""
            typer.echo(f"{name:12}{describe_device(name)}, {free:.1f} GiB free{mark}")
