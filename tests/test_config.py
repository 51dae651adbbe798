"""Settings: what they accept, how presets fill them, how they are stored."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from napari_dkp.config import (
    PRESETS,
    DIPConfig,
    OpticsConfig,
    PKEConfig,
    RKSConfig,
    SearchConfig,
    Settings,
    default_kernel_size,
)


def test_numpy_numbers_are_stored_as_plain_ones():
    settings = Settings(
        iterations=np.int64(3),
        seed=np.uint8(4),
        rks=RKSConfig(particles=np.int32(32), confidence=np.float32(3)),
        dip=DIPConfig(learning_rate=np.float32(0.01)),
    )
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("kind", "change", "error"),
    [
        (RKSConfig, {"sampler": "gibbs"}, ValueError),
        (RKSConfig, {"particles": 4}, ValueError),
        (RKSConfig, {"particles": 32.0}, TypeError),
        (RKSConfig, {"moves": -1}, ValueError),
        (RKSConfig, {"confidence": 0}, ValueError),
        (RKSConfig, {"draws": 0}, ValueError),
        (RKSConfig, {"updates": 1}, ValueError),
        (RKSConfig, {"updates": 9.5}, TypeError),
        (RKSConfig, {"max_sites": 1}, ValueError),
        (RKSConfig, {"gaussian_variance": (5, 1)}, ValueError),
        (RKSConfig, {"gaussian_variance": 3.0}, TypeError),
        (RKSConfig, {"line_length": (0, 4)}, ValueError),
        (RKSConfig, {"line_width": (1, 2, 3)}, TypeError),
        (RKSConfig, {"path_extent": (1, float("inf"))}, ValueError),
        (RKSConfig, {"path_width": None}, TypeError),
        (PKEConfig, {"hidden": (0,)}, ValueError),
        (PKEConfig, {"hidden": (1.5,)}, TypeError),
        (PKEConfig, {"hidden": 100}, TypeError),
        (PKEConfig, {"learning_rate": 0}, ValueError),
        (PKEConfig, {"warm_up": -1}, ValueError),
        (PKEConfig, {"steps": 0}, ValueError),
        (PKEConfig, {"data_weight": -1}, ValueError),
        (DIPConfig, {"network": "unet"}, ValueError),
        (DIPConfig, {"channels": 0}, ValueError),
        (DIPConfig, {"learning_rate": float("nan")}, ValueError),
        (DIPConfig, {"ssim_fraction": 1.1}, ValueError),
        (DIPConfig, {"gradient_weight": -1e-9}, ValueError),
        (DIPConfig, {"gradient_growth": -1}, ValueError),
        (DIPConfig, {"settling": 1.1}, ValueError),
        (SearchConfig, {"rounds": -1}, ValueError),
        (SearchConfig, {"steps": 0}, ValueError),
        (SearchConfig, {"steps": 2.5}, TypeError),
        (SearchConfig, {"stiffness": 1.1}, ValueError),
        (SearchConfig, {"memory": -0.1}, ValueError),
        (SearchConfig, {"left_out": 0.95}, ValueError),
        (SearchConfig, {"data_weight": -0.1}, ValueError),
        (SearchConfig, {"max_sites": 255}, ValueError),
        (SearchConfig, {"channels": 3}, ValueError),
    ],
)
def test_numbers_out_of_range_are_named(kind, change, error):
    (name,) = change
    with pytest.raises(error, match=f"{name}: expected"):
        kind(**change)


@pytest.mark.parametrize("kind", [RKSConfig, PKEConfig, SearchConfig, DIPConfig, Settings])
def test_configs_cannot_be_changed_and_check_their_copies(kind):
    config = kind()
    name = fields(kind)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, None)
    with pytest.raises((TypeError, ValueError), match=name):
        replace(config, **{name: object()})


@pytest.mark.parametrize("axes", ["YX", "YXC", "CYX", "TCZYX", "XY"])
def test_axes_that_mean_something(axes):
    assert Settings(axes=axes).axes == axes


@pytest.mark.parametrize("axes", ["", "Y", "ZX", "YY", "YXS", "yx", "YX "])
def test_axes_that_do_not(axes):
    with pytest.raises(ValueError, match="axes: expected distinct letters"):
        Settings(axes=axes)


@pytest.mark.parametrize("size", [2, 4, 257, (5, 6), (1, 5)])
def test_kernel_sizes_are_odd_and_bounded(size):
    with pytest.raises(ValueError, match="kernel_size"):
        Settings(kernel_size=size)


@pytest.mark.parametrize(("scale", "taps"), [(2, 11), (3, 15), (4, 19), (8, 21), (1, 19)])
def test_the_default_kernel_size_is_the_published_one(scale, taps):
    assert default_kernel_size(scale) == taps
    assert Settings(scale=scale).kernel_sizes(2) == (taps, taps)


def test_scales_and_sizes_go_by_axis():
    assert Settings(scale=3).scales(2) == (3, 3)
    assert Settings(scale=[2, 4]).scales(2) == (2, 4)
    assert Settings(scale=(2, 4)).kernel_sizes(2) == (11, 19)
    assert Settings(kernel_size=(5, 9)).kernel_sizes(2) == (5, 9)
    for settings in (Settings(scale=(2, 2, 2)), Settings(kernel_size=(5, 5, 5))):
        with pytest.raises(ValueError, match=r"(scale|kernel_size): expected one integer, or 2"):
            settings.scales(2)
            settings.kernel_sizes(2)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_leaves_nothing_open(preset):
    resolved = Settings(preset=preset).resolve()
    assert isinstance(resolved.rks, RKSConfig)
    assert isinstance(resolved.pke, PKEConfig)
    assert isinstance(resolved.search, SearchConfig)
    assert isinstance(resolved.dip, DIPConfig)
    assert resolved.iterations > 0
    assert resolved.resolve() == resolved


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_user_sets_overrules_the_preset(preset):
    own = {
        "iterations": 7,
        "rks": RKSConfig(particles=99),
        "pke": PKEConfig(steps=9),
        "search": SearchConfig(rounds=9),
        "dip": DIPConfig(channels=9),
    }
    for name, value in own.items():
        resolved = Settings(preset=preset, **{name: value}).resolve()
        assert getattr(resolved, name) == value
        others = Settings(preset=preset).resolve()
        for other in own.keys() - {name}:
            assert getattr(resolved, other) == getattr(others, other)


def test_the_published_preset_is_the_published_method():
    resolved = Settings(preset="paper").resolve()
    assert resolved.iterations == 1000
    assert resolved.rks.sampler == "paper"
    assert resolved.rks.draws == 5
    assert resolved.rks.every == 5
    assert resolved.pke.learning_rate == 1e-4
    assert resolved.pke.data_weight == 0.2
    assert resolved.dip.network == "published"
    assert resolved.dip.optimiser == "adam"
    assert (resolved.dip.gradient_weight, resolved.dip.gradient_growth) == (2e-4, 0)
    assert resolved.dip.settling == 1


SETTINGS = [
    Settings(),
    Settings().resolve(),
    Settings(diagnostics=True),
    Settings(diagnostics=True, method="richardson-lucy").resolve(),
    Settings(scale=(2, 3), axes="TCZYX", kernel_size=(5, 7), seed=2**62, device="cuda:1"),
    Settings(
        rks=RKSConfig(gaussian_variance=(0.5, 3), path_width=(0.1, 2)),
        pke=PKEConfig(hidden=(30, 40), data_weight=0),
        search=SearchConfig(rounds=4, stiffness=0, data_weight=0.5),
        dip=DIPConfig(network="published"),
    ),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_survive_json(settings):
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict(settings.to_dict()) == settings


def test_from_dict_leaves_its_argument_alone():
    stored = Settings().resolve().to_dict()
    before = json.dumps(stored)
    Settings.from_dict(stored)
    assert json.dumps(stored) == before


@pytest.mark.parametrize(
    ("change", "name"), [({"zoom": 2}, "zoom"), ({"dip": {"channels": 8, "depth": 3}}, "depth")]
)
def test_unknown_settings_are_named(change, name):
    with pytest.raises(ValueError, match=f"settings: unknown {name}"):
        Settings.from_dict(Settings().to_dict() | change)


def test_stored_settings_are_checked():
    with pytest.raises(ValueError, match="scale"):
        Settings.from_dict({"scale": 99})


def test_lengths_of_optics_in_two_units_are_refused():
    with pytest.raises(ValueError, match=r"cut-off.*got 0.00035. Wavelength and pixel size"):
        OpticsConfig(numerical_aperture=1.4, wavelength=520, pixel_size=0.065)


def test_a_scale_per_axis_has_no_round_kernel():
    Settings(scale=(2, 2), kernel_family="airy")
    with pytest.raises(ValueError, match="kernel_family: expected 'gaussian' with a scale per"):
        Settings(scale=(1, 2), kernel_family="airy")


def test_auto_of_older_runs_stays_what_it_was():
    values = Settings(method="dip").resolve().to_dict()
    for name in ("richardson_lucy", "optics", "noise"):
        del values[name]
    assert Settings.from_dict(values).kernel_family == "gaussian"
    values["rks"]["sampler"] = "paper"
    assert Settings.from_dict(values).kernel_family == "auto"


@pytest.mark.parametrize("family", ["airy", "pupil"])
def test_kernels_of_microscopes_have_room_for_their_rings(family):
    assert Settings(scale=1, kernel_family=family).kernel_sizes(2) == (25, 25)
    assert Settings(scale=2, kernel_family=family).kernel_sizes(2) == (31, 31)
    assert Settings(scale=2, kernel_family=family, kernel_size=9).kernel_sizes(2) == (9, 9)


@pytest.mark.parametrize("value", [1, 0, "yes", None, (True,)])
def test_diagnostics_are_asked_for_by_true_or_false(value):
    for make in (
        lambda: Settings(diagnostics=value),
        lambda: Settings.from_dict(Settings().to_dict() | {"diagnostics": value}),
    ):
        with pytest.raises(TypeError, match="diagnostics: expected True or False; got"):
            make()


def test_runs_stored_before_there_were_diagnostics_have_none():
    values = Settings(diagnostics=True).resolve().to_dict()
    assert values.pop("diagnostics") is True
    assert Settings.from_dict(values).diagnostics is False


def test_presets_compare_structure_but_under_kernels_of_a_microscope():
    def share(**given) -> float:
        return Settings(**given).resolve().dip.ssim_fraction

    assert share(kernel_family="airy") == share(kernel_family="pupil", preset="fast") == 0
    assert share() == share(kernel_family="line") == 1
    assert share(kernel_family="airy", preset="paper") == share(preset="paper")
    assert share(kernel_family="airy", dip=DIPConfig(ssim_fraction=0.3)) == 0.3


def test_each_channel_may_have_optics_of_its_own():
    green, red = (
        OpticsConfig(numerical_aperture=1.4, wavelength=light, pixel_size=65)
        for light in (520, 610)
    )
    settings = Settings(optics=(green, None, red))
    assert [settings.of_channel(i).optics for i in range(3)] == [green, None, red]
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ValueError, match="optics: expected one for each channel, 4 or more; got 3"):
        settings.of_channel(3)
    with pytest.raises(TypeError, match="optics: expected OpticsConfig or None; got 1"):
        Settings(optics=(green, 1.4))


def test_optics_are_those_of_all_channels_unless_they_are_several():
    optics = OpticsConfig(numerical_aperture=1.4, wavelength=520, pixel_size=65)
    assert Settings(optics=optics).of_channel(7).optics == optics
