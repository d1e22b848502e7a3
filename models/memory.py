"""The process's allocator, set for training: what one step frees, the next one takes again."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
LARGE = 1 << 30
"""Bytes from which an allocation goes back to the system as soon as it is free."""
SETTINGS = {M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: LARGE, M_TOP_PAD: 1 << 26, M_ARENA_MAX: 1}


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, instead of giving it back at every step and asking for it, zeroed, at the next.

    A training step frees and allocates megabytes. Dask asks its workers' allocator to give all of it back
    (`MALLOC_TRIM_THRESHOLD_=65536`), and half of an array's time then went to the system's page faults.

    Returns:
        Whether it could be set: only glibc has these settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())
