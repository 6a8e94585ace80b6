"""Scoring of rows: how a source becomes shards, what is answered, and what the form refuses."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from tests.unit.exported import NAMES, released, served
from tinybert.cli import validated
from tinybert.errors import ConfigError, DataError, ModelError
from tinybert.released import TORCH, Released, Variant
from tinybert.samples import sentences
from tinybert.score_config import AnswerConfig, ScoreConfig
from tinybert.stages import score

LABELS = ["bad", "good"]
KIND_TEXTS = ["a truly wonderful film", "the script is dreadful", "what a boring story this is", None]


def write_model(directory, material, pair=False, max_length=16):
    """A package of a tiny BERT with random weights, which finds about half of the sample sentences good."""
    torch.manual_seed(3)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: n for n, name in enumerate(LABELS)}}
    model = BertForSequenceClassification.from_pretrained(material / "teacher", use_safetensors=True, **names).eval()
    tokenizer = AutoTokenizer.from_pretrained(material / "teacher")
    texts = [text for text, _ in sentences()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        model.classifier.bias -= logits.median(0).values
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    variants = {TORCH: Variant(file="model.safetensors")}
    Released(labels=LABELS, max_length=max_length, pair=pair, default=TORCH, variants=variants).write(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory, smoke_material):
    return write_model(tmp_path_factory.mktemp("model"), smoke_material)


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory, smoke_material):
    return write_model(tmp_path_factory.mktemp("pair_model"), smoke_material, pair=True)


def shards(source, tmp_path, shard_rows=1000, **fields):
    """The rows of each shard, as plain values."""
    cut = score.cut(source, AnswerConfig(**fields), shard_rows, tmp_path / "shards")
    return [pq.read_table(directory / score.ROWS).to_pylist() for directory in cut]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def answered(tmp_path, nowhere):
    """Score rows, given as values by column; gives the answers as rows, what was counted, and the metrics."""

    def answered(model, columns, **fields):
        pq.write_table(pa.table(columns), tmp_path / score.ROWS)
        metrics = score.run(model=model, rows=tmp_path, config=AnswerConfig(**fields), out=tmp_path, on_metrics=nowhere)
        counts = json.loads((tmp_path / score.COUNTS).read_text())
        return pq.read_table(tmp_path / score.ANSWERS).to_pylist(), counts, metrics

    return answered


def by_transformers(directory, *texts):
    """Probabilities of one text, or pair, computed without anything of ours."""
    classifier = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    inputs = AutoTokenizer.from_pretrained(directory)(*texts, truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        return classifier(**inputs).logits.softmax(-1)[0].tolist()


def test_answers_are_those_of_the_model_and_in_order(model, answered):
    texts = ["a truly wonderful film", "the script is dreadful", "what a boring story this is"]
    rows, counts, metrics = answered(model, {"text": texts, "id": [7, 8, 9]}, keep=["id"], batch_size=2)
    assert [row["id"] for row in rows] == [7, 8, 9]
    for row, text in zip(rows, texts, strict=True):
        bad, good = by_transformers(model, text)
        assert (row["p_bad"], row["p_good"]) == pytest.approx((bad, good), abs=1e-5)
        assert row["score"] == pytest.approx(max(bad, good), abs=1e-5)
        assert row["label"] == ("good" if good > bad else "bad")
        assert (row["truncated"], row["error"]) == (False, None)
    assert counts["labels"] == {name: sum(row["label"] == name for row in rows) for name in LABELS}
    assert counts["scores"] == pytest.approx(sum(row["score"] for row in rows), abs=1e-5)
    assert metrics == {"rows": 3, "answered": 3, "errors": 0, "truncated": 0}


def test_a_pair_is_read_together(pair_model, answered):
    columns = {"question": ["the film is funny"] * 2, "other": ["the film is funny", "what an awful cast this is"]}
    rows, *_ = answered(pair_model, columns, text="question", text_pair="other")
    assert list(rows[0])[:2] == ["question", "other"]
    for row in rows:
        expected = by_transformers(pair_model, row["question"], row["other"])
        assert [row["p_bad"], row["p_good"]] == pytest.approx(expected, abs=1e-5)
    assert rows[0]["p_bad"] != pytest.approx(rows[1]["p_bad"], abs=1e-4)


def test_bad_rows_get_an_error_and_the_others_their_answers(model, answered):
    texts = ["a moving story", None, "", "the cast is awful", None]
    rows, counts, metrics = answered(model, {"text": texts})
    assert [row["error"] is None for row in rows] == [True, False, True, True, False]
    for row in (rows[1], rows[4]):
        assert row["error"]
        assert [row[name] for name in ("label", "score", "p_bad", "p_good")] == [None] * 4
    assert [rows[3]["p_bad"], rows[3]["p_good"]] == pytest.approx(by_transformers(model, texts[3]), abs=1e-5)
    assert metrics == {"rows": 5, "answered": 3, "errors": 2, "truncated": 0}
    assert sum(counts["labels"].values()) == 3


def test_long_rows_are_answered_and_counted_as_truncated(model, answered):
    rows, _, metrics = answered(model, {"text": ["the film is funny", "a truly moving story " * 30]})
    assert [row["truncated"] for row in rows] == [False, True]
    assert metrics["truncated"] == 1


def test_many_chunks_are_one_answer_file(model, answered, monkeypatch):
    texts = [f"{thing} is {mood}" for thing in ("film", "cast", "script") for mood in ("funny", "awful", "boring")]
    together, *_ = answered(model, {"text": texts})
    monkeypatch.setattr(score, "CHUNK", 2)
    apart, counts, _ = answered(model, {"text": texts})
    assert [row["text"] for row in apart] == texts
    assert counts["rows"] == 9
    for one, other in zip(together, apart, strict=True):
        assert one["p_good"] == pytest.approx(other["p_good"], abs=1e-5)


def test_labels_of_every_row_are_a_list(answered):
    rows, counts, metrics = answered(served("multi_label"), {"text": KIND_TEXTS})
    assert list(rows[0]) == ["text", *released("multi_label").columns]
    for row in rows[:-1]:
        assert row["labels"] == [name for name in NAMES["multi_label"] if row[f"p_{name}"] > 0.5]
    assert (rows[-1]["labels"], rows[-1]["p_good"], metrics["errors"]) == (None, None, 1)
    given = [name for row in rows[:-1] for name in row["labels"]]
    assert counts["labels"] == {name: given.count(name) for name in NAMES["multi_label"]}
    assert counts["scores"] is None


def test_numbers_are_counted_by_their_sum(answered):
    rows, counts, _ = answered(served("regression"), {"text": KIND_TEXTS})
    assert list(rows[0]) == ["text", "value", "truncated", "error"]
    assert counts["labels"] == {}
    assert counts["scores"] == pytest.approx(sum(row["value"] for row in rows[:-1]))


def test_entities_are_lists_of_records_and_rows_are_counted_by_their_types(answered):
    rows, counts, _ = answered(served("token_classification"), {"text": KIND_TEXTS})
    assert rows[-1]["entities"] is None
    found = [entity for row in rows[:-1] for entity in row["entities"]]
    assert {tuple(entity) for entity in found} == {("label", "text", "start", "end", "score")}
    assert all(row["text"][e["start"] : e["end"]] == e["text"] for row in rows[:-1] for e in row["entities"])
    types = [{entity["label"] for entity in row["entities"]} for row in rows[:-1]]
    assert counts["labels"] == {kind: sum(kind in one for one in types) for kind in ("MOOD", "THING")}
    assert sum(counts["labels"].values()) > 0


def test_answers_to_questions_say_where_they_stand(answered):
    columns = {"q": ["what film", "who", None], "c": ["a story . " * 9 + "the film is funny", "what music", "a cast"]}
    rows, counts, metrics = answered(served("question_answering"), columns, text="q", text_pair="c")
    assert list(rows[0]) == ["q", "c", "answer", "start", "end", "score", "truncated", "error"]
    for row in rows[:-1]:
        assert row["answer"] == (row["c"][row["start"] : row["end"]] if row["answer"] else "")
        assert (row["start"] is None) == (row["answer"] == "")
    answerable = sum(row["answer"] != "" for row in rows[:-1])
    assert counts["labels"] == {"answerable": answerable, "unanswerable": 2 - answerable}
    assert metrics == {"rows": 3, "answered": 2, "errors": 1, "truncated": 0}


def test_a_model_of_another_origin_is_refused(smoke_material, answered):
    with pytest.raises(ModelError, match=r"no serving\.json; name a model that this pipeline exported"):
        answered(smoke_material / "teacher", {"text": ["a film"]})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1), min_size=1),
    shard_rows=st.integers(1, 9),
)
def test_shards_hold_all_rows_in_order(tmp_path_factory, texts, shard_rows):
    directory = tmp_path_factory.mktemp("rows")
    pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), directory / "rows.parquet")
    found = shards(directory / "rows.parquet", directory, shard_rows, keep=["id"])
    assert [row for shard in found for row in shard] == [{"text": text, "id": n} for n, text in enumerate(texts)]
    assert {len(shard) for shard in found[:-1]} <= {shard_rows}


def test_every_format_gives_the_same_rows(tmp_path):
    expected = [{"text": 'good, "really"', "id": "1"}, {"text": "", "id": "2"}, {"text": "bad", "id": "3"}]
    table = [list(expected[0]), *(list(row.values()) for row in expected)]
    write_csv(tmp_path / "rows.csv", table)
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in table))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in expected))
    pq.write_table(pa.Table.from_pylist(expected), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.csv.gz", "rows.tsv", "rows.jsonl", "rows.parquet"):
        assert shards(tmp_path / name, tmp_path / name.replace(".", "-"), keep=["id"]) == [expected], name


def test_a_directory_is_read_in_order_of_names_with_whatever_is_named_after_a_split(tmp_path):
    (tmp_path / "in/more").mkdir(parents=True)
    (tmp_path / "in/.hidden").mkdir()
    for name, text in {"b-train": "two", "a": "one", "more/test": "four", "c": "three", ".hidden/d": "none"}.items():
        write_csv(tmp_path / f"in/{name}.csv", [["text"], [text]])
    (tmp_path / "in/notes.md").write_text("no table")
    assert shards(tmp_path / "in", tmp_path) == [[{"text": word} for word in ("one", "two", "three", "four")]]


def test_files_without_rows_are_passed_over(tmp_path):
    (tmp_path / "in").mkdir()
    for name, rows in {"1": [], "2": [["one"], ["two"]], "3": []}.items():
        write_csv(tmp_path / f"in/{name}.csv", [["text"], *rows])
    assert shards(tmp_path / "in", tmp_path) == [[{"text": "one"}, {"text": "two"}]]


def test_types_of_kept_columns_stay(tmp_path):
    table = pa.table(
        {
            "text": ["a", "b"],
            "whole": pa.array([1, None], pa.int64()),
            "share": [0.5, 0.25],
            "when": pa.array([0, 86_400_000_000], pa.timestamp("us")),
            "tags": [["x"], []],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    [found] = shards(tmp_path / "rows.parquet", tmp_path, keep=["whole", "share", "when", "tags"])
    rows = table.to_pylist()
    assert found == [{**row, "tags": tags} for row, tags in zip(rows, ['["x"]', "[]"], strict=True)]


def test_what_is_no_text_becomes_null_where_the_model_reads(tmp_path):
    lines = [{"text": None, "id": "a"}, {"text": 3, "id": 4}, {"text": "fine", "id": None}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    [found] = shards(tmp_path / "rows.jsonl", tmp_path, keep=["id"])
    assert found == [{"text": None, "id": "a"}, {"text": None, "id": "4"}, {"text": "fine", "id": None}]


def test_a_column_that_changes_its_type_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 2)
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a", "b"], "id": [1, 2]}), tmp_path / "in/1.parquet")
    pq.write_table(pa.table({"text": ["c"], "id": ["x"]}), tmp_path / "in/2.parquet")
    with pytest.raises(
        DataError, match=r"column 'id' holds int64 at first, then something else .*leave it out of keep"
    ):
        shards(tmp_path / "in", tmp_path, keep=["id"])


def test_a_source_without_rows_or_columns_is_refused(tmp_path):
    table = write_csv(tmp_path / "rows.csv", [["text", "id"]])
    with pytest.raises(DataError, match=r"rows\.csv: no rows; name a source that has some"):
        shards(table, tmp_path)
    write_csv(table, [["text", "id"], ["a", "1"]])
    with pytest.raises(DataError, match=r"rows\.csv: no column 'review'; it has id, text"):
        shards(table, tmp_path, text="review")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no table found"):
        shards(tmp_path / "empty", tmp_path)
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="column 'text' holds int64, no text; name the column of the text"):
        shards(tmp_path / "rows.parquet", tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_pair": "text"}, "text and text_pair are both 'text'"),
        ({"keep": ["id", "id"]}, "keep names 'id' more than once"),
        ({"launch": {"processes": 2}}, "launch.processes is 2, but a shard is scored by one process"),
        ({"output": "build/scored"}, "output"),
        ({"variant": "int4"}, "variant"),
    ],
)
def test_the_form_refuses(fields, message):
    with pytest.raises(ConfigError, match=message):
        validated(ScoreConfig, {"model": "file:m", "source": "file:rows.csv", **fields})


@pytest.mark.parametrize(
    ("pair", "fields", "message"),
    [
        (False, {"variant": "int8"}, "variant 'int8': the model has torch; choose one of them"),
        (False, {"text_pair": "b"}, "text_pair is 'b', but the model reads single texts; leave it empty"),
        (True, {}, "text_pair is None, but the model reads pairs; name the second column"),
        (False, {"keep": ["id", "label"]}, "keep: column 'label' has the name of an answer"),
        (False, {"keep": ["p_good"]}, "keep: column 'p_good' has the name of an answer"),
        (False, {"text": "score"}, "keep: column 'score' has the name of an answer"),
    ],
)
def test_a_form_that_does_not_fit_the_model_is_refused(pair, fields, message):
    variants = {TORCH: Variant(file="model.safetensors")}
    model = Released(labels=LABELS, max_length=16, pair=pair, default=TORCH, variants=variants)
    with pytest.raises(ConfigError, match=message):
        AnswerConfig(**fields).check(model)


def test_a_form_that_does_not_fit_a_model_of_questions_is_refused():
    model = released("question_answering")
    with pytest.raises(
        ConfigError, match="text_pair is None, but the model reads questions and contexts; name the sec"
    ):
        AnswerConfig(text="question").check(model)
    AnswerConfig(text="question", text_pair="context", keep=["label", "p_start"]).check(model)
    with pytest.raises(ConfigError, match="keep: column 'answer' has the name of an answer"):
        AnswerConfig(text="question", text_pair="context", keep=["answer"]).check(model)


def test_only_what_decides_the_answers_is_handed_to_the_stage():
    form = ScoreConfig(name="n", model="file:m", source="file:s", keep=["id"], shard_rows=5, batch_size=7)
    assert form.answers == AnswerConfig(keep=["id"], batch_size=7)
    assert type(form.answers) is AnswerConfig
    assert form.answers.columns == ["text", "id"]
