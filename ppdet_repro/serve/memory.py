"""Makes glibc return the memory of images and tensors to the system at once.

glibc raises the size from which allocations have pages of their own, up to 32 MB, whenever such an allocation is freed.
Images are then parts of the heaps of threads, which never shrink while something small is in use behind them: the
memory of a server grows by steps over hours.
"""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # options of mallopt, from <malloc.h>
OWN_PAGES = 1 << 20  # bytes from which an allocation has pages of its own
HEAPS = 2  # for all threads together


def return_large_allocations() -> bool:
    """Fix the size from which allocations have pages of their own. Returns False on systems without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # musl, macOS; Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, OWN_PAGES) and mallopt(M_ARENA_MAX, HEAPS))
