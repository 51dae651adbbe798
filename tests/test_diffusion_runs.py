"""Whole runs with a diffusion model: what they take, what they repeat, what they never see."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from tiny import TINY
from tiny_diffusion import saved

from napari_dkp import iter_restore, restore
from napari_dkp.config import DiffusionConfig, NoiseConfig, Settings
from napari_dkp.stack import Run
from napari_dkp.state import Stop

STEPS = 4
QUICK = TINY | {"iterations": STEPS, "method": "diffusion"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network of three channels."""
    return str(saved(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """An untrained network of one channel."""
    return str(saved(tmp_path_factory.mktemp("grey"), channels=1))


@pytest.fixture
def options(model):
    def options(*, source=model, **changes):
        """Return keywords of a short run; those of the model's config are told apart."""
        names = DiffusionConfig.__dataclass_fields__
        config = {name: changes.pop(name) for name in tuple(changes) if name in names}
        return QUICK | {"diffusion": DiffusionConfig(model=source, **config)} | changes

    return options


def picture(*shape, dtype=np.uint8, seed=0):
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, [0] * (len(shape) - 2) + [1.5, 1.5])
    return (10 + 200 * (smooth - smooth.min()) / np.ptp(smooth)).astype(dtype)


# What is restored


@pytest.mark.parametrize(
    ("shape", "axes", "restored"),
    [
        ((20, 24), "YX", (40, 48)),
        ((20, 24, 3), "YXC", (40, 48, 3)),
        ((2, 20, 24), "CYX", (2, 40, 48)),
        ((2, 20, 24), "ZYX", (2, 40, 48)),
        ((3, 20, 2, 24), "TYCX", (3, 40, 2, 48)),
    ],
    ids=["grey", "colour", "two channels", "stack", "stack of two channels"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_all_axes_are_restored(options, model, grey, shape, axes, restored, channels):
    image = picture(*shape)
    source = model if channels == 3 else grey
    looped = axes.replace("Y", "").replace("X", "").removesuffix("C" if axes == "YXC" else "")
    result = restore(image, **options(source=source), axes=axes, scale=2, share_kernel=False)
    assert result.image.shape == restored
    assert np.isfinite(result.image).all()
    assert result.stop is Stop.COMPLETED
    planes = int(np.prod([n for n, axis in zip(shape, axes, strict=True) if axis in looped]))
    assert len(result.history) == STEPS * planes
    kernels = result.kernel.reshape(-1, 5, 5)
    assert len(kernels) == planes
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize("boundary", ["free", "circular"])
@pytest.mark.parametrize("phase", ["area", "fkp"])
def test_the_result_explains_the_image(options, boundary, phase):
    """A model that knows nothing still leaves an image that is held to the data."""
    result = restore(
        picture(20, 24), **options(iterations=12), scale=2, boundary=boundary, phase=phase
    )
    # Of a range of 200.
    assert result.history[-1] < 10


def test_units_are_those_of_the_image(options):
    image = picture(20, 24, dtype=np.float64)
    plain = restore(image, **options())
    moved = restore(1e-3 * image - 5, **options())
    np.testing.assert_allclose(moved.image, 1e-3 * plain.image - 5, atol=1e-3)
    assert moved.history[-1] == pytest.approx(1e-3 * plain.history[-1], rel=0.02)


def test_planes_of_a_stack_are_restored_as_if_alone(options):
    image = picture(2, 20, 24)
    both = restore(image, **options(axes="ZYX", share_kernel=False))
    for index in range(2):
        alone = restore(image[index], **options(axes="YX"))
        np.testing.assert_allclose(both.image[index], alone.image, atol=1e-3)


# The kernel


def test_a_known_kernel_is_kept(options):
    psf = np.outer([1, 2, 1], [1, 3, 1]).astype(np.float32)
    psf /= psf.sum()
    states = list(iter_restore(picture(20, 24), **options(kernel=psf)))
    assert len(states) == STEPS
    for state in states:
        np.testing.assert_allclose(state.kernel, psf, atol=1e-6)
        assert not state.searching


def test_a_known_kernel_matters(options):
    wide, narrow = np.full((5, 5), 0.04), np.pad([[1.0]], 2)
    wide, narrow = (
        restore(picture(20, 24), **options(kernel=psf, iterations=8)).image
        for psf in (wide, narrow)
    )
    assert np.abs(wide - narrow).mean() > 1


def test_motion_is_sought_before_the_image(options):
    states = list(iter_restore(picture(24, 24), **options(kernel_family="line")))
    searching = [state.searching for state in states]
    assert sum(searching) == 3 * 4  # three images, as `TINY` has them
    assert searching == sorted(searching, reverse=True)
    assert len(states) - sum(searching) == STEPS
    np.testing.assert_array_equal(states[-STEPS].kernel, states[-1].kernel)


def test_a_kernel_is_tried_step_by_step_between_seeking_and_restoring(options):
    """Who watches is shown each trial, and who stops among them has a result."""
    tried = options(kernel_family="gaussian", trials=1)
    run = Run(picture(64, 64), Settings(axes="YX", **tried))
    states = list(run)
    searching = [state.searching for state in states]
    first = searching.index(True)
    assert first == 2  # half of the steps seek
    assert 2 * STEPS < sum(searching) <= run.n_steps - STEPS
    assert not any(searching[-2:]) and len(states) - sum(searching) == STEPS
    among = [state.kernel for state in states[first:-2]]
    assert len({kernel.tobytes() for kernel in among}) > 3
    numbers = [state.step for state in states]
    assert numbers == sorted(set(numbers)) and numbers[-1] == run.n_steps
    assert not np.array_equal(states[-1].kernel, states[0].kernel)
    np.testing.assert_array_equal(states[-1].kernel, states[-2].kernel)

    for state in run:
        if state.searching:
            break
    stopped = run.result()
    assert stopped.stop is Stop.CANCELLED
    assert np.isfinite(stopped.image).all() and len(stopped.history) == first


@pytest.mark.parametrize("family", ["airy", "pupil"])
def test_microscopes_with_a_camera_that_is_known(options, family):
    photons = np.random.default_rng(0).poisson(picture(30, 30) + 20.0)
    image = (2.5 * photons + 100).astype(np.uint16)
    noise = NoiseConfig(gain=2.5, offset=100, read_noise=1)
    result = restore(
        image,
        **options(kernel_family=family, kernel_size=9),
        scale=1,
        noise=noise,
        diagnostics=True,
    )
    assert result.image.shape == image.shape
    (report,) = result.reports
    assert report.kernel_width_interval is not None
    assert 0 < report.misfit < 20
    assert result.residual.shape == image.shape


@pytest.mark.parametrize("sampler", ["anneal", "ddim", "ddpm"])
@pytest.mark.parametrize("data_step", ["proximal", "gradient"])
def test_all_ways_to_draw_end(options, sampler, data_step):
    result = restore(picture(20, 24), **options(sampler=sampler, data_step=data_step))
    assert np.isfinite(result.image).all()
    assert result.stop is Stop.COMPLETED


def test_the_published_preset_runs(options):
    published = Settings(preset="paper").resolve().diffusion
    changes = options(preset="paper", rks=None)
    changes["diffusion"] = replace(published, model=changes["diffusion"].model)
    assert np.isfinite(restore(picture(20, 24), **changes).image).all()


# Samples


def test_samples_say_how_uncertain_each_pixel_is(options):
    image = picture(20, 24, dtype=np.float64)
    result = restore(image, **options(samples=3, sampler="ddpm", diagnostics=True))
    assert result.uncertainty.shape == result.image.shape
    assert (result.uncertainty > 0).all()
    assert result.residual.shape == image.shape
    moved = restore(0.1 * image, **options(samples=3, sampler="ddpm", diagnostics=True))
    assert np.median(moved.uncertainty) == pytest.approx(
        0.1 * np.median(result.uncertainty), rel=0.01
    )


def test_one_sample_says_nothing_of_it(options):
    result = restore(picture(20, 24), **options(diagnostics=True))
    assert result.uncertainty is None
    assert result.residual is not None


# Repeating and stopping


@pytest.mark.parametrize("sampler", ["anneal", "ddim", "ddpm"])
def test_the_seed_decides(options, sampler):
    first, again, other = (
        restore(picture(20, 24), **options(seed=seed, sampler=sampler)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.kernel, again.kernel)
    assert np.abs(first.image - other.image).max() > 1e-3


def test_what_is_stored_repeats_the_run(options):
    image = picture(20, 24)
    first = restore(image, **options(trust=0.5, seek=(0.1, 1.5), sampler="ddpm", seed=5))
    stored = json.loads(json.dumps(first.settings.to_dict()))
    assert stored["diffusion"]["seek"] == [0.1, 1.5]
    settings = Settings.from_dict(stored)
    assert settings == first.settings
    run = Run(image, settings)
    assert [state.step for state in run] == list(range(1, STEPS + 1))
    np.testing.assert_array_equal(run.result().image, first.image)


def test_a_run_may_be_stopped_and_begun_anew(options):
    image = picture(20, 24)
    run = Run(image, Settings(**options()))
    for state in run:
        if state.step == 2:
            break
    result = run.result()
    assert result.stop is Stop.CANCELLED
    assert result.steps == 2
    np.testing.assert_array_equal(result.image, state.image)
    for _ in run:
        pass
    np.testing.assert_array_equal(run.result().image, restore(image, **options()).image)


def test_earlier_states_are_not_written_to(options):
    states = []
    copies = []
    for state in iter_restore(picture(20, 24), **options(samples=2, sampler="ddpm")):
        states.append(state)
        copies.append(state.image.copy())
    for state, copy in zip(states, copies, strict=True):
        np.testing.assert_array_equal(state.image, copy)


# What cannot be used


@pytest.mark.parametrize("name", ["smal", "no/such/folder", "owner/name"])
def test_a_missing_model_is_named_at_the_call(options, monkeypatch, tmp_path, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^model: "):
        iter_restore(picture(20, 24), **options(source=name))


def test_a_folder_that_holds_no_model_is_named_at_the_call(options, tmp_path):
    with pytest.raises(ValueError, match=r"^model: expected a folder that diffusers saved"):
        iter_restore(picture(20, 24), **options(source=str(tmp_path)))


def test_a_model_is_only_asked_for_where_it_is_used(options):
    changes = options(source="smal", method="dip", iterations=1)
    assert np.isfinite(restore(picture(20, 24), **changes).image).all()
