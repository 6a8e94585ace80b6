"""The page of each kind of task is whole: its own scores, the parts it has, and code that asks such a model."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from tests.unit.pages import OTHERS, QUESTION, Page, facts, report_of
from tinybert.data_config import KindName
from tinybert.kinds import KINDS
from tinybert.metrics import TITLES
from tinybert.page_kinds import WORDS, meaning
from tinybert.page_words import caveats, usage
from tinybert.released import Released, Variant

SECTIONS = {
    "multi_label": {"changes", "classes", "calibration"},
    "regression": {"classes"},
    "token_classification": {"changes", "classes", "calibration"},
    "question_answering": {"changes", "classes"},
}
"""Those that not every page has; that of classes has slices too."""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, str]:
    """A page of each kind but classification, which has a test module of its own."""
    return {kind: report_of(tmp_path_factory.mktemp(kind), kind).write() for kind in OTHERS}


@pytest.fixture(scope="module")
def pages(written) -> dict[str, Page]:
    return {kind: Page(html) for kind, html in written.items()}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_page_has_the_parts_that_the_kind_has(pages, kind):
    always = {"top", "rules", "models", "cost", "curves", "lineage", "use", "limits"}
    assert pages[kind].text.keys() == always | SECTIONS[kind]
    linked = [found["href"][1:] for tag, found in pages[kind].tags if tag == "a" and found["href"].startswith("#")]
    assert set(linked) == always - {"top"} | SECTIONS[kind]


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_is_missing_where_all_was_measured(pages, kind):
    """A dash stands for what is not known."""
    assert not [row for row in pages[kind].rows if "\N{EN DASH}" in row]
    assert "None" not in " ".join(words for part, words in pages[kind].text.items() if part != "use")


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        ("multi_label", ["Micro F1", "Macro F1", "Accuracy"]),
        ("regression", ["Pearson correlation", "Spearman correlation"]),
        ("token_classification", ["Entity F1", "Accuracy"]),
        ("question_answering", ["Answer F1", "Exact match"]),
    ],
)
def test_scores_are_those_of_the_kind_and_the_deciding_one_leads(pages, kind, heading):
    page = pages[kind]
    assert page.row("Model", heading[0]) == ["Model", *heading, *page.row("Model", heading[0])[len(heading) + 1 :]]
    own = page.row("int8 served", "84.0% 82.0% to 86.0%")
    assert own[2] == "74.0% 72.0% to 76.0%"
    assert own[len(heading) + 2] == "93.3%"  # retention: 0.84 / 0.9
    assert f"{heading[0]} 84.0% 82.0% to 86.0%; teacher 90.0%" in " ".join(page.text["top"].split())
    told = [found["aria-label"] for tag, found in page.tags if tag == "svg"]
    assert told[0].startswith(f"{TITLES[OTHERS[kind]['metrics'][0]]}: teacher 90.0% (88.0% to 92.0%), student 85.0%")
    assert f"{heading[0]} on parts of the rows" in page.text["classes"]


@pytest.mark.parametrize("kind", OTHERS)
def test_further_tests_stand_in_a_table_of_their_own(pages, kind):
    assert pages[kind].row("Test")[:4] == ["Test", "Rows", "teacher", "student"]
    assert pages[kind].row("\u65b0\u95fb")[:3] == ["\u65b0\u95fb", "400", "70.0% 68.0% to 72.0%"]


def test_without_further_tests_there_is_no_table_of_them(tmp_path):
    reports = report_of(tmp_path, "regression")
    del reports.files["comparison"]["other_tests"]
    assert "Further tests" not in reports.write()


def test_scores_are_explained_where_their_names_do_not(pages):
    assert "Accuracy: the share of words whose tag is right." in pages["token_classification"].text["models"]
    assert "Accuracy: the share of rows of which every label is right." in pages["multi_label"].text["models"]


def test_classes_of_words_are_counted_in_entities(pages):
    assert pages["token_classification"].row("Class")[2] == "Entities"
    assert pages["token_classification"].row("LOC")[2] == "900"
    assert pages["multi_label"].row("Class")[2] == "Test rows"


def test_flips_show_what_the_kind_calls_right(pages):
    assert pages["question_answering"].row("Text") == ["Text", "True answers", "Champion", "Student"]
    texts = f"{QUESTION['text']} {QUESTION['text_pair']}"
    assert pages["question_answering"].row(texts)[1:] == [QUESTION[name] for name in ("label", "champion", "student")]
    assert pages["token_classification"].row("Text")[1] == "True tags"
    assert "Right are answers that match a true one exactly." in pages["question_answering"].text["changes"]


def test_the_names_of_outputs_are_told_where_they_are_anybodys(pages):
    assert pages["token_classification"].row("Tags")[1] == "O , B-LOC , B-PER , I-LOC , I-PER"
    assert pages["regression"].row("Number")[1] == "similarity"
    assert not [row for row in pages["question_answering"].rows if "start" in " ".join(row)]


def test_code_asks_as_the_kind_is_asked(pages):
    used = {kind: page.text["use"] for kind, page in pages.items()}
    asked = 'model.predict([["Where was Ada Lovelace born?", "Ada Lovelace was born in London."]])'
    assert asked in used["question_answering"]
    assert "# columns: answer, start, end, score, truncated, error" in used["question_answering"]
    assert "AutoModelForQuestionAnswering.from_pretrained(" in used["question_answering"]
    assert 'model.predict(["Ada Lovelace was born in London."])' in used["token_classification"]
    assert 'aggregation_strategy="first")' in used["token_classification"]
    assert 'model.predict([["A text to rate", "Its pair"]])' in used["regression"]
    assert "top_k=None" in used["multi_label"]


@pytest.mark.parametrize("kind", get_args(KindName))
@pytest.mark.parametrize("pair", [True, False])
def test_code_is_python(kind, pair):
    ways = usage(replace(facts(), pair=pair), kind)
    assert len(ways) == 3
    for _, code in ways:
        compile(code, "", "exec")


@pytest.mark.parametrize("kind", get_args(KindName))
def test_answers_are_described_by_the_columns_a_served_model_has(kind):
    released = Released(
        kind=kind, labels=["<label>"], max_length=8, pair=True, default="torch", variants={"torch": Variant(file="x")}
    )
    *told, truncated, error = released.columns
    assert (truncated, error) == ("truncated", "error")
    assert WORDS[kind].answers.replace(",", " ").split()[: len(told)] == told


def test_every_score_has_a_meaning_but_the_plainest():
    silent = [(kind, name) for kind in KINDS for name in KINDS[kind].metrics if not meaning(kind, name)]
    assert silent == [("classification", "accuracy")]


def test_a_page_in_chinese_names_fonts_for_it_and_says_its_encoding(written):
    html = written["question_answering"]
    assert QUESTION["text"] in html
    assert '<meta charset="utf-8">' in html
    assert '<html lang="en">' in html
    body = re.search(r"\nbody \{.*?font-family: ([^;]+);", html, re.S)[1]
    assert body.index("system-ui") < body.index('"Noto Sans CJK SC"') < body.index("sans-serif;"[:-1])


def test_long_texts_without_spaces_are_cut(tmp_path):
    reports = report_of(tmp_path, "question_answering")
    reports.files["flips"]["fixed"][0] = QUESTION | {"text": "\u8c01 " + "\u5b57" * 5000}
    cell = next(row[0] for row in Page(reports.write()).rows if row and row[0].startswith("\u8c01 \u5b57"))
    assert cell.count("\u5b57") == 400 - 2 - 3  # what stands before, and three dots


def test_caveats_speak_of_the_deciding_score(tmp_path):
    reports = report_of(tmp_path, "question_answering")
    reports.files["comparison"]["int8"] |= {"answer_f1_low": 0.78, "answer_f1_high": 0.9}
    limits = " ".join(caveats(reports.findings, reports.facts))
    assert "the student's answer F1 is known to about \u00b16.0 points only" in limits
