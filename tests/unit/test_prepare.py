"""Preparing rows: what is read, dropped, split and refused, and with which words."""

import gzip
import json
import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert.config import DataConfig
from tinybert.data import SPLITS, TaskData
from tinybert.errors import DataError
from tinybert.libraries import quiet
from tinybert.splitting import Row, part
from tinybert.stages import prepare


def rows_csv(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


NOTHING = {"duplicates": 0, "leaks": 0}


def many(count=10, labels=("good", "bad")):
    return [f"sentence number {i},{labels[i % len(labels)]}" for i in range(count)]


@pytest.fixture
def run(tmp_path, nowhere):
    def run(source, validation=None, test=None, **fields):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        config = DataConfig(source="file:x", **fields)
        sources = {"source": source, "validation": validation, "test": test}
        metrics = prepare.run(**sources, config=config, out=out, on_metrics=nowhere)
        return metrics, TaskData(out)

    return run


def texts(data):
    """The texts of each split, in their order."""
    return {split: data.rows(split)["text"][:] for split in SPLITS}


def test_labels_are_named_and_splits_are_stratified(run, tmp_path):
    metrics, data = run(rows_csv(tmp_path / "a.csv", many(20)), validation_share=0.4)
    assert metrics == {"train_rows": 12, "validation_rows": 4, "test_rows": 4, "bad_rows": 0, **NOTHING}
    assert data.labels == ["bad", "good"]
    described = data.manifest["splits"]
    assert described["train"]["labels"] == {"bad": 6, "good": 6}
    assert described["validation"]["labels"] == described["test"]["labels"] == {"bad": 2, "good": 2}
    assert described["train"]["characters"]["p50"] == 17
    parts = texts(data)
    assert len({text for rows in parts.values() for text in rows}) == 20
    assert data.test_is_validation is False


def test_the_split_depends_on_the_seed_alone(run, tmp_path):
    source = rows_csv(tmp_path / "a.csv", many(60))
    first = texts(run(source, seed=1)[1])
    assert texts(run(source, seed=1)[1]) == first
    other = texts(run(source, seed=2)[1])
    assert all(other[split] != first[split] for split in SPLITS)


def test_rows_keep_the_order_of_the_source(run, tmp_path):
    sizes = {"rows": 20, "validation_rows": 10, "test_rows": 8}
    _, data = run(rows_csv(tmp_path / "a.csv", many(60)), validation_share=0.4, **sizes)
    for count, rows in zip(sizes.values(), texts(data).values(), strict=True):
        numbers = [int(text.split()[-1]) for text in rows]
        assert numbers == sorted(numbers)
        assert len(numbers) == count


def test_rows_that_are_added_or_moved_leave_the_splits_nearly_as_they_were(run, tmp_path):
    before = texts(run(rows_csv(tmp_path / "a.csv", many(1000)))[1])
    grown = texts(run(rows_csv(tmp_path / "b.csv", many(1020)[::-1]))[1])
    assert [len(before[split]) for split in SPLITS] == [900, 50, 50]
    assert [len(grown[split]) for split in SPLITS] == [918, 51, 51]
    assert all(len(set(before[split]) - set(grown[split])) <= 4 for split in SPLITS)
    sample = set(texts(run(tmp_path / "a.csv", rows=100)[1])["train"])
    assert len(sample - set(texts(run(tmp_path / "b.csv", rows=100)[1])["train"])) <= 5


@st.composite
def growing_data(draw):
    """Labels of the rows there are, three of each at least, labels of rows that come, and a form."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True))
    labels = draw(st.permutations(3 * names + draw(st.lists(st.sampled_from(names), max_size=80))))
    more = draw(st.lists(st.sampled_from(names), max_size=10))
    shares = {name: draw(st.floats(0.05, 0.5)) for name in ("validation_share", "test_share")}
    return labels, more, DataConfig(source="file:x", seed=draw(st.integers(0, 3)), **shares)


def parted(labels, config):
    rows = [Row(f"sentence number {n}", None, label, stratum=label) for n, label in enumerate(labels)]
    return part({"train": rows, "validation": [], "test": []}, config, set(labels))


@settings(deadline=None)
@given(growing_data())
def test_each_row_is_in_one_split_and_each_label_in_all(growing):
    labels, _, config = growing
    splits = parted(labels, config)
    assert Counter(row.text for rows in splits.values() for row in rows) == {
        f"sentence number {n}": 1 for n in range(len(labels))
    }
    assert all({row.label for row in rows} == set(labels) for rows in splits.values())
    held_out = max(round(config.validation_share * len(labels)), 2 * len(set(labels)))
    assert len(splits["validation"]) + len(splits["test"]) == held_out
    assert len(splits["test"]) == max(round(config.test_share * held_out), len(set(labels)))


@settings(deadline=None)
@given(growing_data())
def test_a_row_that_is_added_moves_about_one_other_out_of_each_split(growing):
    labels, more, config = growing
    before, after = parted(labels, config), parted([*labels, *more], config)
    bound = len(more) + len(set(labels))  # the latter, because quotas are rounded
    for split in SPLITS:
        old, new = ({row.text for row in splits[split]} for splits in (before, after))
        assert len(old - new) <= bound
        assert len({text for text in new - old if int(text.split()[-1]) < len(labels)}) <= bound


def test_test_rows_are_chosen_independently_of_what_is_held_out():
    """Of 100 held-out rows 50 are in test; 50 others share 25 with them, give or take 10 (four standard deviations)."""
    labels = ["good", "bad"] * 500
    halved = parted(labels, DataConfig(source="file:x", validation_share=0.1))
    fewer = parted(labels, DataConfig(source="file:x", validation_share=0.05, test_share=0))
    assert len(halved["test"]) == len(fewer["validation"]) == 50
    assert {*fewer["validation"]} < {*halved["validation"], *halved["test"]}
    assert 15 <= len({*halved["test"]} & {*fewer["validation"]}) <= 35


# Where test rows come from --------------------------------------------------------------------------------------------


def write_hub(directory, **splits):
    """A repository as hubs have them: a file a split."""
    directory.mkdir()
    for split, rows in splits.items():
        rows_csv(directory / f"{split}-00000-of-00001.csv", rows)
    return directory


def test_a_labelled_test_split_of_the_source_is_used(run, tmp_path):
    hub = write_hub(tmp_path / "hub", train=many(6), validation=["v,good", "w,bad"], test=["x,good", "y,bad"])
    metrics, data = run(hub)
    assert texts(data) | {"train": []} == {"train": [], "validation": ["v", "w"], "test": ["x", "y"]}
    assert metrics == {"train_rows": 6, "validation_rows": 2, "test_rows": 2, "bad_rows": 0, **NOTHING}
    assert run(hub, test_share=0)[1].test_is_validation is False


def test_with_a_test_split_all_that_is_held_out_is_validation(run, tmp_path):
    hub = write_hub(tmp_path / "hub", train=many(20), test=["x,good", "y,bad"])
    metrics, _ = run(hub, validation_share=0.2)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (16, 4, 2)


@pytest.mark.parametrize("label", ["-1", ""])
def test_a_test_split_without_labels_is_not_used(run, tmp_path, caplog, label):
    caplog.set_level(logging.INFO, "tinybert")
    validation = [f"v {n},{('good', 'bad')[n % 2]}" for n in range(8)]
    hub = write_hub(tmp_path / "hub", train=many(6), validation=validation, test=[f"x,{label}", f"y,{label}"])
    metrics, data = run(hub)
    assert (metrics["validation_rows"], metrics["test_rows"]) == (4, 4)
    assert sorted(texts(data)["validation"] + texts(data)["test"]) == [f"v {n}" for n in range(8)]
    assert caplog.messages == [
        "prepare  test-00000-of-00001.csv has no labels: column 'label' is missing, empty or -1 in every row, so it is "
        "not used; models are compared on held-out rows",
        "prepare  6 rows of train: good 3, bad 3",
        "prepare  8 rows of validation: good 4, bad 4",
    ]


def test_a_test_split_without_the_label_column_is_not_used(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tinybert")
    hub = write_hub(tmp_path / "hub", train=many(20))
    rows_csv(hub / "test.csv", ["1,x", "2,y"], "id,text")
    assert run(hub)[0]["train_rows"] == 16
    assert "test.csv has no labels" in caplog.text


def test_labels_of_a_hub_parquet_that_are_withheld(run, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    for split, labels in (("train", [0, 1] * 10), ("test", [-1] * 4)):
        content = {"text": [f"{split} {n}" for n in range(len(labels))], "label": labels}
        Dataset.from_dict(content, features=features).to_parquet(tmp_path / f"{split}.parquet")
    _, data = run(tmp_path)
    assert data.labels == ["negative", "positive"]
    assert {text.split()[0] for rows in texts(data).values() for text in rows} == {"train"}


def test_test_rows_of_their_own_source_come_first(run, tmp_path):
    hub = write_hub(tmp_path / "hub", train=many(6), validation=["v,good", "w,bad"], test=["x,good", "y,bad"])
    assert texts(run(hub, test=rows_csv(tmp_path / "a.csv", ["a,good", "b,bad"]))[1])["test"] == ["a", "b"]
    other = write_hub(tmp_path / "other", train=["c,good", "d,bad"], test=["e,good", "f,bad"])
    assert texts(run(hub, test=other)[1])["test"] == ["e", "f"]


def test_a_test_source_without_labels_is_refused(run, tmp_path):
    source, test = rows_csv(tmp_path / "a.csv", many()), rows_csv(tmp_path / "hidden.csv", ["x,-1", "y,-1"])
    with pytest.raises(DataError, match=r"hidden.csv has no labels: .*; name labelled rows in data.test_source, or"):
        run(source, test=test)


def test_with_no_test_share_the_validation_rows_serve_twice(run, tmp_path):
    metrics, data = run(rows_csv(tmp_path / "a.csv", many(20)), validation_share=0.2, test_share=0)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (16, 4, 4)
    assert texts(data)["test"] == texts(data)["validation"]
    assert data.test_is_validation is True
    _, fewer = run(tmp_path / "a.csv", validation_share=0.5, test_share=0, validation_rows=6, test_rows=4)
    assert len(texts(fewer)["test"]) == 4
    assert set(texts(fewer)["test"]) < set(texts(fewer)["validation"])


def test_a_fixed_validation_set_is_parted_too(run, tmp_path):
    source, held_out = rows_csv(tmp_path / "a.csv", many(6)), rows_csv(tmp_path / "dev.csv", many(40)[10:])
    metrics, data = run(source, held_out, test_share=0.2)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (6, 24, 6)
    assert data.manifest["splits"]["test"]["labels"] == {"bad": 3, "good": 3}


def test_files_of_other_splits_are_no_training_rows(run, tmp_path):
    hub = write_hub(tmp_path / "hub", reviews=many(6), test=["x,good", "y,bad"])
    metrics, _ = run(hub, validation_share=0.4)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (4, 2, 2)
    with pytest.raises(DataError, match=r"every table is named after another split; name one file in data.validation_"):
        run(hub, write_hub(tmp_path / "other", test=["v,good", "w,bad"]))
    with pytest.raises(
        DataError, match=r"other: every table is named after validation or test; name the training rows"
    ):
        run(tmp_path / "other")


def test_a_directory_may_have_the_name_of_a_split(run, tmp_path):
    metrics, _ = run(write_hub(tmp_path / "test", reviews=many(20)))
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (16, 2, 2)


# Rows and labels ------------------------------------------------------------------------------------------------------


def test_a_label_of_one_row_stays_in_a_sample(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", [*many(100), "alone,odd"])
    held_out = rows_csv(tmp_path / "dev.csv", ["one,good", "two,bad", "three,odd"])
    _, data = run(train, held_out, rows=10, test_share=0)
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
    sizes = {"rows": 10, "validation_rows": 4, "test_rows": 6}
    metrics, data = run(source, where={"origin": "keep"}, validation_share=0.5, **sizes)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (10, 4, 6)
    assert all(int(text.split()[-1]) < 30 for rows in texts(data).values() for text in rows)
    assert data.manifest["splits"]["train"]["labels"] == {"0": 5, "1": 5}


def test_duplicates_and_leaks_leave_train_alone(run, tmp_path):
    train = rows_csv(
        tmp_path / "a.csv", [*many(6), "sentence number 0,good", "in dev,good", "in both,bad", "in test,bad"]
    )
    held_out = rows_csv(tmp_path / "dev.csv", ["in dev,good", "other,bad", "in both,good", "other,bad", "in both,bad"])
    test = rows_csv(tmp_path / "test.csv", ["in both,good", "in test,good", "third,bad", "third,bad"])
    metrics, data = run(train, held_out, test)
    dropped = {"duplicates": 1, "leaks": 3}
    assert metrics == {"train_rows": 6, "validation_rows": 5, "test_rows": 4, "bad_rows": 0, **dropped}
    assert data.manifest["dropped"] == {"train": dropped}
    assert data.manifest["problems"] == ["2 rows of validation stand in test too, and stay, e.g. 'in both'"]
    assert texts(data)["validation"] == ["in dev", "other", "in both", "other", "in both"]
    assert texts(data)["test"] == ["in both", "in test", "third", "third"]
    with pytest.raises(DataError, match=r"2 rows of validation stand in test too, e.g. 'in both'; remove them, or set"):
        run(train, held_out, test, leaks="refuse")


def test_leaks_from_training_are_refused_with_the_splits_they_stand_in(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", [*many(6), "shared,good"])
    held_out = rows_csv(tmp_path / "dev.csv", ["shared,good", "other,bad"])
    with pytest.raises(DataError, match=r"1 rows of train stand in validation too, e.g. 'shared'; remove them, or"):
        run(train, held_out, leaks="refuse", test_share=0)
    test = rows_csv(tmp_path / "test.csv", ["sentence number 3,bad", "new,good"])
    with pytest.raises(DataError, match=r"2 rows of train stand in validation or test too, e.g. 'sentence number 3'"):
        run(train, held_out, test, leaks="refuse")


def test_a_pair_leaks_only_with_both_sides(run, tmp_path):
    train = rows_csv(tmp_path / "train.csv", ["a,b,yes", "a,c,no", "d,b,no", "d,e,yes"], "text,other,label")
    held_out = rows_csv(tmp_path / "dev.csv", ["a,x,yes", "x,b,no"], "text,other,label")
    test = rows_csv(tmp_path / "test.csv", ["a,b,yes", "a,y,no"], "text,other,label")
    metrics, data = run(train, held_out, test, text_pair="other")
    assert (metrics["leaks"], metrics["validation_rows"]) == (1, 2)
    assert list(zip(*(data.rows("train")[name] for name in ("text", "text_pair")), strict=True)) == [
        ("a", "c"),
        ("d", "b"),
        ("d", "e"),
    ]


def test_the_group_of_a_row_is_the_value_of_the_slice_column(run, tmp_path):
    rows = [f"text {n},{'ab'[n % 2]},{('web', '', '7')[n % 3]}" for n in range(30)]
    source = rows_csv(tmp_path / "a.csv", [*rows, "text 0,a,mail"], "text,label,channel")
    metrics, data = run(source, slice_by="channel", validation_share=0.4)
    assert metrics["duplicates"] == 1  # another channel makes no other row
    assert len({*texts(data)["validation"], *texts(data)["test"]}) == 12
    for split in SPLITS:
        for row in data.rows(split):
            assert row["group"] == ("web", None, "7")[int(row["text"].split()[1]) % 3]
    assert set(run(source)[1].rows("test")["group"]) == {None}


def test_a_slice_column_that_is_not_there(run, tmp_path):
    with pytest.raises(DataError, match=r"a.csv: no column 'channel'; it has label, text"):
        run(rows_csv(tmp_path / "a.csv", many()), slice_by="channel")
    hub = write_hub(tmp_path / "hub", test=["x,good", "y,bad"])
    rows_csv(hub / "train.csv", [f"{row},web" for row in many()], "text,label,channel")
    with pytest.raises(DataError, match=r"test-00000-of-00001.csv: no column 'channel'; it has label, text"):
        run(hub, slice_by="channel")


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
    assert metrics["train_rows"] + metrics["validation_rows"] + metrics["test_rows"] == 10
    assert data.labels == ["bad", "good"]


def test_a_directory_with_named_splits(run, tmp_path):
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    rows_csv(folder / "train-00000-of-00002.csv", many(4))
    rows_csv(folder / "train-00001-of-00002.csv", ["one more,good", "and another,bad"])
    rows_csv(folder / "validation-00000-of-00001.csv", ["held out,good", "kept back,bad"])
    rows_csv(folder / "test-00000-of-00001.csv", ["x,good", "y,bad"])
    rows_csv(folder / "unsupervised-00000-of-00001.csv", ["never read,good"])
    metrics, data = run(tmp_path / "hub")
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (6, 2, 2)
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
        ([*many(), ",good", "  ,bad"], {}, r"empty text; .* \(row 11 of train\) and 1 more; to leave out what cannot"),
        ([*many(), "text,"], {}, r"column 'label' is empty in some rows; every row needs a label"),
        (many(labels=("good",)), {}, r"only one class, 'good', in column 'label'; a classifier needs two"),
        (many(), {"labels": ["good", "fine"]}, r"column 'label' holds 'bad'; data.labels allows good, fine"),
        (
            many(labels=("0", "2")),
            {"labels": ["a", "b"]},
            r"column 'label' holds 2, but data.labels names only 2 classes, 0 to 1: a, b",
        ),
        (
            [*many(), "alone,odd", "and one,odd"],
            {},
            r"too few rows of 'odd' \(2\): data.validation_share splits what has at least 3 different texts, .*; add",
        ),
        (
            [*many(), "alone,odd", "a,rare", "b,rare", "a,few", "c,few", "c,few"],
            {},
            r"too few rows of 'few' \(1\), 'odd' \(1\), 'rare' \(2\): data.validation_share",
        ),
        ([*many(), "alone,odd"], {"test_share": 0}, r"too few rows of 'odd' \(1\): .* at least 2 different texts"),
        (many(), {"test_share": 0.9, "validation_share": 0.8}, r"8 rows cannot be split with data.test_share 0.9: "),
        (many(), {"where": {"text": "nothing"}}, r"no row of a.csv matches data.where {'text': 'nothing'}"),
        (many(20), {"labels": ["good", "bad", "fair"]}, r"train has no row of 'fair', only of bad, good"),
        ([*many(), "t,a", "u,a", "v,a", "w,c", "x,c", "y,c"], {"rows": 2}, r"2 rows cannot hold 4 labels; allow more"),
    ],
)
def test_bad_rows_are_refused(run, tmp_path, rows, fields, message):
    with pytest.raises(DataError, match=message):
        run(rows_csv(tmp_path / "a.csv", rows), **fields)


def test_a_label_that_train_lacks_is_refused_and_one_that_others_lack_is_told(run, tmp_path):
    three = rows_csv(tmp_path / "three.csv", many(9, ("good", "bad", "mixed")))
    two = rows_csv(tmp_path / "two.csv", ["w,good", "x,bad", "y,good", "z,bad"])
    with pytest.raises(DataError, match=r"train has no row of 'mixed', only of bad, good; add some, or leave out of"):
        run(two, test=three, test_share=0, validation_share=0.5)
    for split, sources in {"validation": {"validation": two, "test": three}, "test": {"test": two}}.items():
        _, data = run(rows_csv(tmp_path / "all.csv", many(30, ("good", "bad", "mixed"))), **sources)
        assert data.manifest["splits"][split]["labels"] == {"bad": 2, "good": 2, "mixed": 0}
        assert f"- {split} has nothing of mixed" in (data.directory / "data.md").read_text()
    one = rows_csv(tmp_path / "one.csv", ["w,good", "y,good"])
    with pytest.raises(DataError, match=r"test has no row of 'bad', 'mixed', only of good; add some"):
        run(tmp_path / "all.csv", test=one)


def test_a_label_that_cannot_be_in_validation_and_test(run, tmp_path):
    held_out = rows_csv(tmp_path / "dev.csv", ["x,good", "y,bad", "z,bad", "v,fair", "w,fair"])
    _, data = run(rows_csv(tmp_path / "a.csv", many(12, ("good", "bad", "fair"))), held_out)
    found = [data.manifest["splits"][split]["labels"] for split in ("validation", "test")]
    assert [one["good"] for one in found] in ([0, 1], [1, 0])
    assert min(found[0]["bad"], found[0]["fair"], found[1]["bad"], found[1]["fair"]) == 1


def test_texts_that_come_again_are_not_parted(run, tmp_path):
    held_out = [f"v {n % 20},{'good' if n % 20 < 10 else 'bad'}" for n in range(60)]
    _, data = run(rows_csv(tmp_path / "a.csv", many(6)), rows_csv(tmp_path / "dev.csv", [*held_out, "v 3,bad"]))
    found = {split: Counter(rows) for split, rows in texts(data).items()}
    assert not found["validation"].keys() & found["test"].keys()
    assert found["validation"] + found["test"] == Counter([f"v {n % 20}" for n in range(60)] + ["v 3"])
    assert len(found["validation"]) == len(found["test"]) == 10


def test_rows_that_cannot_be_read_are_left_out_where_that_is_asked_for(run, tmp_path):
    source = rows_csv(tmp_path / "train.csv", [*many(10), ",good", "no label,", "neither", "  ,"])
    test = rows_csv(tmp_path / "test.csv", ["x,good", "y,bad", "z,"])
    metrics, data = run(source, test=test, bad_rows="drop", validation_share=0.4)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (6, 4, 2)
    assert metrics["bad_rows"] == 5
    assert data.manifest["dropped"] == {"train": {"bad_rows": 4}, "test": {"bad_rows": 1}}
    text = (data.directory / "data.md").read_text()
    assert "- 4 rows of train cannot be read and are left out, e.g.: empty text; fill it, " in text
    assert "(row 11 of train)" in text
    assert "- 1 rows of test cannot be read and are left out, e.g.: column 'label' is empty" in text
    with pytest.raises(DataError, match=r"column 'label' is empty .* \(row 1 of train\) and 1 more; to leave out"):
        run(rows_csv(tmp_path / "none.csv", ["a,", "b,"]), bad_rows="drop")


def test_a_damaged_file_is_told_once(run, tmp_path, caplog):
    quiet()
    logger = logging.getLogger("datasets")
    logger.addHandler(caplog.handler)
    try:
        for name in ("a.jsonl", "a.parquet"):
            (tmp_path / name).write_bytes(b"{damaged")
            with pytest.raises(DataError, match=f"{name}: cannot be read as"):
                run(tmp_path / name)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []


def test_blanks_around_a_label_make_no_other(run, tmp_path):
    _, data = run(rows_csv(tmp_path / "a.csv", many(20, ("bug", " bug ", "wish", "wish "))), validation_share=0.4)
    assert data.labels == ["bug", "wish"]


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
    rows = ['"a, ""quoted"" text",good', "null,bad", "NA,good", "plain,bad", "None,good", "nan,bad"]
    _, data = run(rows_csv(tmp_path / "a.csv", rows))
    found = {text for rows in texts(data).values() for text in rows}
    assert found == {'a, "quoted" text', "null", "NA", "plain", "None", "nan"}


def test_directories_named_after_splits(run, tmp_path):
    folders = {"train": many(6), "validation": ["held out,good", "kept back,bad"], "test": ["x,good", "y,bad"]}
    for folder, rows in folders.items():
        (tmp_path / "hub" / folder).mkdir(parents=True)
        rows_csv(tmp_path / "hub" / folder / "0000.csv", rows)
    _, data = run(tmp_path / "hub")
    assert [len(rows) for rows in texts(data).values()] == [6, 2, 2]
    assert sorted(texts(data)["validation"]) == ["held out", "kept back"]
    assert sorted(texts(data)["test"]) == ["x", "y"]


def test_all_rows_but_one(run, tmp_path):
    source = rows_csv(tmp_path / "a.csv", many(20))
    assert run(source, rows=15, validation_share=0.2)[0]["train_rows"] == 15


def test_a_column_that_changes_its_kind_far_down(run, tmp_path):
    ages = ["3"] * 11_000 + ["", "n/a", "3.5"] + ["4"] * 997
    rows = [f"text {i},{'ab'[i % 2]},{age}" for i, age in enumerate(ages)]
    metrics, _ = run(rows_csv(tmp_path / "a.csv", rows, "text,label,age"))
    assert metrics["train_rows"] + metrics["validation_rows"] + metrics["test_rows"] == 12_000


def test_labels_are_taken_as_they_are_written(run, tmp_path):
    _, data = run(rows_csv(tmp_path / "a.csv", many(10, ("007", "1.0"))))
    assert sorted(data.labels) == ["007", "1.0"]


def test_a_share_that_leaves_no_training_rows(run, tmp_path):
    with pytest.raises(DataError, match=r"10 rows cannot be split with data.validation_share 0.95: each split needs"):
        run(rows_csv(tmp_path / "a.csv", many(10)), validation_share=0.95)
