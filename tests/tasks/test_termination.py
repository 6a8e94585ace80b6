"""A run from the command line that is asked to end: a checkpoint, one line, its status, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LONG = ["--set", "mlm.optim.steps=1000000", "--set", "mlm.optim.epochs=1000"]
GOODBYE = {
    signal.SIGTERM: "terminated; the same command continues where this run stopped",
    signal.SIGINT: "interrupted; the same command continues where this run stopped",
}


def heard() -> None:
    """What started the tests may have its processes ignore signals, and ours would inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Run:
    """The smoke preset without a server, at work in a directory of its own."""

    def __init__(self, directory: Path, material: Path) -> None:
        self.directory, self.said = directory, directory / "said"
        (directory / "build").mkdir()
        (directory / "build" / "smoke").symlink_to(material)
        unset = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH", "MLFLOW_TRACKING_URI")
        environment = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("TINYBERT_")}
        environment["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-m", "flows.distill", "--preset", "smoke", *LONG]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=heard,
            )

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 600
        while words not in self.said.read_text():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.1)

    def servers(self) -> list[psutil.Process]:
        """Prefect's temporary servers of this run."""
        home, found = str(self.directory / "build" / "prefect"), []
        for process in psutil.process_iter():
            try:
                if process.pid != self.process.pid and process.environ().get("PREFECT_HOME") == home:
                    found.append(process)
            except psutil.Error:
                pass
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def checkpoints(self) -> list[Path]:
        return [*(self.directory / "build" / "work").glob("mlm-*/out-resume/checkpoint-*")]


@pytest.fixture
def training(tmp_path, smoke_material):
    """A run in the middle of its first training stage."""
    run = Run(tmp_path, smoke_material)
    try:
        run.wait_for("mlm  step")
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        for server in run.servers():
            server.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "to", "status"),
    [
        pytest.param(signal.SIGTERM, os.kill, 143, id="SIGTERM"),
        pytest.param(signal.SIGTERM, os.killpg, 143, id="SIGTERM to the group, as timeout sends it"),
        pytest.param(signal.SIGINT, os.killpg, 130, id="Ctrl-C"),
        pytest.param(signal.SIGHUP, os.killpg, 143, id="the terminal is closed"),
    ],
)
def test_a_run_that_is_asked_to_end_does_so_in_time(training, number, to, status):
    [_] = training.servers()
    to(training.process.pid, number)
    assert training.process.wait(timeout=30) == status
    said = training.said.read_text()
    expected = GOODBYE.get(number, GOODBYE[signal.SIGTERM])
    assert said.splitlines()[-1] == expected
    assert said.count(expected) == 1
    assert not [words for words in ("Traceback", "Crash detected", "attempted to send logs") if words in said]
    assert number == signal.SIGINT or "SIGTERM: a checkpoint, then the end" in said
    assert number == signal.SIGINT or training.checkpoints()
    assert training.servers() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_server_died_ends_in_time_too(training):
    [server] = training.servers()
    server.kill()
    training.process.send_signal(signal.SIGTERM)
    assert training.process.wait(timeout=30) == 143
    assert training.said.read_text().splitlines()[-1] == GOODBYE[signal.SIGTERM]
    assert training.checkpoints()
