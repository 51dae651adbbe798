import numpy as np
import pytest

from napari_dkp._napari.kernel_inspector import KernelInspector
from napari_dkp._napari.layers import METADATA_KEY


def blob(sigma_y, sigma_x, size=21):
    y, x = np.indices((size, size)) - size // 2
    kernel = np.exp(-0.5 * ((y / sigma_y) ** 2 + (x / sigma_x) ** 2))
    return kernel / kernel.sum()


@pytest.fixture
def inspector(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    widget = KernelInspector(viewer)
    qtbot.addWidget(widget)
    return viewer, widget


def shown(widget):
    return [label.text() for label in widget.values.values()]


def test_sizes_are_in_the_layers_units(inspector):
    viewer, widget = inspector
    assert widget.layer is None
    assert not widget.hint.isHidden()
    viewer.add_image(blob(2, 4), name="psf", scale=(0.1, 0.1), units=("um", "um"))
    assert widget.hint.isHidden()
    long, short, angle, pixel = shown(widget)
    assert float(long.removesuffix(" µm")) == pytest.approx(0.942, rel=0.02)
    assert float(short.removesuffix(" µm")) == pytest.approx(0.471, rel=0.02)
    assert angle == "0°"
    assert pixel == "0.1 × 0.1 µm"
    assert len(widget.profile.curves) == 2
    assert "µm" in widget.profile._x_label


def test_it_follows_the_selection_but_not_to_pictures(inspector):
    viewer, widget = inspector
    first = viewer.add_image(blob(2, 4), name="first")
    second = viewer.add_image(blob(4, 2), name="second")
    assert widget.layer is second
    viewer.layers.selection.active = first
    assert widget.layer is first
    viewer.add_image(np.ones((300, 300)), name="picture")
    assert widget.layer is first
    viewer.layers.remove(first)
    assert widget.layer is None


def test_it_follows_a_kernel_that_changes(inspector):
    viewer, widget = inspector
    layer = viewer.add_image(blob(2, 4), name="psf")
    before = shown(widget)
    layer.data[...] = blob(5, 3)
    layer.refresh()
    assert shown(widget) != before
    assert shown(widget)[2] == "90°"
    layer.scale = (3, 3)
    assert "3 × 3" in shown(widget)[3]


def test_it_shows_the_kernel_that_a_run_adds(inspector):
    viewer, widget = inspector
    kernel = viewer.add_image(blob(2, 4), metadata={METADATA_KEY: {"role": "kernel"}})
    viewer.add_image(np.ones((50, 50)), metadata={METADATA_KEY: {"role": "image"}})
    assert widget.layer is kernel


def test_it_shows_the_plane_of_a_stack_that_is_shown(inspector):
    viewer, widget = inspector
    viewer.add_image(np.stack([blob(2, 4), blob(4, 2)]), name="kernels")
    viewer.dims.set_point(0, 0)
    assert shown(widget)[2] == "0°"
    viewer.dims.set_point(0, 1)
    assert shown(widget)[2] == "90°"


def test_what_is_no_kernel_is_explained(inspector):
    viewer, widget = inspector
    viewer.add_image(blob(2, 2) - 1, name="negative")
    assert "non-negative" in widget.hint.text()
    assert not widget.hint.isHidden()


def test_it_can_be_drawn(inspector, qtbot):
    viewer, widget = inspector
    viewer.add_image(blob(2, 4, 11), scale=(0.2, 0.1))
    widget.resize(320, 600)
    picture = widget.grab().toImage()
    assert not picture.isNull()
