"""Plain text to packed, tokenised sequences, streaming: neither the text nor the tokens need to fit in memory."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from tinybert.cli import main
from tinybert.config import CorpusConfig
from tinybert.corpus import pack, write
from tinybert.errors import DataError
from tinybert.progress import OnMetrics, Progress
from tinybert.tables import split_files, stream

_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")


def run(*, source: Path, tokenizer: Path, config: CorpusConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Pack a corpus.

    Args:
        source: Text file, table or directory of them.
        tokenizer: Directory of the model whose tokenizer splits the text.
        config: Column, length, size.
        out: Directory to write: `corpus.arrow`, `manifest.json` (see `tinybert.corpus`).
        on_metrics: Told the counts.

    Returns:
        sequences and tokens.

    Raises:
        DataError: Unreadable file, missing column, or less text than one sequence.
    """
    files = split_files(source, "train")
    texts = _texts(files, config)
    packed = pack(texts, AutoTokenizer.from_pretrained(tokenizer), config.length)
    progress = Progress("corpus", config.sequences, unit="sequence")
    counted = _counted(islice(packed, config.sequences), progress)
    sequences = write(counted, config.length, out / "corpus.arrow")
    if not sequences:
        raise DataError(f"{source.name}: less text than one sequence of {config.length} tokens; shorten corpus.length")
    manifest = {"sequences": sequences, "length": config.length, "tokens": sequences * config.length}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    metrics = {"sequences": float(sequences), "tokens": float(sequences * config.length)}
    on_metrics(metrics, 0)
    return metrics


def _texts(files: list[Path], config: CorpusConfig) -> Iterator[str]:
    for row in stream(files, [config.text], config.where):
        text = _MARKUP.sub(" ", str(row[config.text] or "")) if config.strip_markup else str(row[config.text] or "")
        if text.strip():
            yield text


def _counted(sequences: Iterator[list[int]], progress: Progress) -> Iterator[list[int]]:
    for number, sequence in enumerate(sequences, start=1):
        progress.update(number)
        yield sequence


if __name__ == "__main__":
    main(run)
