"""What we ask of the libraries around us, process-wide."""

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging


def quiet() -> None:
    """No bars and no load reports from transformers and datasets: what matters we say, and what fails they raise."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
