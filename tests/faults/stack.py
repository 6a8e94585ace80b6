"""The real stack as the faults need it: quick to pick runs up, slots enough, parts that can be killed."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.stack import control, postgres, settings, supervisor
from infra.stack.parts import parts
from tests.infra.test_stack import PATIENCE, Stack, bucket_client

ADDED = "PREFECT_WORKER_QUERY_SECONDS=1\nOMP_NUM_THREADS=1\n"
"""Lines for `.env`: a run is picked up at once, and one thread computes the same numbers every time."""
SLOTS = 1000
"""Of `accelerator`: the slot of a killed run is taken until its lease ends, for which hundreds of runs would wait five
minutes each. So no run of the harness ever finds all slots taken; that each slot comes free is looked at in the end."""


class FaultStack(Stack):
    """A stack of its own directory and ports, up between `bring_up` and `take_down`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.layout.make()
        database = "sqlite" if postgres.why_not(self.layout) else "postgresql"
        settings.create(self.layout.env, database)
        with self.layout.env.open("a") as file:
            file.write(ADDED)
        self.known = settings.load(self.layout.env)

    def bring_up(self) -> None:
        """Start it, and wait until it is healthy."""
        self.start()
        self.set_slots(SLOTS)

    def set_slots(self, slots: int) -> None:
        """How many stages may compute at once."""
        url = f"{self.api}/v2/concurrency_limits/accelerator"
        httpx.patch(url, json={"limit": slots}, timeout=30, trust_env=False).raise_for_status()

    def take_down(self) -> int:
        """Stop it.

        Returns:
            How many of its processes are left.
        """
        self.run("down")
        if self.up is not None:
            self.up.wait(timeout=60)
        return len(self.processes())

    def kill(self, name: str) -> bool:
        """Kill a part; False if it is not up and well."""
        if not self._is_well(name):
            return False
        process = psutil.Process((supervisor.processes(self.layout) or {})[name]["pid"])
        process.kill()
        psutil.wait_procs([process], timeout=10)
        return True

    def settle(self) -> None:
        """Wait until every part is up and well: the supervisor brings back what was killed."""
        deadline = time.monotonic() + PATIENCE
        while not all(self._is_well(name) for name in self.part_names):
            assert time.monotonic() < deadline, self.run("status").stdout
            time.sleep(0.5)

    def _is_well(self, name: str) -> bool:
        state = (supervisor.processes(self.layout) or {}).get(name)
        return state is not None and control.is_healthy(self._parts[name], state)

    @cached_property
    def _parts(self) -> dict[str, Any]:
        return parts(self.layout, self.known)

    @property
    def part_names(self) -> list[str]:
        """Of those that run all the time."""
        return [name for name, part in self._parts.items() if not part.once]

    @property
    def api(self) -> str:
        """Of Prefect's server."""
        return f"{self.known.prefect_url}/api"

    def get(self, path: str) -> Any:
        """What Prefect's server says."""
        answer = httpx.get(f"{self.api}{path}", timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """What Prefect's server says to this."""
        answer = httpx.post(f"{self.api}{path}", json=body, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    @cached_property
    def bucket(self) -> tuple[Any, str]:
        """A client for the S3 server itself, and the bucket's name."""
        return bucket_client(self.known), self.known.s3_bucket

    def students(self, name: str) -> set[str]:
        """Digests of the students that are registered as versions of a model."""
        url = f"{self.known.mlflow_url}/api/2.0/mlflow/model-versions/search"
        answer = httpx.get(url, params={"filter": f"name='{name}'"}, timeout=60, trust_env=False)
        answer.raise_for_status()
        versions = answer.json().get("model_versions", [])
        return {tag["value"] for version in versions for tag in version["tags"] if tag["key"] == "student.digest"}
