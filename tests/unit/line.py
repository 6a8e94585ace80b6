"""A model of five weights that trains in milliseconds, and a program that trains it in processes of its own.

`python -m tests.unit.line JOBS.json` works through a list of jobs. Importing torch takes seconds, forking none, so
one program serves all jobs: it forks the processes of each job, waits for them, and writes down how they ended.
"""

import json
import math
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinybert import processes
from tinybert.batches import Rows
from tinybert.learner import Learner, Validation
from tinybert.training import train
from tinybert.training_config import OptimConfig, SelectionConfig


class Line(Learner):
    """y = w x + b under a mean squared error; dropout makes it depend on the random numbers."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.passes = 0

    def forward(self, **batch):
        self.passes += 1
        predicted = self.line(self.dropout(batch["x"])).squeeze(-1)
        return {"loss": (predicted - batch["y"]).square().mean(), "bias": self.line.bias.sum()}


class Uneven(Line):
    """Its loss is a mean over what the rows hold of something, as that of tags is one over words."""

    def forward(self, **batch):
        predicted, held = self.line(batch["x"]).squeeze(-1), batch["x"][:, 0].abs().round()
        loss = ((predicted - batch["y"]).square() * held).sum() / held.sum().clamp(min=1)
        return {"loss": loss, "bias": self.line.bias.sum()}

    def items(self, batch):
        return int(batch["x"][:, 0].abs().round().sum())


class Hungry(Line):
    """Runs out of memory above a number of rows."""

    def __init__(self, most):
        super().__init__()
        self.most, self.failures = most, 0

    def forward(self, **batch):
        if len(batch["x"]) > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("Tried to allocate 20.00 MiB")
        return super().forward(**batch)


class Broken(Line):
    """Its loss is no number from a pass on."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, **batch):
        terms = super().forward(**batch)
        return terms | {"loss": terms["loss"] * (math.nan if self.passes >= self.at else 1.0)}


class Points(Rows):
    """y = the sum of x, plus 1."""

    def __init__(self, count=40):
        torch.manual_seed(1)
        self.x = torch.randn(count, 4)
        self.lengths = np.full(count, 3, np.int32)

    def __len__(self):
        return len(self.x)

    def batch(self, rows, chance):
        return {"x": self.x[rows], "y": self.x[rows].sum(1) + 1}


def fit(learner, rows, directory, on_metrics=lambda metrics, step: None, validation=None, **fields):
    """Train below a directory, on plain settings but for the fields given."""
    plain = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "precision": "fp32"}
    (directory / "out").mkdir(parents=True, exist_ok=True)
    return train("test", learner, rows, OptimConfig(**plain | fields), directory / "out", on_metrics, validation)


def weights(learner):
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


def halfway(learner, **selection):
    """Scores that are highest where the bias, on its way to 1, passes 0.4; they follow from the weights alone."""
    return Validation(
        lambda check: {"f1_macro": 0.5, "accuracy": 1 - abs(float(learner.line.bias.detach()) - 0.4)},
        "accuracy",
        SelectionConfig(**selection),
    )


def told_while_scored(validation, number, evaluation):
    """The same scores; in the middle of an evaluation, counted from 1, this process gets a signal."""
    calls = []

    def score(check):
        calls.append(check)
        if len(calls) == evaluation:
            os.kill(os.getpid(), number)
        check()
        return validation.score(check)

    return Validation(score, validation.metric, validation.selection)


class Signalled(Line):
    """Sends a signal to its own process in the forward pass of a step."""

    def __init__(self, number, step, **more):
        super().__init__(**more)
        self.number, self.step = number, step

    def forward(self, **batch):
        terms = super().forward(**batch)
        if self.passes == self.step:
            os.kill(os.getpid(), self.number)
        return terms


def _directory(job, rank):
    """Where a process writes: as `tasks.launched` has it, only that of rank 0 counts, and checkpoints are shared."""
    directory = Path(job["directory"])
    if rank == 0:
        return directory
    own = directory / f"{job['name']}-{rank}"
    own.mkdir()
    (own / "out-resume").symlink_to(directory / "out-resume", target_is_directory=True)
    return own


def _learner(job, rank):
    """A process' own: one of them may be told to end, or have a fault."""
    dropout = job.get("dropout", 0.0)
    if rank == job.get("signalled"):
        return Signalled(job["signal"], job["step"], dropout=dropout)
    if rank == job.get("broken"):
        return Broken(job["step"])
    if rank == job.get("hungry"):
        return Hungry(most=2)
    return Uneven() if job.get("uneven") else Line(dropout)


def _work(job, rank, port):
    """One process of a job."""
    if job["processes"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["processes"]))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes.BUCKET = job.get("bucket", processes.BUCKET)
    learner = _learner(job, rank)
    validation = halfway(learner) if job.get("validated") else None
    if "evaluation" in job:
        validation = told_while_scored(validation, job["signal"], job["evaluation"])
    rows, curve = Points(job["rows"]), []
    told = {"on_metrics": lambda metrics, step: curve.append((step, metrics)), **job["fields"]}
    metrics = fit(learner, rows, _directory(job, rank), validation=validation, **told)
    result = {"metrics": metrics, "curve": curve, "weights": weights(learner).tolist()}
    Path(job["directory"], f"{job['name']}-{rank}.json").write_text(json.dumps(result))


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(jobs):
    """Write `NAME-RANK.json` for each process that trained to the end, and `NAME.json` with all exit codes."""
    forked = multiprocessing.get_context("fork")
    for job in jobs:
        Path(job["directory"], "out-resume").mkdir(parents=True, exist_ok=True)
        port = _free_port()
        started = [forked.Process(target=_work, args=(job, rank, port)) for rank in range(job["processes"])]
        for process in started:
            process.start()
        for process in started:
            process.join(60)
            process.kill()
            process.join()
        exits = [process.exitcode for process in started]
        Path(job["directory"], f"{job['name']}.json").write_text(json.dumps(exits))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
