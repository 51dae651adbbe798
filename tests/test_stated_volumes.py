"""Volumes whose optics are stated, from what is known before any trial to a blind run."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import napari_dkp as dkp
from napari_dkp.choice import choose
from napari_dkp.config import NoiseConfig, OpticsConfig, RKSConfig, Settings
from napari_dkp.degradation import Degradation, degrade
from napari_dkp.families import families
from napari_dkp.kernel_shape import full_widths
from napari_dkp.noise import Noise
from napari_dkp.spectrum import Cutoff, usual_cutoff
from napari_dkp.stack import Run
from napari_dkp.volume_trials import try_volume


def oil(family: str, na: float = 1.4, **changes) -> OpticsConfig:
    known = {"wavelength": 525.0, "pixel_size": 80.0, "refractive_index": 1.518, "z_step": 150.0}
    return OpticsConfig(numerical_aperture=na, modality=family, **(known | changes))


def kernel(family: str, optics: OpticsConfig) -> np.ndarray:
    model = Degradation((31, 31, 31), (1, 1, 1), (31, 31, 31))
    waves = optics.waves_per_plane
    rks = RKSConfig(cutoff=(optics.cutoff, optics.cutoff), defocus=(waves, waves))
    middle = torch.full((1, 2), 0.5, dtype=torch.float64)
    return families(family, model, rks, optics)[0].render(middle)[0].numpy()


@cache
def recorded(family: str) -> np.ndarray:
    """Return few photons of something soft, which by itself says little of the lens."""
    rng = np.random.default_rng(0)
    truth = np.zeros((32, 48, 48))
    for _ in range(60):
        truth[tuple(rng.integers(1, n - 1) for n in truth.shape)] += rng.uniform(0.5, 2)
    for _ in range(6):
        start, way = (rng.uniform(2, n - 2) for n in truth.shape), rng.normal(size=3)
        path = np.array([*start]) + np.linspace(-15, 15, 120)[:, None] * way / np.linalg.norm(way)
        inside = (path >= 0).all(1) & (path < np.array(truth.shape) - 1).all(1)
        np.add.at(truth, tuple(path[inside].round().astype(int).T), 0.15)
    mean = degrade(gaussian_filter(truth, 1.2), kernel(family, oil(family)), scale=1).clip(0)
    seen = mean[8:-8, 8:-8, 8:-8]
    return rng.poisson(60 * seen / seen.max() + 1).astype(np.uint16)


def found(family: str, optics: OpticsConfig | None) -> np.ndarray:
    """Return the errors of the full widths along Z, Y and X, as shares of them."""
    result = dkp.restore(
        recorded(family), axes="ZYX", volume=True, scale=1, kernel_size=(15, 25, 25),
        kernel_family="auto" if optics else family, optics=optics, noise=NoiseConfig(gain=1.0),
        iterations=2,
    )  # fmt: skip
    assert result.settings.kernel_family == family
    truth = kernel(family, oil(family))[8:-8, 3:-3, 3:-3]
    return np.array(full_widths(result.kernel)) / full_widths(truth) - 1


@pytest.mark.parametrize("family", ["widefield", "confocal"])
def test_stated_optics_that_are_slightly_wrong_make_for_better_kernels(family):
    """Apertures and steps whose errors add up: defocus is wrong by a tenth or more."""
    wrong = (1.43, 155.0), (1.37, 145.0)
    told = np.abs([found(family, oil(family, na, z_step=step)) for na, step in wrong])
    alone = np.abs(found(family, None))
    assert told.max() < 0.15
    assert (told.mean(0) < 0.6 * alone).all()


SAYS = {"scale": 1, "axes": "ZYX", "volume": True}


def trials(optics: OpticsConfig, expected: Cutoff, family="confocal"):
    """Return the kernels that are tried on light that says nothing, and where they lead."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (8, 32, 32)).astype(np.float32)
    model = Degradation(counts.shape, (1, 1, 1), (7, 9, 9))
    sought = try_volume(
        model, torch.from_numpy(counts / 9)[None], Noise(1 / 9, 0.0), family, expected, 0, optics
    )
    tried = []
    while True:
        try:
            tried.append(next(sought))
        except StopIteration as end:
            return tried, end.value


def middle(interval: tuple[float, float]) -> float:
    return math.sqrt(interval[0] * interval[1])


def test_light_that_says_nothing_leaves_what_is_stated():
    optics = oil("confocal")
    tried, kept = trials(optics, Cutoff(optics.cutoff, 0.1))
    _, loose = trials(oil("confocal", z_step=None), usual_cutoff(1.0))
    assert len(tried) < 20
    assert middle(kept.axial) == pytest.approx(optics.waves_per_plane, rel=0.25)
    assert middle(kept.lateral) == pytest.approx(optics.cutoff, rel=0.2)
    assert abs(math.log(middle(loose.axial) / optics.waves_per_plane)) > 0.3


@pytest.mark.parametrize("family", ["widefield", "confocal"])
@pytest.mark.parametrize("pixel", [300.0, 5.0])
def test_microscopes_that_sample_oddly_are_tried_all_the_same(family, pixel):
    optics = oil(family, pixel_size=pixel, z_step=1.2)
    tried, kept = trials(optics, Cutoff(optics.cutoff, 0.1), family)
    assert tried
    assert kept.lateral[1] <= 1
    assert 0.03 < middle(kept.lateral)


@pytest.mark.parametrize("family", ["widefield", "confocal"])
def test_stated_microscopes_decide_on_the_kernels(family):
    dark = np.random.default_rng(0).poisson(np.arange(1.0, 13)[:, None, None], (12, 16, 16))
    even = np.full((12, 16, 16), 5)
    for volume in (dark, even):
        for optics in (oil(family), (oil(family), None, oil(family, na=1.2))):
            chosen = choose(lambda v=volume: v[None], Settings(**SAYS, optics=optics))
            assert chosen.settings.kernel_family == family
            assert chosen.settings.method == "richardson-lucy"
            assert "As the optics say" in chosen.reason
    for optics in (oil("auto"), (oil("widefield"), oil("confocal"))):
        settings = Settings(**SAYS, optics=optics)
        assert choose(lambda: dark[None], settings).settings.kernel_family == "gaussian"
    unlike = Settings(**(SAYS | {"scale": (1, 2, 1)}), optics=oil(family))
    assert choose(lambda: even[None], unlike).settings.kernel_family == "gaussian"
    named = Settings(**SAYS, kernel_family="gaussian", optics=oil(family))
    assert choose(lambda: even[None], named).settings.kernel_family == "gaussian"


@pytest.mark.parametrize(
    ("modalities", "family"),
    [
        (("confocal", None), "confocal"),
        (("confocal", "auto"), "confocal"),
        (("widefield", "widefield"), "widefield"),
        (("confocal", "widefield"), "gaussian"),
    ],
)
def test_all_channels_decide_on_the_kernels(modalities, family):
    """Not that in the middle alone: the kernels of a widefield microscope fit no confocal one."""
    each = tuple(name and oil(name) for name in modalities)
    light = np.random.default_rng(0).poisson(40, (2, 10, 36, 36)).astype(np.float32)
    settings = Settings(axes="CZYX", volume=True, scale=1, optics=each)
    for given in (settings, replace(settings, optics=each[::-1])):
        run = Run(light, given)
        assert run.settings.kernel_family == family
        assert run.settings.optics == given.optics
        assert "As the optics say" in run.choice


def test_defocus_and_aperture_follow_from_what_is_stated():
    optics = oil("auto")
    assert optics.aperture == pytest.approx(1.4 / 1.518)
    waves = (1.518 - math.sqrt(1.518**2 - 1.4**2)) * 150 / 525
    assert optics.waves_per_plane == pytest.approx(waves)
    assert oil("auto", z_step=None).waves_per_plane is None
    assert optics.excitation_ratio == 0.93
    assert oil("auto", excitation=488).excitation_ratio == pytest.approx(488 / 525)


@pytest.mark.parametrize(("na", "index"), [(0.5, 1.0), (1.2, 1.333), (1.4, 1.518), (1.65, 1.7325)])
def test_the_usual_medium_of_an_aperture_is_presumed(na, index):
    optics = oil("auto", na=na, refractive_index=None)
    assert optics.aperture == pytest.approx(na / index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refractive_index": 1.4}, "refractive_index: expected more than the numerical ap.*1.4"),
        ({"refractive_index": 0.9}, "refractive_index: expected a finite number from 1 to 2.5"),
        ({"z_step": 0.15}, "z_step: expected 0.002 to 5 waves.*got 0.000266, of a step of 0.15"),
        ({"z_step": -1}, "z_step: expected a finite number"),
        ({"modality": "sheet"}, "modality: expected one of 'auto', 'widefield', 'confocal'"),
        ({"excitation": 0.488}, "excitation: expected a finite number from 210 to 525; got 0.488"),
        ({"excitation": 900}, "excitation: expected a finite number from 210 to 525; got 900"),
        ({"pinhole": 11}, "pinhole: expected a finite number from 0 to 10; got 11"),
        ({"model": "exact"}, "model: expected one of 'scalar', 'vectorial'; got 'exact'"),
    ],
)
def test_what_no_microscope_is_is_refused(changes, message):
    known = {"modality": "auto"} | changes
    with pytest.raises(ValueError, match=message):
        oil(known.pop("modality"), **known)


def test_settings_with_stated_volumes_survive_being_stored():
    optics = oil("confocal", excitation=488, pinhole=0.7, model="vectorial")
    settings = Settings(**SAYS, kernel_family="confocal", optics=(optics, None))
    assert Settings.from_dict(settings.to_dict()) == settings
    before = settings.to_dict()
    for name in ("refractive_index", "z_step", "modality", "excitation", "pinhole", "model"):
        del before["optics"][0][name]
    (old, _) = Settings.from_dict(before).optics
    assert (old.z_step, old.modality, old.model) == (None, "auto", "scalar")
