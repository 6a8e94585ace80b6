"""Preparing rows: what is read, dropped, split and refused, and with which words."""

import gzip
import json

import pytest

from tinybert.config import DataConfig
from tinybert.data import TaskData
from tinybert.errors import DataError
from tinybert.stages import prepare


def rows_csv(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def many(count=10, labels=("good", "bad")):
    return [f"sentence number {i},{labels[i % len(labels)]}" for i in range(count)]


@pytest.fixture
def run(tmp_path, nowhere):
    def run(source, validation=None, **fields):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        config = DataConfig(source="file:x", **fields)
        metrics = prepare.run(source=source, validation=validation, config=config, out=out, on_metrics=nowhere)
        return metrics, TaskData(out)

    return run


def test_labels_are_named_and_splits_are_stratified(run, tmp_path):
    metrics, data = run(rows_csv(tmp_path / "a.csv", many(20)), validation_share=0.2)
    assert metrics == {"train_rows": 16, "validation_rows": 4, "duplicates": 0, "leaks": 0}
    assert data.labels == ["bad", "good"]
    assert data.manifest["splits"]["validation"]["labels"] == {"bad": 2, "good": 2}
    assert data.manifest["splits"]["train"]["characters"]["p50"] == 17
    train, held_out = set(data.rows("train")["text"]), set(data.rows("validation")["text"])
    assert len(train) == 16
    assert not train & held_out


def test_the_split_depends_on_the_seed_alone(run, tmp_path):
    source = rows_csv(tmp_path / "a.csv", many(40))
    first = run(source, seed=1)[1].rows("validation")["text"][:]
    assert run(source, seed=1)[1].rows("validation")["text"][:] == first
    assert run(source, seed=2)[1].rows("validation")["text"][:] != first


def test_rows_keep_the_order_of_the_source(run, tmp_path):
    _, data = run(rows_csv(tmp_path / "a.csv", many(60)), validation_share=0.4, rows=20, validation_rows=10)
    for split, count in (("train", 20), ("validation", 10)):
        numbers = [int(text.split()[-1]) for text in data.rows(split)["text"]]
        assert numbers == sorted(numbers)
        assert len(numbers) == count


def test_rows_that_are_added_or_moved_leave_the_split_nearly_as_it_was(run, tmp_path):
    held_out = set(run(rows_csv(tmp_path / "a.csv", many(500)))[1].rows("validation")["text"])
    grown = set(run(rows_csv(tmp_path / "b.csv", many(510)[::-1]))[1].rows("validation")["text"])
    assert (len(held_out), len(grown)) == (50, 51)
    assert len(held_out - grown) <= 3
    sample = set(run(tmp_path / "a.csv", rows=100)[1].rows("train")["text"])
    assert len(sample - set(run(tmp_path / "b.csv", rows=100)[1].rows("train")["text"])) <= 5


def test_a_label_of_one_row_stays_in_a_sample(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", [*many(100), "alone,odd"])
    held_out = rows_csv(tmp_path / "dev.csv", ["one,good", "two,bad", "three,odd"])
    _, data = run(train, held_out, rows=10)
    assert data.manifest["splits"]["train"]["labels"] == {"bad": 5, "good": 4, "odd": 1}


def test_numbers_get_their_names(run, tmp_path):
    _, data = run(rows_csv(tmp_path / "a.csv", many(10, ("0", "1"))), labels=["negative", "positive"])
    named = dict(zip(data.rows("train")["text"], data.rows("train")["label"], strict=True))
    assert data.labels == ["negative", "positive"]
    assert all(label == int(text.split()[-1]) % 2 for text, label in named.items())


def test_pairs(run, tmp_path):
    rows = [f"premise {i},hypothesis {i},{'yes' if i % 2 else 'no'}" for i in range(10)]
    _, data = run(rows_csv(tmp_path / "a.csv", rows, "a,b,label"), text="a", text_pair="b")
    row = data.rows("train")[0]
    assert row["text"].replace("premise", "hypothesis") == row["text_pair"]


def test_where_and_sampling(run, tmp_path):
    rows = [f"text {i},{i % 2},{'keep' if i < 30 else 'drop'}" for i in range(60)]
    source = rows_csv(tmp_path / "a.csv", rows, "text,label,origin")
    metrics, data = run(source, where={"origin": "keep"}, rows=10, validation_rows=4, validation_share=0.5)
    assert (metrics["train_rows"], metrics["validation_rows"]) == (10, 4)
    assert all(int(text.split()[-1]) < 30 for text in data.rows("train")["text"])
    assert data.manifest["splits"]["train"]["labels"] == {"0": 5, "1": 5}


def test_duplicates_and_leaks(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", [*many(6), "sentence number 0,good", "shared,good"])
    held_out = rows_csv(tmp_path / "dev.csv", ["shared,good", "other,bad"])
    metrics, data = run(train, held_out)
    assert metrics == {"train_rows": 6, "validation_rows": 2, "duplicates": 1, "leaks": 1}
    assert "shared" not in data.rows("train")["text"]
    with pytest.raises(DataError, match=r"1 training rows stand in validation too, e.g. 'shared'; remove them, or"):
        run(train, held_out, leaks="refuse")


def parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = zip(*(row.rsplit(",", 1) for row in rows), strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), path)


def jsonl(path, rows):
    pairs = (row.rsplit(",", 1) for row in rows)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs))


def tsv(path, rows):
    path.write_text("text\tlabel\n" + "".join(row.replace(",", "\t") + "\n" for row in rows))


def csv_gz(path, rows):
    path.write_bytes(gzip.compress("\n".join(["text,label", *rows]).encode()))


@pytest.mark.parametrize(
    ("name", "write"), [("a.parquet", parquet), ("a.jsonl", jsonl), ("a.tsv", tsv), ("a.csv.gz", csv_gz)]
)
def test_kinds_of_tables(run, tmp_path, name, write):
    write(tmp_path / name, many(10))
    metrics, data = run(tmp_path / name)
    assert metrics["train_rows"] + metrics["validation_rows"] == 10
    assert data.labels == ["bad", "good"]


def test_a_directory_with_named_splits(run, tmp_path):
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    rows_csv(folder / "train-00000-of-00002.csv", many(4))
    rows_csv(folder / "train-00001-of-00002.csv", ["one more,good", "and another,bad"])
    rows_csv(folder / "validation-00000-of-00001.csv", ["held out,good", "kept back,bad"])
    rows_csv(folder / "test-00000-of-00001.csv", ["never read,good"])
    metrics, data = run(tmp_path / "hub")
    assert (metrics["train_rows"], metrics["validation_rows"]) == (6, 2)
    assert sorted(data.rows("validation")["text"]) == ["held out", "kept back"]


def test_label_names_of_a_hub_parquet(run, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    content = {"text": [f"row {i}" for i in range(10)], "label": [i % 2 for i in range(10)]}
    Dataset.from_dict(content, features=features).to_parquet(tmp_path / "a.parquet")
    _, data = run(tmp_path / "a.parquet")
    assert data.labels == ["negative", "positive"]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (many(), {"label": "sentiment"}, r"a.csv: no column 'sentiment'; it has label, text"),
        ([*many(), ",good", "  ,bad"], {}, r"empty text in 2 of 12 rows \(row 11, 12\); fill or remove them"),
        ([*many(), "text,"], {}, r"column 'label' is empty in some rows; every row needs a label"),
        (many(labels=("good",)), {}, r"only one class, 'good', in column 'label'; a classifier needs two"),
        (many(), {"labels": ["good", "fine"]}, r"column 'label' holds 'bad'; data.labels allows good, fine"),
        (
            many(labels=("0", "2")),
            {"labels": ["a", "b"]},
            r"column 'label' holds 2, but data.labels names only 2 classes, 0 to 1: a, b",
        ),
        ([*many(), "alone,odd"], {}, r"label 'odd' has one row; two are needed to split off a validation set"),
        (many(), {"where": {"text": "nothing"}}, r"no row of a.csv matches data.where {'text': 'nothing'}"),
        (many(20), {"labels": ["good", "bad", "fair"]}, r"label 'fair' is missing in train, which has bad, good"),
        ([*many(), "t,a", "u,a", "v,c", "w,c"], {"rows": 2}, r"2 rows cannot hold 4 labels; allow more rows"),
    ],
)
def test_bad_rows_are_refused(run, tmp_path, rows, fields, message):
    with pytest.raises(DataError, match=message):
        run(rows_csv(tmp_path / "a.csv", rows), **fields)


def test_a_label_missing_in_validation(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", many(9, ("good", "bad", "mixed")))
    held_out = rows_csv(tmp_path / "dev.csv", ["x,good", "y,bad"])
    with pytest.raises(DataError, match="label 'mixed' is missing in validation, which has bad, good; add rows of it"):
        run(train, held_out)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 this is no parquet", r"a.parquet: cannot be read as parquet: "),
        ("a.csv.gz", b"\x1f\x8b broken", r"a.csv.gz: cannot be read as csv: Compressed file ended"),
        ("a.jsonl", b"{not json", r"a.jsonl: cannot be read as jsonl: "),
        ("a.xlsx", b"zip", r"a.xlsx: unknown kind of table '.xlsx'; expected one of .csv, .tsv"),
    ],
)
def test_unreadable_files(run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(tmp_path / name)


def test_a_directory_without_tables(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no table found; expected files of .csv"):
        run(tmp_path / "empty")


def test_quotes_and_commas_in_csv(run, tmp_path):
    rows = ['"a, ""quoted"" text",good', "null,bad", "NA,good", "plain,bad"]
    _, data = run(rows_csv(tmp_path / "a.csv", rows), validation_share=0.5)
    texts = {*data.rows("train")["text"], *data.rows("validation")["text"]}
    assert texts == {'a, "quoted" text', "null", "NA", "plain"}


def test_directories_named_after_splits(run, tmp_path):
    for folder, rows in (("train", many(6)), ("validation", ["held out,good", "kept back,bad"]), ("test", ["x,good"])):
        (tmp_path / "hub" / folder).mkdir(parents=True)
        rows_csv(tmp_path / "hub" / folder / "0000.csv", rows)
    metrics, data = run(tmp_path / "hub")
    assert (metrics["train_rows"], metrics["validation_rows"]) == (6, 2)
    assert sorted(data.rows("validation")["text"]) == ["held out", "kept back"]


def test_all_rows_but_one(run, tmp_path):
    source = rows_csv(tmp_path / "a.csv", many(20))
    assert run(source, rows=17, validation_share=0.1)[0]["train_rows"] == 17


def test_a_column_that_changes_its_kind_far_down(run, tmp_path):
    ages = ["3"] * 11_000 + ["", "n/a", "3.5"] + ["4"] * 997
    rows = [f"text {i},{'ab'[i % 2]},{age}" for i, age in enumerate(ages)]
    metrics, _ = run(rows_csv(tmp_path / "a.csv", rows, "text,label,age"))
    assert metrics["train_rows"] + metrics["validation_rows"] == 12_000


def test_labels_are_taken_as_they_are_written(run, tmp_path):
    _, data = run(rows_csv(tmp_path / "a.csv", many(10, ("007", "1.0"))))
    assert sorted(data.labels) == ["007", "1.0"]


def test_a_share_that_leaves_no_training_rows(run, tmp_path):
    with pytest.raises(DataError, match=r"10 rows cannot be split with data.validation_share 0.95: each split needs"):
        run(rows_csv(tmp_path / "a.csv", many(10)), validation_share=0.95)
