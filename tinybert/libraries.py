"""What we ask of the libraries around us, process-wide."""

import os
from logging import CRITICAL

from datasets import disable_progress_bars
from datasets.utils.logging import set_verbosity
from transformers.utils import logging as transformers_logging

KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "1"}
"""How many compiled kernels oneDNN and PyTorch's layer above it keep: their own 1,024 each are hundreds of megabytes.

One is compiled for each shape of a matrix, in milliseconds, and batches of dynamic padding come in many shapes
(`benchmarks/memory.py`). Both read this when they compile the first one.
"""


def tame() -> None:
    """No bars and no load reports from transformers and datasets, and few compiled kernels in memory.

    What matters we say, and what fails they raise. Environment variables that are set already stay.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    set_verbosity(CRITICAL)  # it logs an error, then raises it
    for name, kept in KERNELS.items():
        os.environ.setdefault(name, kept)
