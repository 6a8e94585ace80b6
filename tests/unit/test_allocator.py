"""Freed memory, given back to the system."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tinybert.allocator import give_back_freed_memory

BLOCK, BLOCKS = 2**16, 1024


def resident() -> int:
    """Bytes this process has in memory."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="what glibc does on Linux"
)
def test_gaps_between_blocks_in_use_are_given_back():
    blocks = [bytearray(b"x") * BLOCK for _ in range(BLOCKS)]
    kept = blocks[::64]  # the last ones too, so that the heap cannot simply end earlier
    kept.append(blocks[-1])
    before = resident()
    del blocks
    give_back_freed_memory()
    assert before - resident() > 0.8 * BLOCK * (BLOCKS - len(kept))
    assert all(block == bytearray(b"x") * BLOCK for block in kept)


def test_a_process_without_torch_gives_back_gpu_memory_without_importing_it():
    code = "import sys, tinybert.allocator as a; a.give_back_gpu_memory(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
