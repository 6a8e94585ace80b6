"""Preparing every kind of task from the files its benchmarks come in, and what keeps their splits apart."""

import json

import pytest

from tinybert.data import TaskData
from tinybert.data_config import DataConfig
from tinybert.errors import DataError, ModelError
from tinybert.stages import prepare


@pytest.fixture
def run(tmp_path_factory, nowhere):
    """Prepares a source; validation and test rows are made of it with half of the rows unless it has some."""

    def run(source, order=(), **fields):
        out = tmp_path_factory.mktemp("out")
        config = DataConfig(source="file:x", **{"validation_share": 0.5, **fields})
        run.metrics = prepare.run(source=source, config=config, out=out, on_metrics=nowhere, order=order)
        return TaskData(out)

    return run


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def rows_of(data, *columns, splits=("train", "validation", "test")):
    """Values of columns in all splits, as a set."""
    return {
        tuple(str(row[name]) if isinstance(row[name], list) else row[name] for name in columns)
        for split in splits
        for row in data.rows(split)
    }


def tsv(path, rows, header=None):
    lines = ["\t".join(row) for row in ([header] if header else []) + rows]
    return write(path, "\n".join(lines) + "\n")


# Original formats -----------------------------------------------------------------------------------------------------


def test_cola_without_a_header(run, tmp_path):
    rows = [["gj04", str(n % 2), "" if n % 2 else "*", f'They "drank {n}.'] for n in range(12)]
    tsv(tmp_path / "glue" / "train.tsv", rows[:6])
    tsv(tmp_path / "glue" / "dev.tsv", rows[6:])
    tsv(tmp_path / "glue" / "test.tsv", [["0", "Bill whistled."]], ["index", "sentence"])
    header = ["source", "label", "mark", "sentence"]
    data = run(tmp_path / "glue", text="sentence", header=header, metric="mcc", labels=["bad", "good"])
    assert rows_of(data, "text", "label") == {(f'They "drank {n}.', n % 2) for n in range(12)}
    assert (data.kind.name, data.metric, data.labels) == ("classification", "mcc", ["bad", "good"])
    with pytest.raises(DataError, match=r"train.tsv: no column 'sentence'; it has \*?, 0, They"):
        run(tmp_path / "glue", text="sentence")


def test_sts_b_is_a_regression_of_pairs(run, tmp_path):
    header = ["index", "genre", "sentence1", "sentence2", "score"]
    rows = [[str(n), "news", f"a {n}", f'"b {n}', f"{n / 4:.3f}"] for n in range(20)]
    source = tsv(tmp_path / "train.tsv", rows, header)
    pair = {"text": "sentence1", "text_pair": "sentence2"}
    data = run(source, kind="regression", label="score|similarity", **pair)
    assert rows_of(data, "text", "text_pair", "label") == {(f"a {n}", f'"b {n}', n / 4) for n in range(20)}
    assert (data.labels, data.metric) == (["score"], "pearson")
    assert "least" in (data.directory / "data.md").read_text()
    with pytest.raises(DataError, match=r"train.tsv: no column 'label'; it has genre, index, score, sentence1"):
        run(source, kind="regression", **pair)
    tsv(source, [*rows, ["20", "news", "a", "b", "much"]], header)
    with pytest.raises(DataError, match=r"much.*\(row 21 of train\)"):
        run(source, kind="regression", label="score", **pair)


def conll(path, first, last):
    """One sentence a number: an organisation, a plain word, and a person of two words, tagged as IOB1 tags."""
    sentences = [f"Bank{n} NNP I-ORG\npaid VBD O\nAnn NNP I-PER\nLee{n} NNP I-PER\n" for n in range(first, last)]
    return write(path, "-DOCSTART- -X- O\n\n" + "\n".join(sentences))


def test_conll_is_read_as_words_with_tags(run, tmp_path):
    hub = tmp_path / "conll"
    for name, first in (("eng.train", 0), ("eng.testa", 8), ("eng.testb", 12)):
        conll(hub / name, first, first + 4)
    data = run(hub, kind="token_classification")
    assert data.labels == ["O", "B-ORG", "B-PER", "I-PER"]
    assert rows_of(data, "text", "label", splits=["test"]) == {
        (f"Bank{n} paid Ann Lee{n}", "[1, 0, 2, 3]") for n in range(12, 16)
    }
    assert [data.manifest["splits"][split]["rows"] for split in ("train", "validation", "test")] == [4, 4, 4]
    write(hub / "eng.train", "Bank\nNNP\n")
    with pytest.raises(DataError, match=r"eng.train: no column 'tags'; it has tokens"):
        run(hub, kind="token_classification")
    with pytest.raises(DataError, match=r"no column 'words'; it has tags, tokens"):
        run(conll(hub / "eng.train", 0, 4), kind="token_classification", text="words")


CONTEXTS = [f" In  {n},\n{'far ' * n}the Panthers  won {n + 300} games. " for n in range(20)]


def squad(path, broken=False):
    paragraphs = []
    for n, context in enumerate(CONTEXTS):
        start = context.index(str(n + 300))
        asked = [
            {"id": f"{n}", "question": f"How  many in {n}?", "answers": [{"text": f"{n + 300}", "answer_start": start}]}
        ]
        if n % 4 == 0:
            asked.append({"id": f"{n}x", "question": f"Why {n}?", "is_impossible": True, "answers": []})
        paragraphs.append({"context": context, "qas": asked})
    if broken:
        paragraphs[3]["qas"][0]["answers"][0]["text"] = "Lions"
    return write(path, json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))


def test_squad_keeps_contexts_and_the_places_of_answers(run, tmp_path):
    data = run(squad(tmp_path / "train.json"), kind="question_answering")
    rows = [row for split in ("train", "validation", "test") for row in data.rows(split)]
    assert len(rows) == 25
    assert sum(not row["label"] for row in rows) == 5
    assert {row["text_pair"] for row in rows} == set(CONTEXTS)
    for row in rows:
        number = CONTEXTS.index(row["text_pair"])
        assert row["text"] == (f"How many in {number}?" if row["label"] else f"Why {number}?")
        for answer in row["label"]:
            start = answer["start"]
            assert row["text_pair"][start : start + 3] == answer["text"] == str(number + 300)
    assert (data.labels, data.metric) == (["start", "end"], "answer_f1")
    with pytest.raises(DataError, match=r"'Lions' does not stand at .* \(row 5 of train\)"):
        run(squad(tmp_path / "train.json", broken=True), kind="question_answering")
    with pytest.raises(DataError, match=r"train.json: no column 'query'; it has answers, context, id, question, title"):
        run(tmp_path / "train.json", kind="question_answering", text="query")


def test_several_labels_a_row(run, tmp_path):
    rows = [[f"text {n}", ["joy", "joy,anger", ""][n % 3]] for n in range(30)]
    data = run(tsv(tmp_path / "a.tsv", rows, ["text", "labels"]), kind="multi_label")
    assert data.labels == ["anger", "joy"]
    assert rows_of(data, "text", "label") == {(f"text {n}", ["[1]", "[0, 1]", "[]"][n % 3]) for n in range(30)}
    with pytest.raises(DataError, match=r"a.tsv: no column 'label'; it has labels, text"):
        run(tmp_path / "a.tsv", kind="multi_label", label="label")


def test_clue_writes_rows_a_line(run, tmp_path):
    rows = [{"sentence1": f"a{n}", "sentence2": f"b{n}", "label": ("-", "0", "1")[n % 3]} for n in range(30)]
    source = write(tmp_path / "train.json", "".join(json.dumps(row) + "\n" for row in rows))
    pair = {"text": "sentence1|abst", "text_pair": "sentence2|keyword"}
    data = run(source, drop_labels=["-"], labels=["no", "yes"], **pair)
    assert rows_of(data, "text", "text_pair", "label") == {(f"a{n}", f"b{n}", n % 3 - 1) for n in range(30) if n % 3}
    with pytest.raises(
        DataError, match=r"no row of train.json matches data.where {} but for those of data.drop_labels"
    ):
        run(source, drop_labels=["-", "0", "1"], **pair)


# Splits that files name -----------------------------------------------------------------------------------------------

NLI = ("entailment", "neutral", "contradiction")


def mnli(directory):
    """Rows 0 to 5 train, 6 to 17 matched, 18 to 23 mismatched, with a leak into either; the tests have no labels."""
    header = ["index", "sentence1", "sentence2", "gold_label"]
    rows = [[str(n), f'p "{n}', f"h {n}", NLI[n % 3]] for n in range(24)]
    tsv(directory / "train.tsv", [*rows[:6], ["9", *rows[19][1:]]], header)
    tsv(directory / "dev_matched.tsv", [*rows[6:18], ["9", *rows[20][1:]]], header)
    tsv(directory / "dev_mismatched.tsv", rows[18:], header)
    for name in ("matched", "mismatched"):
        tsv(directory / f"test_{name}.tsv", [["0", "p", f"h {name}"]], header[:3])
    return directory


PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "gold_label"}


def test_matched_and_mismatched_rows_are_not_mixed(run, tmp_path):
    with pytest.raises(
        DataError,
        match=r"validation would mix dev_matched.tsv, dev_mismatched.tsv; say which files are meant in data.splits, "
        r'e.g. \{"validation": "dev_matched\*", "dev_mismatched": "dev_mismatched\*"\}',
    ):
        run(mnli(tmp_path), **PAIR)


def test_a_further_test_stands_apart_and_no_text_of_it_is_learnt_or_chosen_on(run, tmp_path):
    splits = {"validation": "dev_matched*", "mismatched": "dev_mismatched*"}
    data = run(mnli(tmp_path), splits=splits, test_share=0.5, **PAIR)
    assert rows_of(data, "text", splits=["train"]) == {(f'p "{n}',) for n in range(6)}
    # A matched row that stands among the mismatched stays, so that both scores are those that are published.
    assert rows_of(data, "text", splits=["validation", "test"]) == {(f'p "{n}',) for n in [*range(6, 18), 20]}
    assert rows_of(data, "text", splits=["test_mismatched"]) == {(f'p "{n}',) for n in range(18, 24)}
    assert data.other_tests == ["mismatched"]
    assert data.manifest["splits"]["test_mismatched"]["labels"] == {"contradiction": 2, "entailment": 2, "neutral": 2}
    assert (run.metrics["test_mismatched_rows"], run.metrics["leaks"]) == (6, 1)
    assert data.manifest["problems"] == ["1 rows of validation stand in test_mismatched too, and stay, e.g. 'p \"20'"]
    with pytest.raises(DataError, match=r"1 rows of validation stand in test_mismatched too"):
        run(tmp_path, splits=splits, leaks="refuse", test_share=0, **PAIR)


def test_a_further_test_adds_no_label(run, tmp_path):
    rows = [[f"text {n}", "ab"[n % 2]] for n in range(12)]
    tsv(tmp_path / "train.tsv", rows, ["text", "label"])
    tsv(tmp_path / "hard.tsv", [["one", "a"], ["two", "c"]], ["text", "label"])
    with pytest.raises(
        DataError, match=r"data.splits 'hard' has the label 'c', the other rows have a, b; name it in d"
    ):
        run(tmp_path, splits={"hard": "hard.tsv"})
    data = run(tmp_path, splits={"hard": "hard.tsv"}, drop_labels=["c"])
    assert data.rows("test_hard")["text"][:] == ["one"]


def test_test_rows_limit_further_tests_too(run, tmp_path):
    tsv(tmp_path / "train.tsv", [[f"text {n}", "ab"[n % 2]] for n in range(20)], ["text", "label"])
    tsv(tmp_path / "hard.tsv", [[f"hard {n}", "ab"[n % 2]] for n in range(20)], ["text", "label"])
    data = run(tmp_path, splits={"hard": "hard.tsv"}, test_rows=4)
    assert data.manifest["splits"]["test_hard"]["labels"] == {"a": 2, "b": 2}


# Labels and scores ----------------------------------------------------------------------------------------------------


def test_labels_take_the_order_of_a_fine_tuned_teacher(run, tmp_path):
    source = tsv(tmp_path / "a.tsv", [[f"text {n}", NLI[n % 3]] for n in range(30)], ["text", "label"])
    order = ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"]
    data = run(source, order)
    assert data.labels == ["neutral", "entailment", "contradiction"]
    assert rows_of(data, "text", "label") == {(f"text {n}", (1, 0, 2)[n % 3]) for n in range(30)}
    assert list(data.manifest["splits"]["train"]["labels"]) == data.labels
    with pytest.raises(
        ModelError, match=r"labels differ: the data has 3 .*, the teacher 3 \(a, b, c\); set data.labels"
    ):
        run(source, ["a", "b", "c"])


def test_a_score_the_labels_do_not_have_is_refused(run, tmp_path):
    source = tsv(tmp_path / "a.tsv", [[f"text {n}", NLI[n % 3]] for n in range(30)], ["text", "label"])
    with pytest.raises(
        DataError, match=r"data.metric: found f1; with the labels contradiction, .* there are accuracy, f1_macro, mcc; "
    ):
        run(source, metric="f1")


def test_few_rows_without_an_answer_do_not_hinder_splitting(run, tmp_path):
    """No split needs a row without an answer: the two of them go where chance has them."""
    rows = [
        {"question": f"q {n}", "context": f"c {n}", "answers": {"text": ["c"], "answer_start": [0]}} for n in range(40)
    ]
    for n in (3, 30):
        rows[n]["answers"] = {"text": [], "answer_start": []}
    source = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = run(source, kind="question_answering", rows=10, test_rows=5)
    assert [data.manifest["splits"][split]["rows"] for split in ("train", "validation", "test")] == [10, 10, 5]


def test_questions_of_one_context_stay_together(run, tmp_path):
    rows = [
        {"question": f"q {n}", "context": f"c {n % 20}", "answers": {"text": ["c"], "answer_start": [0]}}
        for n in range(80)
    ]
    source = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = run(source, kind="question_answering")
    contexts = [set(data.rows(split)["text_pair"]) for split in ("train", "validation", "test")]
    assert [len(found) for found in contexts] == [10, 5, 5]
    assert len(set.union(*contexts)) == 20
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [40, 20, 20]


def test_whether_every_question_has_an_answer_is_noted(run, tmp_path):
    """By the training rows: what others have is not learnt."""
    rows = [
        {"question": f"q {n}", "context": f"c {n}", "answers": {"text": ["c"], "answer_start": [0]}} for n in range(8)
    ]
    none = {"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}

    def noted(train, test):
        for name, found in (("train", train), ("validation", test), ("test", test)):
            write(tmp_path / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
        data = run(tmp_path, kind="question_answering")
        assert data.described()["always_answers"] is data.always_answers
        return data.always_answers

    assert noted(rows, [*rows[:2], none]) is True
    assert noted([*rows, none], rows[:2]) is False
    with pytest.raises(DataError, match=r"no row has an answer in column 'answers'; there is nothing to find"):
        noted([none | {"question": f"q {n}"} for n in range(8)], [none])


def test_withheld_tags_and_answers_make_no_test(run, tmp_path):
    conll(tmp_path / "ner" / "train.txt", 0, 20)
    write(tmp_path / "ner" / "test.txt", "Bank\npaid\n")
    assert run(tmp_path / "ner", kind="token_classification").manifest["splits"]["test"]["rows"] == 5
    squad(tmp_path / "qa" / "train.json")
    hidden = {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "h", "question": "q"}]}]}]}
    write(tmp_path / "qa" / "test.json", json.dumps(hidden))
    assert ("q",) not in rows_of(run(tmp_path / "qa", kind="question_answering"), "text")


def test_what_was_understood_is_written_for_people(run, tmp_path):
    source = tsv(tmp_path / "a.tsv", [[f"text {n}", NLI[n % 3]] for n in range(30)], ["text", "label"])
    data = run(source)
    text = (data.directory / "data.md").read_text()
    assert "- kind: classification, decided by accuracy" in text
    assert "| train      | 15   |" in text
