"""What settings may be called, and the limits of some."""

from typing import Literal, get_args

Method = Literal["auto", "dip", "diffusion", "richardson-lucy"]
KernelFamilyName = Literal[
    "auto", "gaussian", "airy", "pupil", "line", "trajectory", "widefield", "confocal"
]
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
Modality = Literal["auto", "widefield", "confocal"]
LensModel = Literal["scalar", "vectorial"]

METHODS: tuple[str, ...] = get_args(Method)
KERNEL_FAMILIES: tuple[str, ...] = get_args(KernelFamilyName)
MOTION_FAMILIES: tuple[str, ...] = ("line", "trajectory")
OPTICS_FAMILIES: tuple[str, ...] = ("airy", "pupil")
LENS_FAMILIES: tuple[str, ...] = ("widefield", "confocal")
VOLUME_FAMILIES: tuple[str, ...] = ("gaussian", *LENS_FAMILIES)
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
MODALITIES: tuple[str, ...] = get_args(Modality)
LENS_MODELS: tuple[str, ...] = get_args(LensModel)

MAX_SCALE = 8
# Samples along each side of a tile, at least.
LEAST_TILE = 32
# The diffusion model that comes with the package.
SHIPPED_MODEL = "small"
# Fields of `DiffusionConfig` that are no matter of effort: presets leave them as they are.
OF_THE_MODEL = ("model", "class_label", "download")

Interval = tuple[float, float]
