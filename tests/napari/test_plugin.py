import numpy as np
import pytest

from napari_dkp._napari.batch_widget import BatchWidget
from napari_dkp._napari.kernel_inspector import KernelInspector
from napari_dkp._napari.widget import RestoreWidget


@pytest.fixture
def viewer(make_napari_viewer, no_appraisal, idle):
    return make_napari_viewer()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Restore", RestoreWidget),
        ("Restore a folder", BatchWidget),
        ("Kernel inspector", KernelInspector),
    ],
)
def test_widgets_open_from_the_plugin_menu(viewer, name, kind):
    _, widget = viewer.window.add_plugin_dock_widget("napari-dkp", name)
    assert isinstance(widget, kind)


@pytest.mark.parametrize("menu", ["napari/layers/filter", "napari/layers/measure"])
def test_menus_hold_the_widgets(viewer, menu):
    from napari._app_model import get_app_model

    ids = [
        item.command.id for item in get_app_model().menus.get_menu(menu) if hasattr(item, "command")
    ]
    assert any(item.startswith("napari-dkp.") for item in ids)


@pytest.mark.parametrize(
    ("key", "layers"), [("clock", 1), ("microaneurysms", 1), ("retina", 1), ("filaments", 3)]
)
def test_samples_open_without_the_network(viewer, key, layers, monkeypatch):
    import socket

    def refuse(*args):
        raise AssertionError("no sample may be downloaded")

    monkeypatch.setattr(socket, "create_connection", refuse)
    opened = viewer.open_sample("napari-dkp", key)
    assert len(opened) == layers
    for layer in opened:
        assert np.isfinite(layer.data).all()
        assert layer.data.min() < layer.data.max()


def test_the_known_psf_lies_in_restored_pixels_beside_its_image(viewer):
    truth, psf, blurred = viewer.open_sample("napari-dkp", "filaments")
    np.testing.assert_allclose(psf.scale * 2, blurred.scale)
    assert psf.data.sum() == pytest.approx(1, abs=1e-5)
    assert psf.extent.world[0, 1] > blurred.extent.world[1, 1]
    np.testing.assert_allclose(
        truth.data_to_world((-0.5, -0.5)), blurred.data_to_world((-0.5, -0.5))
    )
    assert len({str(layer.units) for layer in (truth, blurred, psf)}) == 1
