"""A stage in miniature, for the launcher's tests: it meets the other processes, sums, tells, and fails as asked."""

import atexit
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed

from tinybert.errors import QualityError
from tinybert.interruption import Interruption
from tinybert.resume import resume_beside
from tinybert.training_config import OptimConfig


def run(*, data: Path, config: OptimConfig, then: str | None, out: Path, on_metrics) -> dict[str, float]:
    """Sum over the processes what stands in `data`, times the rank; leave a file in `out`, a checkpoint beside it."""
    rank = int(os.environ.get("RANK", "0"))
    size = 1
    if "RANK" in os.environ:
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        size = distributed.get_world_size()
    total = torch.tensor([float(data.read_text()) * (rank + 1)])
    if size > 1:
        distributed.all_reduce(total)
    logging.getLogger("tinybert").info("rank %d is here", rank)
    (out / "rank").write_text(str(rank))
    resume_beside(out).mkdir(exist_ok=True)
    (resume_beside(out) / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(3):
        on_metrics({"loss": config.learning_rate / (step + 1)}, step)
    if rank == size - 1:
        _fail(then, resume_beside(out))
    if then == "wait":
        _wait(resume_beside(out), rank)
    if size > 1:
        distributed.barrier()
        atexit.register(_tell_at_exit, resume_beside(out) / f"met-at-exit-{rank}")
    return {"total": total.item(), "processes": float(size), "threads": float(torch.get_num_threads())}


def _fail(then: str | None, resume: Path) -> None:
    match then:
        case "quality":
            (resume / "not-finite-step-3.safetensors").write_bytes(b"its \xff batch")
            raise QualityError("accuracy 0.1; expected 0.5")
        case "bug":
            raise ZeroDivisionError("one by nothing")
        case "exit":
            sys.exit(3)
        case "killed" | "segmentation":
            os.kill(os.getpid(), signal.SIGKILL if then == "killed" else signal.SIGSEGV)
        case "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)


def _tell_at_exit(file: Path) -> None:
    """Whether this process still belongs to a group; on Ray its directory is gone by then."""
    if file.parent.exists():
        file.write_text(str(distributed.is_initialized()))


def _wait(resume: Path, rank: int) -> None:
    """Until SIGTERM, then a checkpoint."""
    with Interruption() as interruption:
        (resume / f"waiting-{rank}").touch()
        while not interruption.asked:
            time.sleep(0.05)
        (resume / f"checkpoint-{rank}").touch()
