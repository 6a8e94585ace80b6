"""The memory allocators, the C library's and the GPU's, told when to keep what was freed, and when to give it back."""

import ctypes
import gc
import sys
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # stages that compute nothing import no torch
    from torch import Tensor

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's mallopt(3)."""
_LARGEST = 2**30
"""Bytes: no larger than a block of memory that is kept, and no more than is kept unused."""
_DONTNEED = 4
"""Advice of Linux' madvise(2)."""


def keep_freed_memory() -> None:
    """Have large blocks come from the heap and stay there, for the rest of the process; glibc alone can do that.

    By default blocks over 32 MB, such as the gradient of a vocabulary's embedding, come fresh from the kernel at every
    step, which clears them page by page: an eighth of a small student's step (`benchmarks/distill_step.py`), a tenth of
    asking a language model for words (`benchmarks/augment.py`).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)


def give_back_freed_memory() -> None:
    """Hand what is free in the heap to the system, also between blocks in use; glibc alone can do that.

    Where blocks of many sizes come and go, the heap otherwise grows by the gaps between them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_gpu_memory() -> None:
    """Hand the GPU memory that nobody uses any more to other processes; nothing where none was used.

    A trainer, its learner and its callbacks refer to each other, so what they hold is free only once it was collected.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def forget_pages(tensor: "Tensor") -> None:
    """Have a tensor that lies in a mapped file take no memory until it is read again, from the file then.

    Called where nobody reads what was written into it since. Tensors with memory of their own keep it, and so do all
    tensors away from Linux.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu" or tensor.untyped_storage().resizable():
        return
    begin = -(-tensor.data_ptr() // PAGESIZE) * PAGESIZE  # whole pages: what else lies in the first and last stays
    size = (tensor.data_ptr() + tensor.nbytes) // PAGESIZE * PAGESIZE - begin
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _DONTNEED)
