from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer, Shapes

import napari_dkp as dkp
from napari_dkp._napari.layers import (
    kernel_over_axes,
    restore_layer,
    settings_from_layer,
    snippet,
)
from napari_dkp._napari.source import layer_axes, source_of
from napari_dkp.config.presets import PRESET_NUMBERS
from napari_dkp.layout import Layout

TURNED = {"rotate": 30, "shear": [0.2], "affine": [[1, 0.3, 5], [-0.2, 1.1, 7], [0, 0, 1]]}


def picture(*shape, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def restored(layer, **options):
    options = {"iterations": 2, **options}
    return [Layer.create(*entry) for entry in restore_layer(layer, **options)]


def world(layer, *pixel):
    return np.array(layer.data_to_world(pixel))


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("transform", [{}, TURNED])
def test_restored_pixels_lie_over_the_source_pixel_they_divide(fake_run, scale, transform):
    layer = Image(picture(12, 15), scale=(0.5, 0.2), translate=(3, -4), **transform)
    image, _ = restored(layer, scale=scale)
    inner = np.arange(scale)
    block = np.array([world(image, scale * 7 + i, scale * 4 + j) for i in inner for j in inner])
    np.testing.assert_allclose(block.mean(axis=0), world(layer, 7, 4))
    for corner, fine in [((-0.5, -0.5), (-0.5, -0.5)), ((11.5, 14.5), (12 * scale - 0.5, None))]:
        fine = (fine[0], 15 * scale - 0.5 if fine[1] is None else fine[1])
        np.testing.assert_allclose(world(image, *fine), world(layer, *corner))


def test_fkp_phase_puts_source_pixels_where_the_benchmark_has_them(fake_run):
    layer = Image(picture(12, 15), scale=(0.5, 0.2), **TURNED)
    image, _ = restored(layer, scale=4, phase="fkp")
    np.testing.assert_allclose(world(image, 4 * 6 - 1.5, 4 * 3 - 1.5), world(layer, 6, 3))


@pytest.mark.parametrize("transform", [{}, TURNED])
def test_region_lies_over_its_place(fake_run, transform):
    layer = Image(picture(20, 30), scale=(0.5, 0.5), **transform)
    corners = [layer.data_to_world(p) for p in [(3.6, 4.4), (3.6, 19.7), (14.3, 19.7), (14.3, 4.4)]]
    shapes = Shapes([np.array(corners)], shape_type="polygon")
    image, _ = restored(layer, region=shapes)
    np.testing.assert_array_equal(fake_run.runs[0].image, layer.data[4:15, 5:20])
    assert image.data.shape == (22, 30)
    np.testing.assert_allclose(world(image, -0.5, -0.5), world(layer, 3.5, 4.5))
    assert image.metadata["napari_dkp"]["region"] == ((4, 15), (5, 20))


def test_region_is_the_selected_shape_else_the_last(fake_run):
    layer = Image(picture(40, 40))
    squares = [np.array([[a, a], [a, a + 9], [a + 9, a + 9], [a + 9, a]]) - 0.5 for a in (2, 20)]
    shapes = Shapes(squares)
    restored(layer, region=shapes)
    shapes.selected_data = {0}
    restored(layer, region=shapes)
    np.testing.assert_array_equal(fake_run.runs[0].image, layer.data[20:29, 20:29])
    np.testing.assert_array_equal(fake_run.runs[1].image, layer.data[2:11, 2:11])


def test_region_is_clipped_and_must_touch_the_image(fake_run):
    layer = Image(picture(20, 20), name="cells")
    restored(layer, region=((-5, 12), (9, 99)))
    np.testing.assert_array_equal(fake_run.runs[0].image, layer.data[:12, 9:])
    with pytest.raises(ValueError, match="region: expected a rectangle over the layer 'cells'"):
        restore_layer(layer, region=((30, 40), (0, 5)))
    with pytest.raises(ValueError, match="got none"):
        restore_layer(layer, region=Shapes())


@pytest.mark.parametrize("transform", [{}, TURNED])
def test_kernel_lies_beside_the_image_level_with_its_top(fake_run, transform):
    layer = Image(picture(20, 30), scale=(0.5, 0.5), translate=(8, 9), **transform)
    for region in (None, ((4, 15), (5, 20))):
        _, kernel = restored(layer, region=region)
        corner = np.array(layer.world_to_data(world(kernel, -0.5, -0.5)))
        assert corner[0] == pytest.approx(-0.5)
        assert corner[1] > 29.5
        far = np.array(layer.world_to_data(world(kernel, 10.5, 10.5)))
        np.testing.assert_allclose(far - corner, 11 / 2)  # eleven restored pixels


def test_both_layers_keep_units_labels_and_looks(fake_run):
    layer = Image(
        picture(12, 15),
        name="actin",
        units=("um", "um"),
        axis_labels=("y", "x"),
        scale=(0.2, 0.2),
        colormap="green",
        blending="additive",
        contrast_limits=(10, 90),
        gamma=0.7,
    )
    image, kernel = restored(layer)
    assert (image.name, kernel.name) == ("actin [DKP ×2]", "actin [DKP kernel]")
    for result in (image, kernel):
        assert result.units == layer.units
        assert result.axis_labels == layer.axis_labels
        np.testing.assert_allclose(result.scale, 0.1)
    assert image.colormap.name == "green"
    assert image.blending == "additive"
    assert list(image.contrast_limits) == [10, 90]
    assert image.gamma == pytest.approx(0.7)
    assert image.data.dtype == np.float32
    assert kernel.contrast_limits[0] == 0
    assert kernel.contrast_limits[1] == pytest.approx(kernel.data.max())


def test_rgb_keeps_its_type_and_alpha(fake_run):
    colour = picture(40, 50, 4, dtype=np.uint8)
    image, kernel = restored(Image(colour, rgb=True))
    assert fake_run.runs[0].image.shape == (40, 50, 3)
    assert fake_run.runs[0].settings.axes == "YXC"
    assert image.rgb and image.data.dtype == np.uint8 and image.ndim == 2
    np.testing.assert_array_equal(image.data[::2, ::2], colour)
    np.testing.assert_array_equal(image.data[1::2, 1::2], colour)
    assert kernel.ndim == 2 and not kernel.rgb


def test_rgb_outside_its_range_is_clipped_not_wrapped(fake_run, monkeypatch):
    state = fake_run.state

    def brighter(run, *which, **options):
        found = state(run, *which, **options)
        return replace(found, image=found.image + 100.6)

    monkeypatch.setattr(fake_run, "state", brighter)
    colour = np.full((40, 40, 3), 200, np.uint8)
    colour[:20] = 7
    image, _ = restored(Image(colour, rgb=True))
    assert image.data[-1, -1, 0] == 255
    assert image.data[0, 0, 0] == 108


@pytest.mark.parametrize(
    ("shape", "labels", "rgb", "axes"),
    [
        ((9, 9), None, False, "YX"),
        ((5, 9, 9), None, False, "ZYX"),
        ((2, 5, 9, 9), None, False, "TZYX"),
        ((2, 9, 9), ("c", "y", "x"), False, "CYX"),
        ((2, 9, 9), ("channel", "", ""), False, "CYX"),
        ((2, 9, 9), ("t", "y", "x"), False, "TYX"),
        ((4, 2, 5, 9, 9), ("t", "C", "z", "y", "x"), False, "TCZYX"),
        ((4, 2, 5, 9, 9), ("", "c", "", "y", "x"), False, "TCZYX"),
        ((9, 9, 5), ("y", "x", "z"), False, "YXZ"),
        ((3, 40, 40, 3), None, True, "ZYXC"),
    ],
)
def test_axes_come_from_labels(shape, labels, rgb, axes):
    options = {} if labels is None else {"axis_labels": labels}
    assert layer_axes(Image(np.zeros(shape), rgb=rgb, **options)) == axes


def test_too_many_unlabelled_axes_are_explained():
    with pytest.raises(ValueError, match="Label the channel axis 'c'"):
        layer_axes(Image(np.zeros((2, 2, 2, 9, 9))))


def test_stack_with_channels(fake_run):
    layer = Image(
        picture(3, 2, 12, 15),
        axis_labels=("z", "c", "y", "x"),
        scale=(2, 1, 0.5, 0.5),
        translate=(1, 0, 0, 0),
    )
    image, kernel = restored(layer, region=((2, 12), (3, 12)))
    np.testing.assert_array_equal(fake_run.runs[0].image, layer.data[:, :, 2:12, 3:12])
    assert image.data.shape == (3, 2, 20, 18)
    np.testing.assert_allclose(world(image, 2, 1, -0.5, -0.5), world(layer, 2, 1, 1.5, 2.5))
    assert kernel.data.shape == (3, 2, 11, 11)
    np.testing.assert_allclose(world(kernel, 2, 1, 0, 0)[:2], world(layer, 2, 1, 0, 0)[:2])
    image, kernel = restored(layer, region=((2, 12), (3, 12)), plane=(2, 1))
    np.testing.assert_array_equal(fake_run.runs[1].image, layer.data[2:3, 1:2, 2:12, 3:12])
    assert image.data.shape == (1, 1, 20, 18)
    np.testing.assert_allclose(world(image, 0, 0, -0.5, -0.5), world(layer, 2, 1, 1.5, 2.5))
    assert kernel.data.shape == (1, 1, 11, 11)
    np.testing.assert_allclose(world(kernel, 0, 0, 0, 0)[:2], world(layer, 2, 1, 0, 0)[:2])
    with pytest.raises(ValueError, match="plane: expected one index for each of the axes 'ZC'"):
        restored(layer, plane=(2,))


@pytest.mark.parametrize(
    ("axes", "rgb"),
    [
        ("YX", False),
        ("TZYX", False),
        ("CYX", False),
        ("TCZYX", False),
        ("YCX", False),
        ("YXZ", False),
        ("YXC", False),
        ("ZYXC", True),
    ],
)
def test_layers_are_taken_apart_as_runs_do(axes, rgb):
    """The sample is the plane by which a run decides; index and kernels follow its planes."""
    lengths = {"T": 2, "C": 3, "Z": 4, "Y": 40, "X": 35}
    data = picture(*(lengths[axis] for axis in axes))
    if rgb:
        layer = Image(data, rgb=True)
    else:
        layer = Image(data, axis_labels=tuple(axes.lower()), rgb=False)
    source = source_of(layer)
    assert source.axes == axes
    layout = Layout.of(data, axes)
    np.testing.assert_array_equal(source.sample(), layout.read(data, layout.middle))
    taps = (5, 7)
    shape = (*layout.looped_shape, *taps)
    kernels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    spread = kernel_over_axes(source, kernels)
    assert spread.ndim == len(source.layer_axes)
    for plane in layout.planes:
        index = source.index(plane)
        assert index == layout.where(plane)
        found = spread[index[: spread.ndim]]
        np.testing.assert_array_equal(found, kernel_over_axes(source, kernels[plane]))
        colours = found.reshape(*taps, -1) if layout.coloured and not rgb else found[..., None]
        for each in np.moveaxis(colours, -1, 0):
            np.testing.assert_array_equal(each, kernels[plane])


@pytest.mark.parametrize(("axes", "bounds"), [("CZYX", (1, 3)), ("TYX", (0, 3)), ("ZCYX", (3, 4))])
def test_the_sample_of_a_part_is_the_plane_in_its_middle(axes, bounds):
    source = source_of(Image(picture(4, *(5,) * (len(axes) - 3), 9, 8)), axes=axes)
    source = replace(source, window=(bounds, *source.window[1:]))
    part = source.pixels()
    layout = Layout.of(part, axes)
    np.testing.assert_array_equal(source.sample(), layout.read(part, layout.middle))


def test_lazy_layers_are_sliced_before_they_are_read(fake_run, monkeypatch):
    class Lazy:
        """Refuses to be read whole."""

        shape, dtype, ndim = (10**6, 40, 50), np.dtype(np.uint16), 3

        def __getitem__(self, index):
            lengths = [len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)]
            assert np.prod(lengths) < 10**6
            return picture(*lengths)

    layer = Image(np.zeros((2, 40, 50)))
    monkeypatch.setattr(Image, "data", Lazy())
    image, _ = restore_layer(layer, plane=(7,), iterations=1)
    assert image[0].shape == (1, 80, 100)


def test_dask_and_multiscale_layers(fake_run):
    dask = pytest.importorskip("dask.array")
    values = picture(40, 50)
    restored(Image(dask.from_array(values, chunks=16)), region=((0, 20), (0, 20)))
    np.testing.assert_array_equal(fake_run.runs[0].image, values[:20, :20])
    pyramid = Image([values, values[::2, ::2]], multiscale=True, scale=(0.3, 0.3))
    image, _ = restored(pyramid)
    assert image.data.shape == (80, 100)
    np.testing.assert_allclose(world(image, 79.5, 99.5), world(pyramid, 39.5, 49.5))


def test_known_kernel_from_a_layer_must_have_restored_pixels(fake_run):
    layer = Image(picture(12, 15), scale=(0.2, 0.2), units=("um", "um"))
    psf = np.ones((5, 5), np.float32) / 25
    restored(layer, kernel=Image(psf, scale=(0.1, 0.1), units=("um", "um")))
    np.testing.assert_array_equal(fake_run.runs[0].given, psf)
    restored(layer, kernel=Image(psf))  # uncalibrated
    with pytest.raises(ValueError, match=r"kernel: expected restored pixels, 0\.1 × 0\.1"):
        restore_layer(layer, kernel=Image(psf, scale=(0.2, 0.2), units=("um", "um")))


def test_own_kernel_layer_of_a_stack_can_be_used_again(fake_run):
    layer = Image(picture(2, 12, 15), axis_labels=("c", "y", "x"))
    _, kernel = restored(layer)
    restored(layer, kernel=kernel)
    assert fake_run.runs[1].given.shape == (11, 11)
    varied = Image(np.stack([kernel.data[0], kernel.data[0].T * 2]))
    with pytest.raises(ValueError, match="kernel: expected one plane"):
        restore_layer(layer, kernel=varied)


def test_wrong_layers_and_planes_are_named(fake_run):
    with pytest.raises(TypeError, match="layer: expected an image layer; got Labels"):
        restore_layer(Labels(np.zeros((9, 9), int)))
    with pytest.raises(ValueError, match="plane: expected one index"):
        restore_layer(Image(picture(3, 9, 9)), plane=(1, 1))
    with pytest.raises(ValueError, match="plane: expected an integer from 0 to 2"):
        restore_layer(Image(picture(3, 9, 9)), plane=(3,))
    with pytest.raises(ValueError, match="axes: expected one letter for each"):
        restore_layer(Image(picture(3, 9, 9)), axes="YX")


def test_settings_travel_with_the_layers(fake_run):
    layer = Image(picture(40, 40), name="actin")
    options = {
        "scale": 3,
        "preset": "fast",
        "seed": 5,
        "kernel_family": "gaussian",
        "dip": dkp.DIPConfig(channels=8),
        "rks": dkp.RKSConfig(gaussian_variance=(0.5, 4)),
        "search": dkp.SearchConfig(rounds=2),
    }
    image, kernel = restored(layer, iterations=7, **options)
    expected = dkp.Settings(**options, iterations=7, axes="YX").resolve()
    assert settings_from_layer(image) == settings_from_layer(kernel) == expected
    facts = kernel.metadata["napari_dkp"]
    assert facts["version"] == dkp.__version__
    assert (facts["seed"], facts["device"], facts["stop"]) == (5, "cpu", "COMPLETED")
    assert (facts["source"], facts["region"], facts["kernel"]) == ("actin", None, None)
    assert facts["seconds"] > 0
    with pytest.raises(ValueError, match="'actin' is none"):
        settings_from_layer(layer)


def test_history_in_metadata_stays_short_and_ends_with_the_last(fake_run):
    image, _ = restored(Image(picture(12, 12)), iterations=1234)
    residuals = image.metadata["napari_dkp"]["residuals"]
    assert 50 <= len(residuals) <= 100
    assert residuals[-1] == pytest.approx(1 / 1234)


def test_snippet_names_only_what_differs(fake_run):
    image, _ = restored(
        Image(picture(40, 40), name="a 'b'"),
        preset="fast",
        iterations=PRESET_NUMBERS["fast"].iterations,
        region=((0, 20), (0, 20)),
    )
    text = snippet(image)
    compile(text, "snippet", "exec")
    assert "iterations" not in text and "rks" not in text
    assert "method='dip'" in text  # else it would be decided anew
    assert "region=((0, 20), (0, 20))" in text
    image, _ = restored(Image(picture(40, 40)), search=dkp.SearchConfig(rounds=2, steps=30))
    assert "search=dkp.SearchConfig(rounds=2, steps=30)," in snippet(image)


def test_snippet_says_how_a_network_is_fitted_where_that_is_unusual(fake_run):
    # The numbers of a preset, but of a microscope's image those are others.
    options = {"method": "dip", "kernel_family": "airy"}
    image, _ = restored(Image(picture(40, 40)), **options, dip=dkp.DIPConfig())
    assert "dip=dkp.DIPConfig()" in snippet(image)
    image, _ = restored(Image(picture(40, 40)), **options)
    assert "dip=" not in snippet(image)


def test_steps_stop_a_run_early(fake_run):
    states = []
    image, _ = restored(Image(picture(12, 12)), iterations=9, steps=4, progress=states.append)
    assert [state.step for state in states] == [1, 2, 3, 4]
    assert image.metadata["napari_dkp"]["stop"] == "CANCELLED"
    assert image.metadata["napari_dkp"]["steps"] == 4
    assert fake_run.runs[0].closed
    assert "steps=4" in snippet(image)


RESIDUAL, UNCERTAINTY = "actin [DKP residual]", "actin [DKP uncertainty]"


@pytest.mark.parametrize("transform", [{}, TURNED])
@pytest.mark.parametrize("region", [None, ((2, 11), (3, 13))])
def test_diagnostics_overlay_source_and_image(fake_run, transform, region):
    layer = Image(
        picture(12, 15),
        name="actin",
        scale=(0.5, 0.2),
        translate=(3, -4),
        units=("um", "um"),
        axis_labels=("y", "x"),
        colormap="green",
        **transform,
    )
    image, _, residual, uncertainty = restored(layer, scale=3, region=region, diagnostics=True)
    assert (residual.name, uncertainty.name) == (RESIDUAL, UNCERTAINTY)
    for result in (residual, uncertainty):
        assert not result.visible
        assert not result.rgb
        assert result.units == layer.units
        assert result.axis_labels == layer.axis_labels
        assert result.colormap.name != "green"
    (top, bottom), (left, right) = region or ((0, 12), (0, 15))
    np.testing.assert_array_equal(residual.data, layer.data[top:bottom, left:right] - 50.0)
    np.testing.assert_allclose(uncertainty.data, image.data / 10, rtol=1e-6)
    np.testing.assert_array_equal(residual.scale, layer.scale)
    if region is None:
        np.testing.assert_allclose(residual.translate, layer.translate)
    for pixel in ((0, 0), (0, 5), (8, 9)):
        row, column = pixel
        np.testing.assert_allclose(world(residual, *pixel), world(layer, top + row, left + column))
        np.testing.assert_allclose(world(uncertainty, *pixel), world(image, *pixel))
    np.testing.assert_array_equal(uncertainty.scale, image.scale)
    np.testing.assert_array_equal(uncertainty.translate, image.translate)


def test_colours_of_diagnostics_span_what_they_hold(fake_run):
    *_, residual, uncertainty = restored(Image(picture(12, 15)), diagnostics=True)
    low, high = residual.contrast_limits
    assert low == -high < 0
    assert list(uncertainty.contrast_limits) == [0, pytest.approx(uncertainty.data.max())]


def test_without_diagnostics_there_are_two_layers(fake_run):
    assert len(restored(Image(picture(12, 15)))) == 2


def test_photons_that_are_not_counted_have_no_uncertainty(fake_run, monkeypatch):
    monkeypatch.setattr(fake_run, "counts_photons", False)
    layers = restored(Image(picture(12, 15), name="actin"), diagnostics=True)
    assert [layer.name for layer in layers[2:]] == [RESIDUAL]


@pytest.mark.parametrize("channels", [3, 4])
def test_diagnostics_of_colours_are_grey(fake_run, channels):
    colour = picture(40, 50, channels, dtype=np.uint8)
    layer = Image(colour, rgb=True, scale=(0.5, 0.5))
    image, _, residual, uncertainty = restored(layer, diagnostics=True)
    assert image.rgb
    for result in (residual, uncertainty):
        assert not result.rgb
        assert result.ndim == 2
    values = colour[..., :3].astype(float)
    expected = (values - 50).sum(-1) / np.sqrt(3)
    np.testing.assert_allclose(residual.data, expected, rtol=1e-5)
    fine = np.sqrt(np.mean((values / 10) ** 2, axis=-1)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(uncertainty.data, fine, rtol=1e-5)
    np.testing.assert_allclose(world(residual, 3, 4), world(layer, 3, 4))
    np.testing.assert_allclose(world(uncertainty, 79.5, 99.5), world(layer, 39.5, 49.5))


def test_planes_that_were_not_finished_are_empty_in_diagnostics(fake_run):
    layer = Image(picture(3, 12, 15), axis_labels=("z", "y", "x"), scale=(2, 1, 1))
    _, _, residual, uncertainty = restored(layer, diagnostics=True, steps=3)
    assert residual.data.shape == (3, 12, 15)
    assert uncertainty.data.shape == (3, 24, 30)
    for result in (residual, uncertainty):
        assert np.isfinite(result.data[0]).all()
        assert np.isnan(result.data[1:]).all()
        assert np.isfinite(result.contrast_limits).all()
    np.testing.assert_allclose(world(residual, 2, 3, 4), world(layer, 2, 3, 4))


def test_every_layer_remembers_the_report_and_repeats_the_run(fake_run):
    psf = np.ones((5, 5), np.float32) / 25
    layer = Image(picture(2, 12, 15), name="actin", axis_labels=("z", "y", "x"))
    options = {"iterations": 7, "seed": 5, "preset": "fast", "diagnostics": True}
    layers = restored(layer, kernel=psf, plane=(1,), **options)
    expected = dkp.Settings(**options, axes="ZYX").resolve()
    roles = ["image", "kernel", "residual", "uncertainty"]
    for result, role in zip(layers, roles, strict=True):
        facts = result.metadata["napari_dkp"]
        assert facts["role"] == role
        assert "3.5 pixels wide" in facts["report"]
        assert "0.98 times the variance" in facts["report"]
        (figures,) = facts["figures"]
        assert figures == fake_run.report.figures()
        assert settings_from_layer(result) == expected
        text = snippet(result)
        compile(text, "snippet", "exec")
        assert "    diagnostics=True,\n" in text
        assert f"viewer.layers[{result.name!r}].metadata" in text
        assert "viewer.layers['actin'],\n" in text
        assert "plane=(1,)" in text
    plain, _ = restored(layer, iterations=7)
    assert "diagnostics" not in snippet(plain)


def test_a_real_run_gives_all_four_layers():
    offsets = np.arange(7) - 3
    psf = np.exp(-0.25 * (offsets[:, None] ** 2 + offsets**2))
    layer = Image(np.random.default_rng(0).poisson(80, (24, 30)), name="actin", scale=(0.5, 0.5))
    options = {"method": "richardson-lucy", "device": "cpu", "iterations": 4, "diagnostics": True}
    image, _, residual, uncertainty = restored(layer, kernel=psf, **options)
    assert residual.data.shape == layer.data.shape
    assert uncertainty.data.shape == image.data.shape == (48, 60)
    (figures,) = image.metadata["napari_dkp"]["figures"]
    assert figures["misfit"] == pytest.approx(np.mean(residual.data.astype(float) ** 2), rel=1e-4)
