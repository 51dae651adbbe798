"""Large blocks that are taken again and again cost few new pages, and go back in the end."""

import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from mmap import PAGESIZE as PAGE
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_dkp import memory

MIB = 2**20
LARGE = 64 * MIB

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def take(times: int) -> float:
    """Take and free a block some times; return how many times anew the system had to clear it."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(LARGE, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE / LARGE


def resident() -> int:
    """Return the bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def in_fresh_process(work: Callable[[], Any]) -> Any:
    """Do work where the heap has room to grow: after many other tests it may have none."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def cleared_while_kept() -> float:
    with memory.kept(LARGE):
        take(10)  # until there is room
        return take(20)


@glibc
def test_what_is_kept_is_not_cleared_again():
    assert in_fresh_process(cleared_while_kept) < 10


def cleared_where_a_worker_trims() -> tuple[float, float, float]:
    def some() -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(8 * MIB, dtype=torch.uint8)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE / (8 * MIB)

    import resource  # not on Windows

    before = some()
    with memory.untrimmed():
        some()  # until there is room
        within = some()
    return before, within, some()


@glibc
def test_a_worker_that_trims_does_not_while_it_is_told_to(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    # What follows is up to where in its heap glibc puts the next blocks.
    before, within, _ = in_fresh_process(cleared_where_a_worker_trims)
    assert before > 15
    assert within < 5


@glibc
def test_where_nothing_trims_nothing_is_told(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    told = []
    monkeypatch.setattr(memory, "_set", lambda library, values: told.append(values))
    with memory.untrimmed():
        pass
    assert told == []


@glibc
def test_blocks_that_are_not_large_change_nothing():
    with memory.kept(32 * MIB - 1):
        assert memory._holders == 0


def resident_within_and_after_two() -> tuple[int, int, int]:
    before = resident()
    with ExitStack() as last:
        with memory.kept(LARGE):
            last.enter_context(memory.kept(LARGE))
            take(2)
        within = resident()
    return before, within, resident()


@glibc
def test_memory_stays_until_the_last_context_ends_and_then_goes():
    before, within, after = in_fresh_process(resident_within_and_after_two)
    assert within > before + 0.9 * LARGE
    assert after < before + 0.5 * LARGE


@glibc
def test_a_run_that_is_collected_while_another_enters_leaves_without_waiting():
    def run(cycle: list[Iterator[object]]) -> Iterator[object]:
        with memory.kept(LARGE):
            yield cycle

    cycle: list[Iterator[object]] = []
    cycle.append(run(cycle))
    next(cycle[0])
    assert memory._holders == 1
    with memory._lock:
        del cycle
        gc.collect()
    assert memory._holders == 0


@glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TOP_PAD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9")],
)
def test_what_the_environment_chooses_stays(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    memory._glibc.cache_clear()
    try:
        with memory.kept(LARGE):
            assert memory._holders == 0
    finally:
        memory._glibc.cache_clear()


@glibc
def test_an_error_inside_gives_memory_back():
    before = resident()
    with pytest.raises(KeyError), memory.kept(LARGE):
        take(2)
        raise KeyError
    assert resident() < before + 0.5 * LARGE


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.kept(LARGE):
        assert memory._holders == 0
