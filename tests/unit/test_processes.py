"""Several processes train together: the same weights as one, and each ends as it should when one is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.line import Line, Points, fit, halfway, weights

ROOT = Path(__file__).parents[2]
EVERY_TWO = {"checkpoint_every": 2}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The jobs that need processes of their own, all done by one program."""
    root = tmp_path_factory.mktemp("jobs")

    def job(directory, name, processes=1, rows=40, fields=None, **more):
        fields = {"checkpoint_every": 2, **(fields or {})}
        return {"directory": str(root / directory), "name": name, "processes": processes, "rows": rows, "fields": fields, **more}

    killed = {"signalled": 1, "signal": signal.SIGKILL, "step": 8}
    told = {"signalled": 1, "signal": signal.SIGTERM, "step": 6}
    listed = [
        job("two", "whole", 2, selection={}),
        job("ragged", "whole", 2, rows=39, fields={"accumulation": 2}),
        job("killed", "broken", 2, rows=39, dropout=0.2, **killed),
        job("killed", "again", 2, rows=39, dropout=0.2),
        job("unbroken", "whole", 2, rows=39, dropout=0.2),
        job("told", "broken", 2, **told),
        job("told", "again", 2),
        job("alone", "killed", dropout=0.2, **{**killed, "signalled": 0}),
        job("terminated", "told", fields={"checkpoint_every": 500}, dropout=0.2, **{**told, "signalled": 0}),
        job("few", "refused", 2, rows=1),
    ]
    (root / "jobs.json").write_text(json.dumps(listed))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unit.line", str(root / "jobs.json")]
    with (root / "log").open("w") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True, timeout=200)
    return root
