"""A teacher's answers are found by the runs that can copy them: a row is scored once while data sets come and grow."""

import pytest
import torch
from prefect import flow
from transformers import AutoTokenizer, BertForSequenceClassification

from tasks.connections import store
from tasks.data import StatesWanted
from tasks.distillation import ask_teacher
from tinybert.config import TargetsConfig
from tinybert.data import SPLITS, RowWriter, write_manifest
from tinybert.kinds import KINDS
from tinybert.refs import DatasetRef, ModelRef

NO_STATES = (StatesWanted(), None, TargetsConfig())
FILMS, CASTS = ([f"the {word} {number}" for number in range(99)] for word in ("film", "cast"))


@pytest.fixture
def teacher(home, smoke_material, tmp_path):
    torch.manual_seed(3)
    tuned = BertForSequenceClassification.from_pretrained(smoke_material / "teacher", num_labels=2)
    tuned.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(smoke_material / "teacher").save_pretrained(tmp_path / "teacher")
    return ModelRef(**store().put("model", tmp_path / "teacher").model_dump())


@pytest.fixture
def ask(teacher, tmp_path):
    """Ask the teacher about texts in a run of this name; gives how many it scored, and how many it copied."""

    @flow(flow_run_name="{name}")
    def run(name: str, data: DatasetRef, precision: str, kept: tuple[StatesWanted, str | None, TargetsConfig]):
        return ask_teacher(data, teacher, kept[0], precision, *kept[1:], None).metrics

    def ask(name, texts, precision="fp32", kept=NO_STATES):
        directory = tmp_path / f"{name} {len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        for split in SPLITS:
            with RowWriter(directory / f"{split}.arrow", KINDS["classification"]) as writer:
                for number, text in enumerate(texts if split == "train" else texts[:2]):
                    writer.add(text, None, number % 2, number)
        write_manifest(directory, ["bad", "good"], 16)
        ref = store().put("dataset", directory)
        metrics = run(name, DatasetRef(**ref.model_dump()), precision, kept)
        return metrics["scored"], metrics["reused"]

    return ask


def test_a_run_with_few_rows_costs_the_next_night_nothing(ask):
    assert ask("films", FILMS[:20]) == (20, 0)
    assert ask("films", CASTS[:4]) == (4, 0)
    assert ask("films", FILMS[:21]) == (1, 20)


def test_of_data_sets_that_grow_side_by_side_only_new_rows_are_scored(ask):
    """Both are of one size; after two nights one falls below a power of two (32), and the other passes one (64)."""
    nights = [((0, 33), (0, 33)), ((0, 34), (0, 34)), ((4, 35), (0, 70)), ((5, 36), (0, 71))]
    found = [(ask("films", FILMS[slice(*one)]), ask("casts", CASTS[slice(*two)])) for one, two in nights]
    assert [one for one, _ in found] == [(33, 0), (1, 33), (1, 30), (1, 30)]
    assert [two for _, two in found] == [(33, 0), (1, 33), (36, 34), (1, 70)]


def test_another_run_finds_the_answers_of_any(ask):
    ask("films", FILMS[:20])
    assert ask("films-6", FILMS[1:21]) == (1, 19)


def test_answers_at_another_precision_are_not_copied(ask):
    ask("films", FILMS[:20])
    assert ask("films", FILMS[:21], precision="bf16") == (21, 0)


def test_a_pointer_belongs_to_its_teacher(ask, teacher):
    ask("films", FILMS[:20])
    keys = {pointer.key for pointer in store().pointers()}
    assert keys == {f"{teacher.digest}-fp32-5", f"{teacher.digest}-fp32-5-films"}


def test_the_states_precision_makes_other_answers(ask):
    kept = [StatesWanted(mapped=[2, 4], attention="scores"), "fp32", TargetsConfig(states_gb=1)]
    assert ask("films", FILMS[:20], kept=tuple(kept)) == (20, 0)
    kept[1] = "bf16"
    assert ask("films", FILMS[:20], kept=tuple(kept)) == (0, 20)
    assert len([found for found in store().artifacts() if found.kind == "targets"]) == 2
