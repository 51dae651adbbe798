"""From a napari layer to the array of a run, and back to layers that overlay it exactly.

Nothing here imports napari or Qt: layers are read through their public attributes, and results are
layer data tuples, `napari.layers.Layer.create(*entry)` makes a layer of each.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dkp import _checks
from napari_dkp._napari.source import Ranges, Source, kernel_array, settings_for, source_of
from napari_dkp._napari.window import Bounds
from napari_dkp.config import Settings

if TYPE_CHECKING:
    from napari.layers import Image, Shapes

    from napari_dkp.state import Restoration, State

LayerData = tuple[Any, dict[str, Any], str]

METADATA_KEY = "napari_dkp"
MAX_RESIDUALS = 100
# Between an image and its kernel, in source pixels; more than the shift of the "fkp" phase.
_GAP = 2.0
# Standard deviations of noise that the residual's colours reach to.
_RESIDUALS = 4.0


def restore_layer(
    layer: "Image",
    *,
    kernel: "np.ndarray | Image | None" = None,
    region: "Shapes | Bounds | None" = None,
    plane: Sequence[int] | None = None,
    ranges: Ranges | None = None,
    steps: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: "bool | Callable[[State[np.ndarray]], object]" = False,
    **settings: Any,
) -> list[LayerData]:
    """Restore an image layer; return the sharp image and its blur kernel as layer data tuples.

    Parameters
    ----------
    layer : image layer: grey, RGB or RGBA (alpha is carried over), a stack, multiscale, lazy.
    kernel : known point spread function in restored pixels, an array or an image layer; None
        estimates it.
    region : rectangle to restore: a Shapes layer (its selected shape, else its last), or
        ((top, bottom), (left, right)) in pixels of the layer.
    plane : index along T, Z and channels, in the layer's order, to restore one plane of a stack;
        None restores all.
    ranges : (start, stop) along some of T, Z and C, to restore a part of a stack, such as
        ``{"T": (3, 11)}``; stop itself is left out.
    steps : stop after so many steps of the planned ones; None does all of them.
    out : file for the restored image, which must not exist: `.ome.zarr`, `.ome.tif` or `.tif`.
        Planes are written as they are done, and layers read them from there; kernel, settings and
        diagnostics come beside it. None keeps the result in memory.
    progress : True shows a bar; a callable gets every state.
    **settings : as for `napari_dkp.restore`; `axes` is read from the layer's axis labels if left
        out. `optics` may be those of each of the layer's channels.

    Returns
    -------
    Two tuples for `napari.layers.Layer.create(*entry)`: the image, float32 in the layer's
    intensity units (RGB keeps its integer type, which is what napari can draw), exactly over its
    source; and the kernel in restored pixels, right of the image. With ``diagnostics=True`` two
    more, hidden at first: the residual over its source, in units of the expected noise; and, where
    photons were counted, the uncertainty over the image, half of a 90 % interval. Planes that a
    stopped run did not reach are empty: not a number; in a file, they hold the interpolated source.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was expected and what came.

    Examples
    --------
    >>> for entry in restore_layer(viewer.layers["actin"], scale=2):  # doctest: +SKIP
    ...     viewer.add_layer(napari.layers.Layer.create(*entry))
    """
    from tqdm import tqdm

    from napari_dkp._napari.growth import Growth
    from napari_dkp._napari.place import place_of
    from napari_dkp._napari.progress import Watch

    chosen = Settings(**settings)
    source = source_of(
        layer, region=region, plane=plane, ranges=ranges, axes=chosen.axes, volume=chosen.volume
    )
    chosen = settings_for(source, chosen)
    psf = None if kernel is None else kernel_array(kernel, source, chosen)
    with closing(place_of(source, chosen, psf, None if out is None else Path(out))) as place:
        planned = place.run.n_steps
        last = planned if steps is None else _checks.integer("steps", steps, 1, planned)
        growth = Growth(source, place, Watch(), known_kernel=psf is not None)
        with (
            closing(place.states()) as states,
            tqdm(desc=source.name, disable=progress is not True) as bar,
        ):
            for state in states:
                growth.take(state)
                bar.total = min(last, state.n_steps)
                bar.update(state.step - bar.n)
                if callable(progress):
                    progress(state)
                if steps is not None and state.step >= last:
                    break
        growth.conclude()
        return result_layers(source, growth.restoration())


def result_layers(source: Source, result: "Restoration") -> list[LayerData]:
    """Return the restored image and its kernel as layer data tuples.

    Parameters
    ----------
    source : what was restored.
    result : its image as napari draws it, axes as in `source.axes`.
    """
    settings = result.settings
    scales = settings.scales(len(source.spatial))
    factors = dict(zip(source.spatial, scales, strict=True))
    scale = [factors.get(axis, 1) for axis in source.layer_axes]
    start = np.array([first for first, _ in source.window[: len(scale)]], float)
    image_grid = source.grid.refined(
        scale, start + [_offset(factor, settings.phase) for factor in scale]
    )
    taps = dict(zip(source.spatial, result.kernel.shape[-len(scales) :], strict=True))
    kernel_grid = source.grid.refined(scale, _beside(source, factors, taps))
    facts = provenance(source, result)
    size = "×".join(map(str, scales if len(set(scales)) > 1 else scales[:1]))
    image_options = {
        "name": f"{source.name} [DKP ×{size}]",
        **image_grid.options(),
        **source.display,
        "rgb": source.rgb,
        "metadata": {METADATA_KEY: {**facts, "role": "image"}},
    }
    kernel = kernel_over_axes(source, result.kernel)
    kernel_options = {
        "name": f"{source.name} [DKP kernel]",
        **kernel_grid.options(),
        "axis_labels": source.display["axis_labels"],
        "units": source.display["units"],
        "colormap": "inferno",
        "contrast_limits": kernel_contrast(result.kernel),
        "interpolation2d": "nearest",
        "rgb": False,
        "metadata": {METADATA_KEY: {**facts, "role": "kernel"}},
    }
    layers = [(result.image, image_options, "image"), (kernel, kernel_options, "image")]
    same_grid = source.grid.refined([1] * len(scale), start)
    diagnostics = (
        ("residual", result.residual, same_grid, "PiYG", (-_RESIDUALS, _RESIDUALS)),
        ("uncertainty", result.uncertainty, image_grid, "magma", None),
    )
    for role, values, grid, colormap, limits in diagnostics:
        if values is None:
            continue
        values = source.grey(values, signed=role == "residual")
        options = {
            "name": f"{source.name} [DKP {role}]",
            **grid.options(),
            "axis_labels": source.display["axis_labels"],
            "units": source.display["units"],
            "colormap": colormap,
            "contrast_limits": limits or (0.0, _top(values)),
            "rgb": False,
            "visible": False,
            "metadata": {METADATA_KEY: {**facts, "role": role}},
        }
        layers.append((values, options, "image"))
    return layers


def _top(values: Any) -> float:
    """Return the greatest value; of an array in a file, that of the plane in the middle."""
    if not isinstance(values, np.ndarray):
        values = np.asarray(values[tuple(n // 2 for n in values.shape[:-2])])
    return max(float(np.nan_to_num(values).max()), 1e-12)


def kernel_contrast(kernel: np.ndarray) -> list[float]:
    """Return the limits that show a kernel from nothing to its peak."""
    return [0.0, max(float(kernel.max()), 1e-12)]


def kernel_over_axes(source: Source, kernel: np.ndarray) -> np.ndarray:
    """Lay kernels along a layer's axes; colours share theirs.

    Parameters
    ----------
    source : of the layer.
    kernel : shape (looped axes ..., K, K), of volumes (..., K, K, K); without looped axes that of
        one plane.
    """
    looped = source.looped
    own = looped if kernel.ndim > len(source.spatial) else ""
    axes = [axis for axis in source.layer_axes if axis in own or axis not in looped]
    missing = [axis for axis in axes if axis not in f"{own}{source.spatial}"]
    order = [*missing, *own, *source.spatial]
    lengths = [source.length(axis) for axis in missing]
    spread = np.broadcast_to(kernel, (*lengths, *kernel.shape))
    return spread.transpose([order.index(axis) for axis in axes])


def provenance(source: Source, result: "Restoration") -> dict[str, Any]:
    """Return what a result layer remembers, enough to repeat the run.

    "kernel" is the point spread function that was given, or None; "residuals" at most
    `MAX_RESIDUALS` of the run's `history`, in intensity units; "report" in words, and its "figures"
    for each plane.
    """
    from napari_dkp import __version__
    from napari_dkp.report import summary

    ndim = len(source.spatial)
    kernel = result.kernel.reshape(-1, *result.kernel.shape[-ndim:])[0]
    stride = max(1, -(-len(result.history) // MAX_RESIDUALS))
    return {
        "version": __version__,
        "settings": result.settings.to_dict(),
        "seed": result.seed,
        "device": result.device,
        "seconds": result.seconds,
        "stop": result.stop.name,
        "steps": result.steps,
        "choice": result.choice,
        "notes": result.notes,
        "report": summary(result.reports),
        "figures": [None if r is None else r.figures() for r in result.reports],
        "source": source.name,
        "region": source.region,
        "plane": source.plane,
        "ranges": source.ranges,
        "kernel": kernel if result.known_kernel else None,
        "residuals": tuple(float(value) for value in result.history[::-stride][::-1]),
    }


def settings_from_layer(layer: "Image") -> Settings:
    """Return the settings that made a result layer.

    Raises
    ------
    ValueError
        If the layer is no result of napari-dkp.
    """
    return Settings.from_dict(_provenance_of(layer)["settings"])


def snippet(layer: "Image") -> str:
    """Return Python that repeats the run behind a result layer, for napari's console."""
    facts = _provenance_of(layer)
    settings = settings_from_layer(layer)
    # What was decided for that image is said, so that it is not decided anew.
    usual = replace(Settings(preset=settings.preset).resolve(), method="auto")
    usual = replace(usual, dip=replace(settings, dip=None).resolve().dip)  # of such kernels
    options = _differences(settings, {f.name: getattr(usual, f.name) for f in fields(usual)})
    options["preset"] = repr(settings.preset)
    options["device"] = repr(facts["device"])
    if facts["region"] is not None:
        options["region"] = repr(facts["region"])
    if facts["plane"] is not None:
        options["plane"] = repr(facts["plane"])
    if facts.get("ranges") is not None:
        options["ranges"] = repr(facts["ranges"])
    if facts["kernel"] is not None:
        options["kernel"] = f"viewer.layers[{layer.name!r}].metadata[{METADATA_KEY!r}]['kernel']"
    if facts["stop"] != "COMPLETED":
        options["steps"] = repr(facts["steps"])
    lines = "".join(f"    {name}={value},\n" for name, value in options.items())
    return (
        f"# made with napari-dkp {facts['version']}\n"
        "import napari\n"
        "import napari_dkp as dkp\n"
        "\n"
        "viewer = napari.current_viewer()\n"
        "layers = dkp.restore_layer(\n"
        f"    viewer.layers[{facts['source']!r}],\n"
        f"{lines}"
        ")\n"
        "for entry in layers:\n"
        "    viewer.add_layer(napari.layers.Layer.create(*entry))\n"
    )


def _differences(settings: Any, base: dict[str, Any]) -> dict[str, str]:
    """Return as Python the fields that differ from `base`, nested configs included."""
    found = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if value == base[entry.name]:
            continue
        found[entry.name] = _python(value)
    return found


def _python(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_python, value))}{',' if len(value) == 1 else ''})"
    if not is_dataclass(value):
        return repr(value)
    inner = _differences(value, {field.name: field.default for field in fields(value)})
    arguments = ", ".join(f"{name}={text}" for name, text in inner.items())
    return f"dkp.{type(value).__name__}({arguments})"


def _provenance_of(layer: "Image") -> dict[str, Any]:
    facts = layer.metadata.get(METADATA_KEY)
    if not isinstance(facts, dict) or "settings" not in facts:
        raise ValueError(f"layer: expected a result of napari-dkp; {layer.name!r} is none")
    return facts


def _offset(factor: int, phase: str) -> float:
    """Return where the first restored pixel lies, in source pixels from the first of those."""
    if phase == "fkp":
        return (factor - 1) / (2 * factor)
    return (1 / factor - 1) / 2


def _beside(source: Source, factors: dict[str, int], taps: dict[str, int]) -> np.ndarray:
    """Return where a kernel's first pixel lies, in source pixels.

    It stands right of the whole image, level with its top; that of a volume in the middle of its
    planes.
    """
    axes = source.layer_axes
    first = np.array([start for start, _ in source.window[: len(axes)]], float)
    corner = {"Y": 0.0, "X": source.data.shape[axes.index("X")] + _GAP}
    for axis in source.spatial:
        position = axes.index(axis)
        if axis == "Z":
            middle = (sum(source.window[position]) - 1) / 2
            first[position] = middle - (taps[axis] - 1) / (2 * factors[axis])
        else:
            first[position] = corner[axis] + _offset(factors[axis], "area")
    return first
