"""The box of the data: what fits together, and what each kind of task takes where nothing is given."""

import pytest

from tinybert.cli import validated
from tinybert.data_config import DEFAULTS, DataConfig
from tinybert.errors import ConfigError


def box(**fields):
    return validated(DataConfig, {"source": "file:x", **fields})


def test_each_kind_has_columns_and_a_score_of_its_own():
    found = {
        kind: (data.text_column, data.pair_column, data.label_column, data.score)
        for kind, data in ((kind, box(kind=kind)) for kind in DEFAULTS)
    }
    assert found == {
        "classification": ("text", None, "label", "accuracy"),
        "multi_label": ("text", None, "labels", "f1_micro"),
        "regression": ("text", None, "label", "pearson"),
        "token_classification": ("tokens", None, "tags", "entity_f1"),
        "question_answering": ("question", "context", "answers", "answer_f1"),
    }


def test_what_is_given_comes_first():
    data = box(kind="question_answering", text="q", text_pair="passage", label="gold", metric="exact_match")
    assert (data.text_column, data.pair_column, data.label_column) == ("q", "passage", "gold")
    assert data.score == "exact_match"


def test_names_beside_the_three_splits_are_further_tests():
    assert box(splits={"validation": "dev*", "hans": "h*", "mis-matched_2": "m*"}).other_tests == [
        "hans",
        "mis-matched_2",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"splits": {"dev": "dev*"}}, r"splits 'dev': the three are called train, validation, test; rename it"),
        ({"splits": {"a/b": "x"}}, r"splits 'a/b': use letters, digits, - and _"),
        (
            {"metric": "pearson"},
            r"metric 'pearson' with kind classification: choose one of accuracy, f1_macro, f1",
        ),
        ({"labels": ["a", "a"]}, r"labels \['a', 'a'\]: give at least two names, each once"),
        ({"labels": ["a", "b"], "kind": "regression"}, r"a task of kind regression has none; leave them out"),
        (
            {"text_pair": "b", "kind": "token_classification"},
            r"text_pair 'b' with kind token_classification: words",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        box(**fields)
