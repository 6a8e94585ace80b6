"""Tiny BERTs behind the real learners, and rows that teach them, for tests of whole training runs."""

import copy

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from tinybert.batches import Rows
from tinybert.config import LogitsConfig, MapConfig
from tinybert.distillation import StateLearner
from tinybert.kinds import KINDS
from tinybert.stages.logits import LogitLearner
from tinybert.stages.mlm import IGNORED, MlmLearner

WORDS = 60
USED = np.array([0, *range(5, 30)], np.int64)
"""Tokens that occur, padding included: so few that the word table shrinks."""
SHAPE = {"vocab_size": WORDS, "num_attention_heads": 2, "max_position_embeddings": 16}


def state_learner():
    """A student of two narrow layers, which learns the states of four wider ones; it drops activations."""
    torch.manual_seed(0)
    student = BertModel(BertConfig(hidden_size=8, num_hidden_layers=2, intermediate_size=16, **SHAPE))
    teacher = BertModel(BertConfig(hidden_size=12, num_hidden_layers=4, intermediate_size=24, **SHAPE))
    return StateLearner(student, teacher, [2, 4], MapConfig())


def logit_learner():
    """A classifier that learns logits and labels; it drops activations."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(hidden_size=8, num_hidden_layers=2, intermediate_size=16, **SHAPE))
    return LogitLearner(model, KINDS["classification"], LogitsConfig(hard_weight=0.3))


def masked_learner():
    """A masked language model, whose word table also predicts."""
    torch.manual_seed(0)
    return MlmLearner(BertForMaskedLM(BertConfig(hidden_size=8, num_hidden_layers=2, intermediate_size=16, **SHAPE)))


LEARNERS = {"layers": state_learner, "logits": logit_learner}


class Taught(Rows):
    """Rows of two to nine tokens, with labels and a teacher's logits, drawn at random."""

    def __init__(self, count=40):
        chance = np.random.default_rng(0)
        self.lengths = chance.integers(2, 10, count).astype(np.int32)
        self._ids = chance.choice(USED[1:], (count, 9))
        self._labels = torch.from_numpy(chance.integers(0, 2, count))
        self._logits = torch.from_numpy(chance.normal(size=(count, 2)).astype(np.float32))

    def __len__(self):
        return len(self.lengths)

    def tokens(self):
        return USED

    def batch(self, rows, chance):
        places_L = np.arange(self.lengths[rows].max())
        mask_BL = places_L < self.lengths[rows, None]
        return {
            "input_ids": torch.from_numpy(self._ids[rows][:, places_L] * mask_BL),
            "attention_mask": torch.from_numpy(mask_BL).long(),
            "labels": self._labels[rows],
            "teacher_logits": self._logits[rows],
        }


class Masked(Taught):
    """The same rows; the last token of each is to be predicted."""

    def batch(self, rows, chance):
        batch = super().batch(rows, chance)
        last_BL = batch["attention_mask"].cumsum(1) == torch.from_numpy(self.lengths[rows])[:, None]
        labels_BL = batch["input_ids"].masked_fill(~last_BL, IGNORED)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return {**inputs, "labels": labels_BL, "masked_tokens": torch.ones(len(rows))}


def batch_for(learner, rows, count=8):
    """The first rows as that learner takes them; each call gives tensors of its own."""
    batch = copy.deepcopy(rows.batch(np.arange(count), torch.Generator()))
    wanted = ("input_ids", "attention_mask") if isinstance(learner, StateLearner) else tuple(batch)
    return {name: batch[name] for name in wanted}
