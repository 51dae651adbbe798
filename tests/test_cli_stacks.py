"""Stacks on the command line: planes are read, restored and written one by one."""

import gc
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from test_batch import COUNTING, PSF, image
from test_cli import error_of, invoke

from napari_dkp import io, restore
from napari_dkp.stack import Run
from napari_dkp.state import State
from napari_dkp.streaming import Stream, stream

COUNTED = ("--scale", "1", "--method", "richardson-lucy", "--iterations", "2", "--device", "cpu")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[object, ...]:
    """Options that take next to no time, as the kernel is known."""
    tifffile.imwrite(tmp_path / "psf.tif", PSF)
    return (*COUNTED, "--kernel", tmp_path / "psf.tif")


def stack(path: Path, *shape: int, axes: str = "TZYX") -> Path:
    metadata = {
        "axes": axes,
        "PhysicalSizeX": 0.2,
        "PhysicalSizeY": 0.2,
        "PhysicalSizeZ": 0.5,
        "TimeIncrement": 3.0,
    }
    tifffile.imwrite(path, image(*shape), metadata=metadata)
    return path


def restored(path: Path, *, axes: str, **changes: Any) -> np.ndarray:
    settings = replace(COUNTING, axes=axes, **changes)
    return restore(io.read(path).image, kernel=PSF, **vars(settings)).image


@pytest.mark.parametrize("ending", [".tif", ".ome.tif", ".ome.zarr"])
def test_a_stack_is_restored_as_in_memory(tmp_path, counted, ending):
    source = stack(tmp_path / "cells.ome.tif", 2, 3, 24, 20)
    out = tmp_path / f"out{ending}"
    result = invoke("restore", source, out, *counted, "--scale", "2")
    assert result.exit_code == 0, result.output
    back = io.read(out)
    np.testing.assert_array_equal(back.image, restored(source, axes="TZYX", scale=2))
    assert back.axes == "TZYX"
    assert back.pixel_size.sizes == pytest.approx({"Z": 0.5, "Y": 0.1, "X": 0.1})
    assert (back.pixel_size.unit, back.pixel_size.interval) == ("µm", 3.0)
    assert "2 × 3 × 48 × 40 pixels" in result.stdout
    assert result.stdout.splitlines()[-3:] == [
        str(tmp_path / name) for name in (out.name, "out_kernel.tif", "out_settings.json")
    ]
    settings = tmp_path / "out_settings.json"
    again = invoke("restore", source, tmp_path / "again.ome.tif", "--settings", settings)
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(io.read(tmp_path / "again.ome.tif").image, back.image)


def test_memory_holds_neither_the_image_nor_the_result(tmp_path, counted, monkeypatch):
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Watched(Run):
        def iterate(self, **options: Any) -> Iterator[State[np.ndarray]]:
            nonlocal most
            for state in super().iterate(**options):
                if state.done:
                    alive.append(weakref.ref(state.image))
                yield state
                del state
                gc.collect()
                most = max(most, sum(each() is not None for each in alive))

    def whole(*_: object) -> None:
        raise AssertionError("all of the image was read")

    monkeypatch.setattr(stream, "Run", Watched)
    monkeypatch.setattr(io.LazyArray, "__array__", whole)
    source = stack(tmp_path / "cells.ome.tif", 4, 3, 24, 20)
    monkeypatch.setattr(io.reading, "read", whole)
    result = invoke("restore", source, tmp_path / "out.ome.zarr", *counted)
    assert result.exit_code == 0, result.output
    assert len(alive) == 12
    assert most <= 1


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("axes", ["ZYX", "TZYX", "ZCYX", "ZYXC"])
def test_volumes_are_written_too(tmp_path, ending, axes):
    lengths = {"T": 2, "Z": 6, "C": 2 if axes == "ZCYX" else 3, "Y": 16, "X": 18}
    values = image(*(lengths[axis] for axis in axes))
    stored = axes.replace("YXC", "YXS")
    source = tmp_path / "cells.ome.tif"
    kind = "rgb" if "S" in stored else "minisblack"
    tifffile.imwrite(source, values, photometric=kind, metadata={"axes": stored})
    psf = np.full((3, 3, 3), 1 / 27, np.float32)
    tifffile.imwrite(tmp_path / "psf.tif", psf, photometric="minisblack")
    options = (*COUNTED, "--volume", "--kernel", tmp_path / "psf.tif", "--scale", "2,1,1")
    result = invoke("restore", source, tmp_path / f"out{ending}", *options, "--diagnostics")
    assert result.exit_code == 0, result.output
    given = io.read(source)
    chosen = replace(COUNTING, axes=given.axes, volume=True, scale=(2, 1, 1), diagnostics=True)
    wanted = restore(given.image, kernel=psf, **vars(chosen))
    back = io.read(tmp_path / f"out{ending}")
    order = [given.axes.index(axis) for axis in back.axes]
    np.testing.assert_array_equal(back.image, wanted.image.transpose(order))
    for name in ("residual", "uncertainty"):
        found = io.read(tmp_path / f"out_{name}{ending}").image
        np.testing.assert_array_equal(found, getattr(wanted, name).transpose(order))


# Ended early


def ending(at: int, how: Any) -> type[Run]:
    """Return runs in which something happens once so many planes are done, and a step more."""

    class Ending(Run):
        def iterate(self, **options: Any) -> Iterator[State[np.ndarray]]:
            done = 0
            for state in super().iterate(**options):
                if done == at:
                    how()
                yield state
                done += state.done

    return Ending


def interrupt(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_was_reached(tmp_path, counted, monkeypatch):
    source = stack(tmp_path / "cells.ome.tif", 5, 24, 20, axes="ZYX")
    monkeypatch.setattr(stream, "Run", ending(2, interrupt))
    result = invoke("restore", source, tmp_path / "out.ome.tif", *counted)
    assert result.exit_code == 0, result.output
    assert "did not reach hold the interpolated source" in result.stderr
    back = io.read(tmp_path / "out.ome.tif").image
    wanted, given = restored(source, axes="ZYX"), io.read(source).image
    np.testing.assert_array_equal(back[:2], wanted[:2])
    assert not np.array_equal(back[2], wanted[2])
    assert not np.array_equal(back[2], given[2]), "a plane at work has come to something"
    np.testing.assert_array_equal(back[3:], given[3:])
    record = io.read_record(tmp_path / "out_settings.json")
    assert record["stop"] == "cancelled"
    assert record["steps"] == 2 + 2 * 2 + 1  # the route, two planes, one step
    assert [report is None for report in record["reports"]] == [False, False, True, True, True]
    assert io.read(tmp_path / "out_kernel.tif").image.shape == (5, 5, 5)
    assert not io.partial_of(tmp_path / "out.ome.tif").exists()


def test_giving_up_keeps_what_is_done_for_the_same_command(tmp_path, counted, monkeypatch):
    source = stack(tmp_path / "cells.ome.tif", 5, 24, 20, axes="ZYX")
    out = tmp_path / "out.ome.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(stream, "Run", ending(2, lambda: interrupt(2)))
        result = invoke("restore", source, out, *counted)
    assert result.exit_code == 130
    assert "2 of 5 planes are kept; the same command goes on" in result.stderr
    assert not out.exists()
    assert "begun from another input, with other settings" in error_of(
        invoke("restore", source, out, *counted, "--iterations", "3")
    )
    result = invoke("restore", source, out, *counted)
    assert result.exit_code == 0, result.output
    assert "2 of 5 planes were done before" in result.stderr
    np.testing.assert_array_equal(io.read(out).image, restored(source, axes="ZYX"))


def test_planes_that_only_stand_in_are_restored_after_all(tmp_path, counted, monkeypatch):
    """A process that is killed while it winds up has told nobody that it was stopped."""
    source = stack(tmp_path / "cells.ome.tif", 5, 24, 20, axes="ZYX")
    out = tmp_path / "out.ome.tif"

    def killed(_: Stream) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(stream, "Run", ending(2, interrupt))
        patched.setattr(Stream, "finish", killed)
        assert invoke("restore", source, out, *counted).exit_code == 1
    assert not out.exists()
    result = invoke("restore", source, out, *counted)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(io.read(out).image, restored(source, axes="ZYX"))
    assert io.read_record(tmp_path / "out_settings.json")["stop"] == "completed"


KILLED = """
import os, signal, sys
from napari_dkp import cli
from napari_dkp.streaming import stream
from test_cli_stacks import ending

stream.Run = ending(3, lambda: os.kill(os.getpid(), signal.SIGKILL))
cli.app(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("volume", [False, True], ids=["planes", "volumes"])
def test_a_process_that_is_killed_leaves_no_half_file(tmp_path, counted, volume):
    source = stack(tmp_path / "cells.ome.tif", 4, 3, 24, 20)
    out = tmp_path / "out.ome.zarr"
    options = [str(each) for each in counted]
    if volume:
        psf = np.full((3, 3, 3), 1 / 27, np.float32)
        tifffile.imwrite(tmp_path / "psf.tif", psf, photometric="minisblack")
        options.append("--volume")
    names = {path.name for path in tmp_path.iterdir()}
    code = subprocess.run(
        [sys.executable, "-c", KILLED, "restore", source, out, *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        check=False,
    ).returncode
    assert code == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert left - names == {".out.ome.zarr.partial"}
    result = invoke("restore", source, out, *options)
    assert result.exit_code == 0, result.output
    assert "3 of " in result.stderr
    assert "were done before" in result.stderr
    assert not list(tmp_path.glob(".*"))
    whole = invoke("restore", source, tmp_path / "whole.ome.zarr", *options)
    assert whole.exit_code == 0, whole.output
    np.testing.assert_array_equal(io.read(out).image, io.read(tmp_path / "whole.ome.zarr").image)


# The kernel of another stack


def test_the_kernel_of_a_stack_is_taken_where_its_planes_share_it(tmp_path, counted):
    source = stack(tmp_path / "cells.ome.tif", 3, 24, 20, axes="ZYX")
    first = invoke("restore", source, tmp_path / "a.ome.tif", *counted)
    assert first.exit_code == 0, first.output
    kernels = tmp_path / "a_kernel.tif"
    assert io.read(kernels).image.shape == (3, 5, 5)
    options = (*COUNTED, "--kernel", kernels)
    again = invoke("restore", source, tmp_path / "b.ome.tif", *options)
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(
        io.read(tmp_path / "a.ome.tif").image, io.read(tmp_path / "b.ome.tif").image
    )
    values = np.stack([PSF, PSF, PSF.T[::-1] ** 2])
    tifffile.imwrite(kernels, values, metadata={"axes": "CYX"}, imagej=True)
    message = error_of(invoke("restore", source, tmp_path / "c.ome.tif", *options))
    assert "kernel: expected one plane, or several that are the same, in 'a_kernel.tif'" in message
    assert "got axes CYX of shape (3, 5, 5), of which number 2 along C" in message
    assert not (tmp_path / "c.ome.tif").exists()
