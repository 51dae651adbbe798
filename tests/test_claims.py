"""Two runs that want to write the same files; the other one is a process of its own."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_batch import counting, image, run, save, statuses
from test_cli import error_of, invoke
from test_cli_stacks import counted, restored, stack

from napari_dkp import io

__all__ = ["counted"]

WAITS = """
import sys, time
from pathlib import Path
from napari_dkp import cli
from napari_dkp.streaming import stream
from test_cli_stacks import ending

def wait():
    Path("waits").touch()
    while not Path("go").exists():
        time.sleep(0.01)

stream.Run = ending(2, wait)
cli.app(sys.argv[1:])
"""


@contextmanager
def another(folder: Path, *command: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has written two planes, and goes on once there is a file `go`."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not (folder / "waits").exists() and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None, process.stderr.read()
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], folder: Path) -> None:
    (folder / "go").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("ending", "overwrite"), [(".ome.tif", False), (".ome.zarr", True)])
def test_a_second_command_is_refused_and_the_first_goes_on(tmp_path, counted, ending, overwrite):
    source, out = (
        stack(tmp_path / "cells.ome.tif", 3, 24, 20, axes="ZYX"),
        tmp_path / f"out{ending}",
    )
    options = [*counted, "--overwrite"] if overwrite else counted
    with another(tmp_path, "restore", source, out, *counted) as first:
        before = tree(tmp_path)
        for other in ((), ("--scale", "2")):
            result = invoke("restore", source, out, *options, *other)
            said = error_of(result)
            assert f"another run is writing '{out}'" in said
            assert tree(tmp_path) == before
        ended(first, tmp_path)
    np.testing.assert_array_equal(io.read(out).image, restored(source, axes="ZYX"))
    assert not list(tmp_path.glob(".*"))


def test_another_format_has_the_same_kernel_file(tmp_path, counted):
    source = stack(tmp_path / "cells.ome.tif", 3, 24, 20, axes="ZYX")
    with another(tmp_path, "restore", source, tmp_path / "out.tif", *counted) as first:
        assert "another run is writing" in error_of(
            invoke("restore", source, tmp_path / "out.ome.zarr", *counted)
        )
        elsewhere = invoke("restore", source, tmp_path / "out2.tif", *counted)
        assert elsewhere.exit_code == 0, elsewhere.output
        ended(first, tmp_path)


def test_a_killed_process_keeps_nobody_out(tmp_path, counted):
    source, out = stack(tmp_path / "cells.ome.tif", 3, 24, 20, axes="ZYX"), tmp_path / "out.ome.tif"
    with another(tmp_path, "restore", source, out, *counted) as first:
        first.kill()
        first.wait()
    assert (tmp_path / ".out.ome.tif.lock").exists()
    result = invoke("restore", source, out, *counted)
    assert result.exit_code == 0, result.output
    assert "2 of 3 planes were done before" in result.stderr
    assert not list(tmp_path.glob(".*"))


def test_a_batch_goes_on_with_the_other_files(tmp_path, counted):
    """And the two of them do all: each says what it could not."""
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.tif", 3, 24, 20)
    out = tmp_path / "out"
    command = ("batch", tmp_path / "in", "--out", out, *counted)
    with another(tmp_path, *command) as first:
        before = tree(out / ".a.ome.tif.partial")
        batch = counting([tmp_path / "in"], out)
        run(batch)
        assert statuses(batch) == ["failed", "done"]
        assert "another run is writing" in batch.outcomes[0].sentence
        assert "a.ome.tif" in batch.outcomes[0].sentence
        assert not batch.outcomes[0].trace
        assert tree(out / ".a.ome.tif.partial") == before
        ended(first, tmp_path)
    batch = counting([tmp_path / "in"], out)
    run(batch)
    assert statuses(batch) == ["skipped", "skipped"]
    assert not list(out.glob(".*"))


def test_two_batches_at_once_damage_nothing(tmp_path, counted):
    for number in range(6):
        save(tmp_path / "in" / f"{number}.tif", 2, 24, 20, seed=number)
    paths = os.pathsep.join(sys.path)
    command = ["batch", tmp_path / "in", "--out", tmp_path / "out", *counted]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", "from napari_dkp import cli; cli.app()", *map(str, command)],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, 1), said
        assert "Traceback" not in said
    run(batch := counting([tmp_path / "in"], tmp_path / "out"))
    assert statuses(batch) == ["skipped"] * 6
    run(batch := counting([tmp_path / "in"], tmp_path / "alone"))
    for number in range(6):
        name = f"{number}.ome.tif"
        together, alone = io.read(tmp_path / "out" / name), io.read(tmp_path / "alone" / name)
        np.testing.assert_array_equal(together.image, alone.image)
    assert not list((tmp_path / "out").glob(".*"))


# --- within a process ----------------------------------------------------------------------------


def test_an_image_has_one_writer(tmp_path):
    path, options = tmp_path / "a.ome.tif", {"shape": (2, 6, 5), "axes": "ZYX", "resume": True}
    with io.create(path, **options) as writer:
        writer.write((0,), np.ones((6, 5)))
        with pytest.raises(BlockingIOError, match=r"another run is writing '.*a\.ome\.tif'"):
            io.create(path, **options)
        writer.write((1,), np.ones((6, 5)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.ome.tif"]
    with pytest.raises(FileExistsError), io.create(path, **options):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["a.ome.tif"]


@pytest.mark.parametrize("how", ["close", "discard"])
def test_who_lets_go_lets_others(tmp_path, how):
    path, options = tmp_path / "a.ome.tif", {"shape": (2, 6, 5), "axes": "ZYX", "resume": True}
    for _ in range(2):
        writer = io.create(path, **options)
        getattr(writer, how)()
        writer.close()
        assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch, number):
    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", lacking)
    with io.create(tmp_path / "a.tif", shape=(6, 5), axes="YX") as writer:
        writer.write((), np.float32(image(6, 5)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.tif"]
