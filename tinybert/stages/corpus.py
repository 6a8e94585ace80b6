"""Plain text to packed, tokenised sequences, streaming: neither the text nor the tokens need to fit in memory."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tinybert.cli import main
from tinybert.config import CorpusConfig
from tinybert.corpus import pack, pack_pairs, texts_of, write
from tinybert.errors import DataError
from tinybert.models import load_tokenizer
from tinybert.progress import OnMetrics, Progress
from tinybert.tables import split_files

T = TypeVar("T")


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
    texts, pieces = texts_of(files, config), load_tokenizer(tokenizer)
    if config.pairs:
        packed = pack_pairs(texts, pieces, config.length)
    else:
        packed = ((sequence, True) for sequence in pack(texts, pieces, config.length))
    progress = Progress("corpus", config.sequences, unit="sequence")
    counted = _counted(islice(packed, config.sequences), progress)
    sequences = write(counted, config.length, out / "corpus.arrow")
    if not sequences:
        raise DataError(f"{source.name}: less text than one sequence of {config.length} tokens; shorten corpus.length")
    tokens = sequences * config.length
    manifest = {"sequences": sequences, "length": config.length, "tokens": tokens, "pairs": config.pairs}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    metrics = {"sequences": float(sequences), "tokens": float(tokens)}
    on_metrics(metrics, 0)
    return metrics


def _counted(sequences: Iterator[T], progress: Progress) -> Iterator[T]:
    for number, sequence in enumerate(sequences, start=1):
        progress.update(number)
        yield sequence


if __name__ == "__main__":
    main(run)
