"""Files of which only what is indexed is read."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_dkp import io


def noise(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@pytest.fixture
def pages_read(monkeypatch) -> list[int]:
    """Offsets of the pages that are decoded whole."""
    read: list[int] = []
    decode = tifffile.TiffPage.asarray

    def counted(page, *args, **kwargs):
        read.append(page.dataoffsets[0])
        return decode(page, *args, **kwargs)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counted)
    return read


WAYS = {
    "contiguous": {},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "compressed": {"compression": "zlib"},
    "predictor": {"compression": "zlib", "predictor": True},
    "strips": {"compression": "zlib", "rowsperstrip": 7},
    "tiled": {"tile": (16, 16)},
    "tiled and compressed": {"tile": (16, 32), "compression": "zlib"},
    "one header": {"metadata": {"axes": "TZYX"}, "truncate": True},
    "no description": {"metadata": None},
}

KEYS = (
    ...,
    (0, 1),
    (slice(None), 2),
    (1, slice(None), slice(3, 20), slice(17, 40)),
    (slice(1, 2), -1, slice(30, 2, -3), 5),
    (..., slice(None, None, 4)),
    (0, 0, 0, 0),
    (slice(0, 0),),
)


@pytest.mark.parametrize("way", WAYS)
def test_every_layout_of_a_file_indexes_like_the_array_it_holds(tmp_path, way):
    image = noise(2, 3, 37, 45)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **WAYS[way])
    lazy = io.open(tmp_path / "a.tif").image
    image = image.reshape(lazy.shape)
    assert (lazy.shape, lazy.dtype, lazy.ndim) == (image.shape, image.dtype, image.ndim)
    assert (lazy.size, lazy.nbytes, len(lazy)) == (image.size, image.nbytes, len(image))
    copied = pickle.loads(pickle.dumps(lazy))
    for key in KEYS if image.ndim == 4 else (..., 4, slice(1, 3)):
        np.testing.assert_array_equal(lazy[key], image[key])
        np.testing.assert_array_equal(copied[key], image[key])
    np.testing.assert_array_equal(np.asarray(lazy, np.float32), image.astype(np.float32))


@pytest.mark.parametrize(
    "key", [9, (0, 0, 0, 0, 0), [0, 1], np.zeros(2, bool), (..., 0, ...), None]
)
def test_other_indices_are_refused(tmp_path, key):
    tifffile.imwrite(tmp_path / "a.tif", noise(2, 3, 8, 8), photometric="minisblack")
    with pytest.raises(IndexError):
        io.open(tmp_path / "a.tif").image[key]


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_colours_come_last_however_they_are_stored(tmp_path, planar, tile):
    image = noise(4, 33, 20, 3, dtype=np.uint8)
    stored = image if planar == "contig" else image.transpose(0, 3, 1, 2)
    options = {"photometric": "rgb", "planarconfig": planar, "tile": tile, "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata=None, **options)
    back = io.open(tmp_path / "a.tif")
    assert back.axes == "ZYXC"
    np.testing.assert_array_equal(back.image, image)
    np.testing.assert_array_equal(back.image[2, 5:9, 17:], image[2, 5:9, 17:])


def test_channels_stay_before_the_plane(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        noise(3, 8, 9),
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "Cy5"]}},
    )
    back = io.open(tmp_path / "a.ome.tif")
    assert (back.axes, back.channels) == ("CYX", ("DAPI", "GFP", "Cy5"))


@pytest.mark.parametrize("way", ["compressed", "strips", "tiled and compressed"])
def test_a_plane_is_one_page(tmp_path, pages_read, way):
    image = noise(30, 37, 45)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **WAYS[way])
    lazy = io.open(tmp_path / "a.tif").image
    assert pages_read == []
    np.testing.assert_array_equal(lazy[17], image[17])
    assert len(pages_read) == 1
    lazy[3:6]
    assert len(pages_read) == 4


def test_of_a_tiled_page_only_the_tiles_in_sight_are_read(tmp_path, monkeypatch, pages_read):
    image = noise(256, 256)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), compression="zlib")
    lazy = io.open(tmp_path / "a.tif").image
    lazy[0, 0]  # once, the headers
    counts = []
    read = tifffile.FileHandle.read
    monkeypatch.setattr(
        tifffile.FileHandle, "read", lambda self, n: counts.append(n) or read(self, n)
    )
    np.testing.assert_array_equal(lazy[70:130, 10:60], image[70:130, 10:60])
    assert len(counts) == 2
    assert pages_read == []


def test_the_finest_level_of_a_pyramid_is_the_image(tmp_path):
    image = noise(64, 96)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        options = {"tile": (16, 16), "compression": "zlib"}
        tiff.write(image, subifds=1, metadata={"axes": "YX"}, **options)
        tiff.write(image[::2, ::2], subfiletype=1, **options)
    back = io.open(tmp_path / "a.ome.tif")
    assert (back.image.shape, back.others) == ((64, 96), 0)
    np.testing.assert_array_equal(back.image[5:40, 7:31], image[5:40, 7:31])


def several_files(folder: Path, image: np.ndarray) -> list[Path]:
    """Write each plane to a file of its own; the first one's metadata name them all."""
    paths = [folder / f"part{i}.ome.tif" for i in range(len(image))]
    data = "".join(
        f'<TiffData FirstT="{i}" IFD="0" PlaneCount="1"><UUID FileName="{path.name}">'
        f"urn:uuid:00000000-0000-0000-0000-00000000000{i}</UUID></TiffData>"
        for i, path in enumerate(paths)
    )
    for i, path in enumerate(paths):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:00000000-0000-0000-0000-00000000000{i}"><Image ID="Image:0"><Pixels '
            'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="8" SizeZ="1" '
            f'SizeC="1" SizeT="{len(image)}"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(path, image[i], description=xml, metadata=None)
    return paths


def test_an_image_in_several_files_is_read_from_all(tmp_path):
    image = noise(3, 8, 9)
    first, *_, last = several_files(tmp_path, image)
    back = io.open(first)
    assert back.axes == "TYX"
    np.testing.assert_array_equal(back.image, image)
    np.testing.assert_array_equal(back.image[2, 1:3], image[2, 1:3])
    last.unlink()
    with pytest.raises(ValueError, match="1 of the 3 pages that its metadata tells of are missing"):
        io.open(first)


@pytest.mark.parametrize("way", ["contiguous", "compressed", "tiled"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_one_clear_error(tmp_path, way, share):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(5, 40, 40), metadata={"axes": "ZYX"}, **WAYS[way])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"^input: 'a.ome.tif' (cannot be read|holds no image)"):
        io.read(path)


def test_damaged_data_is_one_clear_error(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(5, 40, 40), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].dataoffsets[0]
    whole = bytearray(path.read_bytes())
    whole[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(whole)
    lazy = io.open(path).image
    assert lazy[2].shape == (40, 40)
    with pytest.raises(ValueError, match=r"^input: 'a.tif' cannot be read as an image: \S"):
        lazy[3]


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 4))

    def locked(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tifffile, "TiffFile", locked)
    with pytest.raises(PermissionError, match=r"^input: 'a.tif' may not be read"):
        io.open(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0)])
def test_no_pixel_is_no_image(tmp_path, shape):
    with pytest.warns(UserWarning, match="zero-size"):
        tifffile.imwrite(tmp_path / "a.tif", np.empty(shape, np.uint8))
    with pytest.raises(ValueError, match=r"^input: 'a.tif'"):
        io.open(tmp_path / "a.tif")


def test_one_pixel_is_an_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((1, 1), 7, np.uint8))
    back = io.read(tmp_path / "a.tif")
    assert (back.axes, back.image.tolist()) == ("YX", [[7]])


MEASURED = """
import sys, tracemalloc, numpy as np
from napari_dkp import io
source, target, n = sys.argv[1], sys.argv[2], int(sys.argv[3])

def run(n):
    image = io.open(f"{source}{n}.tif").image
    with io.create(f"{n}{target}", shape=image.shape, axes="ZYX") as writer:
        for index in writer.pending():
            writer.write(index, image[index])

run(3)  # what is imported on the way counts for neither
for n in map(int, sys.argv[3:]):
    tracemalloc.start()
    run(n)
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


@pytest.mark.parametrize("target", [".ome.tif", ".ome.zarr"])
def test_memory_does_not_grow_with_the_number_of_planes(tmp_path, target):
    """But for where each page lies, and the journal: less than 2 KiB for a plane."""
    for n in (3, 10, 60):
        with tifffile.TiffWriter(tmp_path / f"a{n}.tif") as tiff:
            for i in range(n):
                plane = np.full((256, 256), i, np.uint16)
                tiff.write(plane, compression="zlib", contiguous=False, metadata=None)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "a", target, "10", "60"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    few, many = map(int, done.stdout.split())
    assert few < 8 * 2**20
    assert many - few < 50 * 2048
