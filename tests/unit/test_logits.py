"""Learning predictions: the gradient is the batch's however it is divided, and two hundred classes are learnt."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from tests.unit.kind_data import NAMES, PIECES, tokenizer_of, write_encoder, write_kind
from tinybert.batches import StepBatches, plan
from tinybert.config import LogitsConfig
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.gradients import slices
from tinybert.kinds import KINDS
from tinybert.losses import soft_cross_entropy
from tinybert.models import load_model
from tinybert.rows import TaskRows, task_rows
from tinybert.stages.logits import LogitLearner
from tinybert.supervised import SupervisedLearner
from tinybert.training import train
from tinybert.training_config import OptimConfig

LIKE = LogitsConfig(temperature=2.0, hard_weight=0.3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("models") / "encoder")


@dataclass(frozen=True)
class Taught(TaskRows):
    """Rows with logits of a teacher drawn at random, at padding too, where nothing may read them."""

    outputs: int = 2
    each_token: bool = False

    def batch(self, rows, chance):
        batch = super().batch(rows, chance)
        logits_NLC = torch.randn(len(self), 40, self.outputs, generator=torch.Generator().manual_seed(0))
        logits_BLC = logits_NLC[torch.from_numpy(rows), : batch["input_ids"].shape[1]]
        return batch | {"teacher_logits": logits_BLC if self.each_token else logits_BLC[:, 0]}


def rows_of(task, tokenizer):
    """The training rows, as the teacher answers them."""
    plain = task_rows(task, tokenizer)
    own = {"outputs": len(task.labels), "each_token": task.kind.per_token}
    return Taught(plain.table, plain.targets, plain.per_token, **own)


def gradient(learner, batch, weight=1.0):
    """Of the loss of a batch, flat, by autograd."""
    (learner(**batch)["loss"] * weight).backward()
    flat = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
    learner.zero_grad()
    return flat


@pytest.mark.parametrize("supervised", [False, True], ids=["teacher", "labels"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("processes", "size"), [(1, 1), (1, 4), (3, 99), (2, 2)])
def test_shares_and_slices_of_a_batch_give_its_gradient(encoder, tmp_path, kind, supervised, processes, size):
    """Processes pad their shares by themselves; slices may hold no scored word at all."""
    task = write_kind(tmp_path / "data", kind, rows=13)
    model, rows = load_model(encoder, task.kind, NAMES[kind]).eval(), rows_of(task, tokenizer_of(encoder))
    learner = SupervisedLearner(model, task.kind) if supervised else LogitLearner(model, task.kind, LIKE)
    wanted = {"teacher_logits"} if supervised else set()
    batches = plan(rows, OptimConfig(epochs=1, batch_size=64))

    def share(process, processes):
        batch = StepBatches(rows, batches, 0, process, processes)[0]
        if kind == "token_classification":  # as where the tokenizer makes nothing of a word
            batch["labels"][batch["labels"][:, 1] == 0] = -100
        return {name: tensor for name, tensor in batch.items() if name not in wanted}

    whole = share(0, 1)
    items, expected = learner.items(whole), gradient(learner, whole)
    total = torch.zeros_like(expected)
    for process in range(processes):
        for part in slices(share(process, processes), size):
            total += gradient(learner, part, learner.items(part) / items)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-6)


def test_items_of_words_are_those_that_are_scored(encoder, tmp_path):
    task = write_kind(tmp_path / "data", "token_classification", rows=9)
    rows = task_rows(task, tokenizer_of(encoder))
    learner = SupervisedLearner(load_model(encoder, task.kind, NAMES["token_classification"]), task.kind)
    words = sum(len(row["label"]) for row in task.rows("train"))
    assert learner.items(rows.batch(np.arange(9), torch.Generator())) == words


def test_a_batch_without_a_scored_word_changes_nothing(encoder, tmp_path):
    """Its loss is 0 and no weight moves, but by decay, which is off."""
    task = write_kind(tmp_path / "data", "token_classification", rows=4)
    rows = task_rows(task, tokenizer_of(encoder))
    rows = TaskRows(rows.table, np.full_like(rows.targets, -100), per_token=True)
    model = load_model(encoder, task.kind, NAMES["token_classification"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optim = OptimConfig(epochs=1, batch_size=4, weight_decay=0.0, precision="fp32")
    metrics = train("test", SupervisedLearner(model, task.kind), rows, optim, tmp_path / "out", lambda m, s: None)
    assert metrics["loss"] == 0.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# Many classes ---------------------------------------------------------------------------------------------------------

CLASSES = 200
WORDS = [f"w{number}" for number in range(CLASSES)]


def narrow_bert():
    """A BERT of one layer with a head for all classes."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = {"vocab_size": 5 + CLASSES, "num_labels": CLASSES, "max_position_embeddings": 8}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**shape, **words, **still, initializer_range=0.2))


def sure_teacher(numbers):
    """Logits of a teacher that gives the right class 0.97, and the others the rest."""
    logits = torch.zeros(len(numbers), CLASSES)
    logits[torch.arange(len(numbers)), numbers] = float(np.log(0.97 * (CLASSES - 1) / 0.03))
    return logits


def test_two_hundred_classes_are_learnt(tmp_path):
    """One word a class, with the engine's own optimizer."""
    tokenizer = BertTokenizer(vocab={piece: n for n, piece in enumerate([*PIECES[:5], *WORDS])})
    for split in SPLITS:
        with RowWriter(tmp_path / f"{split}.arrow", KINDS["classification"]) as writer:
            for number, word in enumerate(WORDS):
                writer.add(word, None, number, number)
    write_manifest(tmp_path, WORDS, 8)
    task = TaskData(tmp_path)
    plain = task_rows(task, tokenizer)

    class Answered(TaskRows):
        def batch(self, rows, chance):
            batch = super().batch(rows, chance)
            return batch | {"teacher_logits": sure_teacher(batch["labels"])}

    learner = LogitLearner(narrow_bert(), task.kind, LogitsConfig())
    optim = OptimConfig(epochs=15, batch_size=20, learning_rate=1e-2, precision="fp32")
    train("test", learner, Answered(plain.table, plain.targets), optim, tmp_path / "out", lambda m, s: None)
    batch = plain.batch(np.arange(CLASSES), torch.Generator())
    with torch.no_grad():
        answers = learner.student.eval()(input_ids=batch["input_ids"]).logits.argmax(1)
    assert (answers == torch.arange(CLASSES)).float().mean() > 0.9


def test_a_mean_over_two_hundred_classes_hardly_moves():
    """By plain gradient descent, which unlike Adam does not hide how small a loss is made: the same step for both."""

    def reference(student, teacher):  # eq. 10 as the reference code has it, divided by the number of classes as well
        return -(teacher.softmax(-1) * student.log_softmax(-1)).mean()

    ids = torch.stack([torch.full((CLASSES,), 2), 5 + torch.arange(CLASSES), torch.full((CLASSES,), 3)], dim=1)
    taught, learnt = sure_teacher(torch.arange(CLASSES)), {}
    for loss in (soft_cross_entropy, reference):
        model = narrow_bert().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        for _ in range(100):
            optimizer.zero_grad()
            loss(model(input_ids=ids).logits, taught).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            learnt[loss] = float((model.eval()(input_ids=ids).logits.argmax(1) == torch.arange(CLASSES)).float().mean())
    assert learnt[soft_cross_entropy] > 0.9
    assert learnt[reference] < 0.1
