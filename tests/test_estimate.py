"""The estimate of a run's cost: how it follows shape and settings."""

from dataclasses import replace

import numpy as np
import pytest

from napari_dkp import estimate as module
from napari_dkp.config import (
    DiffusionConfig,
    DIPConfig,
    PKEConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.degradation import Degradation
from napari_dkp.estimate import Counts, estimate
from napari_dkp.kernel_edges import KernelEdges
from napari_dkp.kernel_estimator import KernelEstimator
from napari_dkp.kernel_prior import DynamicKernelPrior
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.stack import Run

SMALL = Settings(
    iterations=40,
    device="cpu",
    kernel_size=5,
    rks=RKSConfig(particles=16),
    pke=PKEConfig(hidden=(16,), steps=1, warm_up=0),
    search=SearchConfig(rounds=3, steps=7, channels=4),
    dip=DIPConfig(channels=4),
)


def with_(**changes: object) -> Settings:
    return replace(SMALL, **changes)


@pytest.fixture
def probes(monkeypatch):
    """Count the probes that an estimate starts."""
    module._probe.cache_clear()
    count = []
    parts = module.Parts
    monkeypatch.setattr(module, "Parts", lambda *args: count.append(args) or parts(*args))
    yield count
    module._probe.cache_clear()


def test_an_estimate_is_positive_and_finite():
    cost = estimate((60, 60), SMALL)
    assert 0 < cost.seconds < 60
    # At least the image and its gradient, in float32.
    assert cost.memory > 2 * 4 * 120 * 120


def test_a_second_estimate_probes_no_more(probes):
    first = estimate((60, 60), SMALL)
    assert len(probes) == 1
    assert estimate((60, 60), SMALL) == first
    estimate((90, 70), with_(iterations=500, seed=3))
    assert len(probes) == 1
    estimate((60, 60), with_(dip=DIPConfig(channels=8)))
    assert len(probes) == 2


def test_time_follows_steps_and_planes_and_memory_does_not():
    one = estimate((60, 60), SMALL)
    short = estimate((60, 60), with_(iterations=30), known_kernel=True)
    long = estimate((60, 60), with_(iterations=300), known_kernel=True)
    stack = estimate((3, 2, 60, 60), with_(axes="TZYX", share_kernel=False))
    assert long.seconds == pytest.approx(10 * short.seconds)
    assert stack.seconds == pytest.approx(6 * one.seconds)
    assert long.memory == stack.memory == one.memory


def test_colours_need_not_be_the_last_axis():
    last = estimate((9, 40, 40, 3), with_(axes="TYXC"))
    between = estimate((40, 40, 3, 9), with_(axes="YXCT"))
    assert between == last


def test_the_search_is_paid_once_per_plane():
    short, long, longer = (
        estimate((60, 60), with_(iterations=n, kernel_family="line")).seconds for n in (20, 40, 60)
    )
    assert long - short == pytest.approx(longer - long)
    assert longer < 3 * short
    known = estimate((60, 60), with_(kernel_family="line"), known_kernel=True)
    assert known.seconds < long


def test_a_kernel_that_stands_costs_no_more():
    rks = replace(SMALL.rks, every=2, updates=5)
    short, long, longer = (
        estimate((60, 60), with_(iterations=n, rks=rks)).seconds for n in (20, 40, 60)
    )
    assert long - short == pytest.approx(longer - long)
    assert longer < 3 * short


@pytest.mark.parametrize(
    ("changes", "sites", "whitened"),
    [
        ({"kernel_family": "gaussian"}, 1000, False),
        ({"kernel_family": "line"}, 1000, False),
        ({"kernel_family": "trajectory"}, 1000, False),
        ({"kernel_family": "line", "rks": RKSConfig(sampler="paper", max_sites=300)}, 300, False),
    ],
)
def test_the_kernel_update_that_is_timed_is_that_of_the_run(monkeypatch, changes, sites, whitened):
    module._probe.cache_clear()
    asked = set()
    statistics = Degradation.statistics

    def watched(self, image, data, max_sites, white, weights):
        asked.add((max_sites, white))
        return statistics(self, image, data, max_sites, white, weights)

    monkeypatch.setattr(Degradation, "statistics", watched)
    rks, search = replace(SMALL.rks, max_sites=300), replace(SMALL.search, max_sites=1000)
    estimate((60, 60), with_(**{"rks": rks, "search": search} | changes))
    assert asked == {(sites, whitened)}
    module._probe.cache_clear()


LINE = {"kernel_family": "line"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel_family": "gaussian"},
        {"search": replace(SMALL.search, rounds=3)},
        {"search": replace(SMALL.search, rounds=6, steps=6)},
        {"search": replace(SMALL.search, rounds=3), "iterations": 13},
        {"iterations": 5},
        {"iterations": 6},
        {"rks": RKSConfig(particles=16, every=2, updates=3)},
        {"rks": RKSConfig(particles=16, every=3, updates=6)},
        {"rks": RKSConfig(particles=16, every=3, updates=7)},
        LINE,
        {"kernel_family": "trajectory"},
        LINE | {"iterations": 4},
        LINE | {"rks": RKSConfig(particles=16, every=2, updates=3)},
        LINE | {"search": replace(SMALL.search, steps=16)},
        LINE | {"search": replace(SMALL.search, rounds=0)},
        {"rks": RKSConfig(sampler="paper", every=5)},
        {"rks": RKSConfig(sampler="paper", every=1, updates=2), "kernel_family": "gaussian"},
        {"rks": RKSConfig(sampler="paper", every=5), "kernel_family": "line"},
        {"known": True},
        LINE | {"known": True},
    ],
)
def test_counts_are_those_of_a_run(monkeypatch, changes):
    """An image is restored, and every step of its parts is counted."""
    changes = {"iterations": 20, "scale": 1} | changes
    known = changes.pop("known", False)
    settings = with_(**changes, pke=replace(SMALL.pke, warm_up=3))
    steps: list[str] = []
    asked = set()
    update, improve = DynamicKernelPrior._updated, DIPRestorer.step
    warm_up = KernelEstimator.warm_up_step

    def watched(prior, *arguments):
        steps.append("update")
        asked.add(prior._max_sites)
        return update(prior, *arguments)

    def warmed(estimator, target):
        steps.append("warm-up")
        return warm_up(estimator, target)

    monkeypatch.setattr(DynamicKernelPrior, "_updated", watched)
    # White noise is what no kernel has made.
    monkeypatch.setattr(KernelSpectrum, "explained", lambda *_: True)
    hear = KernelSpectrum.__call__
    monkeypatch.setattr(
        KernelSpectrum,
        "__call__",
        lambda self, kernels: steps.append("spectrum") or hear(self, kernels),
    )
    look = KernelEdges.__call__
    monkeypatch.setattr(
        KernelEdges,
        "__call__",
        lambda self, kernels: steps.append("patches") or look(self, kernels),
    )
    monkeypatch.setattr(KernelEstimator, "warm_up_step", warmed)
    monkeypatch.setattr(
        DIPRestorer, "step", lambda self, kernel: steps.append("image") or improve(self, kernel)
    )
    # Sharp squares are taken for a photograph.
    image = np.kron(np.random.default_rng(0).random((16, 18)), np.ones((2, 2)))
    run = Run(image, settings, np.ones((3, 3)) / 9 if known else None)
    # Those of a kernel that settles are of no step.
    states = [state for state in run if state.step]
    count = Counts.of(run.settings, known_kernel=known)
    searching = sum(state.searching for state in states)
    assert (count.search_steps, count.steps) == (searching, len(states) - searching)
    assert count.search_steps + count.steps == steps.count("image") == run.n_steps
    assert count.updates == steps.count("update")
    assert count.spectra == steps.count("spectrum")
    assert count.patches == steps.count("patches")
    assert 3 * count.warm_ups == steps.count("warm-up")
    assert asked <= {count.max_sites}


def test_what_a_spectrum_takes_is_counted(monkeypatch):
    line = with_(**LINE)
    plain = estimate((60, 60), line).seconds
    monkeypatch.setattr(module, "_spectrum_seconds", lambda *_: 1.0)
    spectra = Counts.of(line.resolve()).spectra
    assert spectra > 100
    assert estimate((60, 60), line).seconds == pytest.approx(plain + spectra, abs=0.2 * spectra)


def test_warm_up_is_paid_once_per_plane():
    warm = with_(pke=PKEConfig(hidden=(16,), steps=1, warm_up=1000))
    once = estimate((60, 60), warm)
    again = estimate((60, 60), with_(pke=warm.pke, iterations=80))
    # Twice the steps, the same warm-up.
    assert once.seconds < again.seconds < 2 * once.seconds


def test_large_planes_cost_more():
    small, large = estimate((200, 200), SMALL), estimate((800, 800), SMALL)
    assert large.memory == pytest.approx(16 * small.memory, rel=0.1)
    assert large.seconds > 6 * small.seconds


@pytest.mark.parametrize("method", ["dip", "richardson-lucy"])
def test_what_planes_share_is_paid_once_per_channel(method):
    each = with_(method=method, share_kernel=False, iterations=100)
    shared = replace(each, share_kernel=True)
    alone = estimate((60, 60), each).seconds
    assert estimate((60, 60), shared).seconds == pytest.approx(alone)
    few, many = (estimate((n, 60, 60), shared).seconds for n in (24, 48))
    assert many < 0.4 * 48 * alone
    assert few < many < 2 * few
    channels = estimate((2, 24, 60, 60), replace(shared, axes="CTYX")).seconds
    assert channels == pytest.approx(2 * few)


def test_volumes_are_paid_with_the_trials_of_their_kernel():
    """On samples of one shape trials cost the same, whatever the method."""
    volume = Settings(
        axes="ZYX", volume=True, scale=1, kernel_size=9, kernel_family="gaussian", iterations=10,
        method="richardson-lucy", device="cpu",
    )  # fmt: skip
    shape = (24, 48, 48)
    known = estimate(shape, volume, known_kernel=True)
    blind = estimate(shape, volume)
    assert blind.seconds > 10 * known.seconds  # of ten steps
    assert blind.memory == known.memory
    fitted = estimate(shape, replace(volume, method="dip"), known_kernel=True)
    assert fitted.memory > known.memory
    assert fitted.seconds > known.seconds
    twice = estimate((2, *shape), replace(volume, axes="CZYX"))
    assert twice.seconds == pytest.approx(2 * blind.seconds)
    with pytest.raises(ValueError, match="axes: expected Z among them"):
        estimate((48, 48), replace(volume, axes=None))


@pytest.mark.parametrize("method", ["dip", "richardson-lucy"])
def test_tiles_take_the_memory_of_one_and_the_time_of_all(method):
    whole = with_(method=method, iterations=100)
    tiled = replace(whole, tile=128)
    assert estimate((100, 100), tiled) == estimate((100, 100), whole)  # which is within one
    one, four = (estimate(shape, tiled) for shape in ((128, 128), (200, 200)))
    assert four.memory == one.memory < estimate((200, 200), whole).memory
    assert four.seconds > one.seconds
    sixteen = estimate((350, 350), tiled)
    assert sixteen.memory == one.memory
    assert sixteen.seconds > 1.5 * four.seconds


def test_axes_tell_planes_from_channels():
    rgb = estimate((60, 60, 3), SMALL)  # guessed: one plane of three channels
    apart = with_(share_kernel=False)
    looped = estimate((3, 60, 60), apart)  # guessed: three planes
    assert looped.seconds == pytest.approx(3 * estimate((60, 60), SMALL).seconds)
    assert rgb.seconds < looped.seconds
    assert estimate((60, 60, 3), with_(axes="YXC")) == rgb


def test_scale_costs_pixels():
    assert estimate((200, 200), with_(scale=4)).memory > 3 * estimate((200, 200), SMALL).memory


def test_the_device_asked_for_is_checked():
    with pytest.raises(ValueError, match="device"):
        estimate((60, 60), SMALL, device="abacus")


def test_unresolved_settings_will_do():
    assert estimate((40, 40), Settings(device="cpu", preset="fast")).seconds > 0


class TestDiffusion:
    """What a diffusion model costs."""

    @pytest.fixture
    def asking(self, tmp_path):
        from tiny_diffusion import saved

        module._probe.cache_clear()
        yield lambda *, width=8, **config: with_(
            method="diffusion",
            kernel_family="gaussian",
            iterations=4,
            precision="float32",
            diffusion=DiffusionConfig(
                model=str(saved(tmp_path / str(width), block_out_channels=(width, 16))), **config
            ),
        )
        module._probe.cache_clear()

    def test_memory_is_that_of_the_network_until_it_sees_windows(self, asking):
        settings = asking(width=64)
        small, large, larger = (
            estimate((n, n), settings, known_kernel=True).memory for n in (100, 300, 600)
        )
        assert large > 5 * small  # the network's tensors
        assert larger < 2.5 * large  # images alone: four times their pixels

    def test_wider_networks_and_more_samples_take_more(self, asking):
        narrow, wide, many = (
            estimate((100, 100), settings).memory
            for settings in (asking(), asking(width=64), asking(sampler="ddpm", samples=8))
        )
        assert wide > 3 * narrow
        assert many > 3 * narrow

    def test_time_follows_the_steps(self, asking):
        short, long = (
            estimate((40, 40), replace(asking(), iterations=n), known_kernel=True).seconds
            for n in (5, 50)
        )
        assert long == pytest.approx(10 * short)

    def test_trials_are_paid_as_far_as_they_look(self, asking):
        probe = module._probe(replace(asking(), iterations=10).resolve(), 1, "cpu")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_probe", lambda *_: probe)
            patch.setattr(module, "WINDOW", 640)
            extra = [
                estimate((side, side), asking(trials=3)).seconds
                - estimate((side, side), asking(trials=0)).seconds
                for side in (150, 400, 800)
            ]
        assert 0 < extra[0] < extra[1]
        assert extra[2] == pytest.approx(extra[1])
        assert Counts.of(asking(trials=3).resolve(), known_kernel=True).trial_steps == 0

    def test_the_search_for_motion_is_paid(self, asking):
        of_motion = replace(asking(), kernel_family="line")
        run = Run(np.random.default_rng(0).random((20, 24)), of_motion)
        count = Counts.of(run.settings)
        assert count.search_steps + count.steps == run.n_steps
        known = estimate((40, 40), of_motion, known_kernel=True)
        assert estimate((40, 40), of_motion).seconds > known.seconds
