"""Memory of mapped files, given back."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tinybert.allocator import forget_pages

COUNT = 2**20


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process' memory."""
    maps = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    return sum(int(re.search(r"Rss:\s+(\d+) kB", part)[1]) * 1024 for part in maps if str(path) in part)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_pages_of_a_mapped_tensor_are_forgotten_and_read_again(tmp_path):
    path = tmp_path / "two.safetensors"
    save_file({"a": torch.arange(COUNT), "b": torch.arange(COUNT)}, path)
    with safe_open(path, framework="pt") as file:
        one, other = file.get_slice("a")[...], file.get_slice("b")[...]
        expected = COUNT * (COUNT - 1) // 2
        assert one.sum().item() == other.sum().item() == expected
        both = resident(path)
        assert both >= one.nbytes + other.nbytes
        forget_pages(one)
        assert other.nbytes <= resident(path) <= both - one.nbytes + 3 * 4096  # pages shared with others stay
        assert one.sum().item() == other.sum().item() == expected


def test_a_tensor_with_memory_of_its_own_keeps_it():
    tensor = torch.arange(COUNT)
    forget_pages(tensor)
    assert tensor.sum().item() == COUNT * (COUNT - 1) // 2
