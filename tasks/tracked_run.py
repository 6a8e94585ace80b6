"""A run as the stages see it: what they say is queued and told to MLflow when it answers."""

import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from tasks import spool as events
from tasks.spool import Artifact, Close, Event, Input, Metrics, Params, Queue, Start, Status, Tags
from tinybert.refs import Ref

if TYPE_CHECKING:
    from tasks.tracking import Tracker

log = logging.getLogger("tinybert")

METRICS_PER_FLUSH = 500
LARGEST_ARTIFACT = 16 * 2**20


class TrackedRun:
    """A run, seen from the code that does the work: no method raises because of MLflow, or waits long for it.

    `recorded` are the events of a run that was closed in an outage, to be told now.
    """

    def __init__(self, tracker: "Tracker", start: Start, recorded: list[Event] | None = None) -> None:
        self._tracker, self._start = tracker, start
        self._queue = Queue(tracker.outage, recorded or [])
        self._live, self._closed = recorded is None, False
        self._asked = not self._live
        self._run_id = start.run_id
        self._pending, self._flushed = 0, time.monotonic()
        self._warned_of_values = False
        if self._live:
            self.flush()

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while an outage keeps the run from being created."""
        return self._run_id

    @property
    def url(self) -> str | None:
        """The run's page; None without a server or before the run exists."""
        return self._run_id and self._tracker.page(self._start.experiment, self._run_id)

    def log_config(self, config: BaseModel) -> None:
        """The fields as dotted parameters, and the whole as the artifact config.json."""
        self._add(Params(values=events.flattened(config)))
        self.log_text(config.model_dump_json(indent=2), "config.json")

    def log_input(self, ref: Ref, role: str) -> None:
        """What the run reads, and as what."""
        self._add(Input(role=role, uri=ref.uri, digest=ref.digest))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Values at a step; sent every `flush_seconds` (looked at in this call only) or 500 values."""
        values = {events.allowed_name(name): float(value) for name, value in metrics.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if len(finite) < len(values) and not self._warned_of_values:
            self._warned_of_values = True
            odd = ", ".join(sorted(values.keys() - finite.keys()))
            log.warning("%s, step %d: not finite, not logged: %s", self._start.name, step, odd)
        self._pending += len(finite)
        due = time.monotonic() - self._flushed >= self._tracker.flush_seconds
        self._add(Metrics(step=step, values=finite), flush=due or self._pending >= METRICS_PER_FLUSH)

    def log_text(self, text: str, path: str) -> None:
        """A text as an artifact at the path."""
        self._log_artifact(text.encode(), path)

    def log_file(self, file: Path) -> None:
        """A small file as an artifact of the same name; the file may go away afterwards."""
        self._log_artifact(file.read_bytes(), file.name)

    def log_table(self, file: Path) -> None:
        """A table, as JSON of `columns` and `data`, that MLflow's pages show as one."""
        self.log_file(file)
        self.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": file.name, "type": "table"}])})

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set or replace tags."""
        self._add(Tags(values=events.allowed_tags(tags)))

    def close(self, status: Status) -> None:
        """End the run, once. What MLflow does not take now goes to the spool directory."""
        if self._closed:
            return
        self._add(Close(status=status), flush=False)
        self._closed = True
        if not self.flush(insist=True):
            self._write_spool()

    def flush(self, insist: bool = False) -> bool:
        """Tell MLflow what is queued; `insist` asks it even where it did not answer a moment ago."""
        told = self._queue.flush(self._tell, insist)
        self._pending, self._flushed = 0, time.monotonic()
        return told

    def _tell(self, batch: list[Event]) -> None:
        if self._run_id is None:
            asked, self._asked = self._asked, True
            self._run_id = self._tracker.open_run(self._start, reopen=self._live, asked=asked)
        if batch:
            self._tracker.tell(self._run_id, batch)

    def _log_artifact(self, content: bytes, path: str) -> None:
        if len(content) > LARGEST_ARTIFACT:
            size = len(content) // 2**20
            log.warning("%s has %d MB, MLflow is given 16 at most; put it in the object store", path, size)
        else:
            self._add(Artifact(path=path, content=content))

    def _add(self, event: Event, flush: bool = True) -> None:
        if self._closed:
            log.warning("%s is closed; %s not logged", self._start.name, type(event).__name__.lower())
            return
        self._queue.add(event)
        if flush:
            self.flush()

    def _write_spool(self) -> None:
        start = self._start.model_copy(update={"run_id": self._run_id})
        try:
            file = events.write(start, self._queue, self._tracker.spool)
        except OSError as error:
            log.warning("%s: MLflow is out and the spool cannot be written, logs are lost: %s", start.name, error)
        else:
            log.warning("%s: MLflow is out; the rest waits in %s for Tracker.replay", start.name, file)
