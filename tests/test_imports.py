"""What the package may import, and what a built distribution must hold."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import napari_dkp

PACKAGE = Path(napari_dkp.__file__).parent
ROOT = PACKAGE.parents[1]
UI = ("napari", "qtpy", "magicgui", "superqt", "vispy", "PyQt6", "PySide6")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def core_modules() -> list[str]:
    files = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    names = (".".join(("napari_dkp", *path.with_suffix("").parts)) for path in files)
    return sorted(name.removesuffix(".__init__") for name in names if "._napari" not in name)


def test_core_runs_where_there_is_no_desktop():
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({UI!r}))\n"
        f"for name in {core_modules()!r}:\n"
        "    importlib.import_module(name)\n"
        "import numpy as np, napari_dkp\n"
        "image = np.random.default_rng(0).random((16, 16))\n"
        "options = dict(kernel_size=5, preset='fast', iterations=1, device='cpu')\n"
        "print(napari_dkp.restore(image, **options).image.shape)"
    )
    assert python(code) == "(32, 32)"


@pytest.mark.parametrize("method", ["dip", "richardson-lucy"])
def test_a_restoration_does_not_wait_for_a_compiler(method):
    """Importing that of torch takes seconds, and nothing is compiled."""
    code = (
        "import sys, numpy as np, napari_dkp\n"
        "image = np.random.default_rng(0).random((16, 16))\n"
        f"options = dict(method={method!r}, kernel_size=5, iterations=2, device='cpu')\n"
        "napari_dkp.restore(image, preset='fast', **options)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert python(code) == "False"


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import sys, napari_dkp; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert python(code) == "[]"


def test_every_public_name_exists():
    for name in napari_dkp.__all__:
        assert getattr(napari_dkp, name) is not None
    assert set(napari_dkp.__all__) <= set(dir(napari_dkp))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = napari_dkp.nonsense


def test_napari_finds_the_manifest():
    code = (
        "from npe2 import PluginManifest\n"
        "print(*(found.manifest.name for found in PluginManifest.discover() if found.manifest))"
    )
    assert "napari-dkp" in python(code).split()


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")
def test_wheel_and_sdist_hold_what_the_plugin_needs(tmp_path):
    tree = tmp_path / "tree"
    clutter = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=clutter)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode()
        entry_points = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    sources = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    assert sources | {"napari_dkp/napari.yaml", "napari_dkp/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    assert "Classifier: Framework :: napari" in metadata
    assert "License-Expression: BSD-3-Clause" in metadata
    assert "napari-dkp = napari_dkp:napari.yaml" in entry_points
    assert "napari-dkp = napari_dkp.cli:app" in entry_points
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    hard = " ".join(line for line in needed if "extra ==" not in line)
    assert "torch" in hard
    assert not [name for name in ("napari", "PyQt", "PySide") if f": {name}" in hard]
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"src/napari_dkp/napari.yaml", "src/napari_dkp/py.typed", "LICENSE"} <= packed
