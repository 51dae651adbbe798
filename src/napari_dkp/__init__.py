"""Blind super-resolution and deblurring with a dynamic kernel prior."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_dkp._napari.layers import restore_layer as restore_layer
    from napari_dkp.api import iter_restore as iter_restore
    from napari_dkp.api import restore as restore
    from napari_dkp.batch import Batch as Batch
    from napari_dkp.cluster import restore_dask as restore_dask
    from napari_dkp.config import DiffusionConfig as DiffusionConfig
    from napari_dkp.config import DIPConfig as DIPConfig
    from napari_dkp.config import NoiseConfig as NoiseConfig
    from napari_dkp.config import OpticsConfig as OpticsConfig
    from napari_dkp.config import PKEConfig as PKEConfig
    from napari_dkp.config import RichardsonLucyConfig as RichardsonLucyConfig
    from napari_dkp.config import RKSConfig as RKSConfig
    from napari_dkp.config import SearchConfig as SearchConfig
    from napari_dkp.config import Settings as Settings
    from napari_dkp.degradation import degrade as degrade
    from napari_dkp.state import Restoration as Restoration
    from napari_dkp.state import State as State
    from napari_dkp.state import Stop as Stop

_HOME = {
    "Batch": "batch",
    "DIPConfig": "config",
    "DiffusionConfig": "config",
    "NoiseConfig": "config",
    "OpticsConfig": "config",
    "PKEConfig": "config",
    "RKSConfig": "config",
    "Restoration": "state",
    "RichardsonLucyConfig": "config",
    "SearchConfig": "config",
    "Settings": "config",
    "State": "state",
    "Stop": "state",
    "degrade": "degradation",
    "iter_restore": "api",
    "restore": "api",
    "restore_dask": "cluster",
    "restore_layer": "_napari.layers",
}

__all__ = sorted(_HOME)
__version__ = version("napari-dkp")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'napari_dkp' has no attribute {name!r}")
    return getattr(import_module(f"napari_dkp.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
