"""Light about the focus of a high aperture, where its polarisation counts, by psf-generator.

That package (MIT licence) is optional: the extra `optics`.
"""

import math
from importlib.util import find_spec

import torch
from torch import Tensor


def check() -> None:
    """Refuse to go on without psf-generator.

    Raises
    ------
    ValueError
        Saying what to install.
    """
    if find_spec("psf_generator") is None:
        raise ValueError(
            "model: expected 'scalar' where psf-generator is not installed; got 'vectorial'. "
            "Install it with: pip install napari-dkp[optics]"
        )


def intensity(
    cutoff: Tensor, defocus: Tensor, depths: Tensor, radii: Tensor, aperture: float
) -> Tensor:
    """Return |I₀|² + 2 |I₁|² + |I₂|² of a lens that keeps the sine condition.

    It is what dipoles of all orientations look like, as well as what circularly polarised light
    is focused to (Richards and Wolf 1959). Arguments as of `volume_optics.Intensity`. Computed in
    single precision on the CPU.

    Raises
    ------
    ValueError
        Where psf-generator is not installed.
    """
    check()
    depths, radii = depths.float().cpu(), radii.float().cpu()
    each = (
        _of_one(float(c), float(w), depths, radii, aperture)
        for c, w in zip(cutoff, defocus, strict=True)
    )
    return torch.stack(list(each)).to(cutoff)


def _of_one(
    cutoff: float, defocus: float, depths: Tensor, radii: Tensor, aperture: float
) -> Tensor:
    """Return the intensities of one lens, shape (depths, radii)."""
    from psf_generator import VectorialSphericalPropagator

    # All lengths in wavelengths within the medium, whose index is then 1.
    away = depths * (defocus / (1 - math.sqrt(1 - aperture**2)))
    across = radii * (0.5 * cutoff / aperture)
    periods = defocus * float(depths.abs().max()) + 0.5 * cutoff * float(radii.max())
    lens = VectorialSphericalPropagator(
        n_pix_pupil=_LEAST_NODES + 2 * math.ceil(_NODES_PER_PERIOD / 2 * periods),
        n_pix_psf=1,
        e0x=1.0,
        e0y=1j,
        wavelength=1.0,
        na=aperture,
        n_i=1.0,
        n_i0=1.0,
        apod_factor=True,
    )
    # It makes square images in evenly spaced planes; a profile in planes of our own is enough.
    lens.rs, lens.rr_indices = across, torch.arange(len(across))
    lens.cos_phi = lens.cos_twophi = torch.ones_like(across)
    lens.sin_phi = lens.sin_twophi = torch.zeros_like(across)
    phase = 2 * math.pi * away[:, None] * torch.cos(lens.thetas)
    lens.defocus_filters = torch.polar(torch.ones_like(phase), phase)
    field: Tensor = lens.compute_focus_field()
    return field.abs().square().sum(1)


# Of Simpson's rule: an odd number of nodes.
_LEAST_NODES = 65
_NODES_PER_PERIOD = 16
