"""The optics that a file states, for runs that would have to find them."""

import os
from dataclasses import replace

from napari_dkp import ome
from napari_dkp.config import OPTICS_FAMILIES, Settings


def with_optics_of(path: str | os.PathLike[str], settings: Settings) -> tuple[Settings, str]:
    """Take over the optics that a file's metadata tells, if all of them.

    Parameters
    ----------
    path : image file.
    settings : of a run without a known kernel.

    Returns
    -------
    Settings, and what to tell the user; empty where nothing was taken.
    """
    told = next(iter(ome.read(path)), None) if _seeks_optics(settings) else None
    optics = told and told.optics()
    if not optics:
        return settings, ""
    each = optics if isinstance(optics, tuple) else (optics,)
    known = next(filter(None, each))
    planes = f", planes {known.z_step:g} nm apart" if settings.volume and known.z_step else ""
    lights = ", ".join("unknown" if one is None else f"{one.wavelength:g}" for one in each)
    said = (
        f"Optics as the file states them: NA {known.numerical_aperture:g}, {lights} nm, pixels of "
        f"{known.pixel_size:g} nm{planes} (--optics none: as the image shows them)."
    )
    return replace(settings, optics=optics), said


def _seeks_optics(settings: Settings) -> bool:
    """Return whether a microscope's cut-off may have to be found, where known optics help."""
    if settings.volume:
        return True  # also of Gaussians, whose search starts from them
    if settings.kernel_family == "auto":
        return settings.preset != "paper" and len(set(settings.scales(2))) == 1
    return settings.kernel_family in OPTICS_FAMILIES
