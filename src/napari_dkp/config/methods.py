"""The numbers behind the methods."""

from collections.abc import Sequence
from dataclasses import dataclass

from napari_dkp import _checks
from napari_dkp.config.fields import integer, number, store
from napari_dkp.config.microscope import LEAST_CUTOFF
from napari_dkp.config.names import (
    DATA_STEPS,
    DIFFUSION_SAMPLERS,
    DISTANCES,
    NETWORKS,
    OPTIMISERS,
    SAMPLERS,
    SHIPPED_MODEL,
    DataStepName,
    DiffusionSampler,
    Distance,
    Interval,
    NetworkName,
    OptimiserName,
    Sampler,
)

# HR pixels, or their square: far beyond what a kernel array can hold.
_WIDEST = 1e4


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
    updates : kernel updates per plane in which a kernel of optics is sought while the image forms,
        of photographs where their power spectra tell nothing; from then on it stands at the mean of
        their last third ("smc"). With a diffusion model, for half of the steps at most.
    max_sites : LR samples entering the Gram statistics; larger planes are sampled on a lattice.
    gaussian_variance : eigenvalues of the Gaussian family's covariance, in planes.
    axial_width, lateral_width : sigmas of Gaussians in volumes along Z, and along Y and X, in
        pixels of the given image.
    defocus : of the widefield and confocal families, see `volume_optics.widefield`, waves per
        plane of the given image. In volumes, intervals that are None are found by trials.
    cutoff : optical cut-off 2 NA / λ of all families of optics, cycles per HR pixel; None takes it
        from `Settings.optics` and the spectrum of the image.
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
        integer(self, "particles", 8, 65536)
        integer(self, "moves", 0, 100)
        number(self, "confidence", 1e-3)
        integer(self, "draws", 1, 10000)
        integer(self, "every", 1, 10000)
        integer(self, "updates", 2)
        integer(self, "max_sites", 256)
        for name in (
            "gaussian_variance",
            "axial_width",
            "lateral_width",
            "defocus",
            "line_length",
            "path_extent",
        ):
            if getattr(self, name) is not None:
                store(self, name, _checks.interval(name, getattr(self, name), 1e-3, _WIDEST))
        if self.cutoff is not None:
            store(self, "cutoff", _checks.interval("cutoff", self.cutoff, LEAST_CUTOFF, 1.0))
        store(self, "damping", _checks.interval("damping", self.damping, 1e-3, 1.0))
        number(self, "aberration", 0.0, 0.5)
        for name in ("line_width", "path_width"):
            store(self, name, _checks.interval(name, getattr(self, name), 1e-2, _WIDEST))


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
        store(self, "hidden", hidden)
        number(self, "learning_rate", 1e-8, 1.0)
        integer(self, "warm_up", 0)
        integer(self, "steps", 1)
        _checks.choice("distance", self.distance, DISTANCES)
        number(self, "data_weight", 0.0)


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
    noise_weight : where noise is seen, fidelity is squared error, and that weight is so many times
        the variance of the noise in normalised intensity: SSIM would fit noise, and with it what
        undoing the blur makes of it. 0 fits all images alike.
    polishing : steps at the end, a fifth of all at most, that hold the image to the samples and to
        what is alike in it; none where noise is seen or under a microscope's kernels.
    """

    network: NetworkName = "light"
    channels: int = 64
    optimiser: OptimiserName = "muon"
    learning_rate: float = 2e-2
    settling: float = 0.3
    ssim_fraction: float = 1.0
    gradient_weight: float = 1e-3
    gradient_growth: float = 2.0
    noise_weight: float = 0.5
    polishing: int = 8

    def __post_init__(self) -> None:
        _checks.choice("network", self.network, NETWORKS)
        integer(self, "channels", 4, 1024)
        _checks.choice("optimiser", self.optimiser, OPTIMISERS)
        number(self, "learning_rate", 1e-8, 1.0)
        number(self, "settling", 0.0, 1.0)
        number(self, "ssim_fraction", 0.0, 1.0)
        number(self, "gradient_weight", 0.0)
        number(self, "gradient_growth", 0.0, 100.0)
        number(self, "noise_weight", 0.0)
        integer(self, "polishing", 0)


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
        number(self, "strength", 0.0, 1e3)
        integer(self, "patience", 1)


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
            integer(self, "class_label", 0)
        if not isinstance(self.download, bool):
            raise TypeError(f"download: expected True or False; got {self.download!r}")
        _checks.choice("sampler", self.sampler, DIFFUSION_SAMPLERS)
        _checks.choice("data_step", self.data_step, DATA_STEPS)
        integer(self, "samples", 1, 64)
        store(self, "seek", _checks.interval("seek", self.seek, 1e-3, 100.0))
        integer(self, "trials", 0, 100)
        number(self, "first", 1e-3, 200.0)
        number(self, "last", 1e-3, self.first)
        number(self, "trust", 1e-6, 1e6)
        number(self, "noise", 1e-4, 1.0)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search for a photograph's kernel, which goes before the restoration proper ("smc").

    Parameters
    ----------
    rounds : images, each formed from the start, that a motion learns from, beyond a first one. Of a
        path the first has judged the two directions that its power spectrum does not tell apart. A
        Gaussian, which the spectrum leaves little to learn, has a third of them, rounded down, of
        at most half of `Settings.iterations` together.
    steps : image steps of those of a line; a path's have a third more, a Gaussian's a third less.
        Where the spectrum tells nothing a motion follows images of two thirds, as many as take no
        longer, and a Gaussian the image proper. All have `Settings.iterations` at most, but for the
        steps of a diffusion model, which are no measure.
    stiffness : share of the curvature of an image's misfit that counts, as images that form anew
        take up most of what a kernel changes: the smaller, the further a kernel goes at once.
    profile_weight : of what complete images say, as `PKEConfig.data_weight` is of forming ones.
    data_weight : instead of that one, while the kernel follows images: of motion, the families hold
        a smaller part of what there is than of optics.
    left_out : share of LR samples that images do not see which the kernel follows. An image that
        fits every sample makes its kernel look right; the more it has to guess, the wider the
        kernel.
    memory : share of what the later ones of them said that an update keeps.
    max_sites : instead of `RKSConfig.max_sites`, as motion shows in finer detail.
    channels : width of the small network that forms the images.
    """

    rounds: int = 3
    steps: int = 150
    stiffness: float = 0.2
    profile_weight: float = 0.3
    data_weight: float = 1.0
    left_out: float = 0.2
    memory: float = 0.9
    max_sites: int = 8192
    channels: int = 32

    def __post_init__(self) -> None:
        integer(self, "rounds", 0)
        integer(self, "steps", 1)
        number(self, "stiffness", 0.0, 1.0)
        number(self, "profile_weight", 0.0)
        number(self, "left_out", 0.0, 0.9)
        number(self, "memory", 0.0, 1.0)
        number(self, "data_weight", 0.0)
        integer(self, "max_sites", 256)
        integer(self, "channels", 4, 1024)
