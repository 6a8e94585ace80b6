"""Loading and saving model directories. Code that a directory brings along is refused, nobody is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tinybert.allocator import forget_pages
from tinybert.kinds.task_kind import TaskKind
from tinybert.precision import device, use_bf16
from tinybert.used_rows import KnownRows


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    return tokenizer


def load_config(directory: Path, **options: Any) -> PretrainedConfig:
    """The shape of a model, with these fields instead of its own."""
    config: PretrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=False, **options)
    return config


def load_encoder(directory: Path) -> PreTrainedModel:
    """The encoder of a model directory, any head left out, on this machine's device."""
    model: PreTrainedModel = AutoModel.from_pretrained(
        directory, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    return model.to(device())


def load_teacher(
    directory: Path, layers: int, precision: str = "fp32", tokens: NDArray[np.int64] | None = None
) -> PreTrainedModel:
    """An encoder to learn from: frozen, in eval mode, on this machine's device.

    `from_pretrained` maps the file into memory. Weights are copied out of the map one by one, linear layers straight to
    their precision, and forgotten there; what is not needed is never read.

    Args:
        directory: Of a model, any head left out.
        layers: How many of its layers, the first ones, there shall be.
        precision: auto, bf16 or fp32. Where it means bf16, linear layers are in bf16, as
            `tinybert.precision.halve_linears` has them.
        tokens: Token ids it will be asked for, rising; None: any.
    """
    model: PreTrainedModel = AutoModel.from_pretrained(
        directory, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, num_hidden_layers=layers
    )
    if tokens is not None:
        model.set_input_embeddings(KnownRows(model.get_input_embeddings(), torch.as_tensor(tokens)))
    where, halved = device(), use_bf16(device(), precision)
    for module in model.modules():
        dtype = torch.bfloat16 if halved and isinstance(module, nn.Linear) else torch.float32
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.to(where, dtype, copy=True), requires_grad=False))
            forget_pages(parameter)
    return model.eval().to(where)


def load_model(directory: Path, kind: TaskKind, labels: Sequence[str] | None = None) -> PreTrainedModel:
    """A model of a kind of task, on this machine's device.

    Args:
        directory: Of a model.
        kind: What kind of head it has.
        labels: Names of its outputs. With them, the model gets a head for them, new where the directory has none.
    """
    options = {} if labels is None else kind.options(labels)
    model: PreTrainedModel = kind.auto_class().from_pretrained(
        directory,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        ignore_mismatched_sizes=labels is not None,
        **options,
    )
    return model.to(device())


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, max_length: int | None) -> None:
    """Write a model directory that `from_pretrained` loads; `max_length` becomes the tokenizer's own limit."""
    model.config.torch_dtype = None
    model.save_pretrained(directory)
    if max_length is not None:
        tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # save_pretrained gives the weights 0600, which a shared volume does not forgive
