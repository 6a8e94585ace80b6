"""Loading and saving model directories."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tinybert.scoring import device


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory)
    return tokenizer


def load_encoder(directory: Path) -> PreTrainedModel:
    """The encoder of a model directory, any head left out, on this machine's device."""
    model: PreTrainedModel = AutoModel.from_pretrained(directory, use_safetensors=True, dtype=torch.float32)
    return model.to(device())


def load_classifier(directory: Path, labels: list[str] | None = None) -> PreTrainedModel:
    """A sequence classifier; with labels, one with a head for them, new where the directory has none."""
    options = {} if labels is None else label_options(labels)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, dtype=torch.float32, ignore_mismatched_sizes=labels is not None, **options
    )
    return model.to(device())


def label_options(labels: list[str]) -> dict[str, Any]:
    """What a model's config needs to know of its labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, max_length: int | None) -> None:
    """Write a model directory that `from_pretrained` loads; `max_length` becomes the tokenizer's own limit."""
    model.config.torch_dtype = None
    model.save_pretrained(directory)
    if max_length is not None:
        tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # save_pretrained gives the weights 0600, which a shared volume does not forgive
