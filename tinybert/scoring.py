"""Forward passes without gradients: what a model says of rows of text, in the rows' order.

Shapes: L length, C outputs, N rows, T tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tinybert.batches import Indices
from tinybert.gradients import SliceSize
from tinybert.interruption import Check
from tinybert.kinds.task_kind import Columns, Features, TaskKind
from tinybert.metrics import check_finite
from tinybert.precision import autocast
from tinybert.rows import TokenTable


@dataclass(frozen=True)
class Said:
    """What a model says of rows."""

    logits: NDArray[np.float32]
    """(N, C), or (T, C) where each token has its own."""
    features: Features
    """Whose they are."""
    answers: list[Any]
    """N."""
    confidence: NDArray[np.float64]
    """Probability of each answer (N)."""


def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset | Columns,
    max_length: int,
    kind: TaskKind,
    batch_size: int = 64,
    precision: str = "auto",
    name: str = "the model",
    check: Check = lambda: None,
) -> Said:
    """Answers to rows, in their order.

    Features go through sorted by length, so that little is padded, fewer at a time where memory runs out; the model,
    which may be one that is only called like a transformers model (`tinybert.onnx_model.OnnxModel`), is in eval mode
    and is put back after. `check` is called before each batch; what it raises ends this.

    Raises:
        ModelError: A logit is no finite number; the message has the model's name.
    """
    columns = {name: rows[name][:] for name in ("text", "text_pair")}
    table = TokenTable(columns, tokenizer, max_length, kind)
    starts, lengths = table.features.starts, table.lengths
    logits = np.zeros((int(starts[-1]) if kind.per_token else len(table), model.config.num_labels), np.float32)
    order, was_training, size = np.argsort(lengths, kind="stable"), model.training, SliceSize(name)

    def ask(chosen: Indices) -> NDArray[np.float32]:
        inputs = {key: tensor.to(model.device) for key, tensor in table.inputs(chosen).items()}
        found: NDArray[np.float32] = kind.logits(model(**inputs)).float().cpu().numpy()
        return found

    model.eval()
    with torch.no_grad(), autocast(model.device, precision):
        for batch in np.split(order, range(batch_size, len(order), batch_size)):
            check()
            for chosen, found in size.computed(ask, batch, int(lengths[batch].max(initial=1))):
                if kind.per_token:
                    tokens = np.concatenate([np.arange(starts[feature], starts[feature + 1]) for feature in chosen])
                    found = found[np.arange(found.shape[1]) < lengths[chosen, None]]
                logits[tokens if kind.per_token else chosen] = found
    model.train(was_training)
    check_finite(logits, name)
    if not len(table):
        return Said(logits, table.features, [], np.zeros(0))
    return Said(logits, table.features, *kind.answers(logits, table.features, columns))
