"""Forward passes without gradients: a classifier's logits for rows of text, in the rows' order.

Shapes: B batch, L length, C classes, N rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.precision import native_bf16


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """bf16 autocast as the form's `precision` says; auto: where the hardware multiplies bf16 natively."""
    return torch.autocast(where.type, torch.bfloat16, enabled=use_bf16(where, precision))


def use_bf16(where: torch.device, precision: str) -> bool:
    """Whether `precision` (auto, bf16, fp32) means bf16 on this device."""
    return native_bf16(where) if precision == "auto" else precision == "bf16"


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str | None], max_length: int
) -> dict[str, Tensor]:
    """Token ids and masks (B, L), padded to the longest of the batch, cut at `max_length` tokens."""
    second = list(pairs) if any(pair is not None for pair in pairs) else None
    encoded = tokenizer(list(texts), second, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return dict(encoded)


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Any,
    max_length: int,
    batch_size: int = 64,
    precision: str = "auto",
) -> Tensor:
    """Logits (N, C) in fp32 on the CPU, row n's at place n.

    Rows go through sorted by length, so that little is padded; the model, which may be one that is only called like a
    transformers model (`tinybert.onnx_model.OnnxClassifier`), is in eval mode and is put back after.
    """
    where = model.device
    texts, pairs = list(rows["text"]), list(rows["text_pair"])
    was_training = model.training
    model.eval()
    logits_NC: Tensor | None = None
    with torch.no_grad(), autocast(where, precision):
        for chosen in _by_length(texts, pairs, batch_size):
            inputs = encode(tokenizer, [texts[i] for i in chosen], [pairs[i] for i in chosen], max_length)
            batch_BC = model(**{k: v.to(where) for k, v in inputs.items()}).logits.float().cpu()
            if logits_NC is None:
                logits_NC = batch_BC.new_empty(len(texts), batch_BC.shape[1])
            logits_NC[chosen] = batch_BC
    model.train(was_training)
    return torch.empty(0, model.config.num_labels) if logits_NC is None else logits_NC


def _by_length(texts: list[str], pairs: list[str | None], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]) + len(pairs[i] or ""))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
