"""One real export of a tiny BERT that reads pairs, made once for all tests that look at one: it takes seconds."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from tinybert import samples
from tinybert.config import ExportConfig
from tinybert.data import SPLITS, RowWriter, write_manifest
from tinybert.models import label_options, load_classifier, save
from tinybert.released import Released
from tinybert.stages import export

LABELS = ["bad", "good", "neither"]
LENGTH = 16
_kept = tempfile.TemporaryDirectory()


def write_data(directory, pair=True):
    directory.mkdir(parents=True)
    texts = [text for text, _ in samples.sentences()]
    for start, split in enumerate(SPLITS):
        with RowWriter(directory / f"{split}.arrow") as writer:
            for number, text in enumerate(texts[start:60:3]):
                writer.add(text * (1 + number % 3), texts[-number] if pair else None, number % 3, number)
    write_manifest(directory, LABELS, LENGTH)
    return directory


def write_student(directory, seed=0):
    """Random weights, so large that answers differ."""
    torch.manual_seed(seed)
    tokenizer = BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30}
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        initializer_range=0.4,
        **shape,
        **label_options(LABELS),
    )
    save(BertForSequenceClassification(config), tokenizer, directory, None)
    return directory


@cache
def exported():
    """Paths of data, student and out, and the stage's metrics. Nobody may change the files."""
    root = Path(_kept.name)
    data, student, out = write_data(root / "data"), write_student(root / "student"), root / "out"
    out.mkdir()
    metrics = export.run(data=data, student=student, config=ExportConfig(), out=out, on_metrics=lambda *_: None)
    return SimpleNamespace(data=data, student=student, out=out, metrics=metrics)


def altered(directory, **changes):
    """A copy of the export whose serving.json says something else."""
    shutil.copytree(exported().out, directory)
    Released.read(directory).model_copy(update=changes).write(directory)
    return directory


@cache
def network():
    """The exported student in torch."""
    return load_classifier(exported().out).eval()
