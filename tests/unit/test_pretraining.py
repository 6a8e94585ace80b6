"""A teacher out of a corpus: the vocabulary that is learnt, pairs of segments, whole words, and what training makes."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForPreTraining, BertTokenizerFast

from tinybert.batches import StepBatches, plan
from tinybert.config import CorpusConfig, MlmConfig
from tinybert.corpus import PackedRows, pack, pack_pairs, write
from tinybert.errors import DataError, ModelError
from tinybert.gradients import slices
from tinybert.models import load_tokenizer
from tinybert.pretrain_config import EncoderConfig, PretrainConfig, VocabularyConfig
from tinybert.samples import write_teacher
from tinybert.stages import corpus, mlm, vocabulary
from tinybert.training import train
from tinybert.training_config import OptimConfig

SUBJECTS = ("der hund", "die katze", "das pferd", "der vogel", "die ziege", "das schaf", "der fuchs", "die kuh")
FRAMES = ("{} schl\u00e4ft im garten", "{} frisst das gr\u00fcne gras", "{} l\u00e4uft schnell davon")
SMALL = EncoderConfig(layers=2, hidden=32, ffn=64, heads=4, positions=32)


def silent(metrics, step):
    pass


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences in a language that no model at hand knows, one document a line."""
    chance = random.Random(0)
    lines = [" ".join(chance.choice(FRAMES).format(chance.choice(SUBJECTS)) for _ in range(6)) for _ in range(400)]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def blank(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("blank")
    made = vocabulary.run(
        source=text,
        config=VocabularyConfig(size=200, min_frequency=1),
        corpus=CorpusConfig(source="file:x"),
        encoder=SMALL,
        out=out,
        on_metrics=silent,
    )
    return out, made


# The vocabulary -------------------------------------------------------------------------------------------------------


def test_frequent_words_become_one_piece_and_unknown_ones_are_cut(blank):
    tokenizer = load_tokenizer(blank[0])
    assert tokenizer.tokenize("der hund schl\u00e4ft") == ["der", "hund", "schlaft"]
    pieces = tokenizer.tokenize("hundegras")
    assert len(pieces) > 1
    assert "".join(piece.removeprefix("##") for piece in pieces) == "hundegras"
    special = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id)
    assert special == (0, 1, 2, 4)


def test_the_model_has_the_form_s_shape_and_reads_the_vocabulary(blank):
    out, made = blank
    model = AutoModel.from_pretrained(out)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 32)
    assert model.config.vocab_size == len(load_tokenizer(out)) == made["pieces"]
    assert load_tokenizer(out).model_max_length == 32


def test_case_and_accents_stay_where_they_are_to_count(text, tmp_path):
    config = VocabularyConfig(size=200, min_frequency=1, lowercase=False)
    shared = {"corpus": CorpusConfig(source="file:x"), "encoder": SMALL, "on_metrics": silent}
    vocabulary.run(source=text, config=config, out=tmp_path, **shared)
    assert load_tokenizer(tmp_path).tokenize("schl\u00e4ft") == ["schl\u00e4ft"]


def test_pieces_are_numbered_as_they_are_sorted(blank):
    pieces = sorted(load_tokenizer(blank[0]).get_vocab().items(), key=lambda entry: entry[1])
    special, learnt = pieces[:5], [piece for piece, _ in pieces[5:]]
    assert [piece for piece, _ in special] == list(vocabulary.SPECIAL)
    assert learnt == sorted(learnt)
    assert {"hund", "katze", "schlaft"} <= set(learnt)


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "few.txt").write_text("  \n \n")
    (tmp_path / "out").mkdir()
    shared = {"corpus": CorpusConfig(source="file:x"), "encoder": SMALL, "on_metrics": silent}
    config = VocabularyConfig()
    with pytest.raises(DataError, match="no text to learn"):
        vocabulary.run(source=tmp_path / "few.txt", config=config, out=tmp_path / "out", **shared)


def test_a_tokenizer_that_is_given_is_taken(text, smoke_material, tmp_path):
    shared = {"config": VocabularyConfig(), "corpus": CorpusConfig(source="file:x"), "encoder": SMALL}
    teacher = smoke_material / "teacher"
    vocabulary.run(source=text, out=tmp_path, on_metrics=silent, tokenizer=teacher, **shared)
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(teacher).get_vocab()


# Pairs ----------------------------------------------------------------------------------------------------------------


def numbered(documents):
    """Documents whose words tell their order."""
    return [" ".join(f"w{10 * d + i}" for i in range(10)) for d in range(documents)]


@pytest.fixture(scope="module")
def counting():
    words = [f"w{number}" for number in range(6000)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})


def test_half_of_the_second_segments_follow_on_the_first(counting):
    length = 13
    made = list(pack_pairs(numbered(600), counting, length))
    plain = list(pack(numbered(600), counting, length - 1))
    assert len(made) == len(plain)
    assert all(len(ids) == length for ids, _ in made)
    assert np.mean([follows for _, follows in made]) == pytest.approx(0.5, abs=0.08)
    for (ids, follows), whole in zip(made, plain, strict=True):
        assert (ids[0], ids[6], ids[-1]) == (2, 3, 3)
        assert ids[1:6] == whole[1:6]
        assert (ids[7:-1] == whole[6:-1]) == follows


def test_a_pair_s_second_segment_is_typed_and_its_label_says_whether_it_follows(counting, tmp_path):
    made = list(pack_pairs(numbered(50), counting, 13))
    count = write(made, 13, tmp_path / "corpus.arrow")
    batch = PackedRows(tmp_path / "corpus.arrow", count, pairs=True).batch(np.array([3, 1, 2]), torch.Generator())
    assert batch["token_type_ids"].tolist() == [[0] * 7 + [1] * 6] * 3
    assert batch["next_sentence_label"].tolist() == [int(not made[row][1]) for row in (3, 1, 2)]


# Whole words ----------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_word_are_chosen_together(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "film"]
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})
    ids = [2, *[8, 5, 6, 7] * 10, 3]
    write([(ids, True)] * 200, len(ids), tmp_path / "corpus.arrow")
    packed = PackedRows(tmp_path / "corpus.arrow", 200)
    batch = mlm.MaskedRows(packed, tokenizer, 0.15, whole_words=True).batch(
        np.arange(200), torch.Generator().manual_seed(0)
    )
    chosen = (batch["labels"] != -100)[:, 1:-1].reshape(200, 10, 4)
    assert torch.equal(chosen[..., 1], chosen[..., 2])
    assert torch.equal(chosen[..., 1], chosen[..., 3])
    assert not torch.equal(chosen[..., 0], chosen[..., 1])
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert (batch["labels"][:, [0, -1]] == -100).all()


# The loss of a batch --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked_pairs(counting, tmp_path_factory):
    """Thirteen pairs, in some of which nothing is masked, as one batch of a stage has them."""
    path = tmp_path_factory.mktemp("pairs") / "corpus.arrow"
    count = write(list(pack_pairs(numbered(40), counting, 13))[:13], 13, path)
    rows = mlm.MaskedRows(PackedRows(path, count, pairs=True), counting, 0.1)
    whole = StepBatches(rows, plan(rows, ONE_BATCH), ONE_BATCH.seed)[0]
    assert (whole["labels"] != mlm.IGNORED).sum(1).min() == 0
    assert 0 < whole["next_sentence_label"].sum() < 13
    return rows, whole


ONE_BATCH = OptimConfig(epochs=1, batch_size=16, precision="fp32", dropout=0.0)


def pretrained(seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForPreTraining(BertConfig(vocab_size=6005, max_position_embeddings=16, **shape)).eval()


def gradients_of(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def expected_of(batch):
    """Loss and gradients by transformers: the mean over all masked tokens and that over all rows."""
    model = pretrained()
    loss = model(**{name: tensor for name, tensor in batch.items() if name != "masked_tokens"}).loss
    loss.backward()
    return loss.item(), gradients_of(model)


@pytest.mark.parametrize(("processes", "size"), [(1, 99), (1, 5), (1, 1), (3, 99), (2, 2)])
def test_shares_and_slices_of_pairs_add_up_to_the_whole_batch(masked_pairs, processes, size):
    rows, whole = masked_pairs
    learner, sums = mlm.PretrainingLearner(pretrained()), {}
    for process in range(processes):
        for part in slices(StepBatches(rows, plan(rows, ONE_BATCH), ONE_BATCH.seed, process, processes)[0], size):
            share = learner.items(part) / learner.items(whole)
            terms = learner(**part)
            (terms["loss"] * share).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item() * share
    loss, gradients = expected_of(whole)
    assert sums["loss"] == pytest.approx(loss, rel=1e-5)
    assert sums["masked_loss"] + sums["following_loss"] == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradients_of(learner.model), gradients, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 16])
def test_accumulation_changes_neither_loss_nor_gradient_of_pairs(masked_pairs, tmp_path, accumulation):
    rows, whole = masked_pairs
    model, taken, curve = pretrained(), {}, {}
    for name, parameter in model.named_parameters():  # the last that is seen of each is the sum over all slices
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: taken.update({name: p.grad.clone()}))
    optim = ONE_BATCH.model_copy(update={"accumulation": accumulation})
    (tmp_path / "out").mkdir()
    train("mlm", mlm.PretrainingLearner(model), rows, optim, tmp_path / "out", lambda found, step: curve.update(found))
    loss, gradients = expected_of(whole)
    assert curve["loss"] == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(taken, gradients, rtol=1e-4, atol=5e-6)


def test_a_batch_without_a_masked_token_learns_of_pairs_alone(masked_pairs):
    batch = dict(masked_pairs[1])
    batch["labels"] = torch.full_like(batch["labels"], mlm.IGNORED)
    terms = mlm.PretrainingLearner(pretrained())(**batch)
    assert terms["masked_loss"].item() == 0
    assert terms["loss"].item() == terms["following_loss"].item() > 0


# Training -------------------------------------------------------------------------------------------------------------


def packed_pairs(text, blank, out):
    out.mkdir()
    config = CorpusConfig(source="file:x", length=24, pairs=True)
    corpus.run(source=text, tokenizer=blank, config=config, out=out, on_metrics=silent)
    return out


@pytest.mark.slow
def test_a_model_learnt_from_scratch_fills_in_words_and_is_read_by_transformers(text, blank, tmp_path):
    packed = packed_pairs(text, blank[0], tmp_path / "packed")
    (tmp_path / "made" / "out").mkdir(parents=True)
    points = {}
    optim = OptimConfig(epochs=14, batch_size=16, learning_rate=5e-3, dropout=0)
    made = mlm.run(
        corpus=packed,
        teacher=blank[0],
        config=MlmConfig(enabled=True, whole_words=True, next_sentence=True, optim=optim),
        out=tmp_path / "made" / "out",
        on_metrics=lambda metrics, step: points.setdefault(step, metrics),
    )
    first = next(point for point in points.values() if "masked_accuracy" in point)
    assert made["masked_accuracy"] > first["masked_accuracy"] + 0.2
    assert made["masked_accuracy"] > 0.4
    whole = BertForPreTraining.from_pretrained(tmp_path / "made" / "out")
    assert whole.config.num_hidden_layers == 2
    tokenizer = load_tokenizer(tmp_path / "made" / "out")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "made" / "out").eval()
    inputs = tokenizer("der hund [MASK] im garten", return_tensors="pt")
    with torch.no_grad():
        place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        best = model(**inputs).logits[0, place].argmax().item()
    assert tokenizer.convert_ids_to_tokens(best) == "schlaft"


def test_next_sentences_need_pairs_and_a_bert(text, blank, smoke_material, tmp_path):
    out = tmp_path / "plain"
    out.mkdir()
    config = CorpusConfig(source="file:x", length=24)
    corpus.run(source=text, tokenizer=blank[0], config=config, out=out, on_metrics=silent)
    asked = MlmConfig(enabled=True, next_sentence=True, optim=OptimConfig(steps=1, batch_size=2))
    with pytest.raises(DataError, match=r"corpus\.pairs"):
        mlm.run(corpus=out, teacher=blank[0], config=asked, out=tmp_path, on_metrics=silent)
    other = tmp_path / "other"
    write_teacher(other)
    (other / "config.json").write_text((other / "config.json").read_text().replace('"bert"', '"distilbert"'))
    with pytest.raises(ModelError, match="next_sentence"):
        mlm.run(corpus=out, teacher=other, config=asked, out=tmp_path, on_metrics=silent)


# The form -------------------------------------------------------------------------------------------------------------


def test_the_form_refuses_what_does_not_fit_together():
    with pytest.raises(ValueError, match=r"corpus\.source is empty"):
        PretrainConfig(name="x", corpus={})
    with pytest.raises(ValueError, match="positions"):
        PretrainConfig(name="x", corpus={"source": "file:x", "length": 128}, encoder={"positions": 64})
    with pytest.raises(ValueError, match="set both or neither"):
        PretrainConfig(name="x", corpus={"source": "file:x", "pairs": True})
    with pytest.raises(ValueError, match="multiple of heads"):
        PretrainConfig(name="x", corpus={"source": "file:x"}, encoder={"hidden": 100})


def test_the_default_shape_is_bert_base():
    encoder, base = EncoderConfig(), BertConfig()
    assert (encoder.layers, encoder.hidden, encoder.ffn, encoder.heads, encoder.positions) == (
        base.num_hidden_layers,
        base.hidden_size,
        base.intermediate_size,
        base.num_attention_heads,
        base.max_position_embeddings,
    )
