"""What we ask of the libraries around us, process-wide."""

from logging import CRITICAL

from datasets import disable_progress_bars
from datasets.utils.logging import set_verbosity
from transformers.utils import logging as transformers_logging


def quiet() -> None:
    """No bars and no load reports from transformers and datasets: what matters we say, and what fails they raise."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    set_verbosity(CRITICAL)  # it logs an error, then raises it
