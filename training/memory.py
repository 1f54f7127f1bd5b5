"""Memory that stays with the process: what tensors leave is used again without the system's help."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER, _NONE = -1, 0
_OWN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_memory() -> bool:
    """Tells glibc, for the whole process, not to give large blocks back to the system when tensors end: each step of training would get them anew, page by
    page, zeroed (`benchmarks/training.py --keep-memory`). What is free stays with the process until it ends, in pieces that do not always fit, so that its
    peak may be higher, too.

    Returns:
        Whether it was done: not without glibc, and not where the environment has settings of its own for memory.
    """
    if any(name in os.environ for name in _OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_MMAP_MAX, _NONE))
