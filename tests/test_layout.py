"""What the axes of an image are for."""

from itertools import permutations

import numpy as np
import pytest

from napari_dkp.layout import Layout, is_coloured, looped_axes

LENGTHS = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
# Every order of every choice of axes.
EVERY = [
    "".join(order)
    for others in ("", "T", "C", "Z", "TC", "TZ", "CZ", "TCZ")
    for order in permutations(others + "YX")
]


def image_of(axes: str) -> np.ndarray:
    shape = [LENGTHS[axis] for axis in axes]
    return np.random.default_rng(0).integers(0, 1000, shape)


@pytest.mark.parametrize(
    ("axes", "coloured", "looped"),
    [
        ("YX", False, ""),
        ("YXC", True, ""),
        ("XYC", True, ""),
        ("CYX", False, "C"),
        ("YCX", False, "C"),
        ("XCY", False, "C"),
        ("ZYXC", True, "Z"),
        ("YXCZ", True, "Z"),
        ("TCZYX", False, "TCZ"),
        ("CTYX", False, "CT"),
        ("YXZ", False, "Z"),
    ],
)
def test_c_is_colours_after_the_spatial_axes_and_channels_before(axes, coloured, looped):
    layout = Layout.of(image_of(axes), axes)
    assert is_coloured(axes) is layout.coloured is coloured
    assert looped_axes(axes) == layout.looped == looped
    assert layout.looped_shape == tuple(LENGTHS[axis] for axis in looped)
    assert layout.lr_shape == (5, 6)


@pytest.mark.parametrize("axes", EVERY)
def test_planes_are_read_as_colours_rows_columns(axes):
    image = image_of(axes)
    layout = Layout.of(image, axes)
    within = ("C" if layout.coloured else "") + "YX"
    order = [axes.index(axis) for axis in layout.looped + within]
    expected = image.transpose(order).reshape(*layout.looped_shape, -1, 5, 6)
    assert len(layout.planes) == len(set(layout.planes)) == np.prod(layout.looped_shape)
    for index in layout.planes:
        np.testing.assert_array_equal(layout.read(image, index), expected[index])


@pytest.mark.parametrize("axes", EVERY)
def test_planes_that_were_read_are_put_together_to_the_same_image(axes):
    image = image_of(axes)
    layout = Layout.of(image, axes)
    planes = [layout.as_read(layout.read(image, index)) for index in layout.planes]
    for index, plane in zip(layout.planes, planes, strict=True):
        np.testing.assert_array_equal(plane, image[layout.where(index)])
    joined = layout.assembled(planes)
    assert joined.flags.c_contiguous
    np.testing.assert_array_equal(joined, image)


@pytest.mark.parametrize("axes", EVERY)
def test_the_channel_of_a_plane_is_that_of_its_index(axes):
    layout = Layout.of(image_of(axes), axes)
    for index in layout.planes:
        numbers = dict(zip(layout.looped, index, strict=True))
        assert layout.channel(index) == numbers.get("C", 0)


def test_the_plane_in_the_middle_is_in_the_middle_of_every_axis():
    assert Layout.of(image_of("TCZYX"), "TCZYX").middle == (1, 1, 2)
    assert Layout.of(image_of("YX"), "YX").middle == ()


def test_axes_that_are_left_out_are_guessed():
    layout = Layout.of(np.zeros((40, 50, 3)), None)
    assert (layout.axes, layout.shape, layout.coloured) == ("YXC", (40, 50, 3), True)
    assert Layout.of(np.zeros((2, 3, 4, 40, 50)), None).looped == "TCZ"


@pytest.mark.parametrize("axes", ["ZYX", "YY", "YZ", "yx"])
def test_axes_that_do_not_fit_are_refused(axes):
    with pytest.raises(ValueError, match="axes"):
        Layout.of(np.zeros((4, 5)), axes)


def test_an_image_without_a_pixel_is_refused():
    with pytest.raises(ValueError, match="image: expected at least one pixel"):
        Layout.of(np.zeros((0, 4, 5)), "ZYX")
