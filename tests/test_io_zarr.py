"""OME-Zarr as others write it."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_dkp import io

zarr = pytest.importorskip("zarr")

AXES = [
    {"name": "t", "type": "time", "unit": "millisecond"},
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "nanometer"},
    {"name": "x", "type": "space", "unit": "nanometer"},
]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.uint16)


def image(
    path: Path, values: np.ndarray, axes: object = AXES, *, version: str = "0.4", **more: object
) -> None:
    """Write two levels, the coarse one first, as version 0.4 on zarr 2 or 0.5 on zarr 3."""
    n = values.ndim
    levels = [
        {
            "path": name,
            "coordinateTransformations": [
                {"type": "scale", "scale": [500.0, 1.0, 0.3, 90.0 * s, 90.0 * s][-n:]},
                {"type": "translation", "translation": [0, 0, 0, 7.0, 45.0 * s - 45][-n:]},
            ],
        }
        for name, s in (("coarse", 2), ("fine", 1))
    ]
    ome = {"multiscales": [{"version": version, "axes": axes, "datasets": levels}], **more}
    zarr_format = 2 if version == "0.4" else 3
    attributes = ome if version == "0.4" else {"ome": {"version": version, **ome}}
    group = zarr.create_group(path, zarr_format=zarr_format, attributes=attributes)
    chunks = (1,) * (n - 2) + (8, 8)
    group.create_array("coarse", data=values[..., ::2, ::2], chunks=chunks)
    group.create_array("fine", data=values, chunks=chunks)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_level_with_its_scale_and_names(tmp_path, version):
    values = noise(2, 3, 4, 20, 25)
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}, {"label": "Cy5"}]}
    image(tmp_path / "a.zarr", values, version=version, omero=omero)
    back = io.open(tmp_path / "a.zarr")
    assert (back.name, back.axes, back.others) == ("a.zarr", "TCZYX", 0)
    assert back.channels == ("DAPI", "GFP", "Cy5")
    size = back.pixel_size
    assert (size.unit, size.interval) == ("nm", 0.5)
    assert size.sizes == pytest.approx({"Z": 300.0, "Y": 90.0, "X": 90.0})
    assert size.origin == {"Y": 7.0}
    assert (back.image.shape, back.image.dtype) == (values.shape, values.dtype)
    np.testing.assert_array_equal(back.image[1, :, 2, 3:9], values[1, :, 2, 3:9])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(back.image)), values)


def test_a_transformation_of_all_levels_comes_after_that_of_one(tmp_path):
    image(tmp_path / "a.zarr", noise(8, 8), AXES[3:])
    group = zarr.open_group(tmp_path / "a.zarr")
    scales = group.attrs["multiscales"]
    scales[0]["coordinateTransformations"] = [{"type": "scale", "scale": [2.0, 3.0]}]
    group.attrs["multiscales"] = scales
    size = io.open(tmp_path / "a.zarr").pixel_size
    assert (size.sizes, size.origin) == ({"Y": 180.0, "X": 270.0}, {"Y": 14.0})


def test_only_the_chunks_in_sight_are_read(tmp_path, monkeypatch):
    values = noise(4, 16, 24)
    image(tmp_path / "a.zarr", values, AXES[2:], version="0.5")
    lazy = io.open(tmp_path / "a.zarr").image
    files = sorted((tmp_path / "a.zarr" / "fine" / "c").rglob("[0-9]"))
    files = [path for path in files if path.is_file()]
    assert len(files) == 4 * 2 * 3
    for path in files:
        if not path.match("c/2/1/*"):
            path.write_bytes(b"rubbish")
    np.testing.assert_array_equal(lazy[2, 9:12], values[2, 9:12])
    with pytest.raises(ValueError, match=r"^input: 'a.zarr' cannot be read as an image: \S"):
        lazy[1]


@pytest.mark.parametrize(
    ("axes", "expected"), [(["c", "y", "x"], "CYX"), (None, "CZYX"), (AXES[2:], "ZYX")]
)
def test_axes_of_every_version(tmp_path, axes, expected):
    image(tmp_path / "a.zarr", noise(*range(5, 5 + len(expected))), axes)
    if axes is None:
        group = zarr.open_group(tmp_path / "a.zarr")
        scales = group.attrs["multiscales"]
        del scales[0]["axes"]
        group.attrs["multiscales"] = scales
    assert io.open(tmp_path / "a.zarr").axes == expected


def test_axes_of_length_one_go(tmp_path):
    values = noise(1, 1, 4, 8, 8)
    omero = {"channels": [{"label": "DAPI"}]}
    image(tmp_path / "a.zarr", values, omero=omero)
    back = io.open(tmp_path / "a.zarr")
    assert (back.axes, back.channels) == ("ZYX", ("DAPI",))
    np.testing.assert_array_equal(back.image, values[0, 0])


@pytest.mark.parametrize(
    ("shape", "names", "axes"),
    [
        ((9, 8), None, "YX"),
        ((40, 40, 3), None, "YXC"),
        ((5, 9, 8), None, "ZYX"),
        ((5, 9, 8), ("c", "y", "x"), "CYX"),
        ((5, 9, 8), ("a", "b", "c"), "ZYX"),
        ((2, 5, 9, 8), None, "TZYX"),
        ((2, 3, 5, 9, 8), None, "TCZYX"),
    ],
)
def test_plain_arrays(tmp_path, shape, names, axes):
    values = noise(*shape)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=shape, dtype=values.dtype, dimension_names=names
    )
    array[...] = values
    back = io.read(tmp_path / "a.zarr")
    assert back.axes == axes
    np.testing.assert_array_equal(back.image, values)


def test_the_first_image_of_a_conversion_by_bioformats2raw(tmp_path):
    zarr.create_group(
        tmp_path / "a.zarr", zarr_format=2, attributes={"bioformats2raw.layout": 3}
    ).create_group("OME")
    image(tmp_path / "a.zarr" / "0", noise(2, 1, 4, 8, 8))
    image(tmp_path / "a.zarr" / "1", noise(2, 1, 4, 8, 8))
    back = io.open(tmp_path / "a.zarr")
    assert (back.axes, back.others) == ("TZYX", 1)


WELLS = {"wells": [{"path": "B/3"}], "rows": [], "columns": []}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"plate": WELLS}, r"it is a plate of many images; .* such as a.zarr/B/3/0$"),
        ({"ome": {"version": "0.5", "plate": WELLS}}, r"such as a.zarr/B/3/0$"),
        ({"well": {"images": [{"path": "2"}]}}, r"it is a well of many images; .* a.zarr/2$"),
        ({}, "a zarr group without 'multiscales'"),
        ({"multiscales": []}, "a zarr group without 'multiscales'"),
        ({"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]}, "it lacks '0'"),
        ({"multiscales": [{"axes": ["y", "x"]}]}, "it lacks 'datasets'"),
    ],
)
def test_what_is_no_image_is_one_clear_error(tmp_path, attributes, message):
    zarr.create_group(tmp_path / "a.zarr", attributes=attributes)
    with pytest.raises(
        ValueError, match=rf"^input: 'a.zarr' cannot be read as an image: .*{message}"
    ):
        io.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("axes", [["w", "y", "x"], ["y", "x"], ["row", "y", "x"]])
def test_odd_axes_are_one_clear_error(tmp_path, axes):
    image(tmp_path / "a.zarr", noise(5, 8, 8), axes)
    with pytest.raises(ValueError, match=r"^input: 'a.zarr' .*axes"):
        io.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("content", [b"", b"{", b'{"zarr_format": 3, "node_type": "thesis"}'])
def test_damaged_metadata_is_one_clear_error(tmp_path, content):
    image(tmp_path / "a.zarr", noise(8, 8), AXES[3:], version="0.5")
    (tmp_path / "a.zarr" / "zarr.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^input: 'a.zarr' cannot be read as an image: \S"):
        io.open(tmp_path / "a.zarr")


def test_an_empty_array_is_no_image(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 8, 8), dtype="u1")
    with pytest.raises(ValueError, match=r"^input: 'a.zarr' holds no image"):
        io.open(tmp_path / "a.zarr")


def test_a_folder_without_zarr_in_it(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(
        ValueError, match=r"a\.zarr' is a folder; expected an image file or OME-Zarr"
    ):
        io.open(tmp_path / "a.zarr")


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    image(tmp_path / "a.zarr", noise(8, 8), AXES[3:])
    monkeypatch.setitem(sys.modules, "zarr", None)
    message = (
        r"needs the extra 'distributed'\. Install it with: pip install napari-dkp\[distributed\]"
    )
    with pytest.raises(ValueError, match=message):
        io.open(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=message):
        io.create(tmp_path / "b.zarr", shape=(8, 8), axes="YX")
    assert not list(tmp_path.glob("*b.zarr*"))


@pytest.mark.parametrize("axes", ["YXC", "CYX"])
def test_a_restoration_is_written_to_ome_zarr(tmp_path, axes):
    from test_io import diagnosed, picture

    source = picture(axes)
    outputs = io.Outputs.beside(tmp_path / "a.ome.zarr", diagnostics=True)
    assert outputs.kernel == tmp_path / "a_kernel.tif"
    assert outputs.residual == tmp_path / "a_residual.ome.zarr"
    whole = diagnosed(source)
    assert io.write(outputs, whole, source) == list(outputs.paths)
    back = io.read(outputs.image)
    assert back.axes == axes
    np.testing.assert_array_equal(back.image, whole.image)
    assert back.pixel_size == source.pixel_size.enlarged((2, 2))
    with pytest.raises(FileExistsError):
        io.write(outputs, whole, source)
    io.write(outputs, whole, source, overwrite=True)
