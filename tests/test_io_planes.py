"""Images written plane by plane: what other readers see, and what a killed process leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_dkp import io

zarr = pytest.importorskip("zarr")

ENDINGS = (".tif", ".ome.tif", ".ome.zarr")
LENGTHS = {"T": 2, "C": 3, "Z": 4, "Y": 6, "X": 5}
MICRON = io.PixelSize({"Z": 0.5, "Y": 0.3, "X": 0.2}, "µm", interval=2.5)


def values(axes: str) -> np.ndarray:
    shape = [LENGTHS[axis] for axis in axes]
    return np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)


def save(path: Path, image: np.ndarray, axes: str, **options: object) -> io.PlaneWriter:
    """Write all planes, the last one first."""
    with io.create(path, shape=image.shape, axes=axes, **options) as writer:
        planes = as_planes(image, axes)
        for index in reversed(list(writer.pending())):
            writer.write(index, planes[index])
    return writer


def as_planes(image: np.ndarray, axes: str) -> np.ndarray:
    """Put the axes that run over planes first."""
    colour = "C" if axes.endswith("C") else ""
    order = [axis for axis in axes if axis not in "YX" + colour] + ["Y", "X", *colour]
    return image.transpose([axes.index(axis) for axis in order])


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """What a process wrote outlives it; only where the power fails must the disk be waited for."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "TZYX", "TCZYX", "ZCTYX", "YXZ"])
def test_planes_in_any_order_come_back_in_the_order_of_the_format(tmp_path, ending, axes):
    image = values(axes)
    save(tmp_path / f"a{ending}", image, axes)
    back = io.read(tmp_path / f"a{ending}")
    order = "TZCYX" if ending == ".tif" else "TCZYX"
    assert back.axes == "".join(axis for axis in order if axis in axes)
    expected = image.transpose([axes.index(axis) for axis in back.axes])
    np.testing.assert_array_equal(back.image, expected)
    assert back.image.dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.parametrize(
    ("ending", "after"), [(".tif", "CYX"), (".ome.tif", "YXC"), (".ome.zarr", "YXC")]
)
@pytest.mark.parametrize("loops", ["", "Z", "TZ"])
def test_colours_stay_colours_but_in_imagej(tmp_path, ending, after, loops):
    image = values(loops + "YXC")
    save(tmp_path / f"a{ending}", image, loops + "YXC")
    back = io.read(tmp_path / f"a{ending}")
    assert back.axes == loops + after
    expected = image if after == "YXC" else np.moveaxis(image, -1, -3)
    np.testing.assert_array_equal(back.image, expected)


def test_ome_tiff_tells_other_readers_of_axes_sizes_and_channels(tmp_path):
    image = values("TCZYX")
    save(
        tmp_path / "a.ome.tif",
        image,
        "TCZYX",
        pixel_size=MICRON,
        channels=("DAPI", "GFP", "Cy5"),
    )
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert (tiff.series[0].axes, tiff.series[0].kind) == ("TCZYX", "ome")
        np.testing.assert_array_equal(tiff.asarray(), image)
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    sizes = {
        axis: (pixels[f"PhysicalSize{axis}"], pixels[f"PhysicalSize{axis}Unit"]) for axis in "ZYX"
    }
    assert sizes == {"Z": (0.5, "µm"), "Y": (0.3, "µm"), "X": (0.2, "µm")}
    assert (pixels["TimeIncrement"], pixels["TimeIncrementUnit"]) == (2.5, "s")
    assert [channel["Name"] for channel in pixels["Channel"]] == ["DAPI", "GFP", "Cy5"]
    assert (pixels["DimensionOrder"], pixels["Type"]) == ("XYZCT", "float")


def test_ome_tiff_holds_colours_as_samples(tmp_path):
    image = values("ZYXC")
    save(tmp_path / "a.ome.tif", image, "ZYXC")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert (tiff.series[0].axes, tiff.pages[0].photometric.name) == ("ZYXS", "RGB")
        np.testing.assert_array_equal(tiff.asarray(), image)


def test_imagej_tiff_tells_fiji_of_axes_and_sizes(tmp_path):
    save(tmp_path / "a.tif", values("TCZYX"), "TCZYX", pixel_size=MICRON)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        told = tiff.imagej_metadata
        assert (tiff.series[0].axes, tiff.series[0].kind) == ("TZCYX", "imagej")
        np.testing.assert_array_equal(tiff.asarray(), values("TCZYX").swapaxes(1, 2))
    assert (told["unit"], told["spacing"], told["finterval"]) == ("\\u00B5m", 0.5, 2.5)


def test_ome_zarr_tells_other_readers_of_axes_grid_and_channels(tmp_path):
    image = values("TCZYX")
    size = io.PixelSize({"Z": 0.5, "Y": 0.4, "X": 0.2}, "µm", {"Y": 10.0}, 2.5).enlarged((2, 2))
    names = ("DAPI", "GFP", "Cy5")
    save(tmp_path / "a.ome.zarr", image, "TCZYX", pixel_size=size, channels=names)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    ome = group.attrs["ome"]
    (scales,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert scales["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "c", "type": "channel"},
        {"name": "z", "type": "space", "unit": "micrometer"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    scale, shift = scales["datasets"][0]["coordinateTransformations"]
    # A pixel half as large has its centre a quarter of the old size nearer to the frame.
    assert scale == {"type": "scale", "scale": [2.5, 1.0, 0.5, 0.2, 0.1]}
    assert shift["translation"] == pytest.approx([0, 0, 0, 10 - 0.1, -0.05])
    assert [channel["label"] for channel in ome["omero"]["channels"]] == list(names)
    window = ome["omero"]["channels"][1]["window"]
    assert (window["min"], window["end"]) == (image[:, 1].min(), image[:, 1].max())
    array = group[scales["datasets"][0]["path"]]
    assert array.metadata.dimension_names == tuple("tczyx")
    assert array.chunks == (1, 1, 1, 6, 5)
    np.testing.assert_array_equal(array[:], image)
    back = io.open(tmp_path / "a.ome.zarr")
    assert (back.pixel_size, back.channels) == (size, names)


def test_large_planes_are_chunks_of_512(tmp_path):
    image = np.random.default_rng(0).random((2, 600, 530), np.float32)
    save(tmp_path / "a.zarr", image, "ZYX")
    array = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
    assert array.chunks == (1, 512, 512)
    np.testing.assert_array_equal(array[:], image)


@pytest.mark.parametrize("ending", ENDINGS)
def test_values_that_are_not_finite_or_all_zero_are_kept(tmp_path, ending):
    image = values("ZYX")
    image[0] = 0
    image[1] = np.nan
    image[2, 0, 0] = np.inf
    save(tmp_path / f"a{ending}", image, "ZYX")
    np.testing.assert_array_equal(io.read(tmp_path / f"a{ending}").image, image)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_image_not_whole_has_no_name_and_is_gone_on_with(tmp_path, ending):
    image, path = values("TZYX"), tmp_path / f"a{ending}"
    options = {"shape": image.shape, "axes": "TZYX", "run": {"seed": 3}}
    with io.create(path, **options) as writer:
        writer.write((1, 2), image[1, 2])
        writer.write((0, 3), image[0, 3])
    assert [each.name for each in tmp_path.iterdir()] == [f".a{ending}.partial"]
    with pytest.raises(ZeroDivisionError), io.create(path, resume=True, **options) as writer:
        assert writer.finished == {(1, 2), (0, 3)}
        assert (1, 2) not in set(writer.pending())
        writer.write((0, 0), image[0, 0])
        _ = 1 / 0
    with io.create(path, resume=True, **options) as writer:
        assert len(writer.finished) == 3
        for index in writer.pending():
            assert not path.exists()
            writer.write(index, image[index])
        assert writer.complete
        assert writer.commit() == path
    np.testing.assert_array_equal(io.read(path).image, image)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_another_run_is_not_gone_on_with(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    options = {"shape": (2, 6, 5), "axes": "ZYX"}
    with io.create(path, run={"seed": 3}, **options) as writer:
        writer.write((0,), np.ones((6, 5)))
    with pytest.raises(ValueError, match="begun by another run, which differs in run; remove it"):
        io.create(path, run={"seed": 4}, resume=True, **options)
    with pytest.raises(ValueError, match="differs in shape, axes, run"):
        io.create(path, shape=(3, 6, 5), axes="TYX", resume=True)
    with io.create(path, run={"seed": 4}, **options) as writer:
        assert not writer.finished


@pytest.mark.parametrize(
    "tail", [b"[[1], 0.0, 1.", b"[[1], 0.0, 1.0]", b"\x00\x00\n", b"[1\n[[1], 0, 1]\n"]
)
def test_a_torn_line_of_the_journal_is_a_plane_not_written(tmp_path, tail):
    path, image = tmp_path / "a.ome.tif", values("ZYX")
    options = {"shape": image.shape, "axes": "ZYX", "resume": True}
    with io.create(path, **options) as writer:
        writer.write((0,), image[0])
    journal = tmp_path / ".a.ome.tif.partial" / "planes.jsonl"
    with open(journal, "ab") as file:
        file.write(tail)
    with io.create(path, **options) as writer:
        assert writer.finished == {(0,)}
        writer.write((3,), image[3])
    with io.create(path, **options) as writer:
        assert writer.finished == {(0,), (3,)}
        for index in writer.pending():
            writer.write(index, image[index])
    np.testing.assert_array_equal(tifffile.imread(path), image)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_said_and_what_is_written_stays(tmp_path, monkeypatch, ending):
    path, image = tmp_path / f"a{ending}", values("ZYX")
    options = {"shape": image.shape, "axes": "ZYX"}
    with io.create(path, **options) as writer:
        writer.write((0,), image[0])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=rf"a{ending}' cannot be written: no space is left"):
                writer.write((1,), image[1])
        assert writer.finished == {(0,)}
        writer.write((2,), image[2])
    with io.create(path, resume=True, **options) as writer:
        assert list(writer.pending()) == [(1,), (3,)]


def full(_handle: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_exist_are_replaced_only_if_asked_for_and_whole(tmp_path, ending):
    path, image = tmp_path / f"a{ending}", values("ZYX")
    save(path, image, "ZYX")
    with pytest.raises(FileExistsError, match=rf"a{ending}' exists already"):
        save(path, image, "ZYX")
    with io.create(path, shape=image.shape, axes="ZYX", overwrite=True) as writer:
        for index in writer.pending():
            np.testing.assert_array_equal(io.read(path).image, image)
            writer.write(index, image[index] + 1)
    np.testing.assert_array_equal(io.read(path).image, image + 1)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, ending):
    path, image = tmp_path / f"a{ending}", values("ZYX")
    with pytest.raises(FileExistsError), io.create(path, shape=image.shape, axes="ZYX") as writer:
        for index in writer.pending():
            writer.write(index, image[index])
        path.write_text("precious")
    assert path.read_text() == "precious"


def test_a_folder_that_is_no_zarr_is_never_replaced(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.zarr' exists already"):
        io.create(tmp_path / "a.zarr", shape=(4, 4), axes="YX", overwrite=True)


def test_what_cannot_be_is_refused_before_any_work(tmp_path):
    refused = {
        r"output: expected a name ending in .*; got 'a\.png'": ("a.png", (4, 4), "YX"),
        "output: the restored image takes 4.3 GB and a plain TIFF": (
            "a.tif",
            (1024, 1024, 1024),
            "ZYX",
        ),
        "axes: expected 2 letters": ("a.ome.tif", (4, 4), "ZYX"),
        "axes: expected distinct letters": ("a.ome.tif", (4, 4, 4), "QYX"),
        "shape: expected at least one pixel": ("a.ome.tif", (0, 4, 4), "ZYX"),
    }
    for message, (name, shape, axes) in refused.items():
        with pytest.raises(ValueError, match=message):
            io.create(tmp_path / name, shape=shape, axes=axes)
    with pytest.raises(ValueError, match=r"channels: expected 1 names; got \['a', 'b'\]"):
        io.create(tmp_path / "a.ome.tif", shape=(4, 4), axes="YX", channels=("a", "b"))
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        io.create(tmp_path / "missing" / "a.ome.tif", shape=(4, 4), axes="YX")
    assert not list(tmp_path.iterdir())


def test_planes_are_checked(tmp_path):
    with io.create(tmp_path / "a.ome.tif", shape=(2, 6, 5, 3), axes="ZYXC") as writer:
        for index in ((2,), (-1,), (), (0, 0)):
            with pytest.raises(
                ValueError, match=r"index: expected one below \(2,\) along 'Z'; got"
            ):
                writer.write(index, np.zeros((6, 5, 3)))
        with pytest.raises(ValueError, match=r"plane: expected shape \(6, 5, 3\); got \(6, 5\)"):
            writer.write((0,), np.zeros((6, 5)))
        writer.write((0,), np.zeros((6, 5, 3)))
        with pytest.raises(
            ValueError, match=r"index: expected a plane not yet written; got \(0,\)"
        ):
            writer.write((0,), np.zeros((6, 5, 3)))
        with pytest.raises(ValueError, match=r"output: 'a.ome.tif' lacks 1 planes"):
            writer.commit()


def test_large_images_take_their_space_as_they_are_written(tmp_path):
    """Twenty gigabytes, of which one plane is written."""
    writer = io.create(tmp_path / "a.ome.tif", shape=(20000, 512, 512), axes="ZYX")
    writer.write((19999,), np.full((512, 512), 7))
    writer.close()
    partial = tmp_path / ".a.ome.tif.partial" / "a.ome.tif"
    assert partial.stat().st_size > 2e10
    if hasattr(os, "posix_fallocate"):
        assert partial.stat().st_blocks * 512 < 2**26
    lazy = io.open(partial).image
    assert (lazy[19999, 5, 5], lazy[19998, 5, 5]) == (7, 0)


# --- processes that die --------------------------------------------------------------------------

SHAPE = (60, 90)
WRITES = f"""
import os, shutil, signal, sys
import numpy as np
import zarr
from napari_dkp import io

SHAPE = {SHAPE}

def plane(i):
    return np.random.default_rng(i).normal(100, 30, SHAPE).astype(np.float32)

def write(path, n, **options):
    with io.create(path, shape=(n, *SHAPE), axes="ZYX", resume=True, **options) as writer:
        for index in writer.pending():
            writer.write(index, plane(index[0]))
"""
DIES = """
ending, overwrite = sys.argv[1], sys.argv[2] == "True"
names = ("fsync", "replace", "rename", "unlink")
last = step = 0

def dying(call):
    def counted(*args, **kwargs):
        global step
        step += 1
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

def in_child(path):
    pid = os.fork()
    if pid == 0:
        write(path, 2, overwrite=overwrite)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

os.fsync = lambda handle: None  # a killed process needs no more
in_child("0" + ending)
for name in names:
    setattr(os, name, dying(getattr(os, name)))
while True:
    last += 1
    path = f"{last}{ending}"
    if overwrite:
        copy = shutil.copytree if "zarr" in ending else shutil.copyfile
        copy("0" + ending, path)
    if in_child(path) != signal.SIGKILL:
        break
print(last)
"""


def plane(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(100, 30, SHAPE).astype(np.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("ending", "overwrite"), [(".ome.tif", False), (".ome.zarr", True)])
def test_a_process_may_die_at_every_step(tmp_path, ending, overwrite):
    """Before a file is known to be on the disk, and before a name changes or goes."""
    done = subprocess.run(
        [sys.executable, "-c", WRITES + DIES, ending, str(overwrite)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 10
    expected = np.stack([plane(0), plane(1)])
    moved = 0
    for number in range(1, last + 1):
        path = tmp_path / f"{number}{ending}"
        if path.exists():  # whole, whatever had happened
            moved += 1
            np.testing.assert_array_equal(io.read(path).image, expected)
        options = {"shape": (2, *SHAPE), "axes": "ZYX", "resume": True, "overwrite": overwrite}
        try:
            with io.create(path, **options) as writer:
                for i in writer.finished:
                    partial = io.open(tmp_path / f".{path.name}.partial" / path.name)
                    np.testing.assert_array_equal(partial.image[i], plane(*i))
                for index in writer.pending():
                    writer.write(index, plane(*index))
        except FileExistsError:
            assert not overwrite
        np.testing.assert_array_equal(io.read(path).image, expected)
    assert moved > 1
    assert len(list(tmp_path.iterdir())) == last + 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_kill_at_random_moments_and_go_on(tmp_path, ending):
    path, n = tmp_path / f"a{ending}", 20
    partial = tmp_path / f".{path.name}.partial"
    journal = partial / "planes.jsonl"
    moments = np.random.default_rng(0).uniform(0, 0.05, 2)
    script = WRITES + f"write({str(path)!r}, {n})\n"
    known = 0
    for moment in moments:
        with subprocess.Popen([sys.executable, "-c", script]) as process:
            while process.poll() is None and lines(journal) <= known:
                time.sleep(0.001)
            time.sleep(moment)
            process.kill()
        if path.exists():
            break
        finished = [json.loads(line)[0][0] for line in journal.read_bytes().split(b"\n")[1:-1]]
        known = len(finished) + 1
        image = io.open(partial / path.name).image
        for i in finished:
            np.testing.assert_array_equal(image[i], plane(i))
    subprocess.run([sys.executable, "-c", script], check=not path.exists())
    np.testing.assert_array_equal(io.read(path).image, np.stack([plane(i) for i in range(n)]))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
