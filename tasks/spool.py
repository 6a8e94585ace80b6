"""The outage buffer: what a run has to say, as events in order, kept in files while MLflow does not answer.

One file holds one run: JSON lines, the first a `Start`. `tasks.tracking` knows how to tell them.
"""

import contextlib
import fcntl
import json
import logging
import os
import posixpath
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

log = logging.getLogger("tinybert")

Status = Literal["FINISHED", "FAILED", "KILLED"]

LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 8000
"""Characters MLflow accepts."""
METRICS_PER_CALL = 1000
"""Values MLflow accepts at once."""


def now() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


class Event(BaseModel):
    """Something to be told to MLflow, and when it happened."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    at: int = Field(default_factory=now)


class Start(Event):
    """A run began. Without a stage it is the run of the flow itself, the parent of its stages."""

    kind: Literal["start"] = "start"
    experiment: str
    flow_run: str
    stage: str | None = None
    """Unique key of a stage's run: a creation whose answer was lost is found by it, not repeated."""
    name: str
    tags: dict[str, str]
    run_id: str | None = None
    """MLflow's own id where the run exists already."""


class Metrics(Event):
    """Finite values at one step."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float]


class Params(Event):
    """The configuration."""

    kind: Literal["params"] = "params"
    values: dict[str, str]


class Tags(Event):
    """Tags of the run; later values replace earlier ones."""

    kind: Literal["tags"] = "tags"
    values: dict[str, str]


class Input(Event):
    """An artifact the run reads."""

    kind: Literal["input"] = "input"
    role: str
    uri: str
    digest: str


class Artifact(Event):
    """A small file, by content: the original may be gone when MLflow is back."""

    kind: Literal["artifact"] = "artifact"
    path: str
    content: bytes


class Close(Event):
    """The run ended."""

    kind: Literal["close"] = "close"
    status: Status


_EVENT: TypeAdapter[Event] = TypeAdapter(
    Annotated[
        Start | Metrics | Params | Tags | Input | Artifact | Close,
        Field(discriminator="kind"),
    ]
)


def allowed_name(name: str) -> str:
    """The nearest name MLflow accepts for a metric, parameter or tag; labels may contain anything."""
    cleaned = re.sub(r"[^\w./ :-]", "_", name)[:LONGEST_NAME].strip("/")
    return posixpath.normpath("/" + cleaned)[1:] or "_"


def allowed_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags with names and lengths that MLflow accepts."""
    return {allowed_name(name): str(value)[:LONGEST_TAG] for name, value in tags.items()}


def flattened(config: BaseModel) -> dict[str, str]:
    """The fields of a form as dotted parameters: text as it is, the rest as JSON, cut to MLflow's limit."""
    return dict(_leaves(config.model_dump(mode="json"), ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        yield allowed_name(name), text[:LONGEST_PARAM]


def without_credentials(text: object) -> str:
    """Text in which no URL carries a user or password any more."""
    return re.sub(r"://\S*@", "://", str(text))


class Outage:
    """Whether MLflow answers, and when to ask again: waits double from 1 s to 60 s while it does not.

    An attempt that itself blocked (a timeout) is followed by a wait ten times as long, so that
    an outage never takes more than a tenth of the training time.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._ask_again = 0.0
        self.error: Exception | None = None
        """Why it did not answer the last time it was asked; None where it did."""

    def may_ask(self) -> bool:
        """MLflow answered the last time, or the wait since is over."""
        return time.monotonic() >= self._ask_again

    def failed(self, error: Exception, began: float) -> None:
        """Note an attempt that failed; `began` is its time.monotonic(). Only the first of a row warns."""
        if not self._failures:
            log.warning(
                "MLflow does not answer; the work goes on, logging is delayed and tried again. Found: %s",
                without_credentials(error)[:500],
            )
        ended, self.error = time.monotonic(), error.with_traceback(None)  # which holds what all callers hold
        self._ask_again = ended + max(min(60.0, 2.0**self._failures), 10 * (ended - began))
        self._failures += 1

    def ended(self) -> None:
        """Note an attempt that succeeded."""
        if self._failures:
            log.info("MLflow answers again after %d failed attempts", self._failures)
        self._failures, self._ask_again, self.error = 0, 0.0, None


class Queue:
    """What one run still has to tell, in order; artifacts last, since their store may be out on its own."""

    def __init__(self, outage: Outage, events: Iterable[Event]) -> None:
        self._outage = outage
        self._records: deque[Event] = deque()
        self._artifacts: deque[Event] = deque()
        for event in events:
            self.add(event)

    def __iter__(self) -> Iterator[Event]:
        yield from (*self._records, *self._artifacts)

    def add(self, event: Event) -> None:
        """Append an event."""
        (self._artifacts if isinstance(event, Artifact) else self._records).append(event)

    def flush(self, tell: Callable[[list[Event]], None], insist: bool) -> bool:
        """Tell everything, if MLflow may be asked or `insist`; what fails stays. True where all is told."""
        began = time.monotonic()
        if not insist and not self._outage.may_ask():
            return False
        try:
            tell([])
            for queue in (self._records, self._artifacts):
                while queue:
                    batch = _batch(queue)
                    tell(batch)
                    for _ in batch:
                        queue.popleft()
        except Exception as error:  # every backend of tracking and of artifacts has errors of its own
            self._outage.failed(error, began)
            return False
        self._outage.ended()
        return True


def _batch(queue: deque[Event]) -> list[Event]:
    """The next event; where it is metrics, as many more as go into one call."""
    batch: list[Event] = []
    room = METRICS_PER_CALL
    for event in queue:
        if not isinstance(event, Metrics):
            break
        room -= len(event.values)
        if batch and room < 0:
            break
        batch.append(event)
    return batch or [queue[0]]


def write(start: Start, events: Iterable[Event], directory: Path) -> Path:
    """A new file with the events of one run in the directory, complete or not there at all."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{start.at:013d}-{uuid.uuid4().hex}.jsonl"
    partial = target.with_suffix(".partial")
    with partial.open("w", encoding="ascii") as stream:
        for event in (start, *events):
            stream.write(json.dumps(event.model_dump(mode="json")) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return partial.replace(target)


def read(file: Path) -> tuple[Start, list[Event]] | None:
    """The run in a file and its further events, as far as the file is whole; None where nothing is.

    A run whose end is missing was killed: it ends, so marked, with its last whole event.
    """
    events: list[Event] = []
    for line in file.read_bytes().split(b"\n"):
        try:
            events.append(_EVENT.validate_json(line))
        except ValidationError:
            break
    if not events or not isinstance(events[0], Start):
        return None
    if not any(isinstance(event, Close) for event in events):
        events.append(Close(status="KILLED", at=max(event.at for event in events)))
    return events[0], events[1:]


@contextlib.contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Holds the file for this process; False where another process holds it or has finished it."""
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(file.open("rb"))
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = file.exists()
        except OSError:
            mine = False
        yield mine


def waiting(directory: Path) -> list[Path]:
    """The files of runs that still have to be told, by start: a flow comes before its stages."""
    return sorted(directory.glob("*.jsonl"))
