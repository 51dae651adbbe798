"""Command line: `napari-dkp restore`, `demo` and `info`.

torch is imported inside the commands, so that help and wrong arguments are answered at once.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_dkp.config import (
    BOUNDARIES,
    KERNEL_FAMILIES,
    METHODS,
    OF_THE_MODEL,
    OPTICS_FAMILIES,
    PHASES,
    PRECISIONS,
    PRESETS,
    NoiseConfig,
    OpticsConfig,
    Settings,
)
from napari_dkp.device import is_out_of_memory

if TYPE_CHECKING:
    import numpy as np

    from napari_dkp.io import LazyArray
    from napari_dkp.stack import Run
    from napari_dkp.state import Restoration, State

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Blind super-resolution and deblurring: the sharp image and its blur kernel from one "
    "image alone.",
)


def _option(text: str, metavar: str, default: str) -> Any:
    """Describe an option that is None unless given, so that a settings file can fill it."""
    return typer.Option(help=f"{text} (default: {default})", metavar=metavar)


def _choice(text: str, options: tuple[str, ...], default: str) -> Any:
    return _option(text, "|".join(options), default)


@app.command()
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
    scale: Annotated[
        str | None,
        _option("Enlargement, 1 to 8, or one for Y and one for X; 1 only deblurs.", "N|N,N", "2"),
    ] = None,
    axes: Annotated[
        str | None,
        _option("Meaning of each axis, such as YX, YXC, TCZYX.", "AXES", "as the file says"),
    ] = None,
    method: Annotated[str | None, _choice("Image restorer.", METHODS, "auto")] = None,
    model: Annotated[
        str | None,
        _option(
            "Diffusion model, for --method diffusion: a folder, a checkpoint, or owner/name of the "
            "Hugging Face hub.",
            "MODEL",
            "small, which comes with it",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch that model from the hub if need be.")
    ] = False,
    kernel_family: Annotated[
        str | None, _choice("Family that kernels are sampled from.", KERNEL_FAMILIES, "auto")
    ] = None,
    kernel_size: Annotated[
        str | None,
        _option("Kernel size in restored pixels, odd.", "K|K,K", "by the scale"),
    ] = None,
    kernel: Annotated[
        Path | None,
        _option("Known point spread function, in restored pixels.", "FILE", "estimated"),
    ] = None,
    preset: Annotated[str | None, _choice("Effort.", PRESETS, "balanced")] = None,
    iterations: Annotated[
        int | None,
        _option(
            "Image steps per plane, the search for a kernel not counted.", "N", "by the preset"
        ),
    ] = None,
    phase: Annotated[
        str | None, _choice("Where source pixels lie on the restored grid.", PHASES, "area")
    ] = None,
    boundary: Annotated[
        str | None, _choice("What lies past the frame.", BOUNDARIES, "free")
    ] = None,
    device: Annotated[
        str | None, _option("Where to run.", "auto|cpu|cuda|cuda:N|mps", "auto")
    ] = None,
    precision: Annotated[
        str | None, _choice("Numbers of the image network.", PRECISIONS, "auto")
    ] = None,
    seed: Annotated[int | None, _option("Of every random draw.", "N", "0")] = None,
    diagnostics: Annotated[
        bool | None,
        typer.Option(
            "--diagnostics/--no-diagnostics",
            help="Also write OUT_residual.tif, in units of the noise, and, where photons are "
            "counted or several images drawn, OUT_uncertainty.tif, half of a 90 % interval.",
        ),
    ] = None,
    optics: Annotated[
        str | None,
        _option(
            "Numerical aperture, wavelength and pixel size of the microscope, lengths in one unit; "
            "none: found in the image, whatever the file says.",
            "NA,W,P|none",
            "as the file says, else found in the image",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        _option(
            "Gain, offset and read noise of the camera, in intensity.",
            "G[,O[,R]]",
            "estimated",
        ),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE.json",
            help="Repeat a run; options given here still count.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Restore an image: write the sharp image, its kernel beside it, and the settings of the run.

    OUT.tif comes with OUT_kernel.tif and OUT_settings.json. Ctrl-C ends a run early and keeps what
    it has reached; a second Ctrl-C gives up.
    """
    with _one_sentence():
        from napari_dkp import io

        given = {
            "scale": _integers("scale", scale),
            "axes": axes,
            "method": method or ("diffusion" if model else None),
            "model": model,
            "download": download or None,
            "kernel_family": kernel_family,
            "kernel_size": _integers("kernel_size", kernel_size),
            "preset": preset,
            "iterations": iterations,
            "phase": phase,
            "boundary": boundary,
            "device": device,
            "precision": precision,
            "seed": seed,
            "diagnostics": diagnostics,
            "optics": None if optics == "none" else _numbers("optics", optics, OpticsConfig),
            "noise": _numbers("noise", noise, NoiseConfig),
        }
        base, known = io.read_settings(settings_file) if settings_file else (Settings(), None)
        base = replace(base, axes=None)  # those of this image count, not those of that run's
        settings = _overridden(base, {name: v for name, v in given.items() if v is not None})
        if optics == "none":
            settings = replace(settings, optics=None)
        outputs = io.Outputs.beside(output, diagnostics=settings.diagnostics)
        for given_file in (source, kernel, settings_file):
            if given_file is not None:
                outputs.spare(given_file)
        picture = io.read(source)
        settings = replace(settings, axes=settings.axes or picture.axes)
        y_scale, x_scale = settings.scales(2)
        outputs.check(4 * picture.image.size * y_scale * x_scale, overwrite=overwrite)
        psf_file = kernel or known
        psf = io.read_kernel(psf_file) if psf_file else None
        # A run that is repeated had the optics that its settings hold, or none.
        if not (optics or psf_file or settings_file) and _seeks_optics(settings):
            settings = _with_optics_of(source, settings)
        if picture.others:
            typer.echo(
                f"{picture.name} holds {picture.others + 1} images; this is the first.", err=True
            )
        restoration = _run(picture.image, settings, psf)
        written = io.write(outputs, restoration, picture, overwrite=overwrite)
        pixel_size = picture.pixel_size.enlarged((y_scale, x_scale))
        spacing = (pixel_size.sizes["Y"], pixel_size.sizes["X"])
        typer.echo(_figures(restoration, spacing, pixel_size.unit))
        typer.echo("\n".join(map(str, written)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("demo"),
    viewer: Annotated[bool, typer.Option(help="Open napari if there is a display.")] = True,
) -> None:
    """Restore a real image, twice as large, and show what came out.

    The image is a piece of a retina photograph with microaneurysms that ships with scikit-image.
    """
    with _one_sentence():
        from napari_dkp import demo as example

        out.mkdir(parents=True, exist_ok=True)
        image = example.image()
        restoration = _run(image, example.SETTINGS, None)
        path = out / "microaneurysms.png"
        example.figure(image, restoration).save(path)
        typer.echo(_figures(restoration, (0.5, 0.5), "source pixels"))
        typer.echo(str(path))
        if viewer and example.has_display():
            from napari_dkp._napari.show import show

            show(image, restoration, "microaneurysms")


@app.command()
def info() -> None:
    """Print versions, devices and free memory."""
    with _one_sentence():
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


def _seeks_optics(settings: Settings) -> bool:
    """Return whether a microscope's cut-off may have to be found, where known optics help."""
    if settings.kernel_family == "auto":
        return settings.preset != "paper" and len(set(settings.scales(2))) == 1
    return settings.kernel_family in OPTICS_FAMILIES


def _with_optics_of(source: Path, settings: Settings) -> Settings:
    """Take over the optics that the file's metadata tells, if all of them, and say so."""
    from napari_dkp import ome

    told = next(iter(ome.read(source)), None)
    optics = told and told.optics()
    if not optics:
        return settings
    each = optics if isinstance(optics, tuple) else (optics,)
    known = next(filter(None, each))
    lights = ", ".join("unknown" if one is None else f"{one.wavelength:g}" for one in each)
    typer.echo(
        f"Optics as the file states them: NA {known.numerical_aperture:g}, {lights} nm, pixels of "
        f"{known.pixel_size:g} nm (--optics none: as the image shows them).",
        err=True,
    )
    return replace(settings, optics=optics)


def _run(
    image: "np.ndarray | LazyArray", settings: Settings, kernel: "np.ndarray | None"
) -> "Restoration":
    """Run to the end, or to the first Ctrl-C."""
    from napari_dkp.device import describe_device, free_memory
    from napari_dkp.estimate import estimate
    from napari_dkp.report import summary
    from napari_dkp.stack import Run
    from napari_dkp.state import Stop

    run = Run(image, settings, kernel=kernel)
    if run.choice:
        typer.echo(run.choice, err=True)
    cost = estimate(image.shape, run.settings, known_kernel=kernel is not None)
    typer.echo(
        f"Restoring on {describe_device(run.device)}: about {_duration(cost.seconds)} and "
        f"{cost.memory / 2**30:.2g} GiB",
        err=True,
    )
    if cost.memory > free_memory(run.device):
        typer.echo("That is more memory than the device has left; it may not suffice.", err=True)
    with _progress(run) as show, closing(iter(run)) as states, _Interrupt() as interrupt:
        for state in states:
            show(state)
            if state.note:
                typer.echo(state.note, err=True)
            interrupt.has_state = True
            if interrupt.asked:
                break
    restoration = run.result()
    if text := summary(restoration.reports):
        typer.echo(text, err=True)
    if restoration.stop is not Stop.COMPLETED:
        typer.echo(restoration.stop.sentence, err=True)
    if restoration.stop is Stop.CANCELLED and run.n_planes > 1:
        typer.echo("Planes that it did not reach hold the interpolated source.", err=True)
    return restoration


@contextmanager
def _progress(run: "Run") -> Iterator[Callable[["State[np.ndarray]"], object]]:
    """Draw a bar on a terminal; the yielded function moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("residual {task.fields[residual]:.4g}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("restoring", total=run.n_steps, residual=float("nan"))

        def show(state: "State[np.ndarray]") -> None:
            doing = "finding the kernel" if state.searching else "restoring"
            if state.plane:
                doing = f"plane {', '.join(map(str, state.plane))}: {doing}"
            bar.update(
                task,
                completed=state.step,
                total=state.n_steps,
                description=doing,
                residual=state.residual,
            )

        yield show


class _Interrupt:
    """Turns the first Ctrl-C, or a scheduler's SIGTERM, into a wish to stop after this step.

    Before there is a state to keep, and at the second time, it is a KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked = False
        self.has_state = False

    def __call__(self, *_: object) -> None:
        if self.asked or not self.has_state:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> "_Interrupt":
        self._before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Print what a user can mend as one sentence; leave bugs their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped before there was a result.", err=True)
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, MemoryError) as error:
        typer.echo(f"napari-dkp: {error}", err=True)
        raise typer.Exit(1) from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        typer.echo(
            "napari-dkp: the run needs more memory than the device has left; restore a smaller "
            "image, choose a lighter preset, or another --device",
            err=True,
        )
        raise typer.Exit(1) from None


def _duration(seconds: float) -> str:
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def _integers(name: str, text: str | None) -> int | tuple[int, ...] | None:
    """Read "2" or "2,3"."""
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name}: expected N or N,N; got {text!r}") from None
    return values[0] if len(values) == 1 else values


def _numbers(name: str, text: str | None, kind: type) -> dict[str, float] | None:
    """Read "1.4,525,65" as the fields of a config, in their order."""
    if text is None:
        return None
    names = [entry.name for entry in fields(kind)]
    needed = [entry.name for entry in fields(kind) if entry.default is MISSING]
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not len(needed) <= len(values) <= len(names):
        raise ValueError(f"{name}: expected {', '.join(names)} as N,N,...; got {text!r}")
    return dict(zip(names, values, strict=False))


def _overridden(base: Settings, given: dict[str, Any]) -> Settings:
    """Apply what was given; another preset brings its own numbers."""
    values = base.to_dict()
    kept: dict[str, Any] = {}
    if "preset" in given:
        values |= dict.fromkeys(("iterations", *_OF_PRESET))
        kept = {name: getattr(base.diffusion, name) for name in OF_THE_MODEL if base.diffusion}
    elif given.get("method", base.method) != base.method:
        values["iterations"] = None
    if "scale" in given:
        values["kernel_size"] = None
    model = {name: given.pop(name) for name in ("model", "download") if name in given}
    settings = Settings.from_dict(values | given)
    if "model" in model and settings.method != "diffusion":
        raise ValueError(
            f"model: expected none with method {settings.method!r}; got {model['model']!r}. "
            "Only 'diffusion' asks a model"
        )
    diffusion = settings.resolve().diffusion
    if (kept or model) and diffusion:
        settings = replace(settings, diffusion=replace(diffusion, **(kept | model)))
    return settings


# The numbers behind the methods.
_OF_PRESET = ("rks", "pke", "search", "dip", "diffusion", "richardson_lucy")


def _figures(restoration: "Restoration", spacing: tuple[float, float], unit: str) -> str:
    """Say in one line what came out; FWHM in the unit of the pixel size."""
    from napari_dkp import kernel_shape

    size = " × ".join(str(n) for n in restoration.image.shape)
    parts = [f"{size} pixels in {restoration.seconds:.1f} s"]
    if restoration.history:
        parts.append(f"residual {restoration.history[-1]:.4g}")
    if restoration.kernel.ndim == 2:
        shape = kernel_shape.measure(restoration.kernel, spacing)
        major, minor = shape.fwhm
        parts.append(f"kernel FWHM {major:.3g} × {minor:.3g} {unit} at {shape.angle:.0f}°")
    return ", ".join(parts)
