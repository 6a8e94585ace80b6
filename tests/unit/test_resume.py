"""Which checkpoint a killed run continues from, and whether anything is left to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinybert.resume import continue_from, is_finished, last_checkpoint, read_state, resume_beside

ROOT = Path(__file__).parents[2]


def write_checkpoint(directory, step, best=None, stopped=False, owed=False):
    """As the Trainer leaves it, as far as it matters here."""
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    state = {
        "global_step": step,
        "best_model_checkpoint": best,
        "stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": stopped, "should_evaluate": owed}}},
    }
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


def test_the_newest_whole_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    for step in (9, 10):
        write_checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("left", [None, "", '{"global_step": 100, "best_mo'])
def test_a_checkpoint_cut_off_by_a_kill_does_not_count(tmp_path, left):
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "checkpoint-100" / "optimizer.pt").touch()
    if left is not None:
        (tmp_path / "checkpoint-100" / "trainer_state.json").write_text(left)
    assert read_state(tmp_path / "checkpoint-100") is None
    assert last_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 9)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


def test_a_checkpoint_without_its_best_predecessor_does_not_count(tmp_path):
    write_checkpoint(tmp_path, 5, best="/elsewhere/out-resume/checkpoint-5")
    write_checkpoint(tmp_path, 15, best="/elsewhere/out-resume/checkpoint-10")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    write_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-15")


def test_the_best_checkpoint_is_looked_for_beside(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 15, best="/elsewhere/out-resume/checkpoint-10")
    state = continue_from(checkpoint)
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-10")
    assert read_state(checkpoint) == state  # which the Trainer reads
    assert [path.name for path in checkpoint.iterdir()] == ["trainer_state.json"]


def test_another_process_of_the_stage_may_come_in_between(tmp_path, monkeypatch):
    """Those of one machine read the same checkpoint, and each says where the best one lies."""
    checkpoint = write_checkpoint(tmp_path, 15, best="/elsewhere/out-resume/checkpoint-10")
    code = f"import pathlib, tinybert.resume; tinybert.resume.continue_from(pathlib.Path({str(checkpoint)!r}))"
    replace = Path.replace

    def overtaken(self, target):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", overtaken)
    state = continue_from(checkpoint)
    assert read_state(checkpoint) == state
    assert [path.name for path in checkpoint.iterdir()] == ["trainer_state.json"]


def test_a_checkpoint_without_a_best_one_is_left_alone(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 15)
    before = (checkpoint / "trainer_state.json").read_bytes()
    assert continue_from(checkpoint)["global_step"] == 15
    assert (checkpoint / "trainer_state.json").read_bytes() == before


@pytest.mark.parametrize(("step", "stopped", "finished"), [(9, False, False), (10, False, True), (7, True, True)])
def test_the_end_is_the_last_step_or_patience(tmp_path, step, stopped, finished):
    state = read_state(write_checkpoint(tmp_path, step, stopped=stopped))
    assert is_finished(state, steps=10) is finished


def test_an_evaluation_that_was_interrupted_is_still_to_come(tmp_path):
    assert not is_finished(read_state(write_checkpoint(tmp_path, 10, owed=True)), steps=10)


def test_it_lies_beside_the_output(tmp_path):
    assert resume_beside(tmp_path / "a") == tmp_path / "a-resume"
