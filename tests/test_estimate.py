"""The estimate of a run's cost: how it follows shape and settings."""

from dataclasses import replace

import pytest

from napari_dkp import estimate as module
from napari_dkp.config import DIPConfig, PKEConfig, RKSConfig, Settings
from napari_dkp.estimate import estimate

SMALL = Settings(
    iterations=40,
    device="cpu",
    kernel_size=5,
    rks=RKSConfig(particles=16),
    pke=PKEConfig(hidden=(16,), steps=1, warm_up=0),
    dip=DIPConfig(channels=4),
)


def with_(**changes: object) -> Settings:
    return replace(SMALL, **changes)


@pytest.fixture
def probes(monkeypatch):
    """Count the probes that an estimate starts."""
    module._probe.cache_clear()
    count = []
    build = module.build
    monkeypatch.setattr(module, "build", lambda *args: count.append(args) or build(*args))
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
    forever = RKSConfig(particles=8, updates=10**6)
    short = estimate((60, 60), with_(iterations=30, rks=forever))
    long = estimate((60, 60), with_(iterations=300, rks=forever))
    stack = estimate((3, 2, 60, 60), with_(axes="TZYX"))
    assert long.seconds == pytest.approx(10 * short.seconds)
    assert stack.seconds == pytest.approx(6 * one.seconds)
    assert long.memory == stack.memory == one.memory


def test_a_kernel_that_stands_costs_no_more():
    short, long, longer = (
        estimate((60, 60), with_(iterations=n, rks=RKSConfig(particles=8, every=2, updates=10)))
        for n in (20, 40, 60)
    )
    assert long.seconds - short.seconds == pytest.approx(longer.seconds - long.seconds)
    assert longer.seconds < 3 * short.seconds


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
