"""Stacks: results that grow, parts of them, volumes, and channels with optics of their own."""

import numpy as np
import pytest
from at_once import events
from napari.layers import Image, Layer

import napari_dkp as dkp
from napari_dkp._napari import job, place
from napari_dkp._napari.job import Begun, Drawing, Ended, Job
from napari_dkp._napari.layers import METADATA_KEY, restore_layer, settings_from_layer, snippet
from napari_dkp._napari.source import settings_for, source_of

LABELS = ("t", "c", "z", "y", "x")


def stack(*shape, **options):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint16)
    labels = LABELS[-len(shape) :] if len(shape) != 3 else ("z", "y", "x")
    return Image(values, name="stack", axis_labels=labels, **options)


def restored(layer, **options):
    return [Layer.create(*entry) for entry in restore_layer(layer, iterations=2, **options)]


def world(layer, *pixel):
    return np.array(layer.data_to_world(pixel))


@pytest.fixture
def make_job(fake_run, monkeypatch):
    monkeypatch.setattr(job, "INTERVAL", 0.0)

    def make(layer, shown=None, **settings):
        source = source_of(layer, volume=settings.get("volume", False))
        made = Job(source, dkp.Settings(axes=source.axes, iterations=5, **settings), None)
        made.drawn(shown)
        return made

    return make


# Growing


def test_planes_are_in_the_layer_once_they_are_done(make_job, fake_run):
    fake_run.together = 2
    steps = events(make_job(stack(5, 12, 15)))
    begun = next(event for event in steps if isinstance(event, Begun))
    (image, _, _), (kernel, _, _) = begun.layers
    run = fake_run.runs[0]
    assert np.isnan(image[1:]).all()
    np.testing.assert_array_equal(kernel, np.broadcast_to(run.kernel, kernel.shape))
    said = []
    for event in steps:
        if isinstance(event, Drawing):
            said.append(event.progress)
            whole = run.done // 5 * 2
            if event.step % 5:
                np.testing.assert_array_equal(image[:whole], run.enlarged[:whole])
                assert np.isnan(image[whole + 1 :]).all()
        if isinstance(event, Ended):
            assert event.layers[0][0] is image
    np.testing.assert_array_equal(image, run.enlarged)
    assert said[0].startswith("Planes 1 to 2 of 5, step 1 of 5")
    assert said[-1].startswith("Plane 5 of 5, step 5 of 5")


def test_the_plane_at_work_is_drawn_live_only_where_it_is_shown(make_job, fake_run):
    for shown, live in (((0,), True), ((2,), False), (None, True)):
        steps = events(make_job(stack(3, 12, 15), shown))
        begun = next(event for event in steps if isinstance(event, Begun))
        run = fake_run.runs[-1]
        run.enlarged = run.enlarged + 7
        next(event for event in steps if isinstance(event, Drawing))
        next(event for event in steps if isinstance(event, Drawing))
        assert (begun.layers[0][0][0, 0, 0] == run.enlarged[0, 0, 0]) is np.bool_(live)
        assert np.isnan(begun.layers[0][0][1:]).all()


def test_a_stopped_run_leaves_what_planes_at_work_have_come_to(make_job, fake_run):
    fake_run.together = 2
    made = make_job(stack(5, 12, 15))
    for event in events(made):
        if isinstance(event, Drawing) and event.step == 8:
            made.stop()
    run = fake_run.runs[0]
    assert run.closed
    (image, options, _), (kernel, _, _) = event.layers
    np.testing.assert_array_equal(image[:4], run.enlarged[:4])
    assert np.isnan(image[4]).all()
    np.testing.assert_array_equal(kernel[4], run.kernel)
    facts = options["metadata"][METADATA_KEY]
    assert (facts["stop"], facts["steps"]) == ("CANCELLED", 8)
    assert [each is None for each in facts["figures"]] == [False, False, True, True, True]


def test_a_real_run_that_is_stopped_leaves_all_planes_at_work():
    """An untrained network has several planes as its outputs; states show the first."""
    small = {"dip": dkp.DIPConfig(channels=4), "pke": dkp.PKEConfig(warm_up=3), "device": "cpu"}
    layer = stack(3, 30, 34)
    entries = restore_layer(layer, method="dip", preset="fast", iterations=9, steps=4, **small)
    (image, options, _), _ = entries
    assert np.isfinite(image).all()
    assert all((image[n] != image[0]).any() for n in (1, 2))
    assert options["metadata"][METADATA_KEY]["steps"] == 4


def test_the_widget_follows_the_slider(restorer, qtbot, idle, fake_run, monkeypatch):
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.02)
    fake_run.delay = 0.01
    widget.image.choose(viewer.add_layer(stack(4, 24, 30)))
    viewer.dims.set_point(0, 3)
    widget.form.advanced.editors["iterations"].set_value(30)
    widget.restore()
    qtbot.waitUntil(lambda: "stack [DKP ×2]" in viewer.layers)
    layer = viewer.layers["stack [DKP ×2]"]
    array = layer.data
    qtbot.waitUntil(lambda: widget.panel.status.text().startswith("Plane 2 of 4, step "))
    assert viewer.dims.point[0] == 3
    assert np.isfinite(array[0]).all() and np.isnan(array[3]).all()
    idle()
    assert layer.data is array
    assert np.isfinite(array).all()


def test_results_that_would_fill_the_memory_lie_on_the_disk(fake_run, monkeypatch):
    monkeypatch.setattr(place, "_SHARE_OF_MEMORY", 0.0)
    layer = stack(3, 12, 15)
    image, _ = restored(layer)
    assert isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.data, fake_run.runs[0].enlarged)
    assert "temporary file" in image.metadata[METADATA_KEY]["notes"][0]


def test_lazy_stacks_are_read_plane_by_plane(monkeypatch):
    class Lazy:
        values = np.random.default_rng(0).poisson(50, (4, 40, 50)).astype(np.uint16)
        shape, dtype, ndim = values.shape, values.dtype, 3
        read: list[tuple] = []  # noqa: RUF012

        def __getitem__(self, index):
            found = self.values[index]
            assert found.size <= 2000, "more than a plane was read at once"
            self.read.append(index)
            return found

    layer = Image(np.zeros((4, 40, 50)))
    monkeypatch.setattr(Image, "data", Lazy())
    options = {"method": "richardson-lucy", "kernel_family": "gaussian", "device": "cpu"}
    kernel = np.full((3, 3), 1 / 9, np.float32)
    (image, _, _), _ = restore_layer(layer, iterations=2, kernel=kernel, **options)
    assert image.shape == (4, 80, 100)
    assert np.isfinite(image).all()
    assert Lazy.read


# Parts


@pytest.mark.parametrize(
    "ranges", [{"T": (1, 3)}, {"Z": (2, 4)}, {"T": (2, 3), "C": (1, 2), "Z": (0, 5)}]
)
def test_a_range_is_restored_where_it_lies(fake_run, ranges):
    layer = stack(3, 2, 5, 12, 15, scale=(2, 1, 0.3, 0.1, 0.1), translate=(5, 0, 1, 2, 3))
    image, kernel = restored(layer, ranges=ranges, region=((2, 12), (3, 12)))
    bounds = {"T": (0, 3), "C": (0, 2), "Z": (0, 5), "Y": (2, 12), "X": (3, 12)} | ranges
    where = tuple(slice(*bounds[axis]) for axis in "TCZYX")
    np.testing.assert_array_equal(fake_run.runs[0].image, layer.data[where])
    first = [bounds[axis][0] for axis in "TCZ"]
    for result in (image, kernel):
        np.testing.assert_allclose(world(result, 0, 0, 0, 0, 0)[:3], world(layer, *first, 0, 0)[:3])
        assert result.axis_labels == layer.axis_labels
        assert result.units == layer.units
    np.testing.assert_allclose(world(image, 0, 0, 0, -0.5, -0.5), world(layer, *first, 1.5, 2.5))
    assert kernel.data.shape[:3] == image.data.shape[:3]
    assert image.metadata[METADATA_KEY]["ranges"] == ranges
    text = snippet(image)
    compile(text, "snippet", "exec")
    assert f"ranges={ranges!r}" in text


def test_the_finest_level_of_a_pyramid_has_ranges_too(fake_run):
    values = stack(4, 40, 50).data
    image, _ = restored(Image([values, values[:, ::2, ::2]], multiscale=True), ranges={"Z": (1, 3)})
    np.testing.assert_array_equal(fake_run.runs[0].image, values[1:3])
    assert image.data.shape == (2, 80, 100)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ranges": {"Y": (0, 2)}}, "ranges: expected some of the axes 'TCZ'; got 'Y'"),
        ({"ranges": {"T": (2, 2)}}, "ranges: expected an integer from 3 to 3"),
        ({"ranges": {"T": (3, 4)}}, "ranges: expected an integer from 0 to 2"),
        ({"ranges": {"T": (0,)}}, "ranges: expected .start, stop. along T"),
        ({"ranges": {"T": (0, 1)}, "plane": (0, 0, 0)}, "either plane or ranges"),
    ],
)
def test_impossible_ranges_are_named(fake_run, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        restore_layer(stack(3, 2, 5, 12, 15), **options)


def test_parts_are_chosen_in_the_widget_and_come_back(restorer, idle, fake_run):
    viewer, widget = restorer
    layer = viewer.add_layer(stack(3, 2, 5, 24, 30))
    widget.image.choose(layer)
    viewer.dims.set_point(0, 2)
    viewer.dims.set_point(2, 3)
    values = layer.data
    rows = widget.planes.rows
    for way, expected in (
        ("time", values[2:3]),
        ("shown", values[2:3, 1:2, 3:4]),
        ("range", values[1:, :, 2:4]),
        ("all", values),
    ):
        widget.planes.set_value(way)
        if way == "range":
            rows["T"].first.setValue(1)
            rows["Z"].first.setValue(2)
            rows["Z"].last.setValue(3)
        if way == "shown":
            viewer.dims.set_point(1, 1)
        widget.restore()
        idle()
        np.testing.assert_array_equal(fake_run.runs[-1].image, expected)
        viewer.dims.set_point(0, 0)
        widget.planes.set_value("all")
        widget.load_settings()
        widget.restore()
        idle()
        np.testing.assert_array_equal(fake_run.runs[-1].image, expected)
        viewer.dims.set_point(0, 2)


def test_ranges_stay_in_order_and_fit_the_layer(restorer):
    viewer, widget = restorer
    widget.image.choose(viewer.add_layer(stack(9, 24, 30)))
    row = widget.planes.rows["Z"]
    widget.planes.set_value("range")
    shown = [axis for axis, each in widget.planes.rows.items() if each.isVisibleTo(widget)]
    assert shown == ["Z"]
    assert row.value() == (0, 9)
    row.last.setValue(3)
    row.first.setValue(5)
    assert row.value() == (5, 6)
    row.last.setValue(2)
    assert row.value() == (2, 3)
    widget.image.choose(viewer.add_image(np.zeros((4, 24, 30)), name="shorter"))
    assert row.value() == (0, 4)
    assert not widget.planes.way.model().item(2).isEnabled()


# Volumes


def test_volumes_are_placed_along_three_axes(fake_run):
    layer = stack(2, 8, 24, 30, scale=(1, 0.3, 0.1, 0.1), translate=(0, 5, 0, 0))
    layer.axis_labels = ("t", "z", "y", "x")
    image, kernel = restored(layer, volume=True, scale=(2, 3, 3), kernel_size=(5, 7, 7))
    assert fake_run.runs[0].settings.axes == "TZYX"
    assert image.name == "stack [DKP ×2×3×3]"
    assert image.data.shape == (2, 16, 72, 90)
    assert kernel.data.shape == (2, 5, 7, 7)
    np.testing.assert_allclose(image.scale, (1, 0.15, 0.1 / 3, 0.1 / 3))
    np.testing.assert_allclose(kernel.scale, image.scale)
    np.testing.assert_allclose(world(image, 1, -0.5, -0.5, -0.5), world(layer, 1, *[-0.5] * 3))
    np.testing.assert_allclose(world(image, 1, 15.5, 71.5, 89.5), world(layer, 1, 7.5, 23.5, 29.5))
    # Its middle lies in the middle of the planes.
    np.testing.assert_allclose(world(kernel, 0, 2, 0, 0)[1], world(layer, 0, 3.5, 0, 0)[1])
    assert "volume=True" in snippet(image)


def test_volumes_are_called_so(make_job):
    layer = stack(2, 8, 24, 30)
    layer.axis_labels = ("t", "z", "y", "x")
    made = make_job(layer, volume=True, kernel_size=5)
    said = [event.progress for event in events(made) if isinstance(event, Drawing)]
    assert said[0] == "Volume 1 of 2, step 1 of 5"


def test_a_kernel_of_three_axes_can_be_given(fake_run):
    layer = stack(8, 24, 30, scale=(0.3, 0.1, 0.1))
    _, kernel = restored(layer, volume=True, scale=1, kernel_size=5)
    again, _ = restored(layer, volume=True, scale=1, kernel=kernel)
    np.testing.assert_array_equal(fake_run.runs[1].given, kernel.data)
    facts = again.metadata[METADATA_KEY]
    np.testing.assert_array_equal(facts["kernel"], kernel.data)
    with pytest.raises(ValueError, match="kernel: expected restored pixels"):
        restored(layer, volume=True, scale=2, kernel=kernel)


def test_the_widget_restores_volumes(restorer, idle, fake_run):
    viewer, widget = restorer
    choice = widget.form.volume
    assert choice.isHidden()
    widget.image.choose(viewer.add_layer(stack(8, 24, 30)))
    assert not choice.isHidden()
    choice.check.setChecked(True)
    choice.factor.set_value(1)
    widget.form.advanced.editors["kernel_size"].set_value(5)
    used = widget.form.settings()
    assert (used.volume, used.scale) == (True, (1, 2, 2))
    widget.restore()
    idle()
    image = viewer.layers["stack [DKP ×1×2×2]"]
    assert image.data.shape == (8, 48, 60)
    assert viewer.layers["stack [DKP kernel]"].data.shape == (5, 5, 5)
    widget.form.set_settings(dkp.Settings())
    assert not widget.form.settings().volume
    widget.load_settings()
    assert (widget.form.settings().volume, widget.form.settings().scale) == (True, (1, 2, 2))
    widget.image.choose(viewer.layers["cells"])
    assert choice.isHidden()
    assert not widget.form.settings().volume


@pytest.mark.parametrize("planes", [3, 8])
def test_a_real_volume(planes):
    values = np.random.default_rng(0).poisson(50, (planes, 20, 24)).astype(np.uint16)
    layer = Image(values, scale=(0.3, 0.1, 0.1))
    kernel = np.full((3, 3, 3), 1 / 27, np.float32)
    image, found = restored(layer, volume=True, scale=(1, 2, 2), kernel=kernel, device="cpu")
    assert image.data.shape == (planes, 40, 48)
    assert np.isfinite(image.data).all()
    assert found.data.shape == (3, 3, 3)


# Channels

OPTICS = tuple(
    dkp.OpticsConfig(numerical_aperture=1.4, wavelength=light, pixel_size=65)
    for light in (460, 525, 600)
)


def test_optics_follow_the_channels_that_are_restored(fake_run):
    layer = stack(2, 3, 2, 24, 30)
    image, kernel = restored(layer, optics=OPTICS, ranges={"C": (1, 3)})
    assert fake_run.runs[0].settings.optics == OPTICS[1:]
    assert kernel.data.shape[:3] == image.data.shape[:3] == (2, 2, 2)
    text = snippet(image)
    compile(text, "snippet", "exec")
    assert text.count("dkp.OpticsConfig(") == 2
    assert settings_from_layer(image).optics == OPTICS[1:]
    restored(layer, optics=settings_from_layer(image).optics, ranges={"C": (1, 3)})
    assert fake_run.runs[1].settings.optics == OPTICS[1:]
    image, _ = restored(layer, optics=OPTICS, plane=(0, 2, 0))
    assert settings_from_layer(image).optics == OPTICS[2]
    restored(layer, optics=OPTICS[0], plane=(0, 2, 0))
    assert fake_run.runs[3].settings.optics == OPTICS[0]


def test_optics_of_other_channels_are_refused():
    source = source_of(stack(2, 3, 2, 24, 30))
    with pytest.raises(ValueError, match="each of the 3 of the layer 'stack'; got 2"):
        settings_for(source, dkp.Settings(optics=OPTICS[:2]))
    source = source_of(stack(2, 24, 30))
    with pytest.raises(ValueError, match="optics: expected those of one channel"):
        settings_for(source, dkp.Settings(optics=OPTICS[:2]))


def test_wavelengths_of_channels_are_typed_and_come_back(restorer, idle, fake_run):
    viewer, widget = restorer
    layer = stack(2, 3, 2, 24, 30, scale=(1, 1, 0.3, 0.065, 0.065), units=("um",) * 5)
    widget.image.choose(viewer.add_layer(layer))
    editors = widget.form.known["optics"].editors
    editors["numerical_aperture"].set_value(1.4)
    editors["wavelength"].setText("460, ?, 600")
    editors["wavelength"].editingFinished.emit()
    assert "NA 1.4, 460, ?, 600 nm" in widget.form.sections["optics"].toggleButton().text()
    expected = (OPTICS[0], None, OPTICS[2])
    assert widget.form.settings().optics == expected
    widget.restore()
    idle()
    assert fake_run.runs[0].settings.optics == expected
    widget.form.set_settings(dkp.Settings())
    widget.load_settings()
    assert widget.form.settings().optics == expected
    editors["wavelength"].setText("460, blue")
    widget.image.choose(viewer.layers["cells"])  # which forgets it
    widget.image.choose(layer)
    editors["wavelength"].setText("460, blue")
    with pytest.raises(ValueError, match="Wavelength: expected a number, or one for each channel"):
        widget.form.settings()
    editors["wavelength"].setText("")
