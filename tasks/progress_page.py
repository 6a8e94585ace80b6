"""What the Prefect UI shows while work goes on: a thread writes it, so that no stage waits for the server, or fails."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect.artifacts import Artifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.runtime import flow_run, task_run

from tinybert.progress import Report, clock, heard_by, measure_memory_anew, memory

logger = logging.getLogger("tinybert")

FIRST = 4.0
"""Seconds after which a stage counts as long, and is shown."""
EVERY = 10.0
"""Seconds between two looks at it."""
PAUSE = 1.0
"""Seconds between two looks at a table that changes faster."""
PATIENCE = 2.0
"""Seconds that the end of a long stage, or of a run, waits for the server to take the last words."""

Row = dict[str, Any]


class Writer:
    """Calls a function in a thread of its own, when it is asked to and every so often; what fails costs one warning.

    Args:
        write: Called in the context of who made the writer, a last time at the end.
        first: Seconds before the first call. If the end comes earlier, there is none.
        every: Seconds between calls that nobody asked for; None for none.
    """

    def __init__(self, write: Callable[[], None], first: float = 0.0, every: float | None = None) -> None:
        self._write, self._first, self._every = write, first, every
        self._asked, self._ended = threading.Event(), threading.Event()
        self._failed = False
        # A daemon, for a server that hangs must not keep the process.
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), name="page", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have the function called soon."""
        self._asked.set()

    def end(self) -> None:
        """Have it called for the last time; whoever calls this waits for it, but not long."""
        self._ended.set()
        self._asked.set()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        if self._ended.wait(self._first) and self._first:
            return
        while True:
            self._asked.wait(self._every)
            self._asked.clear()
            last = self._ended.is_set()
            self._try()
            if last:
                return
            self._ended.wait(PAUSE)

    def _try(self) -> None:
        try:
            self._write()
        except Exception as error:  # whatever it is, the work goes on
            if not self._failed:
                logger.warning("Prefect does not show the latest progress, the work goes on: %s", type(error).__name__)
            self._failed = True


class Live:
    """An artifact that is created once and then replaced in place: however often, it is one version of its key."""

    def __init__(self) -> None:
        self._id: UUID | None = None

    def show(self, artifact: Artifact) -> None:
        """Let the UI show this; raises what Prefect's client raises."""
        if self._id is None:
            created: Any = artifact.create()
            self._id = created.id
            return
        update = ArtifactUpdate(data=artifact.format(), description=artifact.description)
        get_client(sync_client=True).update_artifact(self._id, update)


class LiveTable:
    """A table on the page of a flow run; without a flow run it goes nowhere.

    Args:
        key: Of the artifact.
    """

    def __init__(self, key: str) -> None:
        self._key, self._live = key, Live()
        self._shown: tuple[list[Row], str] = ([], "")
        self._writer: Writer | None = None

    def show(self, rows: list[Row], description: str) -> None:
        """Let the UI show these rows, soon."""
        self._shown = rows, description
        if self._writer is None and flow_run.id:
            self._writer = Writer(self._write)
        if self._writer is not None:
            self._writer.ask()

    def end(self) -> None:
        """There will be no more."""
        if self._writer is not None:
            self._writer.end()

    def _write(self) -> None:
        rows, description = self._shown
        self._live.show(TableArtifact(table=rows, key=self._key, description=description))


class StagePage:
    """Where a stage stands, on the page of its task run: a bar, and a table of one row."""

    def __init__(self, name: str) -> None:
        self._name, self._key = name, name.replace("_", "-")
        self._bar, self._table = Live(), Live()
        self._begun = time.monotonic()
        self._report: Report | None = None
        self.state = "running"

    def hear(self, report: Report) -> None:
        """Take note of the latest progress."""
        self._report = report

    def write(self) -> None:
        """Show it."""
        report, state = self._report, self.state
        words = words_of(report) if report and state == "running" else state
        bar = ProgressArtifact(progress=share(report, state), key=f"progress-{self._key}", description=words)
        row = row_of(self._name, state, report, time.monotonic() - self._begun)
        self._bar.show(bar)
        self._table.show(TableArtifact(table=[row], key=f"stage-{self._key}", description=f"Stage {self._name}"))


def share(report: Report | None, state: str) -> float:
    """How much of the work is done, in percent; as long as nobody knows, nothing."""
    if state == "done":
        return 100.0
    return min(100.0, round(100 * report.done / report.total, 1)) if report and report.total else 0.0


def words_of(report: Report) -> str:
    """A report in a line: `layers: step 300 of 1,000, loss 0.52, ETA 2:10`."""
    place = f"{report.done:,} of {report.total:,}" if report.total else f"{report.done:,}"
    numbers = "".join(f", {name} {value:.4g}" for name, value in report.numbers.items())
    eta = "" if report.left is None else f", ETA {clock(report.left)}"
    return f"{report.what}: {report.unit} {place}{numbers}{eta}"


def row_of(name: str, state: str, report: Report | None, seconds: float) -> Row:
    """The row of a stage's table; memory is this process' where no report says another's."""
    row: Row = {"stage": name, "state": state}
    if report is not None:
        row |= {"stage": report.what, report.unit: report.done, "of": report.total}
        row |= {number: float(f"{value:.4g}") for number, value in report.numbers.items()}
        row |= {"ETA": clock(report.left)} if report.left is not None and state == "running" else {}
    return row | {"seconds": round(seconds)} | (memory() if report is None else report.memory)


@contextmanager
def on_page(name: str) -> Iterator[None]:
    """Inside, a stage of a task run is shown on its page if it takes long, by the progress that it tells."""
    if not task_run.id:
        yield
        return
    measure_memory_anew()
    page = StagePage(name)
    writer = Writer(page.write, FIRST, EVERY)
    try:
        with heard_by(page.hear):
            yield
        page.state = "done"
    except BaseException:
        page.state = "stopped"
        raise
    finally:
        writer.end()


def offer(create: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Create an artifact if the server takes it; if not, what it tells of goes on."""
    try:
        create(*arguments, **named)
    except Exception as error:
        logger.warning("Prefect does not show the artifact %s: %s", named.get("key", ""), type(error).__name__)
