"""The process's allocator: set for training, what one step frees, the next one takes again; or set for measuring."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
LARGE = 1 << 30
"""Bytes from which an allocation goes back to the system as soon as it is free."""
KEPT = {M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: LARGE, M_TOP_PAD: 1 << 26, M_ARENA_MAX: 1}
APART = 1 << 17
"""Bytes from which, where memory is measured, an allocation has pages of its own."""
RETURNED = {M_MMAP_THRESHOLD: APART, M_TRIM_THRESHOLD: APART, M_TOP_PAD: APART, M_ARENA_MAX: 1}


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, instead of giving it back at every step and asking for it, zeroed, at the next.

    A training step frees and allocates megabytes. Dask asks its workers' allocator to give all of it back
    (`MALLOC_TRIM_THRESHOLD_=65536`), and half of an array's time then went to the system's page faults.

    Returns:
        Whether it could be set: only glibc has these settings.
    """
    return _set(KEPT)


def return_freed_memory() -> bool:
    """Let glibc give back what is freed, so that the peak of resident memory is what was in use at one time.

    In a heap that keeps it, one small block that outlives a large one below it keeps the next large one from its place
    (torch asks for aligned blocks, and a gap of just their size is too small): the peak then counts both.

    Returns:
        Whether it could be set: only glibc has these settings.
    """
    return _set(RETURNED)


def give_back() -> None:
    """Give back what is free now, once, where the allocator is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(settings: Mapping[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings.items())
