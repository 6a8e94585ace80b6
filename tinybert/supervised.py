"""Training a sequence classifier on labels: the teacher's fine-tuning, and the baseline's only lesson."""

from functools import partial

import numpy as np
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.data import TaskData
from tinybert.last_layer import finish_first_token_only
from tinybert.learner import Learner, Validation
from tinybert.metrics import classification_scores
from tinybert.scoring import predict
from tinybert.training_config import SelectionConfig


class SupervisedLearner(Learner):
    """Cross entropy with the data's labels."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        finish_first_token_only(model)
        self.model = model

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss alone."""
        labels_B = batch.pop("labels")
        return {"loss": F.cross_entropy(self.model(**batch).logits.float(), labels_B)}


def validation_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    selection: SelectionConfig,
    precision: str,
) -> Validation:
    """Scores of a classifier on the validation split."""
    rows = data.rows("validation")
    return Validation(partial(_score, model, tokenizer, rows, data.max_length, precision), selection)


def _score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, max_length: int, precision: str
) -> dict[str, float]:
    logits_NC = predict(model, tokenizer, rows, max_length, precision=precision)
    return classification_scores(logits_NC, np.asarray(rows["label"]))
