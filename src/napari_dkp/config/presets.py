"""Presets: how much effort, in the numbers behind the methods."""

from dataclasses import dataclass, field

from napari_dkp.config.methods import (
    DiffusionConfig,
    DIPConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
)

# Richardson–Lucy ends by itself; this many at most, with the penalties'.
COUNTING_STEPS = 160
# LR samples: more than any plane has.
_ALL_SITES = 10**9


@dataclass(frozen=True)
class Preset:
    """What a preset fills in.

    Attributes
    ----------
    iterations : image steps.
    levels : the same, of a diffusion model.
    rks, pke, search, dip, diffusion, richardson_lucy : as of `Settings`.
    """

    iterations: int
    levels: int
    rks: RKSConfig = field(default_factory=RKSConfig)
    pke: PKEConfig = field(default_factory=PKEConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    dip: DIPConfig = field(default_factory=DIPConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    richardson_lucy: RichardsonLucyConfig = field(default_factory=RichardsonLucyConfig)


PRESET_NUMBERS = {
    "fast": Preset(
        136,
        16,
        rks=RKSConfig(updates=24),
        search=SearchConfig(rounds=1),
        diffusion=DiffusionConfig(trials=1),
    ),
    "balanced": Preset(400, 24),
    "best": Preset(600, 40, search=SearchConfig(rounds=6), diffusion=DiffusionConfig(trials=3)),
    "paper": Preset(
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
            noise_weight=0.0,
            polishing=0,
        ),
        diffusion=DiffusionConfig(sampler="ddpm", data_step="gradient", first=100.0),
    ),
}
