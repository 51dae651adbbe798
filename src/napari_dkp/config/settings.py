"""The choices a user makes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from napari_dkp import _checks
from napari_dkp.config.fields import integer, store
from napari_dkp.config.methods import (
    DiffusionConfig,
    DIPConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
)
from napari_dkp.config.microscope import NoiseConfig, OpticsConfig
from napari_dkp.config.names import (
    BOUNDARIES,
    KERNEL_FAMILIES,
    LEAST_TILE,
    LENS_FAMILIES,
    MAX_SCALE,
    METHODS,
    OPTICS_FAMILIES,
    PHASES,
    PRECISIONS,
    PRESETS,
    VOLUME_FAMILIES,
    Boundary,
    KernelFamilyName,
    Method,
    Phase,
    Precision,
    PresetName,
)
from napari_dkp.config.presets import COUNTING_STEPS, PRESET_NUMBERS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result of a run, apart from the image and a known PSF.

    Parameters
    ----------
    scale : upsampling factor, 1 to 8, one integer or one per spatial axis; 1 only deblurs.
    axes : meaning of each image axis, e.g. "YX", "YXC" (RGB), "TCZYX"; None guesses.
    volume : restore Z, Y and X together, under a kernel of three axes; else plane by plane.
    method : image restorer: "dip" fits an untrained network, "diffusion" asks a trained one what
        images look like, "richardson-lucy" counts photons; "auto" takes the last for microscope
        images and volumes, and "dip" for others, see `choice`.
    kernel_family : family that kernels are sampled from; "auto" takes Airy patterns for microscope
        images and Gaussians for others: data hardly tells a motion from a Gaussian of the same
        extent, so motion has to be named. Volumes know "gaussian", "widefield" and "confocal";
        "auto" goes by the optics of all channels, else by the light in the planes.
    kernel_size : taps per axis in HR pixels, odd; None means `default_kernel_size`; for
        microscopes 25, or 31 where the image is enlarged; in volumes up to 31, and no more than
        the volume has pixels.
    preset : fills `iterations` and the configs below where they are None. Richardson–Lucy is the
        same in all of them, with 160 steps at most.
    iterations : image steps per plane, those of a search for a motion not counted.
    phase : where LR samples lie on the HR grid, see `degradation`.
    boundary : "free" lets the image go on past the frame; "circular" wraps it.
    device : "auto", "cpu", "cuda", "cuda:1", "mps".
    precision : of the image network; everything else is float32 or better.
    seed : of every random draw.
    share_kernel : planes of a stack have one kernel, per channel; it is found in a few of them, and
        the others take far fewer steps. False seeks one in every plane.
    tile : largest side, in source pixels, of what is restored at once: larger planes are taken
        apart into overlapping tiles; None takes as much as memory allows.
    diagnostics : also keep the residual and the uncertainty of every pixel, see `report.Report`.
    optics : what is known of the microscope, or of each channel in their order; None, also of a
        channel, finds it in the spectrum of the image.
    noise : of the camera; None estimates it from the image.
    rks, pke, search, dip, diffusion, richardson_lucy : the numbers behind the methods.
    """

    scale: int | tuple[int, ...] = 2
    axes: str | None = None
    volume: bool = False
    method: Method = "auto"
    kernel_family: KernelFamilyName = "auto"
    kernel_size: int | tuple[int, ...] | None = None
    preset: PresetName = "balanced"
    iterations: int | None = None
    phase: Phase = "area"
    boundary: Boundary = "free"
    device: str = "auto"
    precision: Precision = "auto"
    seed: int = 0
    share_kernel: bool = True
    tile: int | None = None
    diagnostics: bool = False
    optics: OpticsConfig | tuple[OpticsConfig | None, ...] | None = None
    noise: NoiseConfig | None = None
    rks: RKSConfig | None = None
    pke: PKEConfig | None = None
    search: SearchConfig | None = None
    dip: DIPConfig | None = None
    diffusion: DiffusionConfig | None = None
    richardson_lucy: RichardsonLucyConfig | None = None

    def __post_init__(self) -> None:
        scale = _checks.per_axis("scale", self.scale, 1, MAX_SCALE)
        store(self, "scale", scale)
        if self.axes is not None:
            _checks.axes("axes", self.axes)
        _checks.choice("method", self.method, METHODS)
        _checks.choice("kernel_family", self.kernel_family, KERNEL_FAMILIES)
        if not isinstance(self.volume, bool):
            raise TypeError(f"volume: expected True or False; got {self.volume!r}")
        self._check_volume()
        if (
            self.kernel_family in OPTICS_FAMILIES
            and isinstance(scale, tuple)
            and len(set(scale)) > 1
        ):
            raise ValueError(
                f"kernel_family: expected 'gaussian' with a scale per axis, since the image of a "
                f"point is round in pixels enlarged alike; got {self.kernel_family!r} and {scale}"
            )
        if self.kernel_size is not None:
            size = _checks.per_axis("kernel_size", self.kernel_size, 3, 255)
            if any(taps % 2 == 0 for taps in (size if isinstance(size, tuple) else (size,))):
                raise ValueError(f"kernel_size: expected odd integers; got {self.kernel_size}")
            store(self, "kernel_size", size)
        _checks.choice("preset", self.preset, PRESETS)
        if self.iterations is not None:
            integer(self, "iterations", 1)
        _checks.choice("phase", self.phase, PHASES)
        _checks.choice("boundary", self.boundary, BOUNDARIES)
        if not isinstance(self.device, str):
            raise TypeError(f"device: expected a name such as 'auto' or 'cpu'; got {self.device!r}")
        _checks.choice("precision", self.precision, PRECISIONS)
        integer(self, "seed", 0, 2**63 - 1)
        for name in ("share_kernel", "diagnostics"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False; got {getattr(self, name)!r}")
        if self.tile is not None:
            integer(self, "tile", LEAST_TILE)
        if isinstance(self.optics, Sequence):
            store(self, "optics", tuple(self.optics))
        for name, kind in _CONFIGS.items():
            given = getattr(self, name)
            each = given if name == "optics" and isinstance(given, tuple) else (given,)
            for value in each:
                if value is not None and not isinstance(value, kind):
                    raise TypeError(f"{name}: expected {kind.__name__} or None; got {value!r}")

    def _check_volume(self) -> None:
        """Refuse what there is for planes only, or for volumes only."""
        if not self.volume:
            if self.kernel_family in LENS_FAMILIES:
                raise ValueError(
                    "kernel_family: expected a family of planes, or volume=True; got "
                    f"{self.kernel_family!r}, whose kernels have three axes"
                )
            return
        if self.method == "diffusion":
            raise ValueError(
                "method: expected 'richardson-lucy' or 'dip' with volume=True, since diffusion "
                "models restore planes; got 'diffusion'"
            )
        if self.dip is not None and self.dip.network == "published":
            raise ValueError(
                "dip: expected the 'light' network with volume=True; got 'published', which is of "
                "planes"
            )
        if self.kernel_family not in ("auto", *VOLUME_FAMILIES):
            raise ValueError(
                "kernel_family: expected 'auto', 'gaussian', 'widefield' or 'confocal' with "
                f"volume=True; got {self.kernel_family!r}"
            )
        if (
            self.kernel_family in LENS_FAMILIES
            and isinstance(self.scale, tuple)
            and len(self.scale) == 3
            and self.scale[1] != self.scale[2]
        ):
            raise ValueError(
                "kernel_family: expected 'gaussian' with unlike scales of Y and X, since the image "
                f"of a point is round in pixels enlarged alike; got {self.kernel_family!r} and "
                f"{self.scale}"
            )
        if self.preset == "paper" or (self.rks is not None and self.rks.sampler == "paper"):
            raise ValueError(
                "preset: expected another than 'paper' with volume=True; what is published is of "
                "planes"
            )
        if self.axes is not None and "Z" not in self.axes:
            raise ValueError(f"axes: expected Z among them with volume=True; got {self.axes!r}")
        if self.phase == "fkp":
            raise ValueError(
                "phase: expected 'area' with volume=True; got 'fkp', the grid of a benchmark of "
                "planes"
            )

    @property
    def spatial(self) -> str:
        """Letters of the axes that are restored together, in the order of a kernel's axes."""
        return "ZYX" if self.volume else "YX"

    def resolve(self) -> "Settings":
        """Return settings with everything that the preset decides filled in.

        What is "auto" needs an image to be decided, see `choice`; a method that still is counts as
        "dip", with volume=True as "richardson-lucy".
        """
        preset = PRESET_NUMBERS[self.preset]
        usual: Method = "richardson-lucy" if self.volume else "dip"
        method: Method = usual if self.method == "auto" else self.method
        steps = {"dip": preset.iterations, "diffusion": preset.levels}
        return replace(
            self,
            method=method,
            iterations=self.iterations or steps.get(method, COUNTING_STEPS),
            rks=self.rks or preset.rks,
            pke=self.pke or preset.pke,
            search=self.search or preset.search,
            dip=self.dip or self._usual_dip(preset.dip),
            diffusion=self.diffusion or preset.diffusion,
            richardson_lucy=self.richardson_lucy or preset.richardson_lucy,
        )

    def _usual_dip(self, dip: DIPConfig) -> DIPConfig:
        if self.volume:
            # Light far brighter than the data is what a volume's restoration is after.
            return replace(dip, ssim_fraction=0.0, gradient_weight=0.0, noise_weight=0.0)
        if self.kernel_family not in OPTICS_FAMILIES or self.preset == "paper":
            return dip
        # SSIM compares darkness as it does light: it would fit the noise of dark regions.
        return replace(dip, ssim_fraction=0.0)

    def of_channel(self, channel: int) -> "Settings":
        """Return the settings of one channel: with its own optics.

        Raises
        ------
        ValueError
            If optics are given for fewer channels.
        """
        if not isinstance(self.optics, tuple):
            return self
        if channel >= len(self.optics):
            raise ValueError(
                f"optics: expected one for each channel, {channel + 1} or more; got "
                f"{len(self.optics)}"
            )
        return replace(self, optics=self.optics[channel])

    @property
    def known_optics(self) -> tuple[OpticsConfig, ...]:
        """The optics that are stated, of the image or of any channel."""
        each = self.optics if isinstance(self.optics, tuple) else (self.optics,)
        return tuple(one for one in each if one is not None)

    def scales(self, ndim: int) -> tuple[int, ...]:
        """Return the scale of each of `ndim` spatial axes."""
        return _expand("scale", self.scale, ndim)

    @property
    def spatial_scales(self) -> dict[str, int]:
        """The scale of each axis that kernels have, by its letter."""
        return dict(zip(self.spatial, self.scales(len(self.spatial)), strict=True))

    def kernel_sizes(self, ndim: int) -> tuple[int, ...]:
        """Return the taps along each of `ndim` spatial axes."""
        if self.kernel_size is not None:
            return _expand("kernel_size", self.kernel_size, ndim)
        if self.volume:
            # A cone of light out of focus fills any array; Gaussians end.
            wide = self.kernel_family in LENS_FAMILIES
            return tuple(31 if wide else min(31, 8 * scale + 13) for scale in self.scales(ndim))
        if self.kernel_family in OPTICS_FAMILIES:
            # Wide enough for the rings of an Airy pattern, whose tails fall with the cube only.
            return tuple(25 if scale == 1 else 31 for scale in self.scales(ndim))
        return tuple(default_kernel_size(scale) for scale in self.scales(ndim))

    def taps(self, lr_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the taps along each spatial axis for an image of so many samples.

        Of a volume, those that are usual are no more than it has pixels.
        """
        sizes = self.kernel_sizes(len(lr_shape))
        if not self.volume or self.kernel_size is not None:
            return sizes
        restored = (s * n for s, n in zip(self.scales(len(lr_shape)), lr_shape, strict=True))
        return tuple(min(taps, n - (n + 1) % 2) for taps, n in zip(sizes, restored, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, fit for JSON and for layer metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Read back what `to_dict` wrote, also after a trip through JSON."""
        values = _known(cls, values)
        # Stored when every plane had a kernel of its own.
        if values.get("rks"):
            values.setdefault("share_kernel", False)
        if "richardson_lucy" not in values and values.get("rks") and values.get("method") == "dip":
            # Stored when "auto" still meant these, but for the published sampler.
            published = values["rks"].get("sampler") == "paper"
            if values.get("kernel_family") == "auto" and not published:
                values["kernel_family"] = "gaussian"
        for name, kind in _CONFIGS.items():
            found = values.get(name)
            if isinstance(found, tuple):
                values[name] = tuple(each and kind(**_known(kind, each)) for each in found)
            elif found is not None:
                values[name] = kind(**_known(kind, found))
        return cls(**values)


_CONFIGS: dict[str, type] = {
    "optics": OpticsConfig,
    "noise": NoiseConfig,
    "rks": RKSConfig,
    "pke": PKEConfig,
    "search": SearchConfig,
    "dip": DIPConfig,
    "diffusion": DiffusionConfig,
    "richardson_lucy": RichardsonLucyConfig,
}


def default_kernel_size(scale: int) -> int:
    """Return the published number of taps for a scale; pure deblurring takes that of x4.

    min(4 s + 3, 21): 11, 15, 19, 21 for s = 2, 3, 4, 8.
    """
    return min(4 * scale + 3, 21) if scale > 1 else 19


def _expand(name: str, value: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * ndim
    if len(value) != ndim:
        raise ValueError(
            f"{name}: expected one integer, or {ndim} for the spatial axes; got {len(value)}"
        )
    return value


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `values`, lists as tuples; refuse what the dataclass does not have."""
    unknown = set(values) - {entry.name for entry in fields(kind)}
    if unknown:
        raise ValueError(f"settings: unknown {', '.join(sorted(unknown))} in {kind.__name__}")
    return {name: _untuple(value) for name, value in values.items()}


def _untuple(value: Any) -> Any:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(value) if is_list else value
