"""Restorations as lazy dask arrays: what they compute, when, where, and that it is the same."""

import inspect
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from threading import Lock
from types import SimpleNamespace
from unittest import mock

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import torch
import zarr
from distributed import Client, LocalCluster, as_completed, futures_of
from scipy import ndimage
from tiny import TINY

from napari_dkp import iter_restore, restore, restore_dask, stack, tasks, tile_size

# Planes of this method are restored one by one, after a pilot.
COUNTED = TINY | {"method": "richardson-lucy", "kernel_family": "gaussian", "iterations": 3}
FITTED = TINY | {"method": "dip", "kernel_family": "gaussian", "iterations": 3}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums differ with the number of threads; workers have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="synchronous"):
        yield
    torch.set_num_threads(threads)


def picture(*shape: int) -> np.ndarray:
    noise = np.random.default_rng(len(shape)).random(shape)
    smooth = ndimage.gaussian_filter(noise, [0] * (len(shape) - 2) + [1, 1])
    return (10 + 190 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def assert_same(restored, kernels, expected):
    image, kernel = dask.compute(restored, kernels)
    assert restored.dtype == image.dtype == np.float32
    assert restored.shape == image.shape
    assert kernels.shape == kernel.shape
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_array_equal(kernel, expected.kernel)


class Watched:
    """An array that only gives slices, and counts how often it gave each."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.shape, self.dtype = values.shape, values.dtype
        self.read: Counter[tuple[int, ...]] = Counter()

    def __getitem__(self, where):
        self.read[tuple(int(i) for i in where if not isinstance(i, slice))] += 1
        return self._values[where]


def watched(image: np.ndarray) -> tuple[da.Array, Counter[tuple[int, ...]]]:
    """Return a dask array with a chunk per plane, and how often each is computed."""
    computed: Counter[tuple[int, ...]] = Counter()

    def count(chunk, block_id):
        computed[block_id[:-2]] += 1
        return chunk

    chunks = (1,) * (image.ndim - 2) + (-1, -1)
    array = da.from_array(image, chunks=chunks)
    return array.map_blocks(count, dtype=image.dtype, meta=image[:0]), computed


def tasks_of(array: da.Array) -> Counter[str]:
    """Count tasks by what they do."""
    return Counter(dask.utils.key_split(key) for key in array.dask.to_dict())


# The same result


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("method", [COUNTED, FITTED], ids=["counted", "fitted"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("YX", (9, 12)), ("YXC", (9, 12, 3)), ("YCX", (9, 2, 12)), ("TCYX", (2, 2, 9, 12))],
)
def test_every_layout_gives_what_restore_gives(axes, shape, method, scheduler):
    image = picture(*shape)
    settings = method | {"axes": axes}
    with dask.config.set(scheduler=scheduler):
        lazy = restore_dask(image, **settings, return_kernels=True)
        assert_same(*lazy, restore(image, **settings))


def test_volumes_are_restored_one_by_one():
    image = picture(2, 5, 9, 12)
    settings = COUNTED | {"axes": "TZYX", "volume": True, "scale": 1, "kernel_size": 3}
    restored, kernels = restore_dask(image, **settings, return_kernels=True)
    assert restored.numblocks == (2, 1, 1, 1)
    assert kernels.shape == (2, 3, 3, 3)
    assert_same(restored, kernels, restore(image, **settings))


def test_planes_that_are_fitted_together_are_one_task():
    image = picture(14, 9, 12)
    restored, kernels = restore_dask(image, **FITTED, axes="ZYX", return_kernels=True)
    counts = tasks_of(restored)
    assert counts["find-plan"] == 1
    assert counts["restore-planes"] == 2
    assert_same(restored, kernels, restore(image, **FITTED, axes="ZYX"))


@pytest.mark.parametrize(
    "chunks", [(2, 2, 9, 12), (3, 1, 4, 5), (1, 2, 9, 1)], ids=["planes", "parts", "columns"]
)
def test_chunks_of_the_input_make_no_difference(chunks):
    image = picture(3, 2, 9, 12)
    expected = restore(image, **COUNTED, axes="ZCYX")
    lazy = da.from_array(image, chunks=chunks) + 0
    assert_same(*restore_dask(lazy, **COUNTED, axes="ZCYX", return_kernels=True), expected)


def test_whatever_restore_takes_is_taken(tmp_path):
    image = picture(3, 9, 12)
    stored = zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(2, 5, 12))
    expected = restore(image, **COUNTED)
    for same in (stored, torch.from_numpy(image), image.tolist(), Watched(image)):
        restored = restore_dask(same, **COUNTED).compute()
        np.testing.assert_allclose(restored, expected.image, rtol=1e-5)


def test_a_known_kernel_is_used():
    image = picture(3, 9, 12)
    kernel = np.full((5, 5), 1 / 25)
    expected = restore(image, **FITTED, kernel=kernel)
    assert_same(*restore_dask(image, **FITTED, kernel=kernel, return_kernels=True), expected)


def test_each_plane_may_have_a_kernel_of_its_own():
    image = picture(3, 9, 12)
    settings = COUNTED | {"share_kernel": False}
    restored, kernels = restore_dask(image, **settings, return_kernels=True)
    assert "find-plan" not in tasks_of(restored)
    assert_same(restored, kernels, restore(image, **settings))


def test_planes_without_contrast_stay_as_they_are():
    image = picture(4, 9, 12)
    image[1] = 7
    lazy = restore_dask(image, **COUNTED, return_kernels=True)
    assert_same(*lazy, restore(image, **COUNTED))
    flat = np.full_like(image, 7)
    assert_same(*restore_dask(flat, **COUNTED, return_kernels=True), restore(flat, **COUNTED))


def test_what_is_automatic_is_decided_at_the_call():
    image = Watched(picture(3, 9, 12))
    automatic = TINY | {"iterations": 3}
    restored = restore_dask(image, **automatic)
    assert image.read == {(1,): 1}
    expected = restore(picture(3, 9, 12), **automatic)
    np.testing.assert_array_equal(restored.compute(), expected.image)


def test_a_tile_passes_through():
    image = picture(2, 80, 40)
    settings = COUNTED | {"scale": 1, "tile": 50}
    whole = restore(image, **(settings | {"tile": None})).image
    restored = restore_dask(image, **settings).compute()
    np.testing.assert_array_equal(restored, restore(image, **settings).image)
    assert (restored != whole).any()


# Laziness


@pytest.mark.parametrize("wrap", [lambda image: (w := Watched(image), w.read), watched])
def test_only_what_is_needed_is_read(wrap):
    image, read = wrap(picture(12, 2, 9, 12))
    restored = restore_dask(image, **COUNTED, axes="TCYX")
    assert not read
    part = restored[3, 1, 2:5]
    assert not read
    np.testing.assert_array_equal(part.compute().shape, (3, 24))
    assert {index[1] for index in read} == {1}
    assert len(read) <= 9 + 1
    assert read[3, 1] <= 2
    read.clear()
    restored[:, 0].compute()
    assert set(read) == {(t, 0) for t in range(12)}
    assert max(read.values()) <= 2  # what is looked at for a plan is read again


def test_no_plane_is_computed_before_there_is_a_plan(monkeypatch):
    image, computed = watched(picture(20, 9, 12))
    restored = restore_dask(image, **COUNTED)
    seen = []
    find = stack.Run.find_plan

    def find_plan(run, channel):
        plan = find(run, channel)
        seen.append(computed.total())
        return plan

    monkeypatch.setattr(stack.Run, "find_plan", find_plan)
    restored.compute(scheduler="threads", num_workers=4)
    assert seen == [9]
    assert computed.total() == 9 + 20


def test_there_is_one_pilot_per_channel():
    restored = restore_dask(picture(4, 3, 9, 12), **COUNTED, axes="TCYX")
    counts = tasks_of(restored)
    assert counts["find-plan"] == 3
    assert counts["restore-planes"] == 12


def test_the_graph_of_a_file_does_not_hold_it(tmp_path):
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(64, 2000, 2000), dtype="f4")
    restored = restore_dask(stored, **COUNTED)
    assert len(pickle.dumps(restored)) < 10**5


# Threads


@pytest.mark.parametrize("method", [COUNTED, FITTED], ids=["counted", "fitted"])
def test_restorations_of_one_process_take_turns(method, monkeypatch):
    busy = Lock()
    iterate = stack.Run.iterate

    def alone(run, done=()):
        assert busy.acquire(blocking=False)
        try:
            yield from iterate(run, done)
        finally:
            busy.release()

    monkeypatch.setattr(stack.Run, "iterate", alone)
    settings = method | {"share_kernel": False}
    restore_dask(picture(6, 9, 12), **settings).compute(scheduler="threads", num_workers=4)
    assert not busy.locked()


@pytest.fixture
def worker(monkeypatch):
    """Stand in for a worker of a cluster: what a task asks of it."""
    here = SimpleNamespace(
        state=SimpleNamespace(nthreads=2), memory_manager=SimpleNamespace(memory_limit=None)
    )
    monkeypatch.setattr(tasks, "_worker", lambda: here)
    return here


def test_a_task_has_the_threads_of_its_worker(worker, monkeypatch):
    threads = []
    find = stack.Run.find_plan
    monkeypatch.setattr(
        stack.Run,
        "find_plan",
        lambda run, channel: (threads.append(torch.get_num_threads()), find(run, channel))[1],
    )
    restore_dask(picture(3, 9, 12), **COUNTED).compute()
    assert threads == [2]
    assert torch.get_num_threads() == 1


def test_tiles_are_as_large_as_the_memory_of_the_worker_allows(worker, monkeypatch):
    monkeypatch.setattr(tile_size, "_SURELY_FREE", 0)
    worker.state.nthreads = 1
    tiles = []
    iterate = stack.Run.iterate
    monkeypatch.setattr(
        stack.Run,
        "iterate",
        lambda run, done=(): (tiles.append(run.settings.tile), iterate(run, done))[1],
    )
    settings = COUNTED | {"scale": 1}
    restored = restore_dask(picture(2, 80, 40), **settings)
    restored.compute()
    own = psutil.Process().memory_info().rss
    worker.memory_manager.memory_limit = own + 3 * 10**6
    monkeypatch.setattr(tasks, "_left", lambda limit: limit - own)
    restored.compute()
    assert tiles[:2] == [None, None]
    assert all(tile < 80 for tile in tiles[2:])


# What cannot be used


@pytest.mark.parametrize(
    ("error", "keywords", "message"),
    [
        (TypeError, {"unknown": 1}, "unknown"),
        (ValueError, {"scale": 9}, "scale: expected"),
        (ValueError, {"axes": "ZY"}, "axes: expected"),
        (ValueError, {"method": "magic"}, "method: expected"),
        (ValueError, {"kernel": -np.ones((5, 5))}, "kernel: expected"),
        (ValueError, {"kernel_size": 31}, "image: expected"),
        (ValueError, {"tile": 32, "boundary": "circular"}, "tile: expected"),
    ],
)
def test_arguments_are_checked_at_the_call(error, keywords, message):
    with pytest.raises(error, match=message):
        restore_dask(picture(3, 40, 12), **(COUNTED | keywords))


def test_a_device_is_looked_for_where_planes_are_restored():
    if torch.backends.mps.is_available():
        pytest.skip("this machine has that device")
    restored = restore_dask(picture(3, 9, 12), **(COUNTED | {"device": "mps"}))
    with pytest.raises(ValueError, match="device: expected one of"):
        restored.compute()


def test_a_bad_plane_is_named_when_it_is_reached():
    image = picture(3, 9, 12)
    image[1, 2, 3] = np.nan
    restored = restore_dask(Watched(image), **COUNTED | {"share_kernel": False})
    assert np.isfinite(restored[0].compute()).all()
    with pytest.raises(ValueError, match=r"image, plane \(1,\): expected"):
        restored.compute()


def test_what_goes_otherwise_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(stack, "is_out_of_memory", lambda error: str(error) == "full")
    attempt, failures = stack.Run._attempt, ["full"]

    def fail_once(run, planes, plan):
        if failures:
            raise MemoryError(failures.pop())
        yield from attempt(run, planes, plan)

    monkeypatch.setattr(stack.Run, "_attempt", fail_once)
    restore_dask(picture(80, 80), **COUNTED | {"scale": 1}).compute()
    assert "Memory ran out on cpu" in caplog.text


def test_help_shows_the_settings():
    own = inspect.signature(restore_dask).parameters
    assert {"return_kernels", *inspect.signature(iter_restore).parameters} == set(own)


def test_without_dask_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['dask'] = None\n"
        "import napari_dkp\n"
        "try: napari_dkp.restore_dask([[0.0]])\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install napari-dkp[distributed]" in done.stdout


# A cluster


@pytest.fixture
def client(tmp_path):
    """Two workers, each a process, with a thread each."""
    with (
        mock.patch.dict(os.environ),  # in which it leaves what it starts workers with
        dask.config.set({"temporary-directory": str(tmp_path), "scheduler": None}),
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_worker_that_is_killed_makes_no_difference(client):
    image = picture(16, 9, 12)
    expected = restore(image, **COUNTED)
    lazy = restore_dask(
        da.from_array(image, chunks=(3, 9, 5)).persist(), **COUNTED, return_kernels=True
    )
    killed = client.run(os.getpid)
    running = dask.persist(*lazy)
    planes = futures_of(running)
    next(as_completed(planes))
    os.kill(next(iter(killed.values())), signal.SIGKILL)
    assert not all(plane.done() for plane in planes)
    assert_same(*running, expected)
    assert client.run(os.getpid) != killed
