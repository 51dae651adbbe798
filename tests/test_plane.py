"""A plane is searched and restored as settings and plans say."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from photons import trials_that_find
from tiny import TINY, settings

from napari_dkp import memory, plane
from napari_dkp import parts as plane_parts
from napari_dkp.config import (
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
)
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.noise import Noise
from napari_dkp.optics_trials import N_TRIALS, AiryIntervals
from napari_dkp.parts import Parts
from napari_dkp.plan import Plan
from napari_dkp.randomness import make_generator
from napari_dkp.schedule import planned_steps, search_plan
from napari_dkp.spectrum import Cutoff
from napari_dkp.state import State, Stop

COUNTING = {"method": "richardson-lucy", "kernel_family": "airy"}


def test_a_plane_of_photons_is_searched_and_then_restored():
    config = RichardsonLucyConfig(patience=2)
    resolved = settings(richardson_lucy=config, iterations=120, **COUNTING).resolve()
    search = search_plan(resolved)
    model = Degradation((16, 18), (1, 1), (5, 5))
    light = torch.rand(1, *model.lr_shape, generator=make_generator(0))
    data = torch.poisson(40 * light, generator=make_generator(1)) / 40
    noise = Noise(1 / 40, 0.0)
    states = list(plane.fit(Parts(model, data, (0.0, 1.0), noise, resolved)))
    assert [state.step for state in states] == list(range(1, len(states) + 1))
    assert states[-1].stop is Stop.COMPLETED
    assert len(states) > N_TRIALS + search.n_steps
    assert {state.n_steps for state in states} == {N_TRIALS + search.n_steps + 120}
    tried = states[:N_TRIALS]
    assert all(state.searching and state.residual > 0 for state in tried)
    assert len({state.kernel.numpy().tobytes() for state in tried}) == N_TRIALS
    assert states[-1].image.isfinite().all()


SPREAD = 0.2


@pytest.fixture
def optics_found(monkeypatch) -> None:
    """Optics whose width is known but for a spread, whatever the data."""
    monkeypatch.setattr(plane_parts, "find_cutoff", lambda *_: Cutoff(0.25, 0.3))
    intervals = AiryIntervals((0.2, 0.3), (0.5, 1.0), SPREAD)
    monkeypatch.setattr(plane_parts, "try_optics", trials_that_find(intervals))


def photon_parts(plan: Plan | None = None, **changes: object) -> Parts:
    resolved = settings(**(COUNTING | changes)).resolve()
    model = Degradation((24, 26), (1, 1), (5, 5))
    light = torch.rand(1, *model.lr_shape, generator=make_generator(0))
    data = torch.poisson(40 * light, generator=make_generator(1)) / 40
    return Parts(model, data, (0.0, 1.0), Noise(1 / 40, 0.0), resolved, plan)


def finished(parts: Parts) -> Parts:
    for _ in plane.fit(parts):
        pass
    return parts


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
@pytest.mark.parametrize("family", ["airy", "pupil"])
def test_what_trials_leave_open_of_the_optics_is_planned_with(optics_found, method, family):
    assert finished(photon_parts(method=method, kernel_family=family)).plan.width_spread == SPREAD


def test_where_nothing_is_tried_nothing_is_known_of_how_sure_the_kernel_is(optics_found):
    stated = replace(TINY["rks"], cutoff=(0.2, 0.3))
    for parts in (
        photon_parts(Plan(KERNEL.numpy())),
        photon_parts(kernel_family="gaussian"),
        photon_parts(rks=stated),
    ):
        assert finished(parts).plan.width_spread is None


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_plan_and_evidence_are_there_with_the_last_state(optics_found, method):
    parts = photon_parts(method=method)
    for state in plane.fit(parts):
        complete = state.stop is Stop.COMPLETED
        assert (parts.plan is not None) is (parts.evidence is not None) is complete
    assert complete
    np.testing.assert_array_equal(parts.plan.kernel, state.kernel.numpy())
    assert (parts.plan.route is not None) is (method == "richardson-lucy")
    assert (parts.evidence.halves is None) is (method == "dip")


@pytest.mark.parametrize("method", ["richardson-lucy", "dip"])
def test_who_follows_a_plan_seeks_nothing_and_comes_to_the_same_image(optics_found, method):
    blind = photon_parts(method=method)
    *_, first = plane.fit(blind)
    parts = photon_parts(blind.plan, method=method)
    states = list(plane.fit(parts))
    assert not any(state.searching for state in states)
    assert len(states) == states[-1].n_steps == planned_steps(parts.settings, blind.plan)
    for state in states:
        np.testing.assert_array_equal(state.kernel.numpy(), blind.plan.kernel)
    assert parts.plan.width_spread == SPREAD
    if method == "richardson-lucy":
        assert len(states) == blind.plan.route.steps
        # The same photons, dealt anew, and no network's start.
        torch.testing.assert_close(states[-1].image, first.image, rtol=0, atol=0.25)


NOISE = Noise(1e-3, 0.0)
QUIET = Noise(1e-9, 1e-6)
KERNEL = torch.full((5, 5), 1 / 25)


def test_memory_is_kept_while_a_plane_is_restored(monkeypatch):
    held = []

    @contextmanager
    def kept(largest: int) -> Iterator[None]:
        held.append(largest)
        yield
        held.clear()

    monkeypatch.setattr(memory, "kept", kept)
    model = Degradation((10, 12), (2, 2), (5, 5))
    data = torch.rand(1, 10, 12, generator=make_generator(0))
    for _ in plane.fit(Parts(model, data, (0.0, 1.0), NOISE, settings().resolve())):
        assert held == [4 * 16 * math.prod(model.domain_shape)]
    assert held == []


GAUSSIAN = {
    "iterations": 20,
    "search": SearchConfig(rounds=6, steps=6, channels=4),
    "rks": RKSConfig(particles=16, every=2, updates=3),
}


def gaussian_states(monkeypatch, *, told: bool, **changes: object) -> list[State[torch.Tensor]]:
    """Restore white noise, of whose spectrum it is said whether a kernel explains it."""
    monkeypatch.setattr(KernelSpectrum, "explained", lambda *_: told)
    resolved = settings(**(GAUSSIAN | changes)).resolve()
    model = Degradation((32, 34), (1, 1), (5, 5))
    data = torch.rand(1, *model.lr_shape, generator=make_generator(0))
    return list(plane.fit(Parts(model, data, (0.0, 1.0), QUIET, resolved)))


def test_a_gaussian_that_the_spectrum_tells_is_learnt_before_its_image_forms(monkeypatch):
    states = gaussian_states(monkeypatch, told=True)
    settling = [state for state in states if not state.step]
    small, proper = states[len(settling) : len(settling) + 8], states[len(settling) + 8 :]
    assert settling
    assert all(state.searching for state in settling + small)
    assert not any(state.searching for state in proper)
    # The images of the search take their steps from the one that is handed out.
    assert [state.step for state in small + proper] == list(range(1, 21))
    assert {state.n_steps for state in states} == {20}
    spectral, learnt, last = (each.kernel for each in (small[0], small[4], proper[0]))
    assert all(torch.equal(state.kernel, spectral) for state in small[:4])
    assert all(torch.equal(state.kernel, learnt) for state in small[4:])
    assert all(torch.equal(state.kernel, last) for state in proper)
    assert not torch.equal(spectral, learnt)
    assert not torch.equal(learnt, last)
    assert states[-1].stop is Stop.COMPLETED


def test_of_few_steps_a_gaussian_stands_where_the_spectrum_puts_it(monkeypatch):
    states = [each for each in gaussian_states(monkeypatch, told=True, iterations=7) if each.step]
    assert [state.step for state in states] == list(range(1, 8))
    assert not any(state.searching for state in states)
    assert all(torch.equal(state.kernel, states[0].kernel) for state in states)


def test_a_gaussian_that_the_spectrum_does_not_tell_follows_the_image_proper(monkeypatch):
    states = [each for each in gaussian_states(monkeypatch, told=False) if each.step]
    assert [state.step for state in states] == list(range(1, 21))
    assert not any(state.searching for state in states)
    # Three updates, after two steps each.
    kernels = [states[step].kernel for step in (0, 2, 4, 6)]
    moved = [not torch.equal(*pair) for pair in pairwise(kernels)]
    assert moved == [True] * 3
    assert all(torch.equal(state.kernel, kernels[-1]) for state in states[6:])
