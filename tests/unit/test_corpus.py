"""The packed corpus: blocks on the disk, of which memory holds a few however many there are."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from tinybert.batches import WINDOW, StepBatches, plan
from tinybert.corpus import BLOCK, Corpus, PackedRows, pack, write
from tinybert.stages.mlm import MaskedRows
from tinybert.training_config import OptimConfig

LENGTH = 4


def numbered(count):
    """Sequences that tell their own number."""
    return (([number, number + 1, number + 2, number + 3], True) for number in range(count))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A corpus of many blocks, more than are kept, and a partial last one."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.arrow"
    count = 3 * WINDOW * BLOCK + 100
    assert write(numbered(count), LENGTH, path) == count
    return path, count


def test_it_is_written_in_blocks(large):
    path, count = large
    with pa.ipc.open_file(str(path)) as file:
        sizes = [len(file.get_batch(number)) for number in range(file.num_record_batches)]
    assert sizes == [BLOCK] * (3 * WINDOW) + [100]
    assert sum(sizes) == count


def test_rows_are_read_across_the_borders_of_blocks(large):
    path, count = large
    rows = PackedRows(path, count)
    asked = np.array([BLOCK - 1, BLOCK, 0, count - 1, 2 * BLOCK, BLOCK - 1])
    batch = rows.batch(asked, torch.Generator())
    assert batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"].tolist() == [[n, n + 1, n + 2, n + 3] for n in asked.tolist()]
    assert batch["attention_mask"].tolist() == [[1] * LENGTH] * len(asked)
    assert (len(rows), rows.lengths, rows.block) == (count, None, BLOCK)


def test_an_epoch_reads_each_block_once_and_memory_holds_a_few(large, monkeypatch):
    path, count = large
    read = []
    monkeypatch.setattr(
        PackedRows, "_read", lambda self, number, real=PackedRows._read: read.append(number) or real(self, number)
    )
    rows = PackedRows(path, count)
    batches = plan(rows, OptimConfig(batch_size=512, epochs=1))
    shares = StepBatches(rows, batches, seed=0)
    before, seen = pa.total_allocated_bytes(), []
    for step in range(batches.steps):
        seen.append(shares[step]["input_ids"][:, 0])
        assert pa.total_allocated_bytes() - before <= 2 * WINDOW * BLOCK * LENGTH * 4 + 100_000
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(count))
    assert len(read) <= 3 * WINDOW + 1 + 1  # one more for the plan, which looks at a row
    assert set(read) == set(range(3 * WINDOW + 1))


def test_a_corpus_is_its_directory(tmp_path):
    write(numbered(10), LENGTH, tmp_path / "corpus.arrow")
    (tmp_path / "manifest.json").write_text(json.dumps({"sequences": 10, "length": LENGTH, "pairs": False}))
    rows = Corpus(tmp_path).rows()
    assert rows.batch(np.array([9]), torch.Generator())["input_ids"].tolist() == [[9, 10, 11, 12]]


def test_texts_are_packed_without_gaps(smoke_material):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    texts = ["the film is wonderful"] * 300 + ["a truly boring story"] * 300  # more than are tokenised at a time
    packed = list(pack(texts, tokenizer, 10))
    stream = [i for text in texts for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 3]]
    assert tokenizer.sep_token_id == 3
    assert len(packed) == len(stream) // 8
    assert packed == [[2, *stream[start : start + 8], 3] for start in range(0, len(stream) - 7, 8)]


# Masking --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(smoke_material, tmp_path_factory):
    """Rows of one word between special tokens, 15% of them masked, their tokenizer and one large batch."""
    path = tmp_path_factory.mktemp("masked") / "corpus.arrow"
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    word = tokenizer.convert_tokens_to_ids("film")
    write((([2, *[word] * 30, 3], True) for _ in range(500)), 32, path)
    rows = MaskedRows(PackedRows(path, 500), tokenizer, share=0.15)
    batch = rows.batch(np.arange(500), torch.Generator().manual_seed(0))
    return rows, tokenizer, word, batch


def test_of_the_chosen_tokens_80_percent_are_masked_and_10_swapped(masked):
    _, tokenizer, word, batch = masked
    ids, labels = batch["input_ids"], batch["labels"]
    chosen = labels != -100
    assert chosen.float().mean().item() == pytest.approx(0.15 * 30 / 32, abs=0.01)
    assert (labels[chosen] == word).all()
    assert (ids[~chosen & (ids != 2) & (ids != 3)] == word).all()
    assert (ids[chosen] == tokenizer.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (ids[chosen] == word).float().mean().item() == pytest.approx(0.1, abs=0.03)
    swapped = ids[chosen & (ids != word) & (ids != tokenizer.mask_token_id)]
    assert len(swapped) / int(chosen.sum()) == pytest.approx(0.1, abs=0.03)
    assert len(swapped.unique()) > 40  # any word


def test_special_tokens_are_never_chosen(masked):
    batch = masked[3]
    assert (batch["labels"][:, [0, -1]] == -100).all()
    assert (batch["input_ids"][:, 0] == 2).all()
    assert (batch["attention_mask"] == 1).all()


def test_masking_follows_from_the_generator(masked):
    rows = masked[0]
    first, again, other = (rows.batch(np.arange(20), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["labels"], other["labels"])
