"""What must hold after a fault: the store is whole, no slot is taken for good, no process is left."""

import contextlib
import hashlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

MANIFEST = ".manifest.json"
LEASE = 300
"""Seconds for which Prefect's server lends a slot."""


@dataclass
class Kept:
    """What lies below a prefix of the store; artifacts are named kind/digest."""

    files: dict[str, set[str]] = field(default_factory=dict)
    """Of each whole artifact."""
    damaged: list[str] = field(default_factory=list)
    """Those whose files are not what their manifest says."""
    unfinished: list[str] = field(default_factory=list)
    """Those without a manifest: what a kill leaves, and nobody takes for an artifact."""

    def made(self) -> set[str]:
        """The artifacts that are the same whenever the same run is made: without measured times, without leftovers."""
        timed = {name for name, files in self.files.items() if "evaluation.json" in files}  # packages
        return {name for name in self.files.keys() - timed if name.split("/")[0] not in ("report", "checkpoints")}


def look_through(client: Any, bucket: str, prefix: str) -> Kept:
    """Read every object below a prefix and compare it with the manifests."""
    found: dict[str, dict[str, bytes]] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            kind, digest, *rest = item["Key"].removeprefix(prefix).split("/")
            if kind != "pointers":
                body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                found.setdefault(f"{kind}/{digest}", {})["/".join(rest)] = body
    kept = Kept()
    for name, files in found.items():
        if MANIFEST not in files:
            kept.unfinished.append(name)
        elif not _is_whole(name, files):
            kept.damaged.append(name)
        else:
            kept.files[name] = files.keys() - {MANIFEST}
    return kept


def _is_whole(name: str, files: dict[str, bytes]) -> bool:
    """Each file has the digest in the manifest, and all of them the digest in the name."""
    expected = {file: entry["sha256"] for file, entry in json.loads(files[MANIFEST])["files"].items()}
    actual = {file: hashlib.sha256(body).hexdigest() for file, body in files.items() if file != MANIFEST}
    together = json.dumps(actual, sort_keys=True, separators=(",", ":")).encode()
    return actual == expected and hashlib.sha256(together).hexdigest() == name.partition("/")[2]


def slots_taken(api: str) -> int:
    """Slots of all concurrency limits that somebody holds, or held when he was killed."""
    answer = httpx.post(f"{api}/v2/concurrency_limits/filter", json={}, timeout=30, trust_env=False)
    answer.raise_for_status()
    return sum(limit["active_slots"] for limit in answer.json())


def slots_on_lease(leases: Path) -> int:
    """Slots that come free by themselves within `LEASE` seconds, because nobody renews the lease they are held on."""
    slots = 0
    for file in leases.glob("*-*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            lease = json.loads(file.read_text())
            remaining = datetime.fromisoformat(lease["expiration"]) - datetime.now(UTC)
            if remaining.total_seconds() <= LEASE:
                slots += lease["metadata"]["slots"] * len(lease["resource_ids"])
    return slots


def processes_of(runs: Collection[str]) -> list[psutil.Process]:
    """Processes that work for these flow runs, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("PREFECT__FLOW_RUN_ID") in runs:
                found.append(process)
    return found


def left_after(seconds: float, runs: Collection[str]) -> list[psutil.Process]:
    """Processes of runs that have ended which are still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(runs)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
