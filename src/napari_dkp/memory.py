"""Memory that stays with the process from image step to image step.

glibc maps each block of more than 32 MiB on its own and unmaps it when it is freed; the system then
clears every page of the next one anew. At 2048² pixels that takes longer than the arithmetic.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from platform import libc_ver
from threading import RLock

_MIB = 2**20
# Largest block that glibc ever takes from memory it keeps.
_MAPPED_FROM = 32 * _MIB
# Smallest block that glibc maps on its own until it raises that.
_MAPPED_AT_FIRST = 128 * 1024
_TRIM_VARIABLE = "MALLOC_TRIM_THRESHOLD_"

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEEPING = {
    _MMAP_MAX: 0,
    _TRIM_THRESHOLD: 2**31 - 1,
    _TOP_PAD: 64 * _MIB,
}
# As glibc starts, but for the thresholds: to these it raises them itself when large blocks are
# freed, until somebody sets one. None can be read.
_USUAL = {
    _MMAP_MAX: 65536,
    _MMAP_THRESHOLD: _MAPPED_FROM,
    _TRIM_THRESHOLD: 2 * _MAPPED_FROM,
    _TOP_PAD: 128 * 1024,
}


@contextmanager
def kept(largest: int) -> Iterator[None]:
    """Let freed memory stay with the process; give it back at the end.

    It holds for the whole process; but threads other than the main one have arenas of their own, in
    which glibc keeps no block of 64 MiB or more. Where such contexts overlap, in whatever threads,
    memory is given back when the last one ends. Nothing is changed without glibc, where its
    environment variables are set, and for small blocks.

    Parameters
    ----------
    largest : bytes of the largest block that is often taken and freed.
    """
    library = _glibc() if largest >= _MAPPED_FROM else None
    if library is None:
        yield
        return
    _enter(library)
    try:
        yield
    finally:
        _leave(library)


@contextmanager
def untrimmed() -> Iterator[None]:
    """Let glibc keep freed memory as it usually does, though the environment has it trim at once.

    That is how dask starts its workers, where it doubles the time of a step of 512² pixels and
    more. At the end it trims, and goes on to.
    """
    threshold = os.environ.get(_TRIM_VARIABLE, "")
    if not threshold.isdecimal() or libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    _set(library, _USUAL)
    try:
        yield
    finally:
        _set(library, {_TRIM_THRESHOLD: int(threshold), _MMAP_THRESHOLD: _MAPPED_AT_FIRST})
        library.malloc_trim(0)


# A run that is collected in here leaves its context here.
_lock = RLock()
_holders = 0


def _enter(library: ctypes.CDLL) -> None:
    global _holders
    with _lock:
        _holders += 1
        if _holders == 1:
            _set(library, _KEEPING)


def _leave(library: ctypes.CDLL) -> None:
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            _set(library, _USUAL)
            library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen = chosen or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return None if chosen or libc_ver()[0] != "glibc" else ctypes.CDLL(None)
