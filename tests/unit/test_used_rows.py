"""A word table of used rows: the same model comes out, the others decay, models that predict words keep theirs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, set_seed

from tinybert import used_rows
from tinybert.batches import Rows
from tinybert.kinds import KINDS
from tinybert.learner import Validation
from tinybert.models import load_encoder
from tinybert.supervised import SupervisedLearner
from tinybert.training import train
from tinybert.training_config import OptimConfig, SelectionConfig
from tinybert.used_rows import KnownRows, Shrunk, UsedRows

CLASSES = KINDS["classification"]
WORDS = 40
USED = np.array([0, 3, 5, 7, 11, 13, 17, 19], np.int64)
UNUSED = np.setdiff1d(np.arange(WORDS), USED)


class Sentences(Rows):
    """Four words each, of those in use; a third of the rows end with padding."""

    def __init__(self, known: bool) -> None:
        self.lengths = np.full(48, 4, np.int32)
        chance = np.random.default_rng(0)
        self._ids = chance.choice(USED[1:], (48, 4))
        self._ids[::3, 3] = 0
        self._labels, self._known = chance.integers(0, 2, 48), known

    def __len__(self):
        return 48

    def tokens(self):
        return USED if self._known else None

    def batch(self, rows, chance):
        ids_BL = torch.from_numpy(self._ids[rows])
        return {
            "input_ids": ids_BL,
            "attention_mask": (ids_BL != 0).long(),
            "labels": torch.from_numpy(self._labels[rows]),
        }


def config() -> BertConfig:
    return BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


@pytest.fixture
def model():
    set_seed(0)
    return BertForSequenceClassification(config())


def trained(model, directory, known, validation=None, decay=0.5):
    model = copy.deepcopy(model)
    optim = OptimConfig(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=decay, precision="fp32")
    scores = validation(model) if validation else None
    learner = SupervisedLearner(model, CLASSES)
    train("test", learner, Sentences(known), optim, directory / "out", lambda m, s: None, scores)
    return model


def test_the_same_model_comes_out(model, tmp_path):
    whole, used = (trained(model, tmp_path / str(known), known).state_dict() for known in (False, True))
    assert whole.keys() == used.keys()
    for name in whole:
        torch.testing.assert_close(used[name], whole[name], rtol=2e-5, atol=2e-6)


def test_unused_rows_decay_and_used_ones_learn(model, tmp_path):
    before = model.get_input_embeddings().weight.detach()
    after = trained(model, tmp_path, known=True).get_input_embeddings().weight
    shrunk = after[UNUSED] / before[UNUSED]
    # 24 steps: warm-up over 3, then falling to 0 in a straight line; each decays by 1 - rate * 0.5.
    rates = [0.01 * (step / 3 if step < 3 else (24 - step) / 21) for step in range(24)]
    assert shrunk.mean().item() == pytest.approx(np.prod([1 - 0.5 * rate for rate in rates]), rel=1e-5)
    assert (after[USED[1:]] - before[USED[1:]]).abs().min() > 1e-5


def test_scores_see_tokens_that_training_does_not(model, tmp_path):
    ids = torch.arange(2, 10).reshape(2, 4)  # used and unused ones
    seen = {}

    def validation(key):
        def of(trained_model):
            def score(check):
                trained_model.eval()
                with torch.no_grad():
                    seen.setdefault(key, []).append(trained_model(input_ids=ids).logits.clone())
                trained_model.train()
                return {"accuracy": float(len(seen[key]) == 2)}

            return Validation(score, "accuracy", SelectionConfig())

        return of

    models = [trained(model, tmp_path / str(known), known, validation(known)) for known in (False, True)]
    assert len(seen[True]) == 4
    torch.testing.assert_close(torch.stack(seen[True]), torch.stack(seen[False]), rtol=1e-4, atol=1e-5)
    # The second evaluation was the best: those are the weights that are kept, and the last ones lie beside them whole.
    for trained_model in models:
        torch.testing.assert_close(trained_model.eval()(input_ids=ids).logits, seen[False][1], rtol=1e-4, atol=1e-5)
    for known in (False, True):
        last = used_rows_of_file(tmp_path / str(known) / "out" / "last" / "model.safetensors")
        assert last.shape == (WORDS, 8)


def used_rows_of_file(path):
    from safetensors.torch import load_file

    return load_file(path)["model.bert.embeddings.word_embeddings.weight"]


def test_gradients_and_optimizer_state_are_of_used_rows_alone(model):
    learner = SupervisedLearner(model, CLASSES)
    shrunk = Shrunk(learner, USED)
    table = model.get_input_embeddings()
    assert isinstance(table, UsedRows)
    learner(**Sentences(True).batch(np.arange(8), torch.Generator()))["loss"].backward()
    assert table.weight.grad.shape == (len(USED), 8)
    assert not table.weight.grad[0].any()  # padding learns nothing, as in the whole table
    assert table.weight.grad[1:].abs().sum(dim=1).min() > 0
    shrunk.restore()
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert model.get_input_embeddings().padding_idx == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_table_lies_in_a_nameless_file_meanwhile(tmp_path, dtype):
    whole = nn.Embedding(WORDS, 8, padding_idx=0, dtype=dtype)
    before = whole.weight.detach().clone()
    table = UsedRows(whole, torch.from_numpy(USED), tmp_path).eval()
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        whole.weight.zero_()  # nobody reads it again
        table.weight += 1
        table.decay *= 0.5
    before[USED] += 1
    before[UNUSED] *= 0.5
    assert torch.equal(table(torch.arange(WORDS)), before)
    assert torch.equal(table.expanded().weight, before)


def test_a_table_changed_since_it_was_loaded_stays_changed(model, tmp_path):
    model.bert.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)  # its weights lie in the mapped file, until they are written to
    with torch.no_grad():
        encoder.get_input_embeddings().weight += 1
    before = encoder.get_input_embeddings().weight.detach().clone()
    Shrunk(encoder, USED).restore()
    assert torch.equal(encoder.get_input_embeddings().weight, before)


def test_known_rows_are_those_of_the_embedding(model):
    whole = model.get_input_embeddings()
    known = KnownRows(whole, torch.from_numpy(USED))
    ids = torch.tensor([[19, 3], [3, 0]])
    assert torch.equal(known(ids), whole(ids))
    assert known.weight.shape == (len(USED), 8)
    assert not known.weight.requires_grad
    with pytest.raises(IndexError):
        known(torch.tensor([4]))


@pytest.mark.parametrize(
    ("build", "tokens"),
    [
        (lambda: BertForMaskedLM(config()), USED),
        (lambda: BertForSequenceClassification(config()), None),
        (lambda: BertForSequenceClassification(config()), np.arange(int(WORDS * used_rows.MOST))),
    ],
    ids=["predicts words", "not known", "most in use"],
)
def test_a_table_stays_whole(build, tokens):
    model = build()
    table = model.get_input_embeddings()
    Shrunk(SupervisedLearner(model, CLASSES), tokens)
    assert model.get_input_embeddings() is table


def test_a_frozen_table_stays_whole(model):
    model.get_input_embeddings().requires_grad_(False)
    Shrunk(SupervisedLearner(model, CLASSES), USED)
    assert type(model.get_input_embeddings()) is nn.Embedding
