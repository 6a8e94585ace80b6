"""Real exports of tiny BERTs of every kind, each made once for all tests that look at it: it takes seconds."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import BertConfig, BertTokenizerFast

from tinybert import samples
from tinybert.config import ExportConfig
from tinybert.data import SPLITS, RowWriter, write_manifest
from tinybert.kinds import KINDS, kind_of
from tinybert.models import load_model, save
from tinybert.released import TORCH, Released, Variant
from tinybert.stages import export

LABELS = ["bad", "good", "neither"]
NAMES = {
    "classification": LABELS,
    "multi_label": LABELS,
    "regression": ["stars"],
    "token_classification": ["O", "B-MOOD", "B-THING", "I-THING"],
    "question_answering": ["start", "end"],
}
PAIRED = {"classification", "question_answering"}
"""Kinds that read pairs here."""
LENGTH = 16
_kept = tempfile.TemporaryDirectory()


def label(kind, number, text, pair):
    """Any that a row may have."""
    return {
        "classification": number % 3,
        "multi_label": [0, 2][: number % 3],
        "regression": number / 4,
        "token_classification": [place % 4 for place in range(len(text.split(" ")))],
        "question_answering": [{"text": pair[2:5], "start": 2}] if pair else [],
    }[kind]


def write_data(directory, pair=True, kind="classification"):
    directory.mkdir(parents=True)
    texts = [text for text, _ in samples.sentences()]
    for start, split in enumerate(SPLITS):
        with RowWriter(directory / f"{split}.arrow", kind_of(kind)) as writer:
            for number, text in enumerate(texts[start:60:3]):
                first, second = " ".join([text] * (1 + number % 3)), texts[-number] if pair else None
                writer.add(first, second, label(kind, number, first, second), number)
    write_manifest(directory, NAMES[kind], LENGTH, kind=kind, metric=next(iter(kind_of(kind).metrics)))
    return directory


def write_student(directory, seed=0, kind="classification"):
    """Random weights, so large that answers differ."""
    torch.manual_seed(seed)
    tokenizer = BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64)
    layers = 2 if kind == "classification" else 1
    shape = {"hidden_size": 24, "num_hidden_layers": layers, "num_attention_heads": 3, "intermediate_size": 30}
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        initializer_range=0.4,
        **shape,
        **kind_of(kind).options(NAMES[kind]),
    )
    save(kind_of(kind).auto_class().from_config(config), tokenizer, directory, None)
    return directory


def exported(kind="classification"):
    """Paths of data, student and out, and the stage's metrics. Nobody may change the files."""
    return _exported(kind)


@cache
def _exported(kind):
    root = Path(_kept.name) / kind
    data = write_data(root / "data", kind in PAIRED, kind)
    student, out = write_student(root / "student", kind=kind), root / "out"
    out.mkdir()
    metrics = export.run(data=data, student=student, config=ExportConfig(), out=out, on_metrics=lambda *_: None)
    return SimpleNamespace(data=data, student=student, out=out, metrics=metrics)


def altered(directory, **changes):
    """A copy of the export of the classifier whose serving.json says something else."""
    shutil.copytree(exported().out, directory)
    Released.read(directory).model_copy(update=changes).write(directory)
    return directory


def released(kind, **changes):
    """What says how a student of this kind answers; torch is its only variant."""
    fields = {
        "kind": kind,
        "labels": NAMES[kind],
        "max_length": LENGTH,
        "pair": kind in PAIRED,
        "default": TORCH,
        "variants": {TORCH: Variant(file="model.safetensors")},
    }
    return Released(**{**fields, **changes})


@cache
def served(kind):
    """Directory of a student of this kind that torch answers for, made without the stage that exports."""
    directory = write_student(Path(_kept.name) / f"served-{kind}", kind=kind)
    released(kind).write(directory)
    return directory


def network(kind="classification"):
    """The student in torch."""
    return _network(kind)


@cache
def _network(kind):
    return load_model(exported(kind).out, kind_of(kind)).eval()


assert NAMES.keys() == KINDS.keys()
