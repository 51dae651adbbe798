"""The smallest settings in which every part of a run has something to do."""

from napari_dkp.config import DIPConfig, PKEConfig, RKSConfig, SearchConfig, Settings

TINY = {
    "iterations": 6,
    "kernel_size": 5,
    "device": "cpu",
    "precision": "float32",
    "rks": RKSConfig(particles=16, every=2, updates=2),
    "pke": PKEConfig(hidden=(16,), warm_up=5, steps=2),
    "search": SearchConfig(rounds=1, steps=6, channels=4),
    "dip": DIPConfig(channels=4),
}


def settings(tiny: dict[str, object] = TINY, **changes: object) -> Settings:
    return Settings(**(tiny | changes))
