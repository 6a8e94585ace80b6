"""What the libraries keep in memory."""

import os
import subprocess
import sys

import pytest

from tinybert.libraries import KERNELS, tame

GROWTH = """
import sys
from pathlib import Path
import torch
from tinybert.libraries import tame

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1000

if sys.argv[1] == "tamed":
    tame()
linear = torch.nn.Linear(312, 1200, dtype=torch.bfloat16)
with torch.no_grad():
    linear(torch.ones(8, 312, dtype=torch.bfloat16))
    before = resident()
    for rows in range(20, 1020, 2):
        linear(torch.ones(rows, 312, dtype=torch.bfloat16))
print(resident() - before)
"""


def growth(how):
    """Megabytes that matrix products of 500 shapes leave behind in a process of its own."""
    command = [sys.executable, "-c", GROWTH, how]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_kernels_of_many_shapes_do_not_pile_up(monkeypatch):
    for name in KERNELS:
        monkeypatch.delenv(name, raising=False)  # this process is tamed already
    wild = growth("wild")
    if wild < 100:
        pytest.skip("nothing is compiled for bf16 on this processor")
    assert growth("tamed") < wild / 3


def test_a_limit_that_somebody_set_stays(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    tame()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
