"""The augment stage on tiny real material: shards, candidates used again, pairs, recipes."""

import json

import pytest
from datasets import Dataset

from tinybert.augment_config import AugmentConfig, RecipeConfig
from tinybert.augmentation.candidates import Proposer
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.samples import sentences
from tinybert.stages import augment

TEXTS = [text for text, _ in sentences()[::3]]


def write_task(directory, texts, pairs=None):
    directory.mkdir()
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow") as writer:
            for number, text in enumerate(texts):
                writer.add(text, pairs[number] if pairs else None, number % 2, number)
    write_manifest(directory, ["bad", "good"], 16)
    return directory


@pytest.fixture
def run(smoke_material, tmp_path, nowhere):
    def run(name, data, config=None, **more):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        inputs = {"model": smoke_material / "teacher", "vectors": smoke_material / "vectors.txt", **more}
        config = config or AugmentConfig(copies=3, candidates=4)
        metrics = augment.run(data=data, config=config, out=out, on_metrics=nowhere, **inputs)
        return out, metrics

    return run


def copies_in(directory):
    rows = Dataset.from_file(str(directory / "copies.arrow"))
    assert set(rows["group"]) <= {None}
    return [tuple(row.values())[:5] for row in rows]


def test_copies_have_the_label_and_place_of_their_row(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS)
    out, metrics = run("all", data)
    rows = TaskData(data).rows("train")
    made = copies_in(out)
    for text, pair, label, origin, made_by in made:
        assert text != rows[origin]["text"]
        assert len(text.split()) == len(rows[origin]["text"].split())
        assert (pair, label, made_by) == (None, rows[origin]["label"], "paper")
    assert metrics["copies"] == len(made) > 2 * len(TEXTS)
    assert metrics["asked"] == 3 * len(TEXTS)
    assert json.loads((out / "manifest.json").read_text()) == {
        "rows": len(TEXTS),
        "asked": {"paper": 3 * len(TEXTS)},
        "made": {"paper": len(made)},
    }


def test_shards_give_together_what_one_gives(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS)
    whole, _ = run("whole", data)
    parts = [run(f"part{shard}", data, shard=shard, shards=4) for shard in range(4)]
    assert sorted(copy for out, _ in parts for copy in copies_in(out)) == sorted(copies_in(whole))
    assert sum(metrics["rows"] for _, metrics in parts) == len(TEXTS)


def test_two_new_rows_cost_two_rows(run, tmp_path, monkeypatch):
    asked = []
    propose = Proposer.propose
    monkeypatch.setattr(
        Proposer, "propose", lambda self, texts, *rest: asked.extend(texts) or propose(self, texts, *rest)
    )
    before, metrics = run("before", write_task(tmp_path / "old", TEXTS[:-2]))
    assert (metrics["proposed"], metrics["reused"]) == (len(TEXTS) - 2, 0)
    asked.clear()
    grown = write_task(tmp_path / "new", [TEXTS[-1], *TEXTS[:-1]])
    after, metrics = run("after", grown, previous=before)
    assert (metrics["proposed"], metrics["reused"]) == (2, len(TEXTS) - 2)
    assert sorted(asked) == sorted(TEXTS[-2:])
    fresh, _ = run("fresh", grown)
    assert copies_in(after) == copies_in(fresh)
    assert (after / "candidates.arrow").read_bytes() == (fresh / "candidates.arrow").read_bytes()


def test_where_all_is_known_no_model_is_loaded(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS)
    before, _ = run("before", data)
    other = AugmentConfig(copies=5, candidates=4, probability=0.9, seed=1)
    after, metrics = run("after", data, other, previous=before, model=tmp_path / "gone", vectors=tmp_path / "gone")
    assert metrics["proposed"] == 0
    assert len(copies_in(after)) > len(copies_in(before))


def test_pairs_change_one_side_and_recipes_add_theirs(run, tmp_path):
    pairs = [text.upper() for text in reversed(TEXTS)]
    data = write_task(tmp_path / "data", TEXTS, pairs)
    config = AugmentConfig(copies=2, candidates=4, recipes=[RecipeConfig(kind="swap", copies=2, share=0.5)])
    out, _ = run("pairs", data, config)
    kinds = {"paper": [0, 0], "swap": [0, 0]}
    for text, pair, _, origin, made_by in copies_in(out):
        changed = [text != TEXTS[origin], pair != pairs[origin]]
        assert sum(changed) == 1
        kinds[made_by][changed.index(True)] += 1
    assert all(number > len(TEXTS) / 2 for sides in kinds.values() for number in sides)


def test_recipes_alone_need_no_candidates(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS)
    config = AugmentConfig(copies=0, recipes=[RecipeConfig(kind="delete", share=0.3)])
    out, metrics = run("recipes", data, config, vectors=None)
    assert {made_by for *_, made_by in copies_in(out)} == {"delete"}
    assert metrics["proposed"] == 0


@pytest.mark.parametrize(
    "text", ["", "   ", "\U0001f600 \u2764\ufe0f", "the and of", "word", "\u7535\u5f71 \u597d", "film " * 600]
)
def test_odd_rows_do_not_end_the_stage(run, tmp_path, text):
    data = write_task(tmp_path / "data", ["the film is good", text])
    out, metrics = run("odd", data)
    assert metrics["rows"] == 2
    assert {origin for _, _, _, origin, _ in copies_in(out)} >= {0}
