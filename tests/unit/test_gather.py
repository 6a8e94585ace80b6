"""Rows and copies joined: what is dropped for which reason, held against a plain implementation on lists."""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert.augment_config import QualityConfig
from tinybert.augmentation import quality
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS
from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.stages import gather

LONG = " ".join(f"word{n}" for n in range(30))


def write_rows(path, rows, kind="classification"):
    with RowWriter(path, KINDS[kind]) as writer:
        for row in rows:
            writer.add(*row)


def write_data(directory, *splits):
    """Labels and channels take turns; a tuple is a pair."""
    directory.mkdir()
    for split, texts in zip(SPLITS, splits, strict=True):
        both = [text if isinstance(text, tuple) else (text, None) for text in texts]
        rows = [(*texts, n % 2, n, None, f"channel {n % 3}") for n, texts in enumerate(both)]
        write_rows(directory / f"{split}.arrow", rows)
    write_manifest(directory, ["bad", "good"], 64, test_is_validation=splits[1] == splits[2])
    return directory


def write_shard(directory, copies, asked=None):
    """Copies are (origin, text or pair) or (origin, text, recipe)."""
    directory.mkdir()
    rows = []
    for origin, text, *recipe in copies:
        both = text if isinstance(text, tuple) else (text, None)
        rows.append((*both, origin % 2, origin, *(recipe or ["paper"])))
    write_rows(directory / "copies.arrow", rows)
    made = Counter(row[4] for row in rows)
    (directory / "manifest.json").write_text(json.dumps({"asked": asked or made, "made": made}))
    return directory


@pytest.fixture
def run(tmp_path, nowhere):
    """Run the stage on texts; gives its rows as tuples, its metrics, and `augmentation` of its manifest."""

    def run(train, validation, *shards, test=("never seen",), asked=None, **fields):
        data = write_data(tmp_path / "data", train, validation, test)
        copies = [write_shard(tmp_path / f"shard{n}", rows, asked) for n, rows in enumerate(shards)]
        out = tmp_path / "out"
        out.mkdir()
        metrics = gather.run(data=data, copies=copies, config=QualityConfig(**fields), out=out, on_metrics=nowhere)
        for split in SPLITS[1:]:
            assert (out / f"{split}.arrow").read_bytes() == (data / f"{split}.arrow").read_bytes()
        return [tuple(row.values()) for row in TaskData(out).rows("train")], metrics, TaskData(out).manifest

    return run


def test_rows_come_first_then_the_copies_of_each_shard(run):
    shards = [[(1, "two b"), (1, "two c", "swap")], [(0, "one d")]]
    rows, metrics, manifest = run(["one", "two", "three"], ["v"], *shards, asked={"paper": 3, "swap": 1, "delete": 2})
    assert rows == [
        ("one", None, 0, 0, None, "channel 0"),
        ("two", None, 1, 1, None, "channel 1"),
        ("three", None, 0, 2, None, "channel 2"),
        ("two b", None, 1, 1, "paper", None),
        ("two c", None, 1, 1, "swap", None),
        ("one d", None, 0, 0, "paper", None),
    ]
    assert metrics == {
        "rows": 6.0,
        "asked": 12.0,
        "made": 3.0,
        "kept": 3.0,
        "dropped_held_out": 0.0,
        "dropped_duplicate": 0.0,
        "dropped_near_duplicate": 0.0,
    }
    assert (manifest["labels"], manifest["max_length"], manifest["original_rows"]) == (["bad", "good"], 64, 3)
    assert {split: described["rows"] for split, described in manifest["splits"].items()} == {
        "train": 6,
        "validation": 1,
        "test": 1,
    }
    assert manifest["test_is_validation"] is False
    assert manifest["augmentation"] == {
        "asked": {"paper": 6, "swap": 2, "delete": 4},
        "made": {"paper": 2, "swap": 1},
        "dropped": {"held_out": {}, "duplicate": {}, "near_duplicate": {}},
        "kept": {"paper": 2, "swap": 1},
    }


def test_each_reason(run):
    copies = [
        (0, "Held out?"),  # in validation, but for its punctuation
        (2, "kept, back"),  # in test
        (0, "the  SECOND row!"),  # another row
        (0, "the first row"),  # its own
        (0, "something new"),
        (0, "something, new", "swap"),  # an earlier copy
        (1, "Something New"),  # an earlier copy, of another row
        (1, "held out", "swap"),
        (2, f"{LONG} more"),  # like its row
        (2, f"in other words here {LONG}"),
        (2, f"in other words here {LONG} more"),  # like an earlier copy
        (2, f"in other words here {LONG} more"),
    ]
    train, validation, test = ["the first row", "the second row", LONG], ["held out"], ["Kept back", "too"]
    rows, metrics, manifest = run(train, validation, copies, test=test, similarity=0.96)
    assert [row[0] for row in rows[3:]] == ["something new", f"in other words here {LONG}"]
    assert metrics["kept"] == 2
    assert manifest["augmentation"]["dropped"] == {
        "held_out": {"paper": 2, "swap": 1},
        "duplicate": {"paper": 4, "swap": 1},
        "near_duplicate": {"paper": 2},
    }


def test_near_duplicates_are_looked_for_among_the_copies_of_one_row(run):
    other = " ".join(f"other{n}" for n in range(30))
    copies = [(0, f"{other} one"), (1, f"{other} two"), (1, f"{other} two three")]
    rows, _, _ = run([LONG, "short"], ["v"], copies)
    assert [row[0] for row in rows[2:]] == [f"{other} one", f"{other} two"]


def test_words_that_moved_make_a_new_copy(run):
    copies = [(0, "a poor film but good fun", "swap")]
    assert run(["a good film but poor fun"], ["v"], copies)[1]["kept"] == 1


def test_pairs_count_with_both_sides(run):
    train, validation = [("a man", "he sleeps"), ("a dog", "it barks")], [("a cat", "it sleeps")]
    copies = [
        (0, ("a cat", "he sleeps")),
        (0, ("a cat", "it sleeps")),  # in validation
        (0, ("a cat he", "sleeps")),  # the same words, another pair
        (0, ("a dog", "it barks")),  # another row
        (0, ("it barks", "a dog")),
    ]
    rows, _, manifest = run(train, validation, copies)
    assert [row[:2] for row in rows[2:]] == [("a cat", "he sleeps"), ("a cat he", "sleeps"), ("it barks", "a dog")]
    dropped = manifest["augmentation"]["dropped"]
    assert dropped == {"held_out": {"paper": 1}, "duplicate": {"paper": 1}, "near_duplicate": {}}


@pytest.mark.parametrize("shards", [[], [[]], [[], []]])
def test_no_copies_at_all(run, shards):
    rows, metrics, manifest = run(["one", "two"], ["v"], *shards)
    assert len(rows) == metrics["rows"] == 2
    assert metrics["kept"] == metrics["asked"] == 0
    assert manifest["original_rows"] == 2


def test_a_row_that_stands_in_validation_is_left_alone(run):
    rows, _, _ = run(["same", "same"], ["same"], [(0, "new")])
    assert [row[0] for row in rows] == ["same", "same", "new"]


def test_where_all_held_out_rows_serve_twice_they_still_do(run):
    rows, _, manifest = run(["one"], ["two", "three"], [(0, "three"), (0, "four")], test=["two", "three"])
    assert [row[0] for row in rows] == ["one", "four"]
    assert manifest["test_is_validation"] is True


def test_copies_of_other_data_are_refused(run):
    with pytest.raises(DataError, match="a copy was made of row 7, but the data has 1 rows; run the stage `augment`"):
        run(["one"], ["v"], [(0, "a"), (7, "b")])


# Other kinds ----------------------------------------------------------------------------------------------------------


ANSWERED = [{"text": "Ann", "start": 0}]


@pytest.mark.parametrize(
    ("kind", "row", "copies", "labels"),
    [
        ("multi_label", ("fun", None, [0, 1]), [("joy", None, [0, 1])], ["a", "b"]),
        ("regression", ("fun", None, 0.1), [("joy", None, 0.1)], ["label"]),
        ("token_classification", ("Ann left", None, [1, 0]), [("Ann ran", None, [1, 0])], ["O", "B-PER"]),
        (
            "question_answering",
            ("who?", "Ann left", ANSWERED),
            [("who?", "so Ann ran", [{"text": "Ann", "start": 3}]), ("who?", "none", [])],
            ["start", "end"],
        ),
    ],
)
def test_labels_of_any_form_travel(tmp_path, nowhere, kind, row, copies, labels):
    data, shard, out = (tmp_path / name for name in ("data", "shard", "out"))
    for directory in (data, shard, out):
        directory.mkdir()
    rows = {"train": row, "validation": ("v", row[1] and "v", row[2]), "test": ("t", row[1] and "t", row[2])}
    for split, texts in rows.items():
        write_rows(data / f"{split}.arrow", [(*texts, 0)], kind)
    metric = list(KINDS[kind].metrics)[-1]
    write_manifest(data, labels, 64, kind=kind, metric=metric)
    write_rows(shard / "copies.arrow", [(*copy, 0, "paper") for copy in copies], kind)
    (shard / "manifest.json").write_text(json.dumps({"asked": {"paper": 4}}))
    gather.run(data=data, copies=[shard], config=QualityConfig(), out=out, on_metrics=nowhere)
    task = TaskData(out)
    found = task.rows("train")
    assert [(one["text"], one["text_pair"], one["label"]) for one in found] == [row, *copies]
    assert (task.kind.name, task.metric, task.labels) == (kind, metric, labels)


def test_copies_that_stand_in_a_further_test_go(tmp_path, nowhere):
    data = tmp_path / "data"
    write_data(data, ["one"], ["v"], ["t"])
    write_rows(data / "test_hard.arrow", [("held back", None, 0, 0)])
    write_manifest(data, ["bad", "good"], 64, metric="mcc", other_tests=["hard"])
    shard = write_shard(tmp_path / "shard", [(0, "Held back!"), (0, "new")])
    (out := tmp_path / "out").mkdir()
    metrics = gather.run(data=data, copies=[shard], config=QualityConfig(), out=out, on_metrics=nowhere)
    assert (metrics["kept"], metrics["dropped_held_out"]) == (1, 1)
    assert (out / "test_hard.arrow").read_bytes() == (data / "test_hard.arrow").read_bytes()
    assert (TaskData(out).other_tests, TaskData(out).metric) == (["hard"], "mcc")


# Against a plain implementation ---------------------------------------------------------------------------------------

TEXT = st.lists(st.sampled_from(["a", "b", "c", "D", "d", "!"]), min_size=1, max_size=6).map(" ".join)


def plain(text):
    return [word for word in text.lower().split() if word != "!"] or text.split()


def in_order(one, other):
    """Share of words in common and in the same order, by the textbook's table."""
    table = {(i, j): 0 for i in range(-1, len(one)) for j in range(-1, len(other))}
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i, j] = table[i - 1, j - 1] + 1 if left == right else max(table[i - 1, j], table[i, j - 1])
    return 2 * table[len(one) - 1, len(other) - 1] / (len(one) + len(other))


def expected(train, held_out, copies, most):
    """Fates of the copies, in one pass over lists."""
    fates, seen, kept = [], [plain(text) for text in train], {}
    for origin, text in copies:
        own = plain(text)
        near = [plain(train[origin]), *kept.get(origin, [])]
        if own in map(plain, held_out):
            fates.append("held_out")
        elif own in seen:
            fates.append("duplicate")
        elif any(in_order(own, other) > most for other in near):
            fates.append("near_duplicate")
        else:
            fates.append("kept")
            kept.setdefault(origin, []).append(own)
        seen.append(own)
    return fates


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_stage_does_what_a_pass_over_lists_does(data):
    train, validation, test = (data.draw(st.lists(TEXT, min_size=1, max_size=4)) for _ in SPLITS)
    shards = [[], []]
    for origin in range(len(train)):
        shards[origin % 2] += [(origin, text) for text in data.draw(st.lists(TEXT, max_size=5))]
    most = data.draw(st.sampled_from([0.5, 0.8, 0.95, 1.0]))
    directory = Path(tempfile.mkdtemp())
    try:
        source = write_data(directory / "data", train, validation, test)
        copies = [write_shard(directory / f"{n}", rows) for n, rows in enumerate(shards)]
        (out := directory / "out").mkdir()
        config = QualityConfig(similarity=most)
        metrics = gather.run(data=source, copies=copies, config=config, out=out, on_metrics=lambda *_: None)
        rows = TaskData(out).rows("train")
        texts, origins = rows["text"][:], rows["origin"][:]
    finally:
        shutil.rmtree(directory)
    flat = [*shards[0], *shards[1]]
    fates = expected(train, [*validation, *test], flat, most)
    kept = [copy for copy, fate in zip(flat, fates, strict=True) if fate == "kept"]
    assert texts == [*train, *(text for _, text in kept)]
    assert origins == [*range(len(train)), *(origin for origin, _ in kept)]
    for reason in ("held_out", "duplicate", "near_duplicate"):
        assert metrics[f"dropped_{reason}"] == fates.count(reason)
    copied = [plain(text) for _, text in kept]
    assert not [text for text in copied if text in map(plain, [*train, *validation, *test]) or copied.count(text) > 1]


def test_chunks_are_only_about_memory(run, monkeypatch):
    monkeypatch.setattr(quality, "CHUNK", 4)  # smaller than the copies of a row
    train = [f"row {n}" for n in range(7)]
    copies = [(n, f"row {n} {'x' * k}") for n in range(7) for k in range(1, 8) if n != 3]
    rows, metrics, _ = run(train, ["v"], copies[:20], copies[20:])
    assert [(row[3], row[0]) for row in rows[7:]] == copies
    assert metrics["kept"] == 42
