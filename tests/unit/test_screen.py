"""Copies held against the teacher's answers: who stays, under which label, and what is reported."""

import json
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert.augment_config import QualityConfig
from tinybert.augmentation import quality
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS
from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Answers
from tinybert.stages import gather, screen
from tinybert.teacher_cache import row_keys, write_opinions

TRAIN = ["a bad film", "a good film", "the plot is thin"]
COPIES = [
    (0, "a poor film", "paper"),
    (0, "a great film", "paper"),
    (0, "a bad movie", "swap"),
    (2, "the plot is fat", "paper"),
]
BAD, GOOD = [3.0, 0.0], [0.0, 3.0]  # probability 0.953
LOGITS = [BAD, GOOD, GOOD, BAD, GOOD, [0.5, 0.0], BAD]  # the third is wrong, the sixth unsure with 0.622


def write_gathered(directory, train, copies, test_is_validation=False):
    """What the stage gather writes; row n has the label n % 2 and the group "even" or "odd"."""
    directory.mkdir()
    kind = KINDS["classification"]
    with RowWriter(directory / "train.arrow", kind) as writer:
        for number, text in enumerate(train):
            writer.add(text, None, number % 2, number, group=("even", "odd")[number % 2])
        for origin, text, recipe in copies:
            writer.add(text, None, origin % 2, origin, recipe)
    for split in SPLITS[1:]:
        with RowWriter(directory / f"{split}.arrow", kind) as writer:
            writer.add("held out" if test_is_validation else f"in {split}", None, 0, 0)
    made = {name: sum(copy[2] == name for copy in copies) for name in ("paper", "swap")}
    dropped = {"held_out": {"paper": 1}, "duplicate": {}, "near_duplicate": {}}
    gathered = {"asked": {"paper": 10, "swap": 2}, "made": made | {"paper": made["paper"] + 1}, "dropped": dropped}
    described = {"original_rows": len(train), "augmentation": {**gathered, "kept": made}}
    write_manifest(directory, ["bad", "good"], 64, test_is_validation=test_is_validation, **described)
    return directory


def write_answers(directory, data, logits):
    """The teacher's answers, as the stage targets writes them."""
    logits_NC = np.array(logits, np.float64).reshape(len(logits), -1)
    chances_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    return write_said(directory, data, logits_NC, chances_NC.argmax(axis=1).tolist(), chances_NC.max(axis=1))


def write_said(directory, data, logits, answers, confidence):
    """What the screen reads of the targets."""
    task = TaskData(data)
    directory.mkdir()
    np.save(directory / "keys.npy", row_keys(task.rows("train"), 64))
    np.save(directory / "logits.npy", np.array(logits, np.float32))
    (directory / "manifest.json").write_text(json.dumps({"rows": len(answers), "states": None}))
    write_opinions(task.kind, [Answers(answers, np.array(confidence))], directory)
    return directory


@pytest.fixture
def run(tmp_path, nowhere, monkeypatch):
    """Run the stage; gives texts and labels of its rows, its metrics, and its directory."""
    number, draw = 0, screen.draw

    def run(train=TRAIN, copies=COPIES, logits=LOGITS, drawn=False, test_is_validation=False, **fields):
        nonlocal number
        number += 1
        # The picture takes most of the time.
        monkeypatch.setattr(screen, "draw", draw if drawn else lambda summary, path: None)
        data = write_gathered(tmp_path / f"data{number}", train, copies, test_is_validation)
        targets = write_answers(tmp_path / f"targets{number}", data, logits)
        out = tmp_path / f"out{number}"
        out.mkdir()
        metrics = screen.run(data=data, targets=targets, config=QualityConfig(**fields), out=out, on_metrics=nowhere)
        for split in SPLITS[1:]:
            assert (out / f"{split}.arrow").read_bytes() == (data / f"{split}.arrow").read_bytes()
        rows = TaskData(out).rows("train")
        groups = [("even", "odd")[n % 2] for n in range(len(train))]
        assert rows["group"][:] == groups + [None] * (len(rows) - len(train))
        assert [name is None for name in rows["made_by"]] == [n < len(train) for n in range(len(rows))]
        return list(zip(rows["text"][:], rows["label"][:], strict=True)), metrics, out

    return run


ROWS = [(text, number % 2) for number, text in enumerate(TRAIN)]


def test_flipped_copies_go(run):
    rows, metrics, out = run()
    assert rows == [*ROWS, ("a poor film", 0), ("a bad movie", 0), ("the plot is fat", 0)]
    # Of the words of the kept copies and their rows, 3 + 3, 3 + 3 and 4 + 4, two each stand in one only.
    assert metrics == {
        "rows": 6.0,
        "asked": 12.0,
        "made": 5.0,
        "kept": 3.0,
        "relabelled": 0.0,
        "dropped_held_out": 1.0,
        "dropped_duplicate": 0.0,
        "dropped_near_duplicate": 0.0,
        "dropped_flipped": 1.0,
        "dropped_unsure": 0.0,
        "flip_rate": 0.25,
        "words_replaced": 6 / 20,
        "vocabulary_growth": 3 / 8,
    }
    manifest = TaskData(out).manifest
    assert (manifest["labels"], manifest["original_rows"], manifest["max_length"]) == (["bad", "good"], 3, 64)
    assert manifest["splits"]["train"]["rows"] == 6
    told = manifest["augmentation"]
    assert told["asked"] == {"paper": 10, "swap": 2}
    assert told["dropped"]["held_out"] == {"paper": 1}
    assert told["dropped"]["flipped"] == {"paper": 1}
    assert told["kept"] == {"paper": 2, "swap": 1}
    assert told["classes"]["bad"] == {"rows": 2, "misread": 1, "copies": 4, "flipped": 1}


@pytest.mark.parametrize(
    ("fields", "kept", "dropped"),
    [
        ({"flipped": "keep"}, {1: 0, 2: 0}, ()),
        ({"flipped": "relabel"}, {1: 1, 2: 0}, ()),
        ({"confidence": 0.63}, {}, ("flipped", "unsure")),
        ({"confidence": 0.62}, {2: 0}, ("flipped",)),
        ({"confidence": 0.63, "unsure": "relabel"}, {2: 0}, ("flipped",)),  # the teacher's label is its own
        ({"confidence": 0.63, "flipped": "keep"}, {1: 0}, ("unsure",)),
        ({"confidence": 0.96, "flipped": "keep", "unsure": "relabel"}, {1: 1, 2: 0}, ()),
    ],
)
def test_policies(run, fields, kept, dropped):
    rows, metrics, _ = run(**fields)
    copies = {0: 0, 3: 0} | kept
    assert rows == [*ROWS, *((COPIES[number][1], copies[number]) for number in sorted(copies))]
    assert {reason for reason in ("flipped", "unsure") if metrics[f"dropped_{reason}"]} == set(dropped)
    assert metrics["relabelled"] == (kept.get(1) == 1)
    assert metrics["kept"] == len(copies)
    assert metrics["flip_rate"] == 0.25


def test_the_report_and_its_companions(run):
    _, _, out = run(drawn=True)
    text = (out / "augmentation.md").read_text()
    assert "| swap | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 1 | 0 |" in text
    assert "| paper | a bad film | a great film | bad | good | 0.95 | dropped: flipped |" in text
    table = json.loads((out / "examples.json").read_text())
    assert len(table["data"]) == 4
    assert table["data"][2] == ["swap", "a bad film", "a bad movie", "bad", "bad", 0.6225, "kept"]
    assert (out / "augmentation.png").read_bytes()[:4] == b"\x89PNG"


def test_twenty_examples_spread_over_the_data(run):
    train = [f"row {n}" for n in range(60)]
    copies = [(n, f"row {n} {k}", "paper") for n in range(60) for k in "abc"]
    _, _, out = run(train, copies, [BAD if n % 2 == 0 else GOOD for n in [*range(60), *(c[0] for c in copies)]])
    shown = json.loads((out / "examples.json").read_text())["data"]
    places = [int(original.split()[1]) for _, original, *_ in shown]
    assert [place // 3 for place in places] == list(range(20))
    assert all(copy.startswith(f"{original} ") for _, original, copy, *_ in shown)
    assert len({copy[-1] for _, _, copy, *_ in shown}) == 3


def test_where_all_copies_are_dropped_it_says_what_to_change(run, caplog):
    caplog.set_level(logging.WARNING, "tinybert")
    rows, metrics, _ = run(logits=[BAD, GOOD, BAD, GOOD, GOOD, GOOD, [0.4, 0.0]], confidence=0.9)
    assert rows == ROWS
    assert metrics["kept"] == 0
    assert metrics["words_replaced"] == metrics["vocabulary_growth"] == 0
    assert caplog.messages == [
        "screen  all 5 copies were dropped (held_out 1, flipped 3, unsure 1), so the student sees the original "
        "rows only: set quality.flipped to relabel or keep, or lower augment.probability"
    ]


def test_without_copies_there_is_nothing_to_screen(run, caplog):
    caplog.set_level(logging.WARNING, "tinybert")
    rows, metrics, out = run(copies=[], logits=LOGITS[:3])
    assert rows == ROWS
    assert metrics["flip_rate"] == 0
    assert "no copies to show" in (out / "augmentation.md").read_text()


@pytest.mark.parametrize("same", [True, False])
def test_whether_validation_serves_as_test_is_passed_on(run, same):
    _, _, out = run(test_is_validation=same)
    assert TaskData(out).test_is_validation is same


def test_answers_for_other_rows_are_refused(run, tmp_path, nowhere):
    run()
    data = write_gathered(tmp_path / "other", TRAIN, COPIES[:3])
    with pytest.raises(DataError, match="the teacher answered 7 other rows; there are 6"):
        screen.run(data=data, targets=tmp_path / "targets1", config=QualityConfig(), out=tmp_path, on_metrics=nowhere)


def test_answers_with_other_labels_are_refused(run):
    with pytest.raises(DataError, match="the teacher tells 3 labels apart, but the data has 2: bad, good"):
        run(logits=[[1, 2, 3]] * 7)


# Other kinds ----------------------------------------------------------------------------------------------------------


def write_few(directory, kind, labels, rows, other_tests=()):
    """The first row is one of the data, the others are copies of it."""
    directory.mkdir()
    for split in (*SPLITS, *(f"test_{name}" for name in other_tests)):
        with RowWriter(directory / f"{split}.arrow", KINDS[kind]) as writer:
            for number, (text, label) in enumerate(rows if split == "train" else rows[:1]):
                writer.add(text, None, label, 0, "paper" if number else None)
    made = {"paper": len(rows) - 1}
    gathered = {"asked": made, "made": made, "dropped": {"duplicate": {}, "held_out": {}, "near_duplicate": {}}}
    described = {"kind": kind, "metric": list(KINDS[kind].metrics)[-1], "other_tests": other_tests}
    write_manifest(directory, labels, 64, **described, original_rows=1, augmentation={**gathered, "kept": made})
    return directory


@pytest.mark.parametrize(
    ("kind", "labels", "rows", "answers", "flipped"),
    [
        (
            "multi_label",
            ["joy", "fear", "love"],
            [("fun", [0, 2]), ("joke", [0, 2]), ("test", [0, 2]), ("thing", [0, 2])],
            [[0, 2], [0, 2], [0], []],
            {"joy": (1, 0, 3, 1), "fear": (0, 0, 0, 0), "love": (1, 0, 3, 2)},
        ),
        (
            "token_classification",
            ["O", "B-PER", "I-PER"],
            [(f"Ann Lee {verb}", [1, 2, 0]) for verb in ("left", "ran", "sat", "saw")],
            [[1, 0, 0], [1, 2, 0], [1, 1, 0], [0, 0, 0]],
            {"PER": (1, 1, 3, 2)},
        ),
    ],
)
@pytest.mark.parametrize("policy", ["drop", "relabel", "keep"])
def test_lists_of_labels_are_judged_as_a_whole(
    tmp_path, nowhere, monkeypatch, kind, labels, rows, answers, flipped, policy
):
    monkeypatch.setattr(screen, "draw", lambda summary, path: None)
    data = write_few(tmp_path / "data", kind, labels, rows, ["hard"])
    targets = write_said(tmp_path / "targets", data, np.zeros((9, len(labels))), answers, [0.9] * 4)
    (out := tmp_path / "out").mkdir()
    metrics = screen.run(data=data, targets=targets, config=QualityConfig(flipped=policy), out=out, on_metrics=nowhere)
    task = TaskData(out)
    found = [(row["text"], row["label"]) for row in task.rows("train")]
    relabelled = [(text, answer) for (text, _), answer in zip(rows, answers, strict=True)]
    assert found == {"drop": rows[:2], "relabel": [rows[0], *relabelled[1:]], "keep": rows}[policy]
    assert metrics["flip_rate"] == 2 / 3
    assert {name: tuple(c.values()) for name, c in task.manifest["augmentation"]["classes"].items()} == flipped
    assert (task.kind.name, task.metric, task.other_tests) == (kind, list(KINDS[kind].metrics)[-1], ["hard"])
    assert (out / "test_hard.arrow").read_bytes() == (data / "test_hard.arrow").read_bytes()


def gathered(directory, kind, labels, row, copies, held_out):
    """What `gather` makes of one row, its copies and two rows held out, which differ by their text alone."""
    (prepared := directory / "prepared").mkdir(parents=True)
    (shard := directory / "shard").mkdir()
    (out := directory / "gathered").mkdir()
    for split, texts in zip(SPLITS, [row[:2], *held_out], strict=True):
        with RowWriter(prepared / f"{split}.arrow", KINDS[kind]) as writer:
            writer.add(*texts, row[2], 0)
    write_manifest(prepared, labels, 64, kind=kind, metric=list(KINDS[kind].metrics)[-1])
    with RowWriter(shard / "copies.arrow", KINDS[kind]) as writer:
        for copy in copies:
            writer.add(*copy, 0, "paper")
    (shard / "manifest.json").write_text(json.dumps({"asked": {"paper": 6}}))
    gather.run(data=prepared, copies=[shard], config=QualityConfig(), out=out, on_metrics=lambda *_: None)
    return out


LONG = " ".join(f"word{n}" for n in range(30))
UNJUDGED = {
    "regression": (
        ["stars"],
        ("a good film", None, 0.5),
        [
            ("a great film", None, 0.5),
            ("Held back!", None, 0.5),
            (f"{LONG} more", None, 0.5),
            (LONG, None, 0.5),
            ("a fine movie", None, 0.5),
        ],
        [("held back", None), ("kept apart", None)],
        [
            ["paper", "a good film", "a great film", "0.5", "kept"],
            ["paper", "a good film", "a fine movie", "0.5", "kept"],
        ],
    ),
    "question_answering": (
        ["start", "end"],
        ("who ?", "Ann left", [{"text": "Ann", "start": 0}]),
        [
            ("who ?", "Ann ran", [{"text": "Ann", "start": 0}]),
            ("who?", "nobody Ann", [{"text": "Ann", "start": 7}]),
            ("who ?", f"Ann {LONG} more", [{"text": "Ann", "start": 0}]),
            ("who ?", f"Ann {LONG}", [{"text": "Ann", "start": 0}]),
            ("who ?", "so Ann went", [{"text": "Ann", "start": 3}]),
        ],
        [("who ?", "Nobody, Ann"), ("where ?", "here")],
        [
            ["paper", "who ? \u2016 Ann left", "who ? \u2016 Ann ran", "Ann", "kept"],
            ["paper", "who ? \u2016 Ann left", "who ? \u2016 so Ann went", "Ann", "kept"],
        ],
    ),
}


@pytest.mark.parametrize("kind", UNJUDGED)
def test_where_more_or_less_is_all_there_is_all_is_told_but_of_the_teacher(tmp_path, nowhere, kind):
    labels, row, copies, held_out, expected = UNJUDGED[kind]
    data = gathered(tmp_path, kind, labels, row, copies, held_out)
    (out := tmp_path / "out").mkdir()
    metrics = screen.run(data=data, config=QualityConfig(), out=out, on_metrics=nowhere)
    # One copy is held out, one nearly equals the one before it, as far as `gather` can tell.
    assert (out / "train.arrow").read_bytes() == (data / "train.arrow").read_bytes()
    assert [(one["text"], one["text_pair"], one["label"]) for one in TaskData(out).rows("train")] == [
        row,
        *(copies[place] for place in (0, 2, 4)),
    ]
    told = {name: metrics[name] for name in ("rows", "asked", "made", "kept")}
    assert told == {"rows": 4, "asked": 6, "made": 5, "kept": 3}
    dropped = {name: count for name, count in metrics.items() if name.startswith("dropped_")}
    assert dropped == {"dropped_held_out": 1, "dropped_duplicate": 0, "dropped_near_duplicate": 1}
    assert not {"flip_rate", "relabelled"} & metrics.keys()
    assert metrics["words_replaced"] > 0
    assert metrics["vocabulary_growth"] > 0
    text = (out / "augmentation.md").read_text()
    assert "Of 6 copies that were asked for, 5 were made and 3 kept, beside 1 rows." in text
    assert "no teacher judges them" in text
    assert not {"flipped", "relabelled", "confidence"} & set(text.replace("|", " ").split())
    table = json.loads((out / "examples.json").read_text())
    assert table["columns"] == ["recipe", "original", "copy", "label", "became"]
    assert [line for line in table["data"] if LONG not in line[2]] == expected
    assert (out / "augmentation.png").is_file()


def test_whether_there_are_targets_must_fit_the_kind(tmp_path, nowhere):
    given = {"config": QualityConfig(), "out": tmp_path, "on_metrics": nowhere}
    numbers = write_few(tmp_path / "numbers", "regression", ["score"], [("fun", 0.5), ("joke", 0.5)])
    answers = write_answers(tmp_path / "answers", write_gathered(tmp_path / "classes", TRAIN, []), LOGITS[:3])
    with pytest.raises(DataError, match=r"kind regression keep their rows' labels.* leave the targets out"):
        screen.run(data=numbers, targets=answers, **given)
    with pytest.raises(DataError, match=r"kind classification are judged by the teacher; give its targets"):
        screen.run(data=tmp_path / "classes", **given)


def test_data_that_was_not_gathered_is_refused(tmp_path, nowhere):
    data = write_gathered(tmp_path / "data", TRAIN, [])
    write_manifest(data, ["bad", "good"], 64)
    targets = write_answers(tmp_path / "targets", data, LOGITS[:3])
    with pytest.raises(DataError, match="run the stage `gather` first"):
        screen.run(data=data, targets=targets, config=QualityConfig(), out=tmp_path, on_metrics=nowhere)


POLICIES = st.sampled_from(["drop", "relabel", "keep"])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([[2.0, 0.0], [0.0, 2.0], [0.3, 0.0], [0.0, 0.3]]), min_size=7, max_size=7),
    POLICIES,
    POLICIES,
    st.sampled_from([0.0, 0.7]),
)
def test_what_stays_follows_from_the_policies(run, logits, flipped, unsure, confidence):
    rows, metrics, _ = run(logits=logits, flipped=flipped, unsure=unsure, confidence=confidence)
    expected = list(ROWS)
    for (origin, text, _), row in zip(COPIES, logits[3:], strict=True):
        label, said = origin % 2, row.index(max(row))
        sure = max(row) == 2.0 or not confidence
        asked = [policy for policy, holds in ((flipped, said != label), (unsure, not sure)) if holds]
        if "drop" not in asked:
            expected.append((text, said if "relabel" in asked else label))
    assert rows == expected
    assert metrics["rows"] == len(expected)
    judged = metrics["kept"] + metrics["dropped_flipped"] + metrics["dropped_unsure"]
    assert judged == len(COPIES)


def test_chunks_are_only_about_memory(run, monkeypatch):
    whole, _, _ = run()
    monkeypatch.setattr(quality, "CHUNK", 4)
    assert run()[0] == whole
