"""Training on labels: the teacher's fine-tuning, and the baseline's only lesson."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.batches import Batch
from tinybert.data import TaskData
from tinybert.interruption import Check
from tinybert.kinds.task_kind import TaskKind
from tinybert.last_layer import finish_first_token_only
from tinybert.learner import Learner, Validation
from tinybert.scoring import Said, predict
from tinybert.training_config import SelectionConfig


class SupervisedLearner(Learner):
    """The loss against the data's labels."""

    def __init__(self, model: PreTrainedModel, kind: TaskKind) -> None:
        super().__init__()
        if not kind.per_token:
            finish_first_token_only(model)
        self.model, self._kind = model, kind

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss alone."""
        targets = batch.pop("labels")
        return {"loss": self._kind.hard_loss(trained_logits(self.model, self._kind, batch), targets)}

    def items(self, batch: Batch) -> int:
        """What the kind's losses are a mean over."""
        return self._kind.items(batch)


def trained_logits(model: PreTrainedModel, kind: TaskKind, inputs: Mapping[str, Tensor]) -> Tensor:
    """A model's logits; those of padding are so low that no softmax over tokens counts them.

    So a loss does not depend on how a batch was divided among processes, each of which pads its own share.
    """
    logits = kind.logits(model(**inputs))
    if not kind.per_token:
        return logits
    return logits.masked_fill(inputs["attention_mask"][..., None] == 0, torch.finfo(logits.dtype).min)


def validation_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskData,
    selection: SelectionConfig,
    precision: str,
) -> Validation:
    """Scores of a model on the validation split; the task's own decides."""
    return Validation(partial(validation_scores, model, tokenizer, task, precision), task.metric, selection)


def validation_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskData,
    precision: str,
    check: Check = lambda: None,
) -> dict[str, float]:
    """Every score of a model on the validation split; `check` as for `predict`."""
    rows = task.rows("validation")
    said = predict(model, tokenizer, rows, task.max_length, task.kind, precision=precision, check=check)
    return scores(task, rows["label"][:], said)


def scores(task: TaskData, labels: Sequence[object], said: Said) -> dict[str, float]:
    """Every score of answers to rows with these labels."""
    names = task.labels
    return {name: task.kind.metrics[name].score(labels, said.answers, names) for name in task.kind.measured(names)}
