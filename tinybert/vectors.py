"""Word vectors, parsed once into a normalised, memory-mapped matrix, and the search for nearest words in it.

Shape suffixes: W words, D width, Q words asked for, R words of one block, K nearest words.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinybert import vector_files
from tinybert.digest import content_digest, json_digest
from tinybert.errors import DataError
from tinybert.vector_files import Block, Matrix

FORMAT = 2
"""Raised whenever a parsed file's content changes: older caches are then not used."""
ROWS = 32_768
QUERIES = 512
GROUP = 32
"""Words of a block that are first ranked together, by the nearest of them."""


class Vectors:
    """Unit-length vectors of alphabetic words, and the search for nearest ones."""

    def __init__(self, words: Sequence[str], matrix_WD: Matrix) -> None:
        self.words = words
        self.matrix_WD = matrix_WD
        self.rows: dict[str, int] = {}
        for row, word in enumerate(words):
            self.rows.setdefault(word.lower(), row)

    def neighbours(self, words: Sequence[str], k: int) -> dict[str, list[str]]:
        """At most k nearest words by cosine for each word that has a vector, the nearest first.

        Words are looked up in lower case. The word itself is never among its neighbours, in no casing.
        """
        known = [word for word in dict.fromkeys(words) if word.lower() in self.rows]
        found: dict[str, list[str]] = {}
        for start in range(0, len(known), QUERIES):
            block = known[start : start + QUERIES]
            query_QD = self._take([self.rows[word.lower()] for word in block])
            # Twice as many as needed: vocabularies with casing hold a word more than once.
            for word, near in zip(block, self._nearest(query_QD, 2 * k + 2), strict=True):
                others: dict[str, str] = {}
                for row in near:
                    others.setdefault(self.words[row].lower(), self.words[row])
                others.pop(word.lower(), None)
                found[word] = list(others.values())[:k]
        return found

    def _take(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.array(self.matrix_WD[rows]))

    def _nearest(self, query_QD: Tensor, k: int) -> list[list[int]]:
        """Rows of the k nearest words, the nearest first, over blocks of the matrix."""
        best_QK = torch.empty(len(query_QD), 0)
        rows_QK = torch.empty(len(query_QD), 0, dtype=torch.long)
        # Used for all blocks: to get fresh memory for each takes as long as to compute the scores.
        scores = torch.empty(len(query_QD) * min(ROWS, len(self.words)))
        for start in range(0, len(self.words), ROWS):
            # Copied, because torch takes no read-only memory.
            block_RD = torch.from_numpy(np.array(self.matrix_WD[start : start + ROWS]))
            scores_QR = scores[: len(query_QD) * len(block_RD)].view(len(query_QD), len(block_RD))
            values_QK, columns_QK = _largest(torch.mm(query_QD, block_RD.T, out=scores_QR), k)
            best_QK = torch.cat([best_QK, values_QK], dim=1)
            rows_QK = torch.cat([rows_QK, columns_QK + start], dim=1)
            kept = best_QK.topk(min(k, best_QK.shape[1]))
            best_QK, rows_QK = kept.values, rows_QK.gather(1, kept.indices)
        near: list[list[int]] = rows_QK.tolist()
        return near


def _largest(scores_QR: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row and their columns, the largest first.

    They stand in the k groups of columns whose own largest are the largest, so only these are searched: the
    maximum of every group is found much faster than the k largest columns.
    """
    queries, columns = scores_QR.shape
    groups = columns // GROUP
    if columns % GROUP or groups <= k:
        top = scores_QR.topk(min(k, columns))
        return top.values, top.indices
    best_QK = scores_QR.view(queries, GROUP, groups).amax(1).topk(k).indices
    members_G = groups * torch.arange(GROUP)
    columns_QN = (best_QK[:, None, :] + members_G[:, None]).flatten(1)
    top = scores_QR.gather(1, columns_QN).topk(k)
    return top.values, columns_QN.gather(1, top.indices)


def load(path: Path, cache: Path) -> Vectors:
    """Word vectors from any file that `vector_files.read` knows, alphabetic words only.

    Args:
        path: GloVe or word2vec text, word2vec binary (.bin), each also .gz, a .zip of one, a .npy matrix with its
            vocabulary beside it, or a directory that holds these two.
        cache: Directory for the parsed form, one entry per content of the source.

    Raises:
        DataError: The source cannot be read as vectors; the message names file and line or entry.
    """
    files = vector_files.find(path)
    digest = json_digest([FORMAT, *map(content_digest, files)])
    entry = cache / f"vectors-{digest[:32]}"
    if not entry.is_dir():
        _write(entry, vector_files.read(files), files[0])
    words = json.loads((entry / "words.json").read_text(encoding="utf-8"))
    return Vectors(words, np.memmap(entry / "vectors.f32", np.float32, "r").reshape(len(words), -1))


def _write(entry: Path, blocks: Iterable[Block], source: Path) -> None:
    """Store alphabetic words with a direction, at unit length; the entry appears whole or not at all."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".vectors-"))
    temporary.chmod(0o755)
    try:
        words = _write_rows(temporary / "vectors.f32", blocks, source)
        if not words:
            raise DataError(f"{source} holds no word of letters whose numbers are not all 0; name other vectors")
        (temporary / "words.json").write_text(json.dumps(words), encoding="utf-8")
        _publish(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(file: Path, blocks: Iterable[Block], source: Path) -> list[str]:
    """Write the rows one block after the other, so that the matrix is never held whole; the words of the rows."""
    kept: list[str] = []
    start = 0
    with file.open("wb") as out:
        for words, block_RD in blocks:
            length_R = np.linalg.norm(block_RD, axis=1)
            if not np.isfinite(length_R).all():
                row = start + int(np.isfinite(length_R).argmin()) + 1
                raise DataError(f"{source}, row {row}: numbers must be finite")
            rows = [row for row, word in enumerate(words) if word.isalpha() and length_R[row]]
            kept += [words[row] for row in rows]
            out.write((block_RD[rows] / length_R[rows, None]).astype(np.float32).tobytes())
            start += len(words)
    return kept


def _publish(temporary: Path, entry: Path) -> None:
    try:
        os.replace(temporary, entry)  # noqa: PTH105
    except OSError:
        if not entry.is_dir():  # another process may have been first, with the same content
            raise
