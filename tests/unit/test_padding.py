"""Padding a batch further changes neither loss terms nor gradients of a learner, whatever stands in the padding."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from tinybert.config import LogitsConfig, MapConfig
from tinybert.distillation import StateLearner
from tinybert.kinds import KINDS
from tinybert.stages.logits import LogitLearner
from tinybert.supervised import SupervisedLearner
from tinybert.teacher_states import TeacherStates

WORDS, CLASSES, LONGEST = 40, 3, 9
SHAPE = {"vocab_size": WORDS, "num_attention_heads": 2, "max_position_embeddings": 2 * LONGEST}
SHAPE["initializer_range"] = 0.2  # attention that differs from token to token
OUTPUTS = {"regression": 1, "question_answering": 2}
"""Of a kind's head, where they are not the classes."""
batches = st.tuples(
    st.lists(st.integers(2, LONGEST), min_size=1, max_size=4),
    st.integers(1, LONGEST),
    st.integers(0, 1000),
)
"""Tokens of each row, tokens of padding to be added, and a seed for all that is drawn."""


def encoder(layers, hidden, seed):
    torch.manual_seed(seed)
    return BertModel(BertConfig(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=16, **SHAPE)).eval()


def drawn(lengths, seed):
    """Words, segments and the mask of rows, padded to the longest of them."""
    chance = torch.Generator().manual_seed(seed)
    mask_BL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids_BL = torch.randint(5, WORDS, mask_BL.shape, generator=chance) * mask_BL
    segments_BL = torch.randint(2, mask_BL.shape, generator=chance) * mask_BL
    return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": segments_BL}, chance


def padded(batch, by, chance):
    """The batch, longer by so many tokens; other words than before stand in all of its padding."""
    more = {name: F.pad(batch[name], (0, by)) for name in ("input_ids", "attention_mask", "token_type_ids")}
    other_BL = torch.randint(WORDS, more["input_ids"].shape, generator=chance)
    more["input_ids"] = torch.where(more["attention_mask"] > 0, more["input_ids"], other_BL)
    return {**batch, **more}


def check_equal(learner, batch, more):
    terms, gradients = learned(learner, batch)
    assert terms["loss"] > 0
    found = learned(learner, more)
    assert found[0] == pytest.approx(terms, rel=1e-4)
    torch.testing.assert_close(found[1], gradients, rtol=1e-3, atol=1e-5)


def learned(learner, batch):
    """Each term of the loss, and the gradients of their sum by name."""
    learner.zero_grad()
    terms = learner(**batch)
    terms["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    return {name: term.item() for name, term in terms.items()}, gradients


STATES = {"scores": {}, "relations": {"attention": "relations"}, "hidden": {"attention_weight": 0.0}}


@pytest.mark.parametrize("kind", STATES)
@settings(max_examples=15, deadline=None)
@given(batches)
def test_of_the_teachers_states(kind, drawn_batch):
    lengths, by, seed = drawn_batch
    batch, chance = drawn(lengths, seed)
    learner = StateLearner(encoder(2, 8, seed), encoder(4, 12, seed + 1), [2, 4], MapConfig(**STATES[kind]))
    check_equal(learner, batch, padded(batch, by, chance))


@pytest.mark.parametrize("kind", STATES)
@settings(max_examples=15, deadline=None)
@given(batches)
def test_of_states_that_are_kept(kind, drawn_batch):
    """As `tinybert.teacher_cache` gives them: zeros where a row has no token."""
    lengths, by, seed = drawn_batch
    batch, chance = drawn(lengths, seed)
    teacher = encoder(4, 12, seed + 1)
    learner = StateLearner(encoder(2, 8, seed), teacher.config, [2, 4], MapConfig(**STATES[kind]))
    states = TeacherStates(copy.deepcopy(teacher), [2, 4], kind)(**batch)
    along = {"teacher_hidden": (0, 0, 0, by), "teacher_scores": (0, by, 0, by), "teacher_relations": (0, 0, 0, by)}
    more = {name: F.pad(state, along[name]) for name, state in states.items()}
    check_equal(learner, {**batch, **states}, {**padded(batch, by, chance), **more})


def labels_of(kind, lengths, chance):
    """What the kind's losses compare, and how it is padded; of tags some words have none."""
    rows, longest = len(lengths), max(lengths)
    if kind == "classification":
        return torch.randint(CLASSES, (rows,), generator=chance), None
    if kind == "multi_label":
        return torch.randint(2, (rows, CLASSES), generator=chance).float(), None
    if kind == "regression":
        return torch.randn(rows, generator=chance), None
    if kind == "question_answering":
        return torch.stack([torch.randint(length, (2,), generator=chance) for length in lengths]), None
    tags_BL = torch.randint(-1, CLASSES, (rows, longest), generator=chance)
    inside_BL = torch.arange(longest) < torch.tensor(lengths)[:, None]
    tags_BL = tags_BL.masked_fill(~inside_BL | (tags_BL < 0), -100)
    tags_BL[0, 0] = 1
    return tags_BL, -100


@pytest.mark.parametrize("supervised", [False, True], ids=["teacher", "labels"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(batches)
def test_of_logits(kind, supervised, drawn_batch):
    lengths, by, seed = drawn_batch
    batch, chance = drawn(lengths, seed)
    outputs = OUTPUTS.get(kind, CLASSES)
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16, **SHAPE}
    options = KINDS[kind].options([f"output {number}" for number in range(outputs)])
    model = KINDS[kind].auto_class().from_config(BertConfig(**shape, **options)).eval()
    batch["labels"], beyond = labels_of(kind, lengths, chance)
    more = padded(batch, by, chance)
    if beyond is not None:
        more["labels"] = F.pad(batch["labels"], (0, by), value=beyond)
    if supervised:
        check_equal(SupervisedLearner(model, KINDS[kind]), batch, more)
        return
    size = (len(lengths), max(lengths) + by) if KINDS[kind].per_token else (len(lengths),)
    logits = torch.randn(*size, outputs, generator=chance)  # at padding too, where nothing may read them
    batch["teacher_logits"] = logits[:, : max(lengths)] if KINDS[kind].per_token else logits
    more["teacher_logits"] = logits
    check_equal(LogitLearner(model, KINDS[kind], LogitsConfig(temperature=2.0, hard_weight=0.3)), batch, more)
