"""What restores a plane is made as settings say."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import TINY, settings

from napari_dkp import parts as module
from napari_dkp.config import (
    DIPConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.degradation import Degradation
from napari_dkp.kernel_prior import StandingKernel
from napari_dkp.kernel_spectrum import KernelSpectrum
from napari_dkp.noise import Noise
from napari_dkp.parts import Parts
from napari_dkp.randomness import make_generator
from napari_dkp.restorers.polish import PolishedRestorer
from napari_dkp.restorers.richardson_lucy import RichardsonLucyRestorer
from napari_dkp.schedule import search_plan

NOISE = Noise(1e-3, 0.0)
KERNEL = torch.full((5, 5), 1 / 25)


def parts_of(
    settings: Settings, lr_shape: tuple[int, int] = (10, 12)
) -> tuple[Parts, Degradation, torch.Tensor]:
    model = Degradation(lr_shape, (2, 2), (5, 5))
    data = torch.rand(1, *lr_shape, generator=torch.Generator().manual_seed(0))
    return Parts(model, data, (0.0, 1.0), NOISE, settings.resolve()), model, data


@pytest.fixture
def priors(monkeypatch) -> list[tuple[object, ...]]:
    """Family, numbers and options of each kernel prior made."""
    made = []

    def prior(model, data, family, rks, pke, generator, **options):
        made.append((family, rks, pke, options))
        return object()

    monkeypatch.setattr(module, "DynamicKernelPrior", prior)
    return made


@pytest.mark.parametrize(
    ("sampler", "family", "drawn", "stands"),
    [
        ("smc", "auto", "gaussian", True),
        ("smc", "gaussian", "gaussian", True),
        ("paper", "auto", "auto", False),
        ("paper", "gaussian", "gaussian", False),
        ("paper", "trajectory", "trajectory", False),
    ],
)
def test_the_prior_of_the_image_is_plain_and_stands_but_as_published(
    priors, sampler, family, drawn, stands
):
    rks = replace(TINY["rks"], sampler=sampler)
    parts, _, _ = parts_of(settings(rks=rks, kernel_family=family))
    assert isinstance(parts.prior(make_generator(0)), StandingKernel) is stands
    options = {"whitened": False, "weights": None}
    assert priors == [(drawn, rks, TINY["pke"], options)]


@pytest.mark.parametrize("family", ["auto", "gaussian"])
def test_few_kernels_of_a_gaussian_hear_the_spectrum(priors, family):
    rks = RKSConfig(particles=200, moves=3, confidence=7.0)
    parts, _, _ = parts_of(settings(rks=rks, kernel_family=family), (32, 36))
    parts.search_prior(make_generator(0))
    ((drawn, numbers, _, options),) = priors
    assert drawn == "gaussian"
    assert numbers == replace(rks, particles=64, moves=1, max_sites=parts.settings.search.max_sites)
    assert isinstance(options["known"], KernelSpectrum)


@pytest.mark.parametrize(("lr_shape", "tells"), [((10, 12), False), ((32, 36), True)])
def test_a_motion_in_a_small_plane_has_nothing_to_settle_on(priors, lr_shape, tells):
    parts, _, _ = parts_of(settings(kernel_family="line"), lr_shape)
    parts.search_prior(make_generator(0))
    ((*_, options),) = priors
    assert (options["known"] is not None) is tells


NOISY = Noise(1e-9, 0.03**2)
QUIET = Noise(1e-9, 0.003**2)


@pytest.mark.parametrize(
    ("noise", "seeks", "fraction", "weight"),
    [
        (QUIET, False, 1.0, 1e-3),
        (QUIET, True, 1.0, 1e-3),
        # Fine structure, it seems.
        (replace(NOISY, calm=0.005), False, 1.0, 1e-3),
        (replace(NOISY, calm=0.02), False, 0.0, 0.5 * 0.03**2),
        (NOISY, False, 0.0, 0.5 * 0.03**2),
        # Two updates, every second step, of six.
        (NOISY, True, 4 / 6, 0.5 * 0.03**2),
    ],
)
def test_noise_that_is_seen_is_not_fitted_as_structure(noise, seeks, fraction, weight):
    model = Degradation((10, 12), (2, 2), (5, 5))
    data = torch.rand(1, 10, 12, generator=torch.Generator().manual_seed(0))
    chosen = settings(dip=replace(TINY["dip"], polishing=0))
    parts = Parts(model, data, (0.0, 1.0), noise, chosen.resolve())
    restorer = parts.restorer(make_generator(0), 6, seeks=seeks)
    assert restorer._config.ssim_fraction == pytest.approx(fraction)
    assert restorer._config.gradient_weight == pytest.approx(weight, rel=1e-4)


def test_noise_is_not_looked_for_where_it_has_no_weight():
    dip = replace(TINY["dip"], noise_weight=0.0, polishing=0)
    model = Degradation((10, 12), (2, 2), (5, 5))
    parts = Parts(model, torch.rand(1, 10, 12), (0.0, 1.0), NOISY, settings(dip=dip).resolve())
    assert parts.restorer(make_generator(0), 6)._config == dip


@pytest.mark.parametrize(
    ("n_steps", "changes", "noise", "polished"),
    [
        (40, {}, QUIET, 8),
        (12, {}, QUIET, 2),  # a fifth
        (4, {}, QUIET, 0),
        (40, {"polishing": 3}, QUIET, 3),
        (40, {"polishing": 0}, QUIET, 0),
        (40, {}, NOISY, 0),
        (40, {"kernel_family": "airy", "method": "dip"}, QUIET, 0),
    ],
)
def test_the_last_steps_polish_photographs_without_noise(n_steps, changes, noise, polished):
    polishing = changes.pop("polishing", 8)
    dip = replace(TINY["dip"], polishing=polishing)
    model = Degradation((10, 12), (2, 2), (5, 5))
    data = torch.rand(1, 10, 12, generator=torch.Generator().manual_seed(0))
    parts = Parts(model, data, (0.0, 1.0), noise, settings(dip=dip, **changes).resolve())
    restorer = parts.restorer(make_generator(0), n_steps)
    forming = restorer
    if polished:
        assert isinstance(restorer, PolishedRestorer)
        forming = restorer._forming
    assert forming._n_steps == n_steps - polished


def test_photons_weigh_image_and_kernel_alike(priors):
    """Under a microscope's kernels; photographs have no camera's noise."""
    dip = replace(TINY["dip"], ssim_fraction=0.0, gradient_weight=0.0)
    rks = replace(TINY["rks"], cutoff=(0.2, 0.3))
    chosen = settings(dip=dip, rks=rks, kernel_family="airy", method="dip")
    parts, model, data = parts_of(chosen)
    kernel = torch.full((5, 5), 1 / 25)
    parts.prior(make_generator(0))
    ((*_, options),) = priors
    expected = NOISE.weights(data)
    assert expected.std() > 0.01
    torch.testing.assert_close(options["weights"], expected)
    step = parts.restorer(make_generator(0), 6).step(kernel)
    away = model.forward(step.image, kernel) - data
    assert step.loss.item() == pytest.approx((expected * away.square()).mean().item(), rel=1e-4)


@pytest.mark.parametrize("family", ["line", "trajectory", "gaussian"])
def test_the_prior_of_the_search_has_numbers_of_its_own(priors, family):
    config = SearchConfig(
        rounds=4,
        steps=30,
        stiffness=0.6,
        profile_weight=0.8,
        memory=0.5,
        data_weight=0.7,
        max_sites=777,
    )
    parts, _, _ = parts_of(settings(search=config, kernel_family=family), (32, 36))
    parts.search_prior(make_generator(0))
    rks = parts.rks if family != "gaussian" else replace(parts.rks, moves=1)
    rks = replace(rks, max_sites=777)
    pke = replace(TINY["pke"], data_weight=0.7)
    ((*given, options),) = priors
    assert given == [family, rks, pke]
    assert isinstance(options.pop("known"), KernelSpectrum)
    assert (options.pop("known_near") is None) is (family != "trajectory")
    told = {"stiffness": 0.6, "profile_weight": 0.8, "memory": 0.5}
    assert options == {"whitened": True} | told


@pytest.mark.parametrize("method", ["dip", "diffusion"])
def test_edges_are_those_of_scenes_under_their_noise(priors, monkeypatch, method):
    monkeypatch.setattr(module, "KernelEdges", lambda *arguments: arguments)
    resolved = settings(kernel_family="trajectory", method=method).resolve()
    model = Degradation((12, 14), (2, 2), (5, 5))
    data = torch.rand(6, 12, 14, generator=make_generator(0))
    noise = Noise(1e-9, 0.03**2)
    parts = Parts(model, data, (0.0, 1.0), noise, resolved, colours=3)
    parts.search_prior(make_generator(0))
    ((_, _, _, options),) = priors
    populations = [torch.rand(3, 5, 5)]
    asked, scenes, level, found = options["known_near"](populations)
    assert asked is model
    assert found is populations
    assert torch.equal(scenes, torch.stack([data[:3].mean(0), data[3:].mean(0)]))
    assert level == pytest.approx(0.03 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("family", ["line", "trajectory"])
def test_images_of_photons_are_followed_whatever_the_spectrum_tells(priors, family):
    parts, _, _ = parts_of(settings(method="richardson-lucy", kernel_family=family))
    parts.search_prior(make_generator(0))
    ((*_, options),) = priors
    assert options.get("known") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_scout_in_part_leaves_out_a_share_of_samples(share):
    """Its loss is the squared error, less where unseen; the data is far from what it predicts."""
    dip = DIPConfig(ssim_fraction=0.0)
    search = SearchConfig(left_out=share)
    parts, model, data = parts_of(settings(dip=dip, search=search), (60, 50))
    scout = parts.scout(10, make_generator(1), partial=True)
    step = scout.step(KERNEL)
    squared = (model.forward(step.image, KERNEL) - data).square().mean().item()
    assert step.loss.item() == pytest.approx((1 - share) * squared, rel=0.2, abs=1e-3)
    whole = parts.scout(10, make_generator(1)).step(KERNEL)
    squared = (model.forward(whole.image, KERNEL) - data).square().mean().item()
    assert whole.loss.item() == pytest.approx(squared, rel=1e-3)


def test_a_scout_is_small_and_has_no_gradient_prior():
    """Whatever the network of the image that is handed out."""
    losses = []
    for dip in (
        DIPConfig(),
        DIPConfig(network="published", gradient_weight=9.0, gradient_growth=0),
    ):
        parts, _, _ = parts_of(settings(dip=dip))
        scout = parts.scout(10, make_generator(1))
        losses.append([scout.step(KERNEL).loss.item() for _ in range(3)])
    assert losses[0] == losses[1]


COUNTING = {"method": "richardson-lucy", "kernel_family": "airy"}


def test_photons_are_counted_in_stages(monkeypatch):
    made = []
    monkeypatch.setattr(module, "CountingRestorer", lambda *arguments: made.append(arguments))
    config = RichardsonLucyConfig(strength=0.3, patience=7)
    parts, model, data = parts_of(settings(richardson_lucy=config, **COUNTING))
    parts.restorer(make_generator(1), 6)
    (found,) = made
    assert (found[0], *found[2:]) == (model, config, None)
    assert torch.equal(found[1].counts.sum(0), NOISE.counts(data).round())


def test_a_scout_that_counts_photons_does_not_end_before_its_steps():
    """Whatever the patience of what restores the image: flat light is told best at the start."""
    model = Degradation((30, 32), (1, 1), (5, 5))
    data = torch.poisson(torch.full((1, 30, 32), 20.0), generator=make_generator(0)) / 20
    config = RichardsonLucyConfig(patience=1)
    resolved = settings(richardson_lucy=config, **COUNTING).resolve()
    parts = Parts(model, data, (0.0, 1.0), Noise(1 / 20, 0.0), resolved)
    scout = parts.scout(25, make_generator(1))
    assert isinstance(scout, RichardsonLucyRestorer)
    steps = [scout.step(KERNEL) for _ in range(25)]
    assert not any(step.done for step in steps)
    assert min(float(step.loss) for step in steps) < float(steps[-1].loss)


def test_open_settings_are_refused():
    model = Degradation((10, 12), (2, 2), (5, 5))
    for use in (
        lambda: Parts(model, torch.zeros(1, 10, 12), (0.0, 1.0), NOISE, Settings()),
        lambda: search_plan(Settings(kernel_family="line")),
    ):
        with pytest.raises(ValueError, match="settings: expected resolved settings"):
            use()
