"""The estimate of a run's cost: how it follows shape and settings."""

from dataclasses import replace

import numpy as np
import pytest

from napari_dkp import estimate as module
from napari_dkp.config import DIPConfig, PKEConfig, RKSConfig, SearchConfig, Settings
from napari_dkp.estimate import Counts, estimate
from napari_dkp.kernel_prior import DynamicKernelPrior
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.stack import Run

SMALL = Settings(
    iterations=40,
    device="cpu",
    kernel_size=5,
    rks=RKSConfig(particles=16),
    pke=PKEConfig(hidden=(16,), steps=1, warm_up=0),
    search=SearchConfig(
        rounds=3,
        steps=7,
        gaussian_rounds=2,
        gaussian_steps=9,
        chains=1,
        trials=2,
        trial_steps=4,
        channels=4,
    ),
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
    stack = estimate((3, 2, 60, 60), with_(axes="TZYX"))
    assert long.seconds == pytest.approx(10 * short.seconds)
    assert stack.seconds == pytest.approx(6 * one.seconds)
    assert long.memory == stack.memory == one.memory


def test_the_search_is_paid_once_per_plane():
    short, long, longer = (estimate((60, 60), with_(iterations=n)).seconds for n in (20, 40, 60))
    assert long - short == pytest.approx(longer - long)
    assert longer < 3 * short
    assert estimate((60, 60), SMALL, known_kernel=True).seconds < long


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel_family": "line"},
        {"kernel_family": "gaussian"},
        {"iterations": 5},
        {
            "search": replace(
                SMALL.search, steps=16, settled=0.0, chains=2, trials=1, gaussian_rounds=1
            )
        },
        {"search": replace(SMALL.search, steps=12, settled=1.0)},
        {"search": replace(SMALL.search, chains=0)},
        {"rks": RKSConfig(sampler="paper", every=5)},
        {"rks": RKSConfig(sampler="paper", every=1), "kernel_family": "gaussian"},
        {"known": True},
    ],
)
def test_counts_are_those_of_a_run(monkeypatch, changes):
    """An image is restored, and every step of its parts is counted."""
    known = "known" in changes
    settings = SMALL if known else with_(**changes)
    settings = replace(settings, scale=1, iterations=changes.get("iterations", 20))
    steps: list[str] = []
    step, improve = DynamicKernelPrior.step, DIPRestorer.step

    def watched(prior, image):
        if image is not None:
            steps.append("kernel")
        elif prior._images == 0 or prior._afresh:
            steps.append("warm-up")
        return step(prior, image)

    monkeypatch.setattr(DynamicKernelPrior, "step", watched)
    monkeypatch.setattr(
        DIPRestorer, "step", lambda self, kernel: steps.append("image") or improve(self, kernel)
    )
    image = np.random.default_rng(0).random((20, 24))
    run = Run(image, settings, np.ones((3, 3)) / 9 if known else None)
    states = list(run)
    count = Counts.of(run.settings, known_kernel=known)
    searching = sum(state.searching for state in states)
    assert (count.search_steps, count.image_steps) == (searching, len(states) - searching)
    assert count.search_steps + count.image_steps == steps.count("image") == run.n_steps
    assert count.kernel_steps == steps.count("kernel")
    assert count.warm_ups == steps.count("warm-up")


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


def test_axes_tell_planes_from_channels():
    rgb = estimate((60, 60, 3), SMALL)  # guessed: one plane of three channels
    looped = estimate((3, 60, 60), SMALL)  # guessed: three planes
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
