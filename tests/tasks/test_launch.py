"""Stages in several processes: they meet, tell, fail and end together, and compute what one computes."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from tasks import launch, sources
from tasks.checkpoints import mirrored
from tasks.connections import store
from tasks.policy import stage_key
from tasks.stage import run_stage
from tests.conftest import installation
from tinybert.config import CorpusConfig, GeneralConfig, MapConfig, StudentConfig
from tinybert.errors import ConfigError, QualityError, TransientError
from tinybert.refs import CorpusResult, ModelRef, ModelResult, SourceRef
from tinybert.resume import last_checkpoint, resume_beside
from tinybert.stages import corpus
from tinybert.training_config import LaunchConfig, OptimConfig

ROOT = Path(__file__).parents[2]
REHEARSAL = "tests.tasks.rehearsal"
TWO = LaunchConfig(processes=2)
RAY = LaunchConfig(processes=2, engine="ray", address="local")
STUDENT = StudentConfig(layers=2, hidden=16, ffn=32, heads=4)
OPTIM = OptimConfig(epochs=1, steps=6, batch_size=8, learning_rate=1e-3, dropout=0.0, precision="fp32")


class Rehearsal:
    """A stage directory, the calls of the metrics callback, and our log lines."""

    def __init__(self, root: Path) -> None:
        self.data, self.out, self.calls, self.lines = root / "data", root / "key" / "out", [], []
        self.data.write_text("10")
        self.out.mkdir(parents=True)

    def compute(self, how: LaunchConfig, then: str | None = None, **more) -> dict[str, float]:
        inputs = {"data": self.data, "config": OptimConfig(learning_rate=0.6), "then": then, "launch": how, **more}
        return launch.compute(REHEARSAL, "rehearsal", inputs, self.out, lambda *call: self.calls.append(call))

    @property
    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in resume_beside(self.out).glob("pid-*") if path.read_text()]


@pytest.fixture
def rehearsal(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made, handler, logger = Rehearsal(tmp_path), logging.Handler(), logging.getLogger("tinybert")
    handler.emit = lambda record: made.lines.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_one_process_is_this_one(rehearsal):
    metrics = rehearsal.compute(LaunchConfig())
    assert metrics == {"total": 10, "processes": 1, "threads": torch.get_num_threads()}
    assert rehearsal.pids == [os.getpid()]


def test_processes_work_together_and_the_first_one_tells(rehearsal):
    # 10 x (rank + 1), summed: 10 + 20. OMP_NUM_THREADS is 1 in the tests.
    assert rehearsal.compute(TWO) == {"total": 30, "processes": 2, "threads": 1}
    assert rehearsal.calls == [({"loss": 0.6}, 0), ({"loss": 0.3}, 1), ({"loss": pytest.approx(0.2)}, 2)]
    assert rehearsal.lines == ["rank 0 is here"]
    assert [path.name for path in rehearsal.out.iterdir()] == ["rank"]
    assert (rehearsal.out / "rank").read_text() == "0"
    met = [path.read_text() for path in resume_beside(rehearsal.out).glob("met-at-exit-*")]
    assert met == ["False", "False"], "gloo's threads, left to the interpreter's end, abort a process now and then"
    assert len(set(rehearsal.pids) - {os.getpid()}) == 2, "both saw the same directory of checkpoints"
    assert sorted(path.name for path in rehearsal.out.parent.iterdir()) == ["out", "out-resume"]


SECOND = "process 1 of 2 was ended by"


@pytest.mark.parametrize(
    ("then", "error", "message"),
    [
        ("quality", QualityError, "^accuracy 0.1; expected 0.5$"),
        ("killed", TransientError, f"^rehearsal: {SECOND} SIGKILL; if memory ran out, use fewer"),
        pytest.param("bug", RuntimeError, "(?s)process 1 failed.*ZeroDivisionError: one by", marks=pytest.mark.slow),
        pytest.param("terminated", TransientError, f"{SECOND} SIGTERM", marks=pytest.mark.slow),
        pytest.param("segmentation", RuntimeError, f"(?s){SECOND} SIGSEGV.*_fail", marks=pytest.mark.slow),
        pytest.param("exit", RuntimeError, "(?s)process 1 failed.*SystemExit: 3", marks=pytest.mark.slow),
    ],
)
def test_what_ends_one_process_ends_all_and_says_whose_move_it_is(rehearsal, then, error, message):
    with pytest.raises(error, match=message) as caught:
        rehearsal.compute(TWO, then)
    assert type(caught.value) is error
    assert len(rehearsal.calls) == 3
    assert not any(map(psutil.pid_exists, rehearsal.pids))
    assert sorted(path.name for path in rehearsal.out.parent.iterdir()) == ["out", "out-resume"]


LAUNCHING = """
import sys
from pathlib import Path
from tests.tasks.test_launch import Rehearsal, TWO
Rehearsal(Path(sys.argv[1])).compute(TWO, "wait")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_write_a_checkpoint_and_end_with_who_launched_them(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launching = subprocess.Popen([sys.executable, "-c", LAUNCHING, str(tmp_path)], env=environment, cwd=ROOT)
    resume = resume_beside(tmp_path / "key" / "out")
    try:
        eventually(lambda: len([*resume.glob("waiting-*")]) == 2)
        started = psutil.Process(launching.pid).children(recursive=True)
        assert len(started) >= 3, "the launcher and two processes"
    finally:
        launching.send_signal(number)
        launching.wait()
    eventually(lambda: not any(process.is_running() for process in started))
    assert sorted(path.name for path in resume.glob("checkpoint-*")) == ["checkpoint-0", "checkpoint-1"]


def eventually(happens) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_how_a_stage_is_launched_is_no_part_of_its_key():
    inputs = {"config": GeneralConfig(), "corpus": None}
    assert stage_key("general", inputs) == stage_key("general", {**inputs, "launch": TWO})
    assert stage_key("general", {**inputs, "launch": RAY}) == stage_key("general", {**inputs, "launch": TWO})
    assert stage_key("general", inputs) != stage_key("general", {**inputs, "config": GeneralConfig(enabled=False)})


def test_more_processes_than_gpus_are_refused(rehearsal, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"launch.processes is 2, but this machine shows 1 GPU\(s\); use that many"):
        rehearsal.compute(TWO)


def test_ray_that_is_not_installed_is_named(rehearsal, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"launch.engine is 'ray', which is not installed; pip install 'tinybert-p"):
        rehearsal.compute(RAY)


@pytest.fixture(scope="module")
def trained(smoke_material, tmp_path_factory):
    """A function that makes a general student, launched as it is told; all in one installation."""
    with installation(tmp_path_factory.mktemp("installation")) as home:
        teacher = sources.pin(f"file:{smoke_material}/teacher", ModelRef)
        text = sources.pin(f"file:{smoke_material}/corpus.txt", SourceRef)
        packed = run_stage(
            "corpus", CorpusResult, source=text, tokenizer=teacher, config=CorpusConfig(length=16)
        ).corpus
        inputs = {"corpus": packed, "teacher": teacher, "student": STUDENT, "layer_map": MapConfig()}

        def train(how: LaunchConfig, **fields) -> ModelResult:
            config = GeneralConfig(optim=OPTIM.model_copy(update=fields))
            return run_stage("general", ModelResult, **inputs, config=config, launch=how)

        train.home = home
        yield train


def check_equal(found: ModelResult, expected: ModelResult) -> None:
    """To rounding: the processes' sums come in another order."""
    assert found.metrics["steps"] == expected.metrics["steps"] == 6
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)
    one, two = (load_file(store().get(result.model) / "model.safetensors") for result in (found, expected))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(trained):
    two, one = trained(TWO), trained(LaunchConfig())
    check_equal(two, one)
    client = MlflowClient(f"sqlite:///{trained.home}/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("tinybert").experiment_id],
        "attributes.run_name = 'general'",
        order_by=["start_time"],
    )
    assert [run.data.params["launch.processes"] for run in runs] == ["2", "1"]
    curves = [[point.step for point in client.get_metric_history(run.info.run_id, "loss")] for run in runs]
    assert curves[0] == curves[1] == [1, 6]


@pytest.mark.slow
def test_what_two_processes_began_one_can_finish(smoke_material, tmp_path):
    tokens = tmp_path / "corpus"
    tokens.mkdir()
    text, teacher = smoke_material / "corpus.txt", smoke_material / "teacher"
    corpus.run(source=text, tokenizer=teacher, config=CorpusConfig(length=16), out=tokens, on_metrics=nothing)
    inputs = {"corpus": tokens, "teacher": teacher, "student": STUDENT, "layer_map": MapConfig()}
    inputs["config"] = GeneralConfig(optim=OPTIM.model_copy(update={"epochs": 100, "steps": 200}))

    def train(where: str, how: LaunchConfig, on_metrics) -> Path:
        out = tmp_path / where / "out"
        out.mkdir(parents=True, exist_ok=True)
        launch.compute("tinybert.stages.general", "key", {**inputs, "launch": how}, out, on_metrics)
        return out / "model.safetensors"

    def interrupt(metrics, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("both", TWO, interrupt)
    reached = last_checkpoint(tmp_path / "both" / "out-resume")
    assert reached is not None
    assert 0 < int(reached.rpartition("-")[2]) < 200
    steps = []
    both = load_file(train("both", LaunchConfig(), lambda metrics, step: steps.append(step)))
    assert steps[0] > int(reached.rpartition("-")[2])
    assert steps[-1] == 200
    for name, expected in load_file(train("one", LaunchConfig(), nothing)).items():
        torch.testing.assert_close(both[name], expected, rtol=1e-3, atol=1e-5)


def nothing(metrics, step):
    """No curves are wanted."""


@pytest.fixture
def ray_logs(monkeypatch):
    """Directory for Ray's files, with a short name, because sockets lie there too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("RAY_TMPDIR", directory)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)  # or Ray would write one into the home directory
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_of_a_ray_cluster_train_what_one_process_trains(trained, ray_nodes, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-to-be-written-down")
    there = LaunchConfig(processes=2, engine="ray", address=ray_nodes.address)
    check_equal(trained(there), trained(LaunchConfig()))
    left = [path for path in ray_nodes.logs.rglob("*") if path.is_file() and path.stat().st_size < 10_000_000]
    assert len(left) > 5
    assert not [path for path in left if b"never-to-be-written-down" in path.read_bytes()]
    assert not [*(trained.home / "store").glob("checkpoints/*")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_workers_begin_at_the_stored_checkpoint_and_fail_as_processes_do(rehearsal, ray_logs, tmp_path):
    checkpoint = tmp_path / "earlier" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 5, "best_model_checkpoint": null}')
    with installation(tmp_path):
        with pytest.raises(SystemExit), mirrored(store(), "rehearsal", checkpoint.parent):
            raise SystemExit
        data = sources.pin(f"file:{rehearsal.data}", SourceRef)
        with pytest.raises(
            TransientError, match=r"^rehearsal: process 1 was lost: The actor is dead because its worker"
        ):
            rehearsal.compute(RAY, "killed", data=data)
        with pytest.raises(QualityError, match=r"^accuracy 0.1; expected 0.5$"):
            rehearsal.compute(RAY, "quality", data=data)
    kept = resume_beside(rehearsal.out) / "not-finite-step-3.safetensors"
    assert kept.read_bytes() == b"its \xff batch", "a worker's directory goes with it"
    assert rehearsal.lines == ["continuing at checkpoint-5 from the store", "rank 0 is here"] * 2
    assert [step for _, step in rehearsal.calls] == [0, 1, 2] * 2


@pytest.mark.slow
def test_a_ray_cluster_that_does_not_answer_is_the_worlds_fault(rehearsal):
    nowhere = LaunchConfig(processes=2, engine="ray", address="127.0.0.1:9")
    with pytest.raises(TransientError, match=r"no Ray cluster answers at launch.address 127.0.0.1:9: .*refused"):
        rehearsal.compute(nowhere)
