"""Tokenizers with one vocabulary that read texts otherwise are told apart; those that only look otherwise are not."""

import json
import shutil
import string

import pytest
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
)

from tinybert import same_tokens
from tinybert.same_tokens import difference
from tinybert.samples import vocabulary


@pytest.fixture
def saved(tmp_path):
    """Keep a tokenizer as that of a model."""

    def save(name, tokenizer, config=None):
        tokenizer.save_pretrained(tmp_path / name)
        (config or BertConfig()).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def teacher(saved):
    return saved("teacher", BertTokenizerFast(vocab=vocabulary()))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"do_lower_case": False}, "upper case otherwise than the teacher's: ['I', 'a', 'b'] instead of ['i', 'a', 'b"),
        ({"strip_accents": False}, "accents otherwise than the teacher's: ['[UNK]', '[UNK]', '[UNK]'] instead of ['i"),
        ({"tokenize_chinese_chars": False}, "Chinese characters otherwise"),
        ({"truncation_side": "left"}, "long texts otherwise"),
        ({"sep_token": "[CLS]", "cls_token": "[SEP]"}, "words otherwise than the teacher's: ['[SEP]', "),
    ],
)
def test_another_reading_with_the_same_vocabulary(saved, teacher, fields, said):
    student = saved("student", BertTokenizerFast(vocab=vocabulary(), **fields))
    assert f"the student's tokenizer reads {said}" in difference(student, teacher)


@pytest.mark.parametrize("fields", [{}, {"model_max_length": 16}, {"padding_side": "left"}, {"strip_accents": True}])
def test_what_decides_no_token_does_not_count(saved, teacher, fields):
    assert difference(saved("student", BertTokenizerFast(vocab=vocabulary(), **fields)), teacher) is None


def test_a_token_that_was_added_is_another_vocabulary(saved, teacher):
    tokenizer = BertTokenizerFast(vocab=vocabulary())
    size = len(tokenizer)
    tokenizer.add_tokens(["[URL]"])
    said = f"vocabulary of the student ({size + 1} entries) differs from the teacher's ({size})"
    assert difference(saved("student", tokenizer), teacher) == said


# The same in other words ----------------------------------------------------------------------------------------------


def test_families_and_classes_that_read_alike(saved, teacher):
    distilbert = saved("distilbert", DistilBertTokenizer(vocab=vocabulary()), DistilBertConfig())
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    plain = PreTrainedTokenizerFast(tokenizer_file=str(teacher / "tokenizer.json"), mask_token="[MASK]", **names)
    for student in (distilbert, saved("plain", plain)):
        assert difference(student, teacher) is None


def test_the_vocabulary_alone_in_the_oldest_form(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "student")
    (tmp_path / "student" / "tokenizer.json").unlink()
    (tmp_path / "student" / "vocab.txt").write_text("\n".join(vocabulary()))
    assert difference(tmp_path / "student", teacher) is None


def test_flags_truncation_and_padding_in_the_file(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "student")
    file = tmp_path / "student" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token.update(lstrip=True, normalized=True, special=False)
    file.write_text(json.dumps(content))
    assert difference(tmp_path / "student", teacher) is None


# Merges ---------------------------------------------------------------------------------------------------------------

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *string.ascii_letters, "\u0120", "in", "ng", "ing", "mo"]


def roberta(merges, **fields):
    return RobertaTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)}, merges=merges, **fields)


@pytest.mark.parametrize("most", [10_000, 20])
def test_the_order_of_merges_counts(saved, monkeypatch, most):
    """By the first, "ing" becomes i n g, in g, ing; by the second i n g, i ng, for nothing joins these."""
    monkeypatch.setattr(same_tokens, "WORDS", most)
    first, second = [("i", "n"), ("in", "g"), ("n", "g")], [("n", "g"), ("i", "n"), ("in", "g")]
    teacher = saved("teacher", roberta(first), RobertaConfig())
    assert difference(saved("same", roberta(first), RobertaConfig()), teacher) is None
    said = difference(saved("student", roberta(second), RobertaConfig()), teacher)
    assert said.startswith("the student's tokenizer reads words otherwise than the teacher's: ['i', 'ng', ")
    assert " instead of ['ing', " in said


def test_a_blank_before_the_first_word_counts(saved):
    teacher, student = roberta([]), roberta([], add_prefix_space=True)
    said = difference(saved("student", student, RobertaConfig()), saved("teacher", teacher, RobertaConfig()))
    assert said.startswith("the student's tokenizer reads words otherwise")
