"""What "auto" means for an image: which restorer and which kernels, and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_dkp import noise
from napari_dkp.config import OPTICS_FAMILIES, KernelFamilyName, Settings
from napari_dkp.lone_pixels import mended
from napari_dkp.noise import local_mean
from napari_dkp.spectrum import SMALLEST, reaches_noise
from napari_dkp.windows import liveliest


@dataclass(frozen=True)
class Choice:
    """Settings in which method and kernel family are no longer "auto".

    Attributes
    ----------
    settings : of the run; as published, the family stays "auto", for all of them.
    reason : what was chosen and why, for the user; empty where nothing was open, or all is as
        published.
    """

    settings: Settings
    reason: str


def choose(
    sample: Callable[[], np.ndarray], settings: Settings, *, known_kernel: bool = False
) -> Choice:
    """Decide what is "auto" from one plane.

    Microscopes sample finer than their optics resolve: the spectrum falls to the noise before the
    sampling's limit. There, and only there, photons can be told from structure, and the shape of
    the kernel is an Airy pattern.

    Parameters
    ----------
    sample : returns one plane of the image, shape (C, h, w), in its own type; called only if
        something is "auto".
    settings : as given; for planes with the optics of that one, for volumes with all channels'.
    known_kernel : the run is given a PSF.
    """
    if settings.volume:
        return _of_volume(sample, settings, known_kernel)
    method, family = settings.method, settings.kernel_family
    published = settings.preset == "paper" or (settings.rks and settings.rks.sampler == "paper")
    if published:
        return Choice(replace(settings, method="dip" if method == "auto" else method), "")
    if method != "auto" and (family != "auto" or known_kernel):
        return Choice(settings, "")
    plane = mended(sample()).plane.astype(np.float64)
    window = plane[(slice(None), *liveliest(plane, _WINDOW))]
    sampled = reaches_noise(window, noise.of_plane(window, settings.noise))
    # An Airy pattern is round in the specimen, hence in pixels enlarged alike.
    enlarged_alike = len(set(settings.scales(2))) == 1
    if method == "auto":
        photons = sampled and (
            known_kernel or family in OPTICS_FAMILIES or (enlarged_alike and family == "auto")
        )
        method = "richardson-lucy" if photons else "dip"
    why = _WHY[sampled] if min(window.shape[1:]) >= SMALLEST else _TOO_SMALL
    reasons = [why, _METHODS[method]]
    if family == "auto" and not known_kernel:
        family = "airy" if (sampled or settings.optics) and enlarged_alike else "gaussian"
        reasons.append(_FAMILIES[family])
    return Choice(replace(settings, method=method, kernel_family=family), " ".join(reasons))


def _of_volume(sample: Callable[[], np.ndarray], settings: Settings, known_kernel: bool) -> Choice:
    """Choose the family for a volume: as the optics say, or by the light in its planes.

    A widefield microscope passes on all light that is out of focus: it only spreads, so that each
    plane has the same sum. Where planes differ, by more than what leaves the frame, light was kept
    out, by a pinhole or a sheet of light.
    """
    if settings.method == "auto":
        settings = replace(settings, method="richardson-lucy")
    if settings.kernel_family != "auto" or known_kernel:
        return Choice(settings, "")
    _, *lateral = settings.scales(3)
    round_ = len(set(lateral)) == 1
    stated = {one.modality for one in settings.known_optics} - {"auto"}
    family: KernelFamilyName
    if len(stated) > 1:
        return Choice(replace(settings, kernel_family="gaussian"), _UNLIKE)
    if round_ and stated:
        family = "confocal" if "confocal" in stated else "widefield"
        return Choice(replace(settings, kernel_family=family), _STATED[family])
    volume = torch.from_numpy(sample().astype(np.float32))
    sums = volume.mean((0, 2, 3)).double()
    dark = local_mean(volume).flatten().kthvalue(1 + volume.numel() // 1000).values
    light = max(float(sums.mean() - dark), 1e-30)
    even = len(sums) >= _FEWEST_PLANES and float(sums.std()) < _EVEN * light
    family = "widefield" if even and round_ else "gaussian"
    return Choice(replace(settings, kernel_family=family), _VOLUMES[family])


_WINDOW = 512
# Planes that can be compared, and the standard deviation of their sums as a share of these.
_FEWEST_PLANES = 8
_EVEN = 0.12
_STATED = {
    "widefield": "As the optics say, kernels are sought among those of a lens in and out of focus.",
    "confocal": (
        "As the optics say, kernels are sought among those of a confocal microscope, which lights "
        "a point and sees it through a pinhole."
    ),
}
_UNLIKE = (
    "As the optics say, some channels are confocal and others are not. Kernels are sought among "
    "Gaussians, which fit either; restored one by one, channels could have their own."
)
_VOLUMES = {
    "widefield": (
        "Every plane holds as much light, as of widefield microscopes. Kernels are sought among "
        "those of a lens in and out of focus (widefield)."
    ),
    "gaussian": (
        "Planes differ in their light, as of confocal and light-sheet microscopes. Kernels are "
        "sought among Gaussians (gaussian)."
    ),
}
_WHY = {
    True: "The image is sampled more finely than its optics resolve, as microscope images are.",
    False: "The image holds detail up to the limit of its sampling, as photographs do.",
}
_TOO_SMALL = "The image is too small to tell a microscope's from others."
_METHODS = {
    "dip": "It is restored by an untrained network (dip).",
    "diffusion": "It is restored with a diffusion model (diffusion).",
    "richardson-lucy": "It is restored by Richardson–Lucy steps, which count photons.",
}
_FAMILIES = {
    "airy": "Kernels are sought among Airy patterns (airy).",
    "gaussian": "Kernels are sought among Gaussians (gaussian).",
}
