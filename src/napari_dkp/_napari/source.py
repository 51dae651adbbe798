"""What a run needs of a napari layer: which pixels, what their axes mean, where they lie.

Nothing here imports napari or Qt: layers are read through their public attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from napari_dkp import _checks
from napari_dkp._napari.window import Bounds, part
from napari_dkp.config import Settings
from napari_dkp.layout import Layout, looped_axes

if TYPE_CHECKING:
    from napari.layers import Image, Shapes

Ranges = Mapping[str, tuple[int, int]]

_PIXEL = "pixel"
_LETTERS = {"t": "T", "time": "T", "c": "C", "channel": "C", "z": "Z", "y": "Y", "x": "X"}


@dataclass(frozen=True)
class Grid:
    """Where pixels lie in the world: affine @ (rotate @ shear @ scale * pixel + translate).

    Attributes
    ----------
    scale, translate : shape (n,), one entry per layer axis.
    rotate : shape (n, n).
    shear : shape (n, n), or its upper triangle, shape (n (n - 1) / 2,).
    affine : shape (n + 1, n + 1), homogeneous.
    """

    scale: np.ndarray
    translate: np.ndarray
    rotate: np.ndarray
    shear: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, layer: "Image") -> "Grid":
        """Copy a layer's grid."""
        return cls(
            scale=np.array(layer.scale, float),
            translate=np.array(layer.translate, float),
            rotate=np.array(layer.rotate, float),
            shear=np.array(layer.shear, float),
            affine=np.array(layer.affine, float),
        )

    def refined(self, factors: Sequence[float], origin: npt.ArrayLike) -> "Grid":
        """Return a grid of finer pixels.

        Parameters
        ----------
        factors : new pixels per old one, one per axis.
        origin : centre of the first new pixel, in old pixel coordinates.
        """
        translate = self.translate + self._linear() @ np.asarray(origin, float)
        scale = self.scale / np.asarray(factors, float)
        return Grid(scale, translate, self.rotate, self.shear, self.affine)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments that place a layer on this grid."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def _linear(self) -> np.ndarray:
        shear = self.shear
        if shear.ndim == 1:
            shear = np.eye(len(self.scale))
            shear[np.triu_indices(len(self.scale), k=1)] = self.shear
        linear: np.ndarray = self.rotate @ shear @ np.diag(self.scale)
        return linear


@dataclass(frozen=True, eq=False)
class Source:
    """What a run needs of a layer, taken at once so that the layer may change or vanish later.

    Attributes
    ----------
    name : of the layer.
    data : its finest level, not yet read: numpy, dask, zarr, ...
    axes : meaning of each array axis, e.g. "TCZYX"; RGB adds "C" at the end.
    rgb : whether the last axis holds colours.
    window : the part to restore, one (start, stop) per array axis, in pixels.
    cropped : whether `window` is smaller than the layer along Y or X.
    plane : index along the looped axes if one plane was chosen, else None.
    ranges : (start, stop) by axis where a range of planes was chosen, else None.
    spatial : letters of the axes that are restored together.
    grid : of the whole layer.
    display : options that the restored image takes over as they are.
    """

    name: str
    data: Any
    axes: str
    rgb: bool
    window: Bounds
    cropped: bool
    plane: tuple[int, ...] | None
    ranges: dict[str, tuple[int, int]] | None
    spatial: str
    grid: Grid
    display: dict[str, Any]

    @property
    def layer_axes(self) -> str:
        """Axes as napari counts them: without the colours of RGB."""
        return self.axes[:-1] if self.rgb else self.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that a run gets."""
        shape = tuple(stop - start for start, stop in self.window)
        return (*shape[:-1], min(shape[-1], 3)) if self.rgb else shape

    @property
    def region(self) -> Bounds | None:
        """Bounds along Y and X if only a part is restored, as `restore_layer` takes them."""
        if not self.cropped:
            return None
        return tuple(self.window[self.axes.index(axis)] for axis in "YX")

    @property
    def looped(self) -> str:
        """Letters of the axes along which planes lie."""
        return looped_axes(self.axes, self.spatial)

    def length(self, axis: str) -> int:
        """Return how much of an axis is restored; 1 where the layer does not have it."""
        if axis not in self.axes:
            return 1
        start, stop = self.window[self.axes.index(axis)]
        return stop - start

    def index(self, plane: Sequence[int]) -> tuple[int | slice, ...]:
        """Return what selects one plane, a `State.plane`, from an array with these axes."""
        if not plane:
            return (slice(None),) * len(self.axes)
        numbers = dict(zip(self.looped, plane, strict=True))
        return tuple(numbers.get(axis, slice(None)) for axis in self.axes)

    def sample(self) -> np.ndarray:
        """Load the plane in the middle of the window, shape (C, Y, X)."""
        layout = Layout(self.axes, self.shape, self.spatial)
        return layout.read(self.pixels(), layout.middle)

    def pixels(self) -> Any:
        """Return what is to be restored, without the alpha of RGBA; what is lazy stays so."""
        bounds = zip((start for start, _ in self.window), self.shape, strict=True)
        return part(self.data, tuple((start, start + length) for start, length in bounds))

    def alpha(self, plane: Sequence[int]) -> np.ndarray | None:
        """Load the alpha of one plane of RGBA, last axis of length 1, or None."""
        if not self.rgb or self.data.shape[-1] <= 3:
            return None
        index = self.index(plane)
        return np.asarray(part(self.data, (*self.window[:-1], (3, 4)))[index])

    def displayed(
        self, restored: np.ndarray, alpha: np.ndarray | None, scales: Sequence[int]
    ) -> np.ndarray:
        """Return restored pixels as napari draws them.

        Grey stays as it is. napari draws floating RGB between 0 and 1 only, so that RGB of an
        integer type goes back to it; alpha is repeated over the finer pixels.
        """
        if not self.rgb:
            return restored
        dtype = np.dtype(self.data.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            restored = np.clip(np.rint(restored), limits.min, limits.max).astype(dtype)
        if alpha is None:
            return restored
        for axis, factor in enumerate(scales, -1 - len(scales)):
            alpha = np.repeat(alpha, factor, axis)
        return np.concatenate([restored, alpha.astype(restored.dtype)], axis=-1)

    def grey(self, errors: np.ndarray, *, signed: bool) -> np.ndarray:
        """Return errors without the axis of RGB, which are no colours; grey as is.

        Of signed ones the sum over its root, which is as large as any where they are independent;
        of others the root mean square.
        """
        if not self.rgb:
            return errors
        # Of a dask array this is one, too.
        squares = np.square(errors).mean(axis=-1)
        found = errors.sum(-1) / np.sqrt(errors.shape[-1]) if signed else np.sqrt(squares)
        grey: np.ndarray = found
        return grey


def pixel_size(layer: "Image") -> float | None:
    """Return the side of a layer's pixel in nanometres; None where its unit is no length."""
    return _length(layer, slice(-2, None))


def z_step(layer: "Image") -> float | None:
    """Return nanometres from plane to plane; None without Z, or where its unit is no length."""
    try:
        place = layer_axes(layer).find("Z")
    except ValueError:
        return None
    return None if place < 0 else _length(layer, slice(place, place + 1))


def _length(layer: "Image", axes: slice) -> float | None:
    """Return the mean length of a step along some axes, in the last one's unit."""
    unit = layer.units[axes][-1]
    if not unit.is_compatible_with("nm"):
        return None
    sizes = np.abs(np.array(layer.scale, float)[axes]) * (1 * unit).to("nm").magnitude
    return float(f"{sizes.prod() ** (1 / len(sizes)):.6g}")


def source_of(
    layer: "Image",
    *,
    region: "Shapes | Bounds | None" = None,
    plane: Sequence[int] | None = None,
    ranges: Ranges | None = None,
    axes: str | None = None,
    volume: bool = False,
) -> Source:
    """Describe what to restore of a layer; arguments as for `restore_layer`."""
    if not hasattr(layer, "rgb") or not hasattr(layer, "colormap"):
        raise TypeError(f"layer: expected an image layer; got {type(layer).__name__}")
    data = layer.data[0] if layer.multiscale else layer.data
    axes = layer_axes(layer) if axes is None else axes
    if len(axes) != len(data.shape):
        raise ValueError(
            f"axes: expected one letter for each of the {len(data.shape)} axes of the layer "
            f"{layer.name!r}, shape {tuple(data.shape)}; got {axes!r}"
        )
    if layer.rgb and not axes.endswith("C"):
        raise ValueError(f"axes: expected C last for the colour layer {layer.name!r}; got {axes!r}")
    spatial = "ZYX" if volume else "YX"
    looped = looped_axes(axes, spatial)
    if plane is not None and ranges is not None:
        raise ValueError("ranges: expected either plane or ranges; got both")
    if plane is not None and len(plane) != len(looped):
        raise ValueError(
            f"plane: expected one index for each of the axes {looped!r}; got {tuple(plane)}"
        )
    window = [(0, int(length)) for length in data.shape]
    for axis, index in zip(looped, plane or (), strict=plane is not None):
        position = axes.index(axis)
        index = _checks.integer("plane", index, 0, int(data.shape[position]) - 1)
        window[position] = (index, index + 1)
    for axis, bounds in (ranges or {}).items():
        offered = looped_axes(axes)
        if axis not in offered:
            raise ValueError(f"ranges: expected some of the axes {offered!r}; got {axis!r}")
        position = axes.index(axis)
        window[position] = _range(axis, bounds, int(data.shape[position]))
    if region is not None:
        positions = tuple(axes.index(axis) for axis in "YX")
        found = region_bounds(layer, region, positions)
        for position, bounds in zip(positions, found, strict=True):
            window[position] = bounds
    display = {
        "axis_labels": layer.axis_labels,
        "units": layer.units,
        "blending": layer.blending,
        "opacity": layer.opacity,
    }
    if not layer.rgb:
        display["colormap"] = layer.colormap
        display["contrast_limits"] = list(layer.contrast_limits)
        display["gamma"] = layer.gamma
    return Source(
        name=layer.name,
        data=data,
        axes=axes,
        rgb=bool(layer.rgb),
        window=tuple(window),
        cropped=any(window[axes.index(axis)] != (0, data.shape[axes.index(axis)]) for axis in "YX"),
        plane=None if plane is None else tuple(int(index) for index in plane),
        ranges=None if ranges is None else {axis: window[axes.index(axis)] for axis in ranges},
        spatial=spatial,
        grid=Grid.of(layer),
        display=display,
    )


def layer_axes(layer: "Image") -> str:
    """Return the meaning of each array axis of a layer, e.g. "TCZYX" or "YXC" for RGB.

    Y and X are the last two axes unless labels name them elsewhere. An axis is a channel axis only
    if its label is "c" or "channel"; the others are Z, then T, going outwards, unless labelled.

    Raises
    ------
    ValueError
        If more axes are left than T and Z can name.
    """
    labels = [str(label).strip().lower() for label in layer.axis_labels]
    named = [_LETTERS.get(label, "") for label in labels]
    named = ["" if named.count(letter) > 1 else letter for letter in named]
    if layer.rgb:
        named = [letter.replace("C", "") for letter in named]
    if not {"Y", "X"} <= set(named):
        named = [letter if letter in ("C", "T", "Z") else "" for letter in named[:-2]] + ["Y", "X"]
    free = [letter for letter in "ZT" if letter not in named]
    for position in reversed(range(len(named))):
        if not named[position]:
            if not free:
                raise ValueError(
                    f"layer: expected at most two axes besides channels, rows and columns in "
                    f"{layer.name!r}; got the axis labels {tuple(layer.axis_labels)}. Label the "
                    "channel axis 'c', layer.axis_labels = ..., or split the layer"
                )
            named[position] = free.pop(0)
    return "".join(named) + ("C" if layer.rgb else "")


def region_bounds(layer: "Image", region: "Shapes | Bounds", spatial: Sequence[int]) -> Bounds:
    """Return a rectangle as (start, stop) in pixels along the `spatial` axes of a layer.

    A shape counts by its bounding box in the layer's pixels; edges go to the nearest pixel edge.

    Raises
    ------
    ValueError
        If there is no shape, or none of the layer lies under it.
    """
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    lengths = [int(shape[position]) for position in spatial]
    if isinstance(region, Sequence):
        if len(region) != len(lengths) or any(len(bounds) != 2 for bounds in region):
            raise ValueError(
                f"region: expected ((top, bottom), (left, right)) in pixels; got {region!r}"
            )
        found = [(int(start), int(stop)) for start, stop in region]
    else:
        corners = _corners(layer, region)[:, list(spatial)] + 0.5
        low, high = np.rint(corners.min(axis=0)), np.rint(corners.max(axis=0))
        found = [(int(start), int(stop)) for start, stop in zip(low, high, strict=True)]
    clipped = tuple(
        (max(start, 0), min(stop, length))
        for (start, stop), length in zip(found, lengths, strict=True)
    )
    if any(start >= stop for start, stop in clipped):
        raise ValueError(
            f"region: expected a rectangle over the layer {layer.name!r}, {tuple(lengths)} pixels; "
            f"got {tuple(found)}"
        )
    return clipped


def settings_for(source: Source, settings: Settings) -> Settings:
    """Return the settings of a run on a source: with its axes, and the optics of its channels.

    Raises
    ------
    ValueError
        If optics are given per channel, but for another number of them.
    """
    settings = replace(settings, axes=source.axes)
    optics = settings.optics
    if not isinstance(optics, tuple):
        return settings
    chosen, of_layer = 1, 1
    if "C" in source.looped:
        position = source.axes.index("C")
        chosen, of_layer = source.length("C"), int(source.data.shape[position])
        if len(optics) == of_layer:
            optics = optics[slice(*source.window[position])]
    if len(optics) != chosen:
        raise ValueError(
            f"optics: expected those of one channel, or of each of the {of_layer} of the layer "
            f"{source.name!r}; got {len(optics)}"
        )
    # Of a single channel they are those of the image.
    return replace(settings, optics=optics if chosen > 1 else optics[0])


def kernel_array(kernel: "np.ndarray | Image", source: Source, settings: Settings) -> np.ndarray:
    """Return a known PSF as an array, shape (K, K) or, for volumes, (K, K, K).

    A layer is checked for its pixel size.

    Raises
    ------
    ValueError
        If a layer's planes differ, or its pixels are not those of the restored image.
    """
    if not _is_layer(kernel):
        return np.asarray(kernel)
    ndim = len(source.spatial)
    values = np.asarray(kernel.data[0] if kernel.multiscale else kernel.data)
    if values.ndim > ndim:
        planes = values.reshape(-1, *values.shape[-ndim:])
        if (planes != planes[0]).any():
            raise ValueError(
                f"kernel: expected one plane; got the layer {kernel.name!r} with {len(planes)}"
            )
        values = planes[0]
    spatial = [source.axes.index(axis) for axis in source.spatial]
    wanted = source.grid.scale[spatial] / np.array(settings.scales(ndim), np.float64)
    got = np.array(kernel.scale, np.float64)[-ndim:]
    calibrated = (got != 1).any() or str(kernel.units[-1]) != _PIXEL
    if calibrated and (len(got) != ndim or not np.allclose(got, wanted, rtol=0.01)):
        raise ValueError(
            f"kernel: expected restored pixels, {_sizes(wanted)} {kernel.units[-1]}; the layer "
            f"{kernel.name!r} has {_sizes(got)}. Resample it to that pixel size"
        )
    return values


def _range(axis: str, bounds: Sequence[int], length: int) -> tuple[int, int]:
    """Check a range along an axis of some length."""
    if len(bounds) != 2:
        raise ValueError(f"ranges: expected (start, stop) along {axis}; got {tuple(bounds)}")
    start = _checks.integer("ranges", bounds[0], 0, length - 1)
    return start, _checks.integer("ranges", bounds[1], start + 1, length)


def _corners(layer: "Image", shapes: "Shapes") -> np.ndarray:
    """Return the corners of a Shapes layer's chosen shape in an image's pixels, shape (n, ndim)."""
    if not len(shapes.data):
        raise ValueError(f"region: expected a rectangle in the layer {shapes.name!r}; got none")
    chosen = max(shapes.selected_data, default=len(shapes.data) - 1)
    corners = []
    for vertex in shapes.data[chosen]:
        world = np.zeros(max(layer.ndim, shapes.ndim))
        world[-shapes.ndim :] = shapes.data_to_world(vertex)
        corners.append(layer.world_to_data(world[-layer.ndim :]))
    return np.array(corners)


def _is_layer(value: object) -> "TypeGuard[Image]":
    return hasattr(value, "world_to_data")


def _sizes(values: np.ndarray) -> str:
    return " × ".join(f"{value:g}" for value in values)
