"""What "auto" becomes, on images of microscopes and on images like photographs."""

import numpy as np
import pytest
import torch

from napari_dkp.choice import Choice, choose
from napari_dkp.config import METHODS, NoiseConfig, OpticsConfig, RKSConfig, Settings
from napari_dkp.degradation import degrade
from napari_dkp.optics import airy

OPTICS = OpticsConfig(numerical_aperture=1.2, wavelength=500, pixel_size=80)
SAMPLED, DETAILED = "more finely than its optics resolve", "up to the limit of its sampling"


def microscope(side: int = 128, seed: int = 0) -> np.ndarray:
    """Points under a finely sampled Airy pattern, as photons that are counted."""
    rng = np.random.default_rng(seed)
    points = (rng.random((side, side)) < 0.02) * rng.exponential(1, (side, side)) + 0.02
    kernel = airy(torch.tensor([0.25]), torch.tensor([0.8]), (21, 21), (10.0, 10.0))[0].numpy()
    blurred = degrade(points, kernel, scale=1).clip(0)
    return rng.poisson(300 * blurred / blurred.max()).astype(np.uint16)[None]


def photograph(side: int = 128, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Leaves that lie one upon another, with sharp edges, a little noise, 8 bits."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:side, :side]
    image = np.full((channels, side, side), 128.0)
    for _ in range(250):
        radius = min(2 / rng.random() ** 0.8, side / 3)
        row, column = rng.integers(0, side, 2)
        leaf = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        image[:, leaf] = rng.uniform(10, 245, (channels, 1))
    return (image + rng.normal(0, 1, image.shape)).round().clip(0, 255).astype(np.uint8)


def judged(plane: np.ndarray, settings: Settings, *, known_kernel: bool = False) -> Choice:
    return choose(lambda: plane, settings, known_kernel=known_kernel)


@pytest.mark.parametrize("seed", range(3))
def test_microscope_images_are_restored_by_counting_photons_under_airy_patterns(seed):
    chosen = judged(microscope(seed=seed), Settings())
    assert chosen.settings.method == "richardson-lucy"
    assert chosen.settings.kernel_family == "airy"
    assert SAMPLED in chosen.reason
    assert "Richardson–Lucy" in chosen.reason
    assert "airy" in chosen.reason


@pytest.mark.parametrize("seed", range(3))
def test_photographs_are_restored_by_a_network_under_gaussians(seed):
    chosen = judged(photograph(seed=seed), Settings())
    assert chosen.settings.method == "dip"
    assert chosen.settings.kernel_family == "gaussian"
    assert DETAILED in chosen.reason
    assert "dip" in chosen.reason
    assert "gaussian" in chosen.reason


def test_what_is_named_stays_and_no_plane_is_read():
    settings = Settings(method="dip", kernel_family="pupil", scale=3, seed=7, preset="best")
    chosen = choose(lambda: pytest.fail("the plane was read"), settings)
    assert chosen.settings == settings
    assert chosen.reason == ""


def test_nothing_but_method_and_family_changes():
    settings = Settings(scale=3, seed=7, preset="fast", optics=OPTICS)
    chosen = judged(microscope(), settings).settings
    unchanged = settings.to_dict() | {"method": chosen.method, "kernel_family": "airy"}
    assert chosen.to_dict() == unchanged


@pytest.mark.parametrize(("make", "family"), [(microscope, "airy"), (photograph, "gaussian")])
@pytest.mark.parametrize("method", ["dip", "diffusion", "richardson-lucy"])
def test_a_named_method_leaves_the_family_to_the_image(method, make, family):
    chosen = judged(make(), Settings(method=method)).settings
    assert (chosen.method, chosen.kernel_family) == (method, family)


@pytest.mark.parametrize(
    ("family", "counting"), [("gaussian", "dip"), ("pupil", "richardson-lucy")]
)
def test_photons_are_counted_under_kernels_of_microscopes_only(family, counting):
    for make, method in ((microscope, counting), (photograph, "dip")):
        chosen = judged(make(), Settings(kernel_family=family))
        assert (chosen.settings.method, chosen.settings.kernel_family) == (method, family)
        assert "Kernels" not in chosen.reason


@pytest.mark.parametrize("family", ["line", "trajectory"])
def test_motion_is_restored_by_a_network_on_any_image(family):
    chosen = judged(microscope(), Settings(kernel_family=family))
    assert (chosen.settings.method, chosen.settings.kernel_family) == ("dip", family)
    assert "dip" in chosen.reason


@pytest.mark.parametrize(
    "settings",
    [Settings(preset="paper"), Settings(rks=RKSConfig(sampler="paper"))],
    ids=["preset", "sampler"],
)
def test_the_published_method_is_a_network_and_leaves_the_family(settings):
    for plane in (microscope(), photograph()):
        chosen = judged(plane, settings)
        assert chosen.settings.method == "dip"
        assert chosen.settings.kernel_family == "auto"
        assert chosen.reason == ""


def test_the_published_sampler_keeps_a_named_method():
    settings = Settings(preset="paper", method="richardson-lucy")
    assert judged(photograph(), settings).settings.method == "richardson-lucy"


@pytest.mark.parametrize("method", [method for method in METHODS if method != "auto"])
@pytest.mark.parametrize(("make", "family"), [(microscope, "airy"), (photograph, "gaussian")])
def test_a_named_method_is_kept_and_its_kernels_are_chosen(make, family, method):
    chosen = judged(make(), Settings(method=method))
    assert (chosen.settings.method, chosen.settings.kernel_family) == (method, family)
    assert method.split("-")[0] in chosen.reason.lower()


@pytest.mark.parametrize(("make", "method"), [(microscope, "richardson-lucy"), (photograph, "dip")])
def test_a_known_kernel_leaves_the_family_open(make, method):
    chosen = judged(make(), Settings(), known_kernel=True)
    assert (chosen.settings.method, chosen.settings.kernel_family) == (method, "auto")
    assert "Kernels" not in chosen.reason


def test_stated_optics_make_for_airy_patterns_whatever_the_image():
    chosen = judged(photograph(), Settings(optics=OPTICS))
    assert (chosen.settings.method, chosen.settings.kernel_family) == ("dip", "airy")
    assert "airy" in chosen.reason


def test_stated_noise_is_what_the_spectrum_is_held_against():
    noise = NoiseConfig(gain=1e-6, read_noise=1e-3)
    chosen = judged(microscope(), Settings(noise=noise))
    assert chosen.settings.method == "dip"


def test_nothing_is_read_into_a_plane_without_contrast():
    assert judged(np.zeros((1, 64, 64)), Settings()).settings.method == "dip"


def test_small_planes_are_said_to_tell_nothing():
    assert "too small" in judged(microscope()[:, :20, :20], Settings()).reason


def test_axes_that_are_not_enlarged_alike_have_no_round_kernel():
    chosen = judged(microscope(), Settings(scale=(1, 2))).settings
    assert (chosen.method, chosen.kernel_family) == ("dip", "gaussian")
