"""Questions and contexts: reading, windows, targets, answers, scores, copies, and a tiny model that learns them."""

import random
from itertools import chain, pairwise
from types import SimpleNamespace
from unicodedata import category

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizer,
    RobertaTokenizerFast,
)

from tinybert.config import FineTuneConfig
from tinybert.data import SPLITS, RowWriter, TaskData, schema, write_manifest
from tinybert.data_config import DataConfig
from tinybert.errors import DataError, ModelError
from tinybert.kinds import kind_of
from tinybert.kinds.question_answering import QuestionAnswering
from tinybert.kinds.task_kind import Features
from tinybert.models import save
from tinybert.stages import fine_tune

KIND = QuestionAnswering()
NAMES = ["start", "end"]
CONFIG = DataConfig(source="file:/rows.json", kind="question_answering")
CONTEXT = "Ann was born in Paris, and Ben was born in Rome."
PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789"
LETTERS = [*PLAIN, *(f"##{letter}" for letter in PLAIN)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COLOURS, ANIMALS, TOWNS = (
    ["red", "blue", "green", "grey"],
    ["cat", "dog", "cow", "fox"],
    ["rome", "new york", "oslo", "st paul"],
)
FILLERS = ["then", "there", "was", "some", "in", "near", "with", "it"]
WORDS = ["what", "colour", "animal", "town", *FILLERS, *COLOURS, *ANIMALS, *" ".join(TOWNS).split()]


def bert_tokenizer():
    tokens = [*SPECIAL, *LETTERS, *".,?!-", *"\u4e2d\u56fd\u4eba", "\u3002", *WORDS]
    return BertTokenizerFast(vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))})


def roberta_tokenizer():
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    return RobertaTokenizerFast(vocab={token: number for number, token in enumerate(tokens)}, merges=[])


BERT, ROBERTA = bert_tokenizer(), roberta_tokenizer()


def encoded(tokenizer, questions, contexts, max_length):
    """Encoded rows, and their features."""
    found = KIND.encode(tokenizer, questions, contexts, max_length)
    lengths = np.array([len(ids) for ids in found.ids], np.int32)
    return found, Features(lengths, np.array(found.rows, np.int64), np.concatenate(found.places))


def gold(context, text, start=None):
    return {"text": text, "start": context.index(text) if start is None else start}


def peaks(targets, features, height=10.0):
    """Logits that are high at the targets alone."""
    logits = np.zeros((int(features.starts[-1]), 2), np.float32)
    for column in (0, 1):
        logits[features.starts[:-1] + targets[:, column], column] = height
    return logits


def said(logits, features, contexts):
    return KIND.answers(logits, features, {"text": [""] * len(contexts), "text_pair": contexts})


# Rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Paris", "Rome", "Paris"], "answer_start": [16, 43, 16]},
        {"text": ["Paris", "Rome"], "start": [16, 43]},
        [{"text": "Paris", "answer_start": 16}, {"text": "Rome", "start": 43}],
        [{"text": "Paris", "answer_start": 16, "answer_id": 3}, {"text": "Rome", "answer_start": 43}],
    ],
)
def test_every_form_of_answers_reads_the_same(answers):
    row = KIND.example("  Where was  Ann born?", CONTEXT, answers, CONFIG)
    assert row == ("Where was Ann born?", CONTEXT, (("Paris", 16), ("Rome", 43)))
    assert hash(row)
    assert KIND.number(row.label, NAMES) == [{"text": "Paris", "start": 16}, {"text": "Rome", "start": 43}]


def test_one_answer_needs_no_list():
    assert KIND.example("Who?", CONTEXT, {"text": "Ann", "answer_start": 0}, CONFIG).label == (("Ann", 0),)


@pytest.mark.parametrize(
    "answers", [None, "", float("nan"), [], {"text": [], "answer_start": []}, {"text": [""], "answer_start": [-1]}]
)
def test_no_answers_are_a_question_without_an_answer(answers):
    assert KIND.example("Who?", CONTEXT, answers, CONFIG).label == ()


def test_the_context_stays_as_it_is():
    context = "\n Two  spaces,\r\n\ttab \u00a0 "
    assert KIND.example("Who?", context, [{"text": "spaces,\r\n\ttab", "answer_start": 7}], CONFIG).pair == context


@pytest.mark.parametrize("start", [13, 17, 30, 46, 0])
def test_an_answer_that_stands_nearby_is_moved(start):
    assert KIND.example("Where?", CONTEXT, {"text": ["Paris"], "answer_start": [start]}, CONFIG).label == (
        ("Paris", 16),
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [("Paris", 47), ("London", 16), ("was", 5), ("was born in", 1)],
    ids=["far", "absent", "two", "two long"],
)
def test_an_answer_that_stands_nowhere_or_anywhere_is_refused(text, start):
    with pytest.raises(DataError, match=r"question 'Where was it\?': the answer") as error:
        KIND.example("Where was it?", CONTEXT, {"text": [text], "answer_start": [start]}, CONFIG)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "answers",
    ["Paris", 3, {"text": ["Paris"]}, {"text": ["Paris"], "answer_start": []}, ["Paris"], [{"text": "Paris"}]],
)
def test_other_forms_of_answers_are_refused_with_the_form_that_is_read(answers):
    with pytest.raises(DataError, match=r"column 'answers' holds .*answer_start"):
        KIND.example("Where?", CONTEXT, answers, CONFIG)


def test_a_row_goes_through_arrow_unchanged():
    labels = [[gold(CONTEXT, "Paris"), gold(CONTEXT, "Rome")], []]
    assert pa.array(labels, KIND.label_type).to_pylist() == labels
    assert schema(KIND).field("label").type == KIND.label_type


def test_strata_and_counts_tell_rows_with_answers_from_those_without():
    assert [KIND.stratum(label) for label in [(("Ann", 0),), ()]] == ["answerable", "unanswerable"]
    assert KIND.counts([[gold(CONTEXT, "Ann")], [], []], NAMES) == {"answerable": 1, "unanswerable": 2}
    assert KIND.counts([], NAMES) == {"answerable": 0, "unanswerable": 0}
    assert KIND.label_names([(), (("Ann", 0),)], CONFIG) == NAMES


def test_questions_none_of_which_has_an_answer_are_refused():
    with pytest.raises(DataError, match=r"no row has an answer in column 'answers'; there is nothing to find"):
        KIND.label_names([()], CONFIG)


def test_questions_of_one_context_are_one_unit():
    rows = [KIND.example(question, CONTEXT, None, CONFIG) for question in ("Who?", "Where?")]
    assert KIND.unit(rows[0]) == KIND.unit(rows[1]) != KIND.unit(KIND.example("Who?", "Nobody.", None, CONFIG))


# Windows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [BERT, ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("max_length", [8, 9, 10, 12, 13, 24, 64])
def test_windows_cover_the_context_and_overlap_by_a_third(tokenizer, max_length):
    contexts = ["a b c d e f g h i j k l m n o p q r s t u v w x y z", "a", ""]
    found, features = encoded(tokenizer, ["a b c d e f g h i", "q", "why"], contexts, max_length)
    assert max(map(len, found.ids)) <= max_length
    assert sorted(set(found.rows)) == [0, 1, 2]
    assert found.rows.count(2) == 1
    windows = [[tuple(place) for place in places if place[0] >= 0] for places in found.places[: found.rows.count(0)]]
    read = [place for place in dict.fromkeys(chain.from_iterable(windows)) if place[1] > place[0]]
    assert read == [(at, at + 1) for at in range(0, 51, 2)]
    for one, other in pairwise(windows):
        assert one[-(max_length // 3) :] == other[: max_length // 3]
    assert (features.places[-features.lengths[-1] :] == -1).all()


def test_only_tokens_of_the_context_have_places():
    found, _ = encoded(BERT, ["ab c?"], ["a  fox \u4e2d\u56fd"], 32)
    tokens = BERT.convert_ids_to_tokens(found.ids[0])
    assert tokens[:6] == ["[CLS]", "a", "##b", "c", "?", "[SEP]"]
    assert found.places[0].tolist()[:6] == [[-1, -1]] * 6
    assert found.places[0].tolist()[6:] == [[0, 1], [3, 6], [7, 8], [8, 9], [-1, -1]]
    assert found.firsts == [6]


def test_a_question_gets_a_third_of_the_tokens_at_most():
    found, _ = encoded(BERT, ["a b c d e f g h i j k l", "a b"], ["x y z"] * 2, 12)
    read = [BERT.convert_ids_to_tokens(ids) for ids in found.ids]
    assert read[0] == ["[CLS]", "a", "b", "c", "d", "[SEP]", "x", "y", "z", "[SEP]"]
    assert read[1] == ["[CLS]", "a", "b", "[SEP]", "x", "y", "z", "[SEP]"]


def test_rows_of_several_chunks_keep_their_numbers(monkeypatch):
    contexts = [" ".join("abcdefghijklmnop"[: 1 + 3 * (number % 5)]) for number in range(9)]
    labels = [[gold(context, context[-1])] for context in contexts]
    whole, features = encoded(BERT, ["a b"] * 9, contexts, 12)
    targets = KIND.targets(labels, features, NAMES)
    monkeypatch.setattr("tinybert.kinds.windows.CHUNK", 2)
    parts, again = encoded(BERT, ["a b"] * 9, contexts, 12)
    assert (parts.ids, parts.firsts, parts.rows) == (whole.ids, whole.firsts, whole.rows)
    np.testing.assert_array_equal(again.places, features.places)
    np.testing.assert_array_equal(KIND.targets(labels, features, NAMES), targets)


def test_a_slow_tokenizer_is_refused():
    class Slow(PreTrainedTokenizer):
        def __init__(self):
            super().__init__()

        vocab_size = 1

        def get_vocab(self):
            return {}

    with pytest.raises(ModelError, match=r"Slow .* tokenizer\.json"):
        KIND.encode(Slow(), ["a"], ["b"], 16)


# Targets --------------------------------------------------------------------------------------------------------------


def test_targets_are_the_tokens_of_the_first_right_answer():
    context = "abc de  fgh. i"
    _, features = encoded(BERT, ["q"] * 2, [context] * 2, 32)
    # [CLS] q [SEP] a ##b ##c d ##e f ##g ##h . i [SEP]; the second begins and ends within words.
    labels = [[gold(context, "de  fgh"), gold(context, "i")], [gold(context, "bc d")]]
    assert KIND.targets(labels, features, NAMES).tolist() == [[6, 10], [4, 6]]


def test_a_window_without_the_whole_answer_has_no_target():
    context = "a b c d e f g h i j k l m n"
    found, features = encoded(BERT, ["q"], [context], 12)  # 8 tokens of context a window, 4 of them the next one's
    assert [places.max() for places in found.places] == [15, 23, 27]
    assert KIND.targets([[gold(context, "h i")]], features, NAMES).tolist() == [[0, 0], [6, 7], [0, 0]]
    assert KIND.targets([[gold(context, "e")]], features, NAMES).tolist() == [[7, 7], [3, 3], [0, 0]]


def test_an_answer_longer_than_every_window_has_no_target():
    context = "a b c d e f g h i j k l m n"
    _, features = encoded(BERT, ["q", "q"], [context] * 2, 12)
    labels = [[gold(context, "b c d e f g h i j")], [gold(context, "b c d e f g h")]]
    assert KIND.targets(labels, features, NAMES).tolist() == [[0, 0], [0, 0], [0, 0], [4, 10], [0, 0], [0, 0]]


def test_unanswerable_rows_have_the_first_token_as_target():
    _, features = encoded(BERT, ["q", "q"], ["a b c", ""], 12)
    targets = KIND.targets([[], []], features, NAMES)
    assert targets.tolist() == [[0, 0], [0, 0]]
    assert targets.dtype == np.int64


# Answers --------------------------------------------------------------------------------------------------------------

SCRIPTS = [
    "\u4e2d",
    "\u56fd\u4eba",
    "\u3002",
    "caf\u00e9",
    "cafe\u0301",
    "\u0928\u093f\u0930\u094d",
    "\ufb01x",
    "\u0130",
]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469"]
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0"]
pieces = st.sampled_from(["a", "fox", "zebra", "don't", ".", "-", *SCRIPTS, *EMOJI, *SPACES])


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=40), st.data(), st.booleans(), st.sampled_from([18, 24, 60]))
def test_any_part_of_a_context_is_found_again(parts, data, byte_level, max_length):
    tokenizer, context = (ROBERTA if byte_level else BERT), "".join(parts)
    read = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    places = [place for place in read if context[slice(*place)].strip()]
    first = data.draw(st.integers(0, max(len(places) - 1, 0)))
    reach = [
        end
        for _, end in places[first:]
        if sum(other > places[first][0] and one < end for one, other in read) <= max_length // 3
    ]
    _, features = encoded(tokenizer, ["a fox"], [context], max_length)
    label = []
    if reach:
        begin, end = places[first][0], data.draw(st.sampled_from(reach))
        while category(context[end : end + 1] or " ").startswith("M"):
            end += 1
        label = [gold(context, context[begin:end], begin)]
    targets = KIND.targets([label], features, NAMES)
    assert targets.any() == bool(label)
    assert said(peaks(targets, features), features, [context]).values == [label[0]["text"] if label else ""]


def test_an_answer_keeps_the_marks_on_its_last_letter():
    context = "the cafe\u0301 there"
    _, features = encoded(BERT, ["q"], [context], 32)
    targets = KIND.targets([[gold(context, "cafe\u0301")]], features, NAMES)
    assert said(peaks(targets, features), features, [context]).values == ["cafe\u0301"]


def scored(context, starts, ends, max_length=32):
    """Answer to a context of single letters, of whose tokens only some have logits other than 0."""
    _, features = encoded(BERT, ["q"], [context], max_length)
    logits = np.zeros((int(features.starts[-1]), 2))
    for column, values in enumerate((starts, ends)):
        for token, value in values.items():
            logits[token, column] = value
    return said(logits, features, [context])


def test_an_answer_does_not_end_before_it_begins():
    # [CLS] q [SEP] a b c d: tokens 3 to 6.
    assert scored("a b c d", {5: 9.0}, {3: 8.0, 6: 1.0}).values == ["c d"]
    assert scored("a b c d", {5: 9.0, 3: 2.5}, {3: 8.0, 6: 1.0}).values == ["a"]


def test_question_and_special_tokens_are_no_answer():
    assert scored("a b c d", {1: 9.0, 4: 1.0}, {2: 9.0, 7: 9.0, 5: 1.0}).values == ["b c"]


def test_an_answer_is_no_longer_than_thirty_tokens():
    context = " ".join("abcdefghij" * 4)
    assert scored(context, {3: 9.0}, {32: 5.0, 33: 9.0}, 64).values == [context[:59]]


def test_no_answer_is_given_where_it_scores_more_than_the_best():
    assert scored("a b c d", {4: 3.0, 0: 2.0}, {5: 3.0, 0: 3.9}).values == ["b c"]
    assert scored("a b c d", {4: 3.0, 0: 2.0}, {5: 3.0, 0: 4.1}).values == [""]


def test_no_answer_is_never_given_where_every_training_row_has_one():
    """As in run_squad.py without version_2_with_negative."""
    contexts = ["a b c d e f g h i j k l m n", "x y z", ""]
    _, features = encoded(BERT, ["q"] * 3, contexts, 12)
    targets = KIND.targets([[gold(contexts[0], "h i")], [gold(contexts[1], "y")], []], features, NAMES)
    logits = peaks(targets, features)
    logits[features.starts[:-1]] = 10.5
    assert said(logits, features, contexts).values == ["", "", ""]
    answers = kind_of("question_answering", always_answers=True).answers(logits, features, {"text_pair": contexts})
    assert answers.values == ["h i", "y", ""]  # of nothing there is no part
    tokens_L2 = logits[features.starts[-3] : features.starts[-2]].astype(float)
    chances = np.exp(tokens_L2) / np.exp(tokens_L2).sum(axis=0)
    begin, end = targets[-2]
    np.testing.assert_allclose(answers.confidence[1], chances[begin, 0] * chances[end, 1], rtol=1e-5)
    assert kind_of("question_answering").answers(logits, features, {"text_pair": contexts}).values == ["", "", ""]


def test_no_answer_needs_every_window():
    context = "a b c d e f g h i j k l m n"
    _, features = encoded(BERT, ["q"], [context], 12)
    targets = np.array([[0, 0], [6, 7], [0, 0]])
    logits = peaks(targets, features)
    assert said(logits, features, [context]).values == ["h i"]
    logits[features.starts[:-1]] = 10.5
    assert said(logits, features, [context]).values == [""]


def test_windows_of_neighbouring_rows_are_kept_apart():
    contexts = ["a b c d e f g h i j k l m n", "x y z", "", "o p q r s t u v w x y z"]
    labels = [[gold(contexts[0], "m")], [gold(contexts[1], "y z")], [], [gold(contexts[3], "o p")]]
    _, features = encoded(BERT, ["q"] * 4, contexts, 12)
    targets = KIND.targets(labels, features, NAMES)
    assert said(peaks(targets, features), features, contexts).values == ["m", "y z", "", "o p"]


def test_confidence_is_the_probability_within_the_window():
    found = scored("a b c d", {4: 2.0}, {5: 1.0})
    # 8 tokens, all others 0.
    expected = np.exp(2) / (np.exp(2) + 7) * np.exp(1) / (np.exp(1) + 7)
    assert found.values == ["b c"]
    np.testing.assert_allclose(found.confidence, [expected])
    nothing = scored("a b c d", {0: 3.0}, {0: 1.0})
    assert nothing.values == [""]
    np.testing.assert_allclose(nothing.confidence, [np.exp(3) / (np.exp(3) + 7) * np.exp(1) / (np.exp(1) + 7)])


def test_no_rows_have_no_answers():
    features = Features(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 2), np.int32))
    assert said(np.zeros((0, 2)), features, []).values == []
    assert KIND.targets([], features, NAMES).shape == (0, 2)


def test_the_best_span_is_that_of_all_pairs():
    chance = np.random.default_rng(0)
    context = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)
    _, features = encoded(BERT, ["q r"], [context], 40)
    for _ in range(20):
        logits = chance.normal(size=(int(features.starts[-1]), 2)) * 3
        best, answer = -np.inf, ""
        for window in range(len(features.lengths)):
            tokens = [t for t in range(*features.starts[window : window + 2]) if features.places[t, 0] >= 0]
            for i in tokens:
                for j in tokens:
                    if i <= j < i + 30 and logits[i, 0] + logits[j, 1] > best:
                        best = logits[i, 0] + logits[j, 1]
                        answer = context[features.places[i, 0] : features.places[j, 1]]
        if logits[features.starts[:-1]].sum(axis=1).min() > best:
            answer = ""
        assert said(logits, features, [context]).values == [answer]


# Losses ---------------------------------------------------------------------------------------------------------------


def test_hard_loss_is_the_mean_of_both_cross_entropies():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 7, 2), torch.tensor([[0, 0], [2, 5], [6, 6]])
    expected = (F.cross_entropy(logits[..., 0], targets[:, 0]) + F.cross_entropy(logits[..., 1], targets[:, 1])) / 2
    torch.testing.assert_close(KIND.hard_loss(logits, targets), expected)


def test_soft_loss_sees_no_padding():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = {"attention_mask": mask, "labels": torch.zeros(2, 2, dtype=torch.int64)}
    expected = 0.0
    for row, length in enumerate([5, 3]):
        for column in (0, 1):
            target = torch.softmax(teacher[row, :length, column] / 2, dim=0)
            expected -= (target * torch.log_softmax(student[row, :length, column] / 2, dim=0)).sum() * 4 / 4
    torch.testing.assert_close(KIND.soft_loss(student, teacher, batch, 2.0), expected)
    assert KIND.items(batch) == 2


def test_logits_of_both_libraries_have_one_form():
    model = BertForQuestionAnswering(tiny(**KIND.options(NAMES)))
    output = model(torch.tensor([[2, 5, 3, 6, 3]]))
    logits = KIND.logits(output)
    assert logits.shape == (1, 5, 2)
    torch.testing.assert_close(logits[..., 1], output.end_logits)
    assert KIND.logits(SimpleNamespace(logits=logits)) is logits
    assert KIND.auto_class().from_config(model.config).config.num_labels == 2


# Scores ---------------------------------------------------------------------------------------------------------------

LABELS = [[gold(CONTEXT, "Paris"), gold(CONTEXT, "in Paris")], [gold(CONTEXT, "Ann")], [], [], [gold(CONTEXT, "Rome")]]


def test_scores_are_means_over_rows():
    answers = ["in Paris, and", "Ann", "", "Rome", ""]
    scores = {name: metric.score(LABELS, answers, NAMES) for name, metric in KIND.metrics.items()}
    assert scores == pytest.approx({"answer_f1": (0.8 + 1 + 1) / 5, "exact_match": 2 / 5})
    assert list(KIND.metrics) == KIND.measured(NAMES) == ["answer_f1", "exact_match"]
    assert KIND.right(LABELS, answers).tolist() == [False, True, True, False, False]


def test_rows_with_answers_and_without_are_broken_down():
    answers = ["Paris.", "Ben", "", "Rome", ""]
    recalls = KIND.recalls(LABELS, answers, NAMES)
    assert recalls["answerable"].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0], [0, 1]]
    assert recalls["unanswerable"].tolist() == [[0, 0], [0, 0], [1, 1], [0, 1], [0, 0]]
    assert KIND.per_class(LABELS, answers, NAMES) == {
        "answerable": pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "support": 3}),
        "unanswerable": pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2}),
    }


@pytest.mark.parametrize("labels", [LABELS[:2], LABELS[2:4]], ids=["answerable", "unanswerable"])
def test_rows_of_one_sort_have_no_classes(labels):
    assert KIND.recalls(labels, ["Ann", ""], NAMES) == KIND.per_class(labels, ["Ann", ""], NAMES) == {}


def test_wrong_answers_score_nothing_and_none_is_the_trivial_one():
    labels = [*LABELS, [{"text": "xxx", "start": 0}], [{"text": "x", "start": 0}, {"text": "XX", "start": 4}]]
    for metric in KIND.metrics.values():
        assert metric.score(labels, KIND.wrong(labels, NAMES), NAMES) == 0
        assert metric.score(LABELS, KIND.trivial(LABELS, NAMES), NAMES) == pytest.approx(2 / 5)


def test_answers_serve_as_labels_and_are_shown():
    labels = KIND.as_labels(["Ann", ""])
    assert KIND.right(labels, ["the Ann!", ""]).all()
    assert pa.array(labels, KIND.label_type).to_pylist() == labels
    assert [KIND.shown(value, NAMES) for value in (*labels, "Ben", "")] == ["Ann", "(no answer)", "Ben", "(no answer)"]


# Copies ---------------------------------------------------------------------------------------------------------------


def test_copies_keep_question_and_answers():
    label = [gold(CONTEXT, "Rome"), gold(CONTEXT, "Paris"), gold(CONTEXT, "Paris")]
    assert KIND.fixed("Where?", CONTEXT, label) == ([(0, 6)], [(16, 21), (43, 47)])
    assert KIND.fixed("Where?", CONTEXT, []) == ([(0, 6)], [])


def test_answers_move_with_the_words_before_them():
    label = [gold(CONTEXT, "Paris"), gold(CONTEXT, "Rome")]
    copy = "Ann had been reared in Paris, & Ben was born here at Rome."
    copy = copy.replace("had been", "is").replace("here at", "at")
    # was -> is (-1), born -> reared (+2), "and" -> "&" (-2), in -> at (0).
    changes = [(4, -1), (8, 2), (23, -2), (40, 0)]
    moved = KIND.moved(label, CONTEXT, changes)
    assert [copy[at["start"] : at["start"] + len(at["text"])] for at in moved] == ["Paris", "Rome"]
    assert label == [gold(CONTEXT, "Paris"), gold(CONTEXT, "Rome")]
    assert KIND.moved([], CONTEXT, changes) == []


# Training -------------------------------------------------------------------------------------------------------------


def tiny(**options):
    shape = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
    return BertConfig(vocab_size=len(BERT), max_position_embeddings=64, initializer_range=0.1, **shape, **options)


def question_rows(count, seed):
    """A word of the kind that is asked for stands somewhere in the context, or in one of five none does."""
    chance = random.Random(seed)
    for _ in range(count):
        kinds = {"colour": COLOURS, "animal": ANIMALS, "town": TOWNS}
        asked = chance.choice(sorted(kinds))
        found = {name: chance.choice(words) for name, words in kinds.items()}
        answerable = chance.random() < 0.8
        words = [
            *chance.choices(FILLERS, k=chance.randint(3, 14)),
            *(w for name, w in found.items() if name != asked or answerable),
        ]
        chance.shuffle(words)
        context = " ".join(words)
        label = [{"text": found[asked], "start": f" {context} ".index(f" {found[asked]} ")}] if answerable else []
        yield f"what {asked}?", context, label


def test_a_tiny_model_learns_to_answer(tmp_path, nowhere):
    for directory in ("data", "teacher", "out"):
        (tmp_path / directory).mkdir()
    for seed, split in enumerate(SPLITS):
        with RowWriter(tmp_path / "data" / f"{split}.arrow", KIND) as writer:
            for number, row in enumerate(question_rows(800 if split == "train" else 100, seed)):
                writer.add(*row, number)
    write_manifest(tmp_path / "data", NAMES, 20, kind=KIND.name, metric="answer_f1")
    torch.manual_seed(0)
    save(BertModel(tiny()), BERT, tmp_path / "teacher", 20)
    optim = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.0}
    config = FineTuneConfig(optim=optim)
    metrics = fine_tune.run(
        data=tmp_path / "data", teacher=tmp_path / "teacher", config=config, out=tmp_path / "out", on_metrics=nowhere
    )
    rows = TaskData(tmp_path / "data").rows("validation")
    trivial = KIND.metrics["exact_match"].score(rows["label"], KIND.trivial(rows["label"], NAMES), NAMES)
    assert trivial < 0.3
    assert metrics["validation_exact_match"] > 0.8
    assert metrics["validation_answer_f1"] >= metrics["validation_exact_match"]
