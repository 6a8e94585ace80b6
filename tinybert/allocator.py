"""The C library's memory allocator, told that a training step needs again what the last one freed."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's mallopt(3)."""
_LARGEST = 2**30
"""Bytes: no larger than a block of memory that is kept, and no more than is kept unused."""


def keep_freed_memory() -> None:
    """Have large blocks come from the heap and stay there, for the rest of the process; glibc alone can do that.

    By default blocks over 32 MB, such as the gradient of a vocabulary's embedding, come fresh from the kernel at every
    step, which clears them page by page: an eighth of a small student's step (`benchmarks/distill_step.py`).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)
