"""Which code a run was computed by."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str:
    """The commit this code stands at; empty outside a git checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
