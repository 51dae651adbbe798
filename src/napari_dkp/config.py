"""Settings of a run: frozen dataclasses that check themselves.

`Settings` holds the choices a user makes; the method configs hold the numbers behind them.
A preset fills every config that the user leaves out, and `Settings.resolve` returns settings in
which it has nothing left to say, so that what is stored with a result repeats it whatever presets
become.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from napari_dkp import _checks

Method = Literal["auto", "dip", "diffusion", "richardson-lucy"]
KernelFamilyName = Literal["auto", "gaussian", "airy", "pupil", "line", "trajectory", "widefield"]
PresetName = Literal["fast", "balanced", "best", "paper"]
Phase = Literal["area", "fkp"]
Boundary = Literal["free", "circular"]
Precision = Literal["auto", "float32", "bfloat16"]
Sampler = Literal["smc", "paper"]
Distance = Literal["entropy", "squared"]
NetworkName = Literal["light", "published"]
OptimiserName = Literal["muon", "adam"]
DiffusionSampler = Literal["anneal", "ddim", "ddpm"]
DataStepName = Literal["proximal", "gradient"]

METHODS: tuple[str, ...] = get_args(Method)
KERNEL_FAMILIES: tuple[str, ...] = get_args(KernelFamilyName)
MOTION_FAMILIES: tuple[str, ...] = ("line", "trajectory")
OPTICS_FAMILIES: tuple[str, ...] = ("airy", "pupil")
VOLUME_FAMILIES: tuple[str, ...] = ("gaussian", "widefield")
PUBLISHED_FAMILIES: tuple[str, ...] = ("gaussian", *MOTION_FAMILIES)
PRESETS: tuple[str, ...] = get_args(PresetName)
PHASES: tuple[str, ...] = get_args(Phase)
BOUNDARIES: tuple[str, ...] = get_args(Boundary)
PRECISIONS: tuple[str, ...] = get_args(Precision)
SAMPLERS: tuple[str, ...] = get_args(Sampler)
DISTANCES: tuple[str, ...] = get_args(Distance)
NETWORKS: tuple[str, ...] = get_args(NetworkName)
OPTIMISERS: tuple[str, ...] = get_args(OptimiserName)
DIFFUSION_SAMPLERS: tuple[str, ...] = get_args(DiffusionSampler)
DATA_STEPS: tuple[str, ...] = get_args(DataStepName)

MAX_SCALE = 8
# Samples along each side of a tile, at least.
LEAST_TILE = 32
# The diffusion model that comes with the package.
SHIPPED_MODEL = "small"
# Fields of `DiffusionConfig` that are no matter of effort: presets leave them as they are.
OF_THE_MODEL = ("model", "class_label", "download")

# HR pixels, or their square: far beyond what a kernel array can hold.
_WIDEST = 1e4
# Intensity: what float32 holds, and the square of which float64 does.
_HUGE = 1e37
# Cycles per pixel: far from where anyone would set up a microscope.
_LEAST_CUTOFF, _MOST_CUTOFF = 0.02, 3.0

Interval = tuple[float, float]


def _store(config: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass to what its check made of it, while it is being made."""
    object.__setattr__(config, name, value)


def _integer(config: object, name: str, low: int, high: int | None = None) -> None:
    _store(config, name, _checks.integer(name, getattr(config, name), low, high))


def _number(config: object, name: str, low: float, high: float = math.inf) -> None:
    _store(config, name, _checks.number(name, getattr(config, name), low, high))


@dataclass(frozen=True, kw_only=True)
class RKSConfig:
    """Random kernel sampling: where kernels are drawn from and how they are weighted.

    Lengths are in HR pixels, variances in HR pixels squared; None means the published range for
    the scale in use.

    Parameters
    ----------
    sampler : "smc" scores a population on Gram statistics; "paper" reweights a few fresh draws.
    particles : kernels in the population ("smc").
    moves : Metropolis moves per particle and kernel update ("smc").
    confidence : nats of log-likelihood lost when the misfit doubles ("smc"); at most one for
        optics with Richardson–Lucy.
    draws : fresh kernels per kernel update ("paper", L of eq. 4).
    every : image steps per kernel update; of a diffusion model, each is followed by one.
    updates : kernel updates per plane in which a Gaussian kernel is sought while the image forms;
        from then on it stands at the mean of their last third ("smc"). With a diffusion model, for
        half of the steps at most.
    max_sites : LR samples entering the Gram statistics; larger planes are sampled on a lattice.
    gaussian_variance : eigenvalues of the Gaussian family's covariance, in planes.
    axial_width, lateral_width : sigmas of Gaussians in volumes along Z, and along Y and X, in
        pixels of the given image.
    defocus : of the widefield family, see `volume_optics.widefield`, waves per plane of the given
        image. In volumes, intervals that are None are found by trials.
    cutoff : optical cut-off 2 NA / λ of the Airy and pupil families, cycles per HR pixel; None
        takes it from `Settings.optics` and the spectrum of the image.
    damping : factor by which a microscope's transfer function lies below the ideal one at the
        cut-off.
    aberration : largest root mean square of each aberration of the pupil family, waves.
    line_length, line_width : length of a linear motion, and the Gaussian sigma across it.
    path_extent, path_width : extent of a camera-shake path, and the Gaussian sigma across it. A
        point between pixels, spread over them by linear interpolation, already has sigma 0.4.
    """

    sampler: Sampler = "smc"
    particles: int = 256
    moves: int = 2
    confidence: float = 100.0
    draws: int = 5
    every: int = 5
    updates: int = 48
    max_sites: int = 2048
    gaussian_variance: Interval | None = None
    axial_width: Interval | None = None
    lateral_width: Interval | None = None
    defocus: Interval | None = None
    cutoff: Interval | None = None
    damping: Interval = (0.4, 1.0)
    aberration: float = 0.1
    line_length: Interval | None = None
    line_width: Interval = (0.4, 1.0)
    path_extent: Interval | None = None
    path_width: Interval = (0.4, 1.0)

    def __post_init__(self) -> None:
        _checks.choice("sampler", self.sampler, SAMPLERS)
        _integer(self, "particles", 8, 65536)
        _integer(self, "moves", 0, 100)
        _number(self, "confidence", 1e-3)
        _integer(self, "draws", 1, 10000)
        _integer(self, "every", 1, 10000)
        _integer(self, "updates", 2)
        _integer(self, "max_sites", 256)
        for name in (
            "gaussian_variance",
            "axial_width",
            "lateral_width",
            "defocus",
            "line_length",
            "path_extent",
        ):
            if getattr(self, name) is not None:
                _store(self, name, _checks.interval(name, getattr(self, name), 1e-3, _WIDEST))
        if self.cutoff is not None:
            _store(self, "cutoff", _checks.interval("cutoff", self.cutoff, _LEAST_CUTOFF, 1.0))
        _store(self, "damping", _checks.interval("damping", self.damping, 1e-3, 1.0))
        _number(self, "aberration", 0.0, 0.5)
        for name in ("line_width", "path_width"):
            _store(self, name, _checks.interval(name, getattr(self, name), 1e-2, _WIDEST))


@dataclass(frozen=True, kw_only=True)
class PKEConfig:
    """Kernel estimation: the small network and its Langevin update (eqs. 9-13).

    Parameters
    ----------
    hidden : units of each hidden layer.
    learning_rate : Adam step size, shared by both terms.
    warm_up : steps on random kernels before the image is looked at.
    steps : Langevin steps per kernel update.
    distance : from the network's kernel to the sampled one: "entropy" or, as published, "squared".
    data_weight : step size of the data term relative to that of the prior term
        (gamma_1 / gamma_2 of eq. 12); none for optics with Richardson–Lucy.
    """

    hidden: tuple[int, ...] = (1000,)
    learning_rate: float = 1e-3
    warm_up: int = 200
    steps: int = 4
    distance: Distance = "entropy"
    data_weight: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, Sequence):
            raise TypeError(f"hidden: expected a sequence of integers; got {self.hidden!r}")
        hidden = tuple(_checks.integer("hidden", units, 1) for units in self.hidden)
        _store(self, "hidden", hidden)
        _number(self, "learning_rate", 1e-8, 1.0)
        _integer(self, "warm_up", 0)
        _integer(self, "steps", 1)
        _checks.choice("distance", self.distance, DISTANCES)
        _number(self, "data_weight", 0.0)


@dataclass(frozen=True, kw_only=True)
class DIPConfig:
    """The untrained image network and how it is fitted.

    Parameters
    ----------
    network : "light" is narrower, without attention and reflection padding; "published" is the
        paper's 128-channel network.
    channels : width of the light network's coarse scales; the finest has a quarter of it, the next
        one half.
    optimiser : "muon" for convolutions with Adam for the rest, or, as published, "adam" for all.
    learning_rate : step size in the first half of the run: large steps let the image follow
        the kernel.
    settling : share of it that is left at the end, after a linear decay over the second half; small
        steps finish the image.
    ssim_fraction : share of the run whose fidelity is 1 - SSIM; squared error follows. Presets
        but "paper" have none of it under a microscope's kernels.
    gradient_weight : weight of the hyper-Laplacian prior on image gradients at the end of the run.
    gradient_growth : power of the share of steps done with which that weight comes in; 0, as
        published, has it in full from the start.
    """

    network: NetworkName = "light"
    channels: int = 64
    optimiser: OptimiserName = "muon"
    learning_rate: float = 2e-2
    settling: float = 0.3
    ssim_fraction: float = 1.0
    gradient_weight: float = 1e-3
    gradient_growth: float = 2.0

    def __post_init__(self) -> None:
        _checks.choice("network", self.network, NETWORKS)
        _integer(self, "channels", 4, 1024)
        _checks.choice("optimiser", self.optimiser, OPTIMISERS)
        _number(self, "learning_rate", 1e-8, 1.0)
        _number(self, "settling", 0.0, 1.0)
        _number(self, "ssim_fraction", 0.0, 1.0)
        _number(self, "gradient_weight", 0.0)
        _number(self, "gradient_growth", 0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class RichardsonLucyConfig:
    """Richardson–Lucy: steps that count photons, and how noise is kept out.

    Parameters
    ----------
    strength : greatest weight of the Hessian penalty on the square root of the image, in which
        photon noise is the same everywhere: a number without unit; 0 leaves the penalty out. A
        half and a quarter of it are tried too, and the image of least risk is taken.
    patience : steps without a smaller risk after which those of Richardson and Lucy end.
    """

    strength: float = 0.8
    patience: int = 15

    def __post_init__(self) -> None:
        _number(self, "strength", 0.0, 1e3)
        _integer(self, "patience", 1)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The diffusion model and how images are drawn from it.

    Noise levels are standard deviations relative to a range of 2, from black to white.

    Parameters
    ----------
    model : "small", which comes with napari-dkp; a folder that diffusers saved; a checkpoint of
        guided-diffusion; or a name of the Hugging Face hub, "owner/name".
    class_label : of a class-conditional model; None for no class.
    download : fetch a model of the hub that is not on this machine.
    sampler : "anneal" draws images while the kernel is sought, then finishes one without drawing;
        "ddpm" and "ddim" are the published ones, the kernel sought at every step.
    data_step : "proximal", in closed form, or, as published, "gradient".
    samples : images that "ddpm" draws, whose mean is handed out.
    seek : noise levels of the last and the first step in which "anneal" seeks the kernel.
    trials : rounds in which "anneal" then settles a Gaussian kernel by how well restorations from
        some samples foretell the others; 0 leaves it as it was found.
    first, last : noise levels of the first and the last step that form the image.
    trust : weight of the data against the model, which is surer of itself than it should be; 1 is
        that of Bayes' rule.
    noise : noise level that the data are taken to have at least, whatever is estimated.
    """

    model: str = SHIPPED_MODEL
    class_label: int | None = None
    download: bool = False
    sampler: DiffusionSampler = "anneal"
    data_step: DataStepName = "proximal"
    samples: int = 1
    seek: Interval = (0.15, 3.0)
    trials: int = 2
    first: float = 1.0
    last: float = 0.02
    trust: float = 4.0
    noise: float = 0.002

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise TypeError(f"model: expected a name or a path as text; got {self.model!r}")
        if self.class_label is not None:
            _integer(self, "class_label", 0)
        if not isinstance(self.download, bool):
            raise TypeError(f"download: expected True or False; got {self.download!r}")
        _checks.choice("sampler", self.sampler, DIFFUSION_SAMPLERS)
        _checks.choice("data_step", self.data_step, DATA_STEPS)
        _integer(self, "samples", 1, 64)
        _store(self, "seek", _checks.interval("seek", self.seek, 1e-3, 100.0))
        _integer(self, "trials", 0, 100)
        _number(self, "first", 1e-3, 200.0)
        _number(self, "last", 1e-3, self.first)
        _number(self, "trust", 1e-6, 1e6)
        _number(self, "noise", 1e-4, 1.0)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Noise of the camera: variance = gain · (mean - offset) + read_noise².

    Parameters
    ----------
    gain : intensity units per photoelectron.
    offset : intensity of a dark pixel.
    read_noise : standard deviation in the dark, intensity units.
    """

    gain: float
    offset: float = 0.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        _number(self, "gain", 1e-30)
        _number(self, "offset", -_HUGE, _HUGE)
        _number(self, "read_noise", 0.0, _HUGE)


@dataclass(frozen=True, kw_only=True)
class OpticsConfig:
    """What is known of the microscope; both lengths in one unit, such as nanometres.

    Parameters
    ----------
    numerical_aperture : of the objective.
    wavelength : of the light that is imaged.
    pixel_size : of the image that is given, in the specimen.
    """

    numerical_aperture: float
    wavelength: float
    pixel_size: float

    def __post_init__(self) -> None:
        _number(self, "numerical_aperture", 0.01, 2.0)
        _number(self, "wavelength", 1e-12)
        _number(self, "pixel_size", 1e-12)

        if not _LEAST_CUTOFF <= self.cutoff <= _MOST_CUTOFF:
            raise ValueError(
                f"optics: expected a cut-off 2 NA / wavelength of {_LEAST_CUTOFF:g} to "
                f"{_MOST_CUTOFF:g} cycles per pixel; got {self.cutoff:.3g}. Wavelength and pixel "
                "size have to be in the same unit"
            )

    @property
    def cutoff(self) -> float:
        """Optical cut-off 2 NA / λ, cycles per pixel of the given image."""
        return 2 * self.numerical_aperture / self.wavelength * self.pixel_size


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search for a kernel of motion, which goes before the restoration proper ("smc").

    Parameters
    ----------
    rounds : images that are formed, each from the start, while the kernel goes on: in the first
        half of them fast, in the second half with averages.
    steps : image steps per round, at most `Settings.iterations`.
    settled : share of a later round's steps after which its image informs the kernel, and after
        which kernels count.
    memory : share of what the later rounds said about the kernel that an update keeps.
    left_out : share of LR samples that the image of a round does not see. An image that fits every
        sample makes its kernel look right; the more it has to guess, the wider the kernel.
    data_weight : instead of `PKEConfig.data_weight`: of motion, the families hold a smaller part of
        what there is than of optics.
    max_sites : instead of `RKSConfig.max_sites`, for the same reason.
    channels : width of the small network that forms the images.
    """

    rounds: int = 6
    steps: int = 100
    settled: float = 0.5
    memory: float = 0.9
    left_out: float = 0.2
    data_weight: float = 1.0
    max_sites: int = 8192
    channels: int = 32

    def __post_init__(self) -> None:
        _integer(self, "rounds", 1)
        _integer(self, "steps", 1)
        _number(self, "settled", 0.0, 1.0)
        _number(self, "memory", 0.0, 1.0)
        _number(self, "left_out", 0.0, 0.9)
        _number(self, "data_weight", 0.0)
        _integer(self, "max_sites", 256)
        _integer(self, "channels", 4, 1024)


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
        images and "dip" for others, see `choice`.
    kernel_family : family that kernels are sampled from; "auto" takes Airy patterns for microscope
        images and Gaussians for others: data hardly tells a motion from a Gaussian of the same
        extent, so motion has to be named. Volumes know "gaussian" and "widefield".
    kernel_size : taps per axis in HR pixels, odd; None means `default_kernel_size`; for
        microscopes 25, or 31 where the image is enlarged; in volumes up to 31, and no more than
        the volume has pixels.
    preset : fills `iterations` and the configs below where they are None. Richardson–Lucy is the
        same in all of them, with 160 steps at most.
    iterations : image steps per plane, those of the kernel search not counted.
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
        _store(self, "scale", scale)
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
            _store(self, "kernel_size", size)
        _checks.choice("preset", self.preset, PRESETS)
        if self.iterations is not None:
            _integer(self, "iterations", 1)
        _checks.choice("phase", self.phase, PHASES)
        _checks.choice("boundary", self.boundary, BOUNDARIES)
        if not isinstance(self.device, str):
            raise TypeError(f"device: expected a name such as 'auto' or 'cpu'; got {self.device!r}")
        _checks.choice("precision", self.precision, PRECISIONS)
        _integer(self, "seed", 0, 2**63 - 1)
        for name in ("share_kernel", "diagnostics"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False; got {getattr(self, name)!r}")
        if self.tile is not None:
            _integer(self, "tile", LEAST_TILE)
        if isinstance(self.optics, Sequence):
            _store(self, "optics", tuple(self.optics))
        for name, kind in _CONFIGS.items():
            given = getattr(self, name)
            each = given if name == "optics" and isinstance(given, tuple) else (given,)
            for value in each:
                if value is not None and not isinstance(value, kind):
                    raise TypeError(f"{name}: expected {kind.__name__} or None; got {value!r}")

    def _check_volume(self) -> None:
        """Refuse what there is for planes only, or for volumes only."""
        if not self.volume:
            if self.kernel_family == "widefield":
                raise ValueError(
                    "kernel_family: expected a family of planes, or volume=True; got 'widefield', "
                    "whose kernels have three axes"
                )
            return
        if self.method not in ("auto", "richardson-lucy"):
            raise ValueError(
                "method: expected 'richardson-lucy' with volume=True, since the other methods "
                f"restore planes; got {self.method!r}"
            )
        if self.kernel_family not in ("auto", *VOLUME_FAMILIES):
            raise ValueError(
                "kernel_family: expected 'auto', 'gaussian' or 'widefield' with volume=True; "
                f"got {self.kernel_family!r}"
            )
        if (
            self.kernel_family == "widefield"
            and isinstance(self.scale, tuple)
            and len(self.scale) == 3
            and self.scale[1] != self.scale[2]
        ):
            raise ValueError(
                "kernel_family: expected 'gaussian' with unlike scales of Y and X, since the image "
                f"of a point is round in pixels enlarged alike; got 'widefield' and {self.scale}"
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
        preset = _PRESETS[self.preset]
        usual: Method = "richardson-lucy" if self.volume else "dip"
        method: Method = usual if self.method == "auto" else self.method
        steps = {"dip": preset.iterations, "diffusion": preset.levels}
        return replace(
            self,
            method=method,
            iterations=self.iterations or steps.get(method, _COUNTING_STEPS),
            rks=self.rks or preset.rks,
            pke=self.pke or preset.pke,
            search=self.search or preset.search,
            dip=self.dip or self._usual_dip(preset.dip),
            diffusion=self.diffusion or preset.diffusion,
            richardson_lucy=self.richardson_lucy or preset.richardson_lucy,
        )

    def _usual_dip(self, dip: DIPConfig) -> DIPConfig:
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
            wide = self.kernel_family == "widefield"
            return tuple(31 if wide else min(31, 8 * scale + 13) for scale in self.scales(ndim))
        if self.kernel_family in OPTICS_FAMILIES:
            # Wide enough for the rings of an Airy pattern, whose tails fall with the cube only.
            return tuple(25 if scale == 1 else 31 for scale in self.scales(ndim))
        return tuple(default_kernel_size(scale) for scale in self.scales(ndim))

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
# Richardson–Lucy ends by itself; this many at most, with the penalties'.
_COUNTING_STEPS = 160
# LR samples: more than any plane has.
_ALL_SITES = 10**9


@dataclass(frozen=True)
class _Preset:
    iterations: int
    levels: int  # steps of a diffusion model
    rks: RKSConfig = field(default_factory=RKSConfig)
    pke: PKEConfig = field(default_factory=PKEConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    dip: DIPConfig = field(default_factory=DIPConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    richardson_lucy: RichardsonLucyConfig = field(default_factory=RichardsonLucyConfig)


_PRESETS = {
    "fast": _Preset(
        160,
        16,
        rks=RKSConfig(updates=29),
        search=SearchConfig(rounds=4, steps=50),
        diffusion=DiffusionConfig(trials=1),
    ),
    "balanced": _Preset(400, 24),
    "best": _Preset(600, 40, search=SearchConfig(rounds=10), diffusion=DiffusionConfig(trials=3)),
    "paper": _Preset(
        1000,
        100,
        rks=RKSConfig(sampler="paper", max_sites=_ALL_SITES),
        pke=PKEConfig(learning_rate=1e-4, steps=1, distance="squared"),
        dip=DIPConfig(
            network="published",
            optimiser="adam",
            learning_rate=5e-3,
            settling=1.0,
            ssim_fraction=0.405,
            gradient_weight=2e-4,
            gradient_growth=0.0,
        ),
        diffusion=DiffusionConfig(sampler="ddpm", data_step="gradient", first=100.0),
    ),
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
