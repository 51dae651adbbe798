"""The options of every command that restores: what they are called, and the settings they mean."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_dkp.config import (
    BOUNDARIES,
    KERNEL_FAMILIES,
    METHODS,
    OF_THE_MODEL,
    PHASES,
    PRECISIONS,
    PRESETS,
    NoiseConfig,
    OpticsConfig,
    Settings,
)


@dataclass(frozen=True)
class Chosen:
    """What options mean.

    Attributes
    ----------
    settings : of the run.
    psf_file : of a known kernel.
    given_files : that no output may replace.
    stated_optics : whether the optics count that the metadata of an image state.
    """

    settings: Settings
    psf_file: Path | None
    given_files: tuple[Path, ...]
    stated_optics: bool


def _option(text: str, metavar: str, default: str) -> Any:
    """Describe an option that is None unless given, so that a settings file can fill it."""
    return typer.Option(help=f"{text} (default: {default})", metavar=metavar)


def _choice(text: str, options: tuple[str, ...], default: str) -> Any:
    return _option(text, "|".join(options), default)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options as they are given on the command line."""

    scale: Annotated[
        str | None,
        _option(
            "Enlargement, 1 to 8, or one per axis: Y, X, with --volume Z, Y, X.", "N|N,N|N,N,N", "2"
        ),
    ] = None
    axes: Annotated[
        str | None,
        _option("Meaning of each axis, such as YX, YXC, TCZYX.", "AXES", "as the file says"),
    ] = None
    volume: Annotated[
        bool | None,
        typer.Option(
            "--volume/--planes",
            help="Restore Z, Y and X together, with a kernel of three axes.",
        ),
    ] = None
    share_kernel: Annotated[
        bool | None,
        typer.Option(
            "--share-kernel/--own-kernels",
            help="Find one kernel for all planes of a channel, or one for each.",
        ),
    ] = None
    tile: Annotated[
        int | None,
        _option("Largest side of what is restored at once, source pixels.", "N", "by the memory"),
    ] = None
    method: Annotated[str | None, _choice("Image restorer.", METHODS, "auto")] = None
    model: Annotated[
        str | None,
        _option(
            "Diffusion model, for --method diffusion: a folder, a checkpoint, or owner/name of the "
            "Hugging Face hub.",
            "MODEL",
            "small, which comes with it",
        ),
    ] = None
    download: Annotated[
        bool, typer.Option("--download", help="Fetch that model from the hub if need be.")
    ] = False
    kernel_family: Annotated[
        str | None, _choice("Family that kernels are sampled from.", KERNEL_FAMILIES, "auto")
    ] = None
    kernel_size: Annotated[
        str | None,
        _option("Kernel size in restored pixels, odd.", "K|K,K", "by the scale"),
    ] = None
    kernel: Annotated[
        Path | None,
        _option("Known point spread function, in restored pixels.", "FILE", "estimated"),
    ] = None
    preset: Annotated[str | None, _choice("Effort.", PRESETS, "balanced")] = None
    iterations: Annotated[
        int | None,
        _option(
            "Image steps per plane, the search for a motion not counted.", "N", "by the preset"
        ),
    ] = None
    phase: Annotated[
        str | None, _choice("Where source pixels lie on the restored grid.", PHASES, "area")
    ] = None
    boundary: Annotated[str | None, _choice("What lies past the frame.", BOUNDARIES, "free")] = None
    device: Annotated[str | None, _option("Where to run.", "auto|cpu|cuda|cuda:N|mps", "auto")] = (
        None
    )
    precision: Annotated[
        str | None, _choice("Numbers of the image network.", PRECISIONS, "auto")
    ] = None
    seed: Annotated[int | None, _option("Of every random draw.", "N", "0")] = None
    diagnostics: Annotated[
        bool | None,
        typer.Option(
            "--diagnostics/--no-diagnostics",
            help="Also write …_residual.tif, in units of the noise, and, where photons are "
            "counted or several images drawn, …_uncertainty.tif, half of a 90 % interval.",
        ),
    ] = None
    optics: Annotated[
        str | None,
        _option(
            "Numerical aperture, wavelength and pixel size of the microscope, lengths in one unit, "
            "and by their names what volumes need: refractive_index, z_step, modality, excitation, "
            "pinhole, model; none: found in the image, whatever the file says.",
            "NA,W,P[,z_step=Z,…]|none",
            "as the file says, else found in the image",
        ),
    ] = None
    noise: Annotated[
        str | None,
        _option(
            "Gain, offset and read noise of the camera, in intensity.",
            "G[,O[,R]]",
            "estimated",
        ),
    ] = None
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE.json",
            help="Repeat a run; options given here still count.",
        ),
    ] = None

    def chosen(self) -> Chosen:
        """Return what they mean, and check it."""
        from napari_dkp import io

        given = {
            "scale": _integers("scale", self.scale),
            "axes": self.axes,
            "volume": self.volume,
            "share_kernel": self.share_kernel,
            "tile": self.tile,
            "method": self.method or ("diffusion" if self.model else None),
            "model": self.model,
            "download": self.download or None,
            "kernel_family": self.kernel_family,
            "kernel_size": _integers("kernel_size", self.kernel_size),
            "preset": self.preset,
            "iterations": self.iterations,
            "phase": self.phase,
            "boundary": self.boundary,
            "device": self.device,
            "precision": self.precision,
            "seed": self.seed,
            "diagnostics": self.diagnostics,
            "optics": None
            if self.optics == "none"
            else _numbers("optics", self.optics, OpticsConfig),
            "noise": _numbers("noise", self.noise, NoiseConfig),
        }
        file = self.settings_file
        base, known = io.read_settings(file) if file else (Settings(), None)
        base = replace(base, axes=None)  # those of this image count, not those of that run's
        settings = _overridden(base, {name: v for name, v in given.items() if v is not None})
        if self.optics == "none":
            settings = replace(settings, optics=None)
        psf_file = self.kernel or known
        return Chosen(
            settings,
            psf_file,
            tuple(each for each in (self.kernel, file) if each is not None),
            # A run that is repeated had the optics that its settings hold, or none.
            stated_optics=not (self.optics or psf_file or file),
        )


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of `Options`, in place of its argument `options`."""
    names = [entry.name for entry in fields(Options)]
    own = inspect.signature(command)

    @wraps(command)
    def called(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in names})
        command(**given, options=options)

    shown: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != "options":
            shown.append(parameter.replace(kind=_KEYWORD))
            continue
        shown += [
            inspect.Parameter(each.name, _KEYWORD, default=each.default, annotation=each.type)
            for each in fields(Options)
        ]
    vars(called)["__signature__"] = own.replace(parameters=shown)
    return called


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _integers(name: str, text: str | None) -> int | tuple[int, ...] | None:
    """Read "2" or "2,3"."""
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name}: expected N or N,N; got {text!r}") from None
    return values[0] if len(values) == 1 else values


def _numbers(name: str, text: str | None, kind: type) -> dict[str, float | str] | None:
    """Read "1.4,525,65,z_step=200" as fields of a config: first in their order, then by name."""
    if text is None:
        return None
    names = [entry.name for entry in fields(kind)]
    needed = {entry.name for entry in fields(kind) if entry.default is MISSING}
    parts = [part.strip() for part in text.split(",")]
    in_order = [part for part in parts if "=" not in part]
    by_name = dict(part.split("=", 1) for part in parts[len(in_order) :] if "=" in part)
    try:
        values: dict[str, float | str] = dict(zip(names, map(float, in_order), strict=False))
        values |= {key.strip(): _number_or_word(value) for key, value in by_name.items()}
    except ValueError:
        values = {}
    if len(values) != len(parts) or not needed <= set(values) <= set(names):
        raise ValueError(
            f"{name}: expected {', '.join(names)} as N,N,..., then NAME=VALUE,...; got {text!r}"
        )
    return values


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


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
