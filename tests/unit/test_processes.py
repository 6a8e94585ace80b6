"""Several processes train together, with the weights and losses of one; each ends as it should when one is killed."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from tests.unit.line import Line, Points, Uneven, fit, halfway, weights
from tinybert import processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Directory of what needs processes of its own, all done by one program."""
    root = tmp_path_factory.mktemp("jobs")
    ragged = {"processes": 2, "rows": 39, "fields": {"checkpoint_every": 2, "accumulation": 2}, "bucket": 2}
    alone = {"processes": 1, "signalled": 0, "dropout": 0.2}
    scored = {"processes": 2, "fields": {"checkpoint_every": 2, "learning_rate": 0.2}, "validated": True}
    listed = [
        {"directory": "two", **scored},
        {"directory": "chosen", **scored, "signalled": 1, "signal": signal.SIGKILL, "step": 13},
        {"directory": "chosen", **scored, "name": "again"},
        {"directory": "owing", **scored, "signal": signal.SIGTERM, "evaluation": 3},
        {"directory": "owing", **scored, "name": "again"},
        {"directory": "hungry", "processes": 2, "hungry": 1},
        {"directory": "broken", **scored, "broken": 1, "step": 8},
        {"directory": "ragged", **ragged},
        {"directory": "uneven", **ragged, "uneven": True},
        {"directory": "killed", **ragged, "signalled": 1, "signal": signal.SIGKILL, "step": 14},
        {"directory": "killed", **ragged, "name": "again"},
        {"directory": "told", "processes": 2, "signalled": 1, "signal": signal.SIGTERM, "step": 6},
        {"directory": "alone", **alone, "fields": {"checkpoint_every": 2}, "signal": signal.SIGKILL, "step": 8},
        {"directory": "asked", **alone, "signal": signal.SIGTERM, "step": 6},
    ]
    for job in listed:
        job.update({"name": "run", "rows": 40, "fields": {}} | job | {"directory": str(root / job["directory"])})
    (root / "jobs.json").write_text(json.dumps(listed))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unit.line", str(root / "jobs.json")]
    with (root / "log").open("w") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True, timeout=280)
    return root


def read(path):
    return json.loads(path.read_text())


def checkpoints(directory):
    return {path.name for path in (directory / "out-resume").glob("checkpoint-*")}


@pytest.mark.parametrize(
    ("name", "rows", "fields"),
    [("two", 40, {"learning_rate": 0.2}), ("ragged", 39, {"accumulation": 2}), ("uneven", 39, {})],
)
def test_two_processes_give_the_weights_and_losses_of_one(jobs, tmp_path, name, rows, fields):
    one, curve = Uneven() if name == "uneven" else Line(), []
    told = {"on_metrics": lambda metrics, step: curve.append((step, metrics)), **fields}
    metrics = fit(one, Points(rows), tmp_path, validation=halfway(one) if name == "two" else None, **told)
    assert read(jobs / name / "run.json") == [0, 0]
    first, second = (read(jobs / name / f"run-{rank}.json") for rank in range(2))
    assert [step for step, _ in first["curve"]] == [step for step, _ in curve]
    for (_, found), (_, expected) in zip(first["curve"], curve, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    for part in ("steps", "chosen_step", "loss"):
        assert first["metrics"][part] == second["metrics"][part] == pytest.approx(metrics[part], rel=1e-5)
    torch.testing.assert_close(torch.tensor(first["weights"]), weights(one), rtol=1e-5, atol=1e-6)


def test_the_first_process_alone_tells_and_writes(jobs):
    assert read(jobs / "two" / "run-1.json")["curve"] == []
    assert not list((jobs / "two" / "run-1" / "out").iterdir())
    assert (jobs / "two" / "out" / "selection.json").is_file()
    best = read(jobs / "two" / "out" / "selection.json")["chosen_step"]
    assert best in (5, 10)
    assert checkpoints(jobs / "two") == {f"checkpoint-{best}", "checkpoint-15"}


def test_a_process_is_killed_and_all_are_started_again(jobs):
    failed, killed = read(jobs / "killed" / "run.json")
    assert failed > 0  # it missed the other's gradients
    assert killed == -signal.SIGKILL
    assert read(jobs / "killed" / "again.json") == [0, 0]
    for rank in range(2):
        again, unbroken = (read(jobs / path / f"{name}-{rank}.json") for path, name in RESUMED)
        assert again["weights"] == unbroken["weights"]
    assert again["metrics"]["examples_per_second"] * again["metrics"]["seconds"] < 9 * 8 + 1  # from step 6 on


RESUMED = [("killed", "again"), ("ragged", "run")]


def test_sigterm_to_one_process_ends_all_by_it_and_none_as_if_done(jobs):
    assert read(jobs / "told" / "run.json") == [-signal.SIGTERM, -signal.SIGTERM]
    assert checkpoints(jobs / "told") == {"checkpoint-8"}  # told in step 6, agreed in 7, carried out after 8
    assert not (jobs / "told" / "run-0.json").exists()
    assert not (jobs / "told" / "out" / "selection.json").exists()


@pytest.mark.parametrize(
    ("name", "number", "left"),
    [("alone", signal.SIGKILL, {"checkpoint-4", "checkpoint-6"}), ("asked", signal.SIGTERM, {"checkpoint-6"})],
)
def test_a_signal_to_the_only_process(jobs, tmp_path, name, number, left):
    assert read(jobs / name / "run.json") == [-number]
    assert checkpoints(jobs / name) == left
    unbroken, resumed = Line(dropout=0.2), Line(dropout=0.2)
    fit(unbroken, Points(), tmp_path)
    fit(resumed, Points(), jobs / name)
    assert resumed.passes == 15 - max(int(checkpoint.removeprefix("checkpoint-")) for checkpoint in left)
    assert torch.equal(weights(resumed), weights(unbroken))


def test_what_was_chosen_before_a_kill_is_chosen_by_all_that_go_on(jobs):
    assert read(jobs / "chosen" / "run.json")[1] == -signal.SIGKILL
    check_as_unbroken(jobs, "chosen")


def test_sigterm_to_the_process_that_scores_ends_all_and_the_next_ones_score(jobs):
    assert read(jobs / "owing" / "run.json") == [-signal.SIGTERM, -signal.SIGTERM]
    check_as_unbroken(jobs, "owing")


def check_as_unbroken(jobs, name):
    """What began again there ended as `two` did, which nobody stopped."""
    assert read(jobs / name / "again.json") == [0, 0]
    again, unbroken = read(jobs / name / "again-0.json"), read(jobs / "two" / "run-0.json")
    assert again["weights"] == unbroken["weights"]
    for part in ("steps", "chosen_step", "validation_accuracy"):
        assert again["metrics"][part] == unbroken["metrics"][part]
    assert checkpoints(jobs / name) == checkpoints(jobs / "two")
    selections = [(jobs / directory / "out" / "selection.json").read_text() for directory in (name, "two")]
    assert selections[0] == selections[1]


def test_memory_may_run_out_in_one_of_two_processes(jobs, tmp_path):
    one = Line()
    fit(one, Points(), tmp_path)
    first, second = (read(jobs / "hungry" / f"run-{rank}.json")["weights"] for rank in range(2))
    assert first == second
    torch.testing.assert_close(torch.tensor(first), weights(one), rtol=1e-5, atol=1e-6)
    assert read(jobs / "hungry" / "out-resume" / "slices.json") == {"tokens": 2}  # half of its four rows


def test_a_loss_that_is_no_number_in_one_process_stops_both_in_the_same_step(jobs):
    assert read(jobs / "broken" / "run.json") == [1, 1]
    kept = {path.name for path in (jobs / "broken" / "out-resume").glob("*.safetensors")}
    assert kept == {f"not-finite-step-8-process-{rank}.safetensors" for rank in range(2)}
    assert checkpoints(jobs / "broken") == {"checkpoint-5", "checkpoint-6"}
    assert (jobs / "log").read_text().count("QualityError: test: gradient norm nan at step 8;") == 1
    assert (jobs / "log").read_text().count("QualityError: test: loss nan at step 8;") == 1


def test_processes_wait_for_one_another_as_long_as_a_validation_may_take(monkeypatch):
    joined = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processes.distributed, "init_process_group", lambda *how, **more: joined.append((how, more)))
    processes.join()
    assert joined == [(("gloo",), {"timeout": timedelta(hours=2)})]


def test_one_process_is_all_there_is_without_a_launcher():
    processes.join()
    assert (processes.processes(), processes.process()) == (1, 0)
    numbers = torch.tensor([1.0, 2.0])
    assert torch.equal(processes.summed(numbers), torch.tensor([1.0, 2.0]))
    assert processes.agreed({"accuracy": 0.5}) == {"accuracy": 0.5}
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    processes.sum_gradients([parameter])
    assert torch.equal(parameter.grad, torch.tensor([3.0, 4.0]))
