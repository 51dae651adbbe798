"""Take the picture of the README: napari, a sample, a real run of the real widget.

xvfb-run -a -s "-screen 0 1400x1000x24" .venv/bin/python docs/make_screenshot.py
"""

import argparse
from pathlib import Path

import napari
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

HERE = Path(__file__).parent


def main() -> None:
    """Restore a sample in napari and save what the window shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "images" / "restore_widget.png")
    parser.add_argument("--sample", default="filaments")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--blur", default="gaussian", help="kernel family")
    parser.add_argument("--iterations", type=int, help="steps, instead of the preset's")
    options = parser.parse_args()

    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1360, 960)
    viewer.open_sample("napari-dkp", options.sample)
    source = viewer.layers[options.sample]
    dock, widget = viewer.window.add_plugin_dock_widget("napari-dkp", "Restore")
    inspector, _ = viewer.window.add_plugin_dock_widget("napari-dkp", "Kernel inspector")
    window = inspector.parentWidget()
    window.resizeDocks([dock, inspector], [620, 340], Qt.Orientation.Vertical)
    widget.image.choose(source)
    widget.form.basic.editors["preset"].set_value(options.preset)
    widget.form.basic.editors["kernel_family"].set_value(options.blur)
    if options.iterations is not None:
        widget.form.advanced.editors["iterations"].set_value(options.iterations)

    QTest.qWait(5000)
    widget.restore()
    while widget.panel.restore.isEnabled() is False:
        QTest.qWait(200)
    QTest.qWait(2000)
    for layer in viewer.layers:
        layer.visible = layer.name == options.sample or "[DKP" in layer.name
    restored = viewer.layers[f"{options.sample} [DKP ×2]"]
    # One above the other: the source moves up by its own height.
    height, _ = source.extent.world[1] - source.extent.world[0]
    source.translate = (-1.03 * height, 0)
    viewer.layers.selection.active = restored
    viewer.reset_view()
    QTest.qWait(1500)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    viewer.screenshot(str(options.output), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
