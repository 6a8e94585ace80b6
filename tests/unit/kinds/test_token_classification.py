"""A tag a word: alignment by hand and against tokenizers, scores against seqeval and scikit-learn."""

import string
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.metrics import f1_score as entity_f1_score
from seqeval.scheme import IOBES
from sklearn.metrics import accuracy_score
from transformers import BertTokenizerFast, RobertaTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.tags import bio2, entities, entity_types
from tinybert.kinds.task_kind import UNSCORED, Features
from tinybert.kinds.token_classification import TokenClassification
from tinybert.kinds.words import first_pieces

KIND = TokenClassification()
NAMES = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
CONFIG = DataConfig(source="package:tinybert/samples.csv", kind="token_classification")
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.printable[:36], *string.punctuation, "visit", "##ing"]
PIECES += [f"##{letter}" for letter in string.ascii_lowercase] + ["\u4e2d", "\u6587", "paris"]
TAGS = st.integers(0, 4)
ROWS = st.lists(
    st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), min_size=1, max_size=6
)  # a label and an answer of each word


def named(rows):
    return [[NAMES[number] for number in numbers] for numbers in rows]


def both(rows):
    return [[label for label, _ in row] for row in rows], [[answer for _, answer in row] for row in rows]


def score(metric, labels, answers, names=NAMES):
    return KIND.metrics[metric].score(labels, answers, names)


@pytest.fixture(scope="module")
def bert():
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(PIECES)})


@pytest.fixture(scope="module")
def written_in_python(tmp_path_factory):
    """The same, without a word about where its pieces come from."""
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n")
    return BertTokenizerLegacy(str(file))


@pytest.fixture(scope="module")
def roberta():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *string.ascii_letters, *string.punctuation, "\u0120"]
    pieces += ["pa", "\u0120p", "\u0120pa"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return RobertaTokenizer(vocab=vocabulary, merges=[("\u0120", "p"), ("p", "a"), ("\u0120p", "a")])


def features_of(encoded):
    lengths = np.array([len(ids) for ids in encoded.ids], np.int32)
    return Features(lengths, np.array(encoded.rows), np.concatenate(encoded.places))


def firsts(tokenizer, encoded, row=0):
    """Which piece is the first of which word."""
    pieces = tokenizer.convert_ids_to_tokens(encoded.ids[row])
    return {int(word): piece for word, piece in zip(encoded.places[row][:, 0], pieces, strict=True) if word >= 0}


# Scores ---------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(ROWS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_scores_are_those_of_seqeval(rows):
    labels, answers = both(rows)
    expected = entity_f1_score(named(labels), named(answers), zero_division=0)
    assert score("entity_f1", labels, answers) == pytest.approx(expected)
    flat = [list(chain(*parts)) for parts in (labels, answers)]
    assert score("accuracy", labels, answers) == pytest.approx(accuracy_score(*flat))


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_types_are_scored_as_seqeval_does(rows):
    labels, answers = both(rows)
    found = KIND.per_class(labels, answers, NAMES)
    assert list(found) == ["LOC", "PER"]
    nothing = {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    report = {}
    if any(any(numbers) for numbers in [*labels, *answers]):  # seqeval has no report of no entities
        report = classification_report(named(labels), named(answers), output_dict=True, zero_division=0)
    for name, scores in found.items():
        expected = {key.replace("f1-score", "f1"): value for key, value in report.get(name, nothing).items()}
        assert scores == pytest.approx(expected)


def test_scores_by_hand():
    # LOC found, PER of two words found by half, which is one missed and one invented; 5 of 6 words.
    labels, answers = [[1, 0, 0], [0, 2, 4]], [[1, 0, 0], [0, 2, 0]]
    assert score("entity_f1", labels, answers) == 0.5
    assert score("accuracy", labels, answers) == pytest.approx(5 / 6)
    recalls = {name: rows.tolist() for name, rows in KIND.recalls(labels, answers, NAMES).items()}
    assert recalls == {"LOC": [[1, 1], [0, 0]], "PER": [[0, 0], [0, 1]]}
    assert KIND.counts(labels, NAMES) == {"LOC": 1, "PER": 1}


def test_without_entities_nothing_is_found():
    assert score("entity_f1", [[0, 0]], [[0, 0]]) == 0
    assert KIND.missing([[0, 0]], NAMES) == ["LOC", "PER"]
    assert KIND.missing([[0, 1]], NAMES) == []
    assert [score(metric, [], []) for metric in KIND.metrics] == [0, 0]


def test_confusion_is_about_types():
    right, given_, classes = KIND.confusion([[0, 1, 3], [2]], [[1, 1, 4], [2]], NAMES)
    assert classes == ["O", "LOC", "PER"]
    assert list(zip(right.tolist(), given_.tolist(), strict=True)) == [(0, 1), (1, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("O I-PER I-LOC", [("PER", 1, 1), ("LOC", 2, 2)]),  # leniently
        ("S-PER B-LOC I-LOC E-LOC S-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),
        ("U-PER B-LOC I-LOC L-LOC U-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),
        ("B-co-author I-co-author", [("co-author", 0, 1)]),
        ("O PER PER LOC O ORG", [("PER", 1, 2), ("LOC", 3, 3), ("ORG", 5, 5)]),  # no scheme: runs
        ("NOUN NOUN VERB OTHER", [("NOUN", 0, 0), ("NOUN", 1, 1), ("VERB", 2, 2), ("OTHER", 3, 3)]),  # no O: words
    ],
)
def test_entities_of_every_scheme(tags, expected):
    names = sorted(set(tags.split()))
    assert entities([names.index(tag) for tag in tags.split()], names) == expected
    assert set(entity_types(names)) == {kind for kind, _, _ in expected}


BIOES = ["O", *(f"{part}-{kind}" for kind in ("LOC", "PER") for part in "BIES")]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=8), min_size=1, max_size=4)
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_bioes_is_scored_as_seqeval_does_strictly(rows):
    labels, answers = both(rows)
    tags = [[[BIOES[number] for number in numbers] for numbers in part] for part in (labels, answers)]
    expected = entity_f1_score(*tags, mode="strict", scheme=IOBES, zero_division=0)
    assert score("entity_f1", labels, answers, BIOES) == pytest.approx(expected)
    bilou = [name.replace("E-", "L-").replace("S-", "U-") for name in BIOES]
    assert score("entity_f1", labels, answers, bilou) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-LOC I-LOC E-LOC", [("LOC", 0, 2)]),
        ("B-LOC E-LOC E-LOC", [("LOC", 0, 1)]),
        ("B-LOC I-LOC O", []),
        ("I-LOC E-LOC", []),
        ("B-LOC I-PER E-LOC", []),
        ("B-LOC B-LOC E-LOC S-PER", [("LOC", 1, 2), ("PER", 3, 3)]),
    ],
)
def test_what_ends_otherwise_than_bioes_says_is_no_entity(tags, expected):
    assert entities([BIOES.index(tag) for tag in tags.split()], BIOES) == expected


def test_parts_of_speech_are_scored_word_by_word():
    names, labels, answers = ["ADJ", "NOUN", "OTHER"], [[0, 1, 1]], [[0, 1, 2]]
    assert (
        score("entity_f1", labels, answers, names) == score("accuracy", labels, answers, names) == pytest.approx(2 / 3)
    )


# Rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),  # IOB1 has B- between neighbours alone
        ("I-PER I-LOC", "B-PER B-LOC"),
        ("B-PER I-PER O", "B-PER I-PER O"),
        ("O I-PER E-PER S-LOC", "O I-PER E-PER S-LOC"),
        ("NOUN VERB", "NOUN VERB"),
    ],
)
def test_iob1_becomes_bio2(tags, expected):
    assert " ".join(bio2(tags.split(), [])) == expected
    assert " ".join(bio2(expected.split(), [])) == expected


def test_a_form_without_b_keeps_i():
    assert bio2(["I-PER", "I-PER"], ["O", "I-PER"]) == ["I-PER", "I-PER"]


def test_words_and_tags_are_lists_or_texts():
    expected = ("EU rejects", None, ("B-ORG", "O"))
    assert KIND.example(["EU", "rejects"], None, ["B-ORG", "O"], CONFIG) == expected
    assert KIND.example(" EU  rejects ", None, "B-ORG O", CONFIG) == expected
    numbered = CONFIG.model_copy(update={"labels": ["O", "B-ORG"]})
    assert KIND.example(["EU", "rejects"], None, [1, 0], numbered) == expected
    assert KIND.example([1996, "a"], None, ["O", "O"], CONFIG).text == "1996 a"


def test_white_space_within_a_word_goes():
    text, _, label = KIND.example(["10\u00a0000", "New York", "\u3000b\n"], None, ["O", "B-LOC", "O"], CONFIG)
    assert (text, label) == ("10000 NewYork b", ("O", "B-LOC", "O"))


def test_empty_words_outside_entities_are_left_out():
    # The empty word keeps the two names of IOB1 apart.
    example = KIND.example(["Ann", " ", "Bob", None], None, ["I-PER", "O", "I-PER", "O"], CONFIG)
    assert example == ("Ann Bob", None, ("B-PER", "B-PER"))
    assert KIND.example([""], None, ["O"], CONFIG).text == KIND.example(None, None, None, CONFIG).text == ""


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["Ann", "said"], ["O"], "the row 'Ann said'... has 2 words in column 'tokens', but 1 tags in 'tags'"),
        (["Ann", ""], ["O", "I-PER"], "the row 'Ann '... has an empty word tagged 'B-PER'"),
        (["Ann"], [None], "column 'tags' is empty in some rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(words, tags, message):
    with pytest.raises(DataError, match=message):
        KIND.example(words, None, tags, CONFIG)


def test_outside_is_class_0():
    found = [("B-PER", "O"), ("A-thing", "I-PER")]
    assert KIND.label_names(found, CONFIG) == ["O", "A-thing", "B-PER", "I-PER"]
    listed = CONFIG.model_copy(update={"labels": ["B-PER", "I-PER", "O"]})
    assert KIND.label_names([("O", "B-PER")], listed) == ["O", "B-PER", "I-PER"]
    assert KIND.label_names([("VERB", "NOUN")], CONFIG) == ["NOUN", "VERB"]


def test_tags_that_cannot_be_are_refused():
    with pytest.raises(DataError, match=r"column 'tags' holds numbers of tags only; name the tags in data.labels"):
        KIND.label_names([("0", "3")], CONFIG)
    with pytest.raises(DataError, match=r"only the tag 'O' in column 'tags'; there is nothing to tell apart"):
        KIND.label_names([("O", "O")], CONFIG)


# Alignment ------------------------------------------------------------------------------------------------------------


def test_first_pieces_by_hand(bert):
    # Emoji and unknown words are one [UNK]; ideographs, punctuation and letters are pieces of their own; a joiner and
    # a control character alone are none.
    text = "visiting caf\u00e9's \u4e2d\u6587 \U0001f600 \u200d \x07 paris"
    encoded = KIND.encode(bert, [text], None, 40)
    assert firsts(bert, encoded) == {0: "visit", 1: "c", 2: "\u4e2d", 3: "[UNK]", 6: "paris"}
    assert encoded.places[0].dtype == np.int32
    assert encoded.ids == bert([text])["input_ids"]
    assert (encoded.firsts, encoded.rows) == ([len(encoded.ids[0])], [0])


def test_words_beyond_the_cut_are_not_read(bert):
    encoded = KIND.encode(bert, ["paris " + "x" * 30 + " paris", "paris visit"], None, 8)
    assert [len(ids) for ids in encoded.ids] == [8, 4]
    assert firsts(bert, encoded) == {0: "paris", 1: "x"}
    assert firsts(bert, encoded, 1) == {0: "paris", 1: "visit"}


def test_a_word_longer_than_a_tokenizer_reads_is_one_unknown_piece(bert):
    assert firsts(bert, KIND.encode(bert, ["x" * 200 + " paris"], None, 8)) == {0: "[UNK]", 1: "paris"}


WORDS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
    .map(lambda word: "".join(word.split()))
    .filter(bool),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=100)
@given(WORDS)
def test_first_pieces_are_those_of_words_handed_over_one_by_one(bert, words):
    encoded = KIND.encode(bert, [" ".join(words)], None, 24)
    expected = bert([words], is_split_into_words=True, truncation=True, max_length=24)
    assert encoded.ids == expected["input_ids"]
    seen, wanted = set(), []
    for word in expected.word_ids(0):
        wanted.append(-1 if word is None or word in seen else word)
        seen.add(word)
    assert encoded.places[0][:, 0].tolist() == wanted


# Not of all characters: the two know different versions of Unicode.
LETTERS = "aB\u00e9\u4e2d-'.#0\u200d\x07\U0001f600\u0301\u0130"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_tokenizer_written_in_python_reads_the_same(bert, written_in_python, words):
    texts = [" ".join(words), "paris " + " ".join(words)]
    encoded, expected = (KIND.encode(tokenizer, texts, None, 12) for tokenizer in (written_in_python, bert))
    assert encoded.ids == expected.ids
    assert encoded.firsts == expected.firsts
    for found, wanted in zip(encoded.places, expected.places, strict=True):
        assert found.tolist() == wanted.tolist()


def test_byte_level_pieces_tell_that_a_word_begins(roberta):
    encoded = KIND.encode(roberta, ["pa pat xpa"], None, 20)
    assert roberta.convert_ids_to_tokens(encoded.ids[0])[1:4] == ["pa", "\u0120pa", "t"]
    assert firsts(roberta, encoded) == {0: "pa", 1: "\u0120pa", 2: "x"}  # the space before x is a piece without letters


def test_pieces_that_begin_with_the_space_before_a_word():
    # As sentencepiece counts them: [CLS], "a", " b", " ", "c", "d".
    assert first_pieces("a b cd", [(0, 0), (0, 1), (1, 3), (3, 4), (4, 5), (5, 6)])[:, 0].tolist() == [
        -1,
        0,
        1,
        -1,
        2,
        -1,
    ]


# Targets and answers --------------------------------------------------------------------------------------------------

# Rows "a bb" and "c": [CLS] a b ##b [SEP], [CLS] c [SEP]
FEATURES = Features(np.array([5, 3], np.int32), np.array([0, 1]), np.array([-1, 0, 1, -1, -1, -1, 0, -1])[:, None])
TEXTS = {"text": ["a bb", "c"]}
LABELS = [[2, 4], [0]]


def logits(at):
    """Five classes; at these tokens one is ahead."""
    found = np.zeros((8, 5), np.float32)
    for token, (number, ahead) in at.items():
        found[token, number] = ahead
    return found


def test_targets_stand_at_first_pieces():
    targets = KIND.targets(LABELS, FEATURES, NAMES)
    assert targets.dtype == np.int64
    assert targets.tolist() == [UNSCORED, 2, 4, UNSCORED, UNSCORED, UNSCORED, 0, UNSCORED]


def test_answers_are_read_at_first_pieces():
    said = KIND.answers(logits({0: (1, 9), 1: (2, 5), 2: (4, 1), 3: (3, 9), 6: (3, 2)}), FEATURES, TEXTS)
    assert said.values == [[2, 4], [3]]
    assert said.confidence == pytest.approx([np.exp(1) / (np.exp(1) + 4), np.exp(2) / (np.exp(2) + 4)])


def test_words_that_were_not_read_are_outside():
    said = KIND.answers(logits({1: (2, 5), 2: (4, 1), 6: (3, 2)}), FEATURES, {"text": ["a bb more words", "c"]})
    assert said.values == [[2, 4, 0, 0], [3]]
    blind = Features(np.array([2, 3], np.int32), np.array([0, 1]), np.array([-1, -1, -1, 0, -1])[:, None])
    said = KIND.answers(np.eye(5, dtype=np.float32), blind, {"text": ["\u200d \u200d", "c"]})
    assert said.values == [[0, 0], [3]]
    assert said.confidence[0] == 0


def test_targets_given_as_logits_are_answered(bert):
    texts = ["visiting paris 's caf\u00e9 \u200d", "\u4e2d\u6587 x", "paris"]
    labels = [[0, 1, 3, 2, 0], [2, 4], [1]]
    features = features_of(KIND.encode(bert, texts, None, 16))
    targets = KIND.targets(labels, features, NAMES)
    said = KIND.answers(
        np.eye(5, dtype=np.float32)[np.where(targets == UNSCORED, 3, targets)], features, {"text": texts}
    )
    assert said.values == labels
    decided, right = KIND.decisions(np.eye(5)[np.where(targets == UNSCORED, 3, targets)], features, labels)
    assert decided.argmax(axis=1).tolist() == right.tolist() == [0, 1, 3, 2, 2, 4, 1]


def test_losses_see_first_pieces_only():
    batch = {"labels": torch.tensor([[UNSCORED, 2, 0, UNSCORED], [UNSCORED, 1, UNSCORED, UNSCORED]])}
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    log = student.log_softmax(-1)
    hard = -(log[0, 1, 2] + log[0, 2, 0] + log[1, 1, 1]) / 3
    torch.testing.assert_close(KIND.hard_loss(student, batch["labels"]), hard)
    target = teacher.softmax(-1)
    soft = -sum((target[at] * log[at]).sum() for at in [(0, 1), (0, 2), (1, 1)]) / 3
    torch.testing.assert_close(KIND.soft_loss(student, teacher, batch, 1.0), soft)
    assert KIND.items(batch) == 3
    teacher[0, 0] = torch.inf
    torch.testing.assert_close(KIND.soft_loss(student, teacher, batch, 1.0), soft)


def test_a_batch_without_words_has_no_loss():
    labels, student = torch.full((1, 4), UNSCORED), torch.randn(1, 4, 5, requires_grad=True)
    loss = KIND.hard_loss(student, labels) + KIND.soft_loss(student, torch.randn(1, 4, 5), {"labels": labels}, 1.0)
    loss.backward()
    assert loss == 0
    assert student.grad.abs().sum() == 0


def test_trivial_and_wrong_answers():
    assert KIND.trivial([[0, 0, 1], [2]], NAMES) == [[0, 0, 0], [0]]
    assert KIND.wrong([[0, 1, 3], [0, 0]], NAMES) == [[0, 0, 0], [1, 0]]


# Augmentation and pages -----------------------------------------------------------------------------------------------


def test_the_words_of_entities_are_kept():
    text = "in New York \u4e2d Ann"
    spans, pair = KIND.fixed(text, None, [0, 1, 3, 0, 2])
    assert [text[start:end] for start, end in spans] == ["New", "York", "Ann"]
    assert pair == []


def test_shown():
    assert KIND.shown([0, 2, 4], NAMES) == "O B-PER I-PER"
