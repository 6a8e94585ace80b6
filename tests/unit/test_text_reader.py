"""What is served reads texts as training reads them, also where a text is far longer than what is read of it."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from tests.unit.exported import LENGTH
from tinybert import samples
from tinybert.answering import asked
from tinybert.kinds import KINDS, kind_of
from tinybert.text_reader import WINDOW, FastReader, SlowReader, _beginning

CLASSES = kind_of("classification")
TEXTS = [
    "the film is wonderful",
    "  two  blanks, and a tab\there ",
    "\u8fd9\u90e8\u7535\u5f71\u5f88\u597d film \u4e2d\u6587",
    "fun \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 caf\u00e9 e\u0301 na\u00efve\u00a0x",
    "don't well-known U.S. 3,000.50 (really?) [SEP] $5",
    "a truly boring script and a truly boring story , I say " * 12,
    "filmfilmfilm" * 30,
    "",
    "\u200d",
]


def wordpiece():
    """One that knows some Chinese, and cuts unknown words into letters."""
    more = ["\u4e2d", "\u6587", "\u597d", "\u5f88", "?", "$", "'", "-", "(", ")", "e", "##\u00e9"]
    pieces = dict.fromkeys([*samples.vocabulary(), *more])
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=64)


def byte_level():
    """One that reads any bytes, and counts the space before a word to its first piece, as RoBERTa's does."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "\u0120th"]
    found = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, [("t", "h"), ("\u0120", "th")]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, **special)


@pytest.fixture(scope="module", params=[wordpiece, byte_level], ids=["wordpiece", "byte-level"])
def directory(request, tmp_path_factory):
    """With a tokenizer as a model has it."""
    place = tmp_path_factory.mktemp("tokenizer")
    request.param().save_pretrained(place)
    (place / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 1}))
    return place


READS = [(name, pair) for name in KINDS for pair in (False, True)]
READS.remove(("token_classification", True))
READS.remove(("question_answering", False))


@pytest.mark.parametrize("max_length", [LENGTH, 48])
@pytest.mark.parametrize(("name", "pair"), READS)
def test_served_tokens_are_those_of_training(directory, name, pair, max_length):
    kind, pairs = kind_of(name), [*TEXTS[3:], *TEXTS[:3]] if pair else None
    rows = asked(name, TEXTS, pairs).rows
    second = list(rows["text_pair"]) if pair else None
    expected = kind.encode(AutoTokenizer.from_pretrained(directory), list(rows["text"]), second, max_length)
    found = FastReader(directory, max_length, kind).read(rows["text"], second).encoded
    assert (found.ids, found.rows) == (expected.ids, expected.rows)
    if "token_type_ids" in AutoTokenizer.from_pretrained(directory).model_input_names:
        assert found.firsts == expected.firsts
    assert (found.places is None) == (expected.places is None)
    for one, other in zip(found.places or [], expected.places or [], strict=True):
        assert one.tolist() == other.tolist()


words = st.text(alphabet="film awful,.\u4e2d\u6587\u00e9!", max_size=40)
long_texts = st.builds(lambda parts, times: "".join(parts) * times, st.lists(words, max_size=8), st.integers(0, 10))


@settings(max_examples=50, deadline=None)
@given(text=long_texts, pair=st.none() | long_texts)
@example(text="film " * 50, pair=("film" + " " * 4) * 60)  # the beginning of the second has fewer tokens than the first
def test_however_long_a_text_is_its_tokens_are_those_of_all_of_it(readers, tokenizer, text, pair):
    fast, slow = (reader.read([text], None if pair is None else [pair]) for reader in readers)
    assert fast == slow
    assert fast.truncated == [len(tokenizer(text, pair)["input_ids"]) > LENGTH]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A directory with a tokenizer."""
    place = tmp_path_factory.mktemp("tokenizer")
    BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64).save_pretrained(place)
    (place / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}))
    return place


@pytest.fixture(scope="module")
def readers(classifiers):
    return FastReader(classifiers, LENGTH, CLASSES), SlowReader(classifiers, LENGTH, CLASSES)


@pytest.fixture(scope="module")
def tokenizer(classifiers):
    return AutoTokenizer.from_pretrained(classifiers)


def test_of_a_long_text_only_the_beginning_is_read(classifiers):
    tokenizer = Tokenizer.from_file(str(classifiers / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    size = WINDOW * LENGTH
    assert len(_beginning(tokenizer, "film " * 20_000, size)) == size
    assert len(_beginning(tokenizer, "\u4e2d" * 20_000, size)) == size
    assert len(_beginning(tokenizer, " " * 20_000 + "film " * 100, size)) > 20_000


def test_padding_and_segments_are_those_of_transformers(readers, tokenizer):
    texts, pairs = ["the film", "a story", "music"], ["awful", "the script is boring", ""]
    reading = readers[0].read(texts, pairs)
    expected = tokenizer(texts, pairs, padding=True)
    found = readers[0].padded(reading.encoded, [0, 1, 2])
    assert {name: array.tolist() for name, array in found.items()} == dict(expected)


def test_a_question_that_is_cut_and_a_text_that_is_cut_are_said_to_be(classifiers):
    questions, contexts = ["film " * 5, "film " * 6, "film"], ["story", "story", "a story " * 50]
    reader = FastReader(classifiers, LENGTH, kind_of("question_answering"))
    rows = asked("question_answering", questions, contexts).rows
    reading = reader.read(rows["text"], rows["text_pair"])
    assert reading.truncated == [False, True, False]
    assert reading.features.rows.tolist().count(2) > 5
    tagged = FastReader(classifiers, LENGTH, kind_of("token_classification"))
    assert tagged.read(["film " * 13 + "film", "film " * 14 + "film"], None).truncated == [False, True]
