"""The augment stage on tiny real material: shards, candidates used again, pairs, recipes."""

import gc
import json
import tracemalloc

import pytest
from datasets import Dataset

from tinybert.augment_config import AugmentConfig, RecipeConfig
from tinybert.augmentation.candidates import Proposer
from tinybert.augmentation.recipes import Recipes
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS
from tinybert.kinds import KINDS
from tinybert.progress import Progress
from tinybert.samples import sentences
from tinybert.stages import augment

TEXTS = [text for text, _ in sentences()[::3]]


def write_task(directory, texts, pairs=None, kind="classification", labels=None, names=("bad", "good")):
    directory.mkdir()
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow", KINDS[kind]) as writer:
            for number, text in enumerate(texts):
                writer.add(text, pairs[number] if pairs else None, labels[number] if labels else number % 2, number)
    write_manifest(directory, list(names), 16, kind=kind)
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


def test_recipes_change_only_the_rows_that_are_new(run, tmp_path, monkeypatch):
    asked = []
    copies = Recipes.copies
    monkeypatch.setattr(Recipes, "copies", lambda self, texts, *rest: asked.extend(texts) or copies(self, texts, *rest))
    recipes = [RecipeConfig(kind="swap", share=0.5), RecipeConfig(kind="insert", share=0.3)]
    config = AugmentConfig(copies=1, candidates=4, recipes=recipes)
    before, _ = run("before", write_task(tmp_path / "old", TEXTS[:-2]), config)
    grown = write_task(tmp_path / "new", [TEXTS[-1], *TEXTS[:-1]])
    fresh, _ = run("fresh", grown, config)
    asked.clear()
    after, _ = run("after", grown, config, previous=before)
    assert sorted(asked) == sorted(TEXTS[-2:])
    assert copies_in(after) == copies_in(fresh)
    assert (after / "recipes.arrow").read_bytes() == (fresh / "recipes.arrow").read_bytes()
    asked.clear()
    run("other", grown, config.model_copy(update={"seed": 1}), previous=before)
    assert sorted(asked) == sorted(TEXTS)


def test_nothing_of_rows_that_are_done_is_held(run, tmp_path, monkeypatch):
    class Writer(RowWriter):
        def add(self, *row):
            super().add(*row)
            self._flush()

    class Watch(Progress):
        def update(self, done):
            if not tracemalloc.is_tracing():
                tracemalloc.start(10)  # from the second chunk on: all is loaded by then
            gc.collect()
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, augment.__file__, None, True)])
            held.append((done, sum(trace.size for trace in ours.traces), len(given_back)))

    held, given_back = [], []
    for name, value in (("CHUNK", 30), ("RowWriter", Writer), ("Progress", Watch)):
        monkeypatch.setattr(augment, name, value)
    monkeypatch.setattr(augment, "give_back_freed_memory", lambda: given_back.append(1))
    data = write_task(tmp_path / "data", [f"{text} {number}" for number in range(6) for text in TEXTS[:30]])
    run("watched", data, AugmentConfig(copies=1, candidates=4))
    tracemalloc.stop()
    assert [(done, times) for done, _, times in held] == [(30 * number, number) for number in range(1, 7)]
    # The candidates of a row alone are more than 500 bytes.
    assert held[-1][1] - held[2][1] < 200 * 90


# Other kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("multi_label", [[0, 1] if n % 2 else [] for n in range(len(TEXTS))]),
        ("regression", [n / 7 for n in range(len(TEXTS))]),
    ],
)
def test_copies_of_texts_have_their_rows_labels_and_are_those_of_classification(run, tmp_path, kind, labels):
    plain, _ = run("plain", write_task(tmp_path / "plain-data", TEXTS))
    out, _ = run(kind, write_task(tmp_path / "data", TEXTS, kind=kind, labels=labels))
    assert copies_in(out) == [(text, pair, labels[at], at, made_by) for text, pair, _, at, made_by in copies_in(plain)]


TAGS = [[1 if n % 3 == 0 else 0 for n in range(len(text.split(" ")))] for text in TEXTS]
TAG_NAMES = ("O", "B-THING")


def test_tagged_words_stay_and_every_word_keeps_its_tag(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS, kind="token_classification", labels=TAGS, names=TAG_NAMES)
    out, metrics = run("tokens", data)
    assert metrics["copies"] > len(TEXTS)
    for text, pair, label, origin, _ in copies_in(out):
        before, after = TEXTS[origin].split(" "), text.split(" ")
        assert (pair, label, len(after)) == (None, TAGS[origin], len(before))
        changed = [tag for one, other, tag in zip(before, after, label, strict=True) if one != other]
        assert changed == [0] * len(changed) != []


def test_other_tags_of_a_known_text_cost_nothing(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS, kind="token_classification", labels=TAGS, names=TAG_NAMES)
    before, _ = run("before", data)
    turned = [[1 - tag for tag in tags] for tags in TAGS]
    other = write_task(tmp_path / "other", TEXTS, kind="token_classification", labels=turned, names=TAG_NAMES)
    after, metrics = run("after", other, previous=before, model=tmp_path / "gone", vectors=tmp_path / "gone")
    assert metrics["proposed"] == 0
    for text, _, label, origin, _ in copies_in(after):
        for one, other, tag in zip(TEXTS[origin].split(" "), text.split(" "), label, strict=True):
            assert one == other or tag == 0


CONTEXTS = ["  ".join(TEXTS[:4]), "\n".join(TEXTS[4:7]), " ".join(TEXTS[:60])]  # the last is longer than the model


def questions():
    """Three questions about each context, of which one has no answer, and one two; contexts take turns."""
    rows = []
    for number in range(9):
        context = CONTEXTS[number % 3]
        middle = len(context) // 2
        places = [(), ((middle, middle + 9),), ((3, 8), (middle + 4, middle + 20))][number // 3]
        label = [{"text": context[start:end], "start": start} for start, end in places]
        rows.append((f"what is film {number} ?", context, label))
    return rows


def write_questions(directory, rows):
    texts, pairs, labels = (list(column) for column in zip(*rows, strict=True))
    return write_task(directory, texts, pairs, "question_answering", labels, ("start", "end"))


@pytest.mark.parametrize("pairs", ["one_side", "both_sides"])
def test_copies_of_questions_change_the_context_around_the_answers(run, tmp_path, pairs):
    rows = questions()
    config = AugmentConfig(copies=4, candidates=4, pairs=pairs)
    out, metrics = run(pairs, write_questions(tmp_path / "data", rows), config)
    assert metrics["copies"] > 3 * len(rows)
    moved = 0
    for text, pair, label, origin, _ in copies_in(out):
        question, context, answers = rows[origin]
        assert text == question
        assert pair != context
        assert len(pair.split()) == len(context.split())
        assert [answer["text"] for answer in label] == [answer["text"] for answer in answers]
        assert all(pair[one["start"] :].startswith(one["text"]) for one in label)
        moved += label != answers
    assert moved > len(rows)


def test_a_context_is_looked_at_once_whatever_is_asked_about_it(run, tmp_path, monkeypatch):
    asked = []
    propose = Proposer.propose
    monkeypatch.setattr(
        Proposer,
        "propose",
        lambda self, texts, pairs, side: asked.append((texts, pairs, side)) or propose(self, texts, pairs, side),
    )
    rows = questions()
    before, metrics = run("before", write_questions(tmp_path / "data", rows))
    assert asked == [(CONTEXTS, None, 0)]
    assert (metrics["rows"], metrics["proposed"]) == (9, 3)
    # Another question about a context that is known.
    grown = write_questions(tmp_path / "grown", [*rows, ("why ?", CONTEXTS[1], [])])
    after, metrics = run("after", grown, previous=before, model=tmp_path / "gone", vectors=tmp_path / "gone")
    assert (metrics["proposed"], metrics["reused"]) == (0, 3)
    assert copies_in(after)[: len(copies_in(before))] == copies_in(before)
    assert {origin for *_, origin, _ in copies_in(after)} == set(range(10))


def test_questions_about_a_context_are_in_one_shard(run, tmp_path):
    rows = questions()
    data = write_questions(tmp_path / "data", rows)
    parts = [run(f"part{shard}", data, shard=shard, shards=4) for shard in range(4)]
    assert sum(metrics["proposed"] for _, metrics in parts) == 3
    whole, _ = run("whole", data)
    assert sorted(map(str, copies_in(whole))) == sorted(str(copy) for out, _ in parts for copy in copies_in(out))


def test_recipes_do_not_move_words_that_labels_belong_to(run, tmp_path):
    data = write_task(tmp_path / "data", TEXTS, kind="token_classification", labels=TAGS, names=TAG_NAMES)
    with pytest.raises(AssertionError, match="nlpaug would move the words"):
        run("recipes", data, AugmentConfig(copies=1, recipes=[RecipeConfig(kind="swap")]))
