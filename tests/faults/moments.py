"""When a stage begins, is half done, writes, and ends: read off its requests to the store and its work directory."""

import contextlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Self

from tests.faults.steps import Steps

When = Literal["start", "middle", "written", "end", "stored"]
"""start: the stage asks the store for checkpoints. middle: a first checkpoint is there, or a first file of the output
where the stage does not train. written: that first file, where it does. end: all files are stored but the manifest.
stored: the artifact is whole, and nobody but the store knows."""

TRAINING = ("mlm", "fine_tune", "general", "layers", "logits", "baseline")
OTHERS = ("augment", "gather", "targets", "screen", "export", "evaluate", "gate", "package")
STAGES = ("prepare", "corpus", *TRAINING, *OTHERS)

STARTED = re.compile(r"/pointers/resume/([a-z_]+)-[0-9a-f]{64}\.json$")
MANIFEST = re.compile(r"/(?P<artifact>(?!checkpoints/|preflight/)[a-z]+/[0-9a-f]{64})/\.manifest\.json$")
GLANCE = 0.005
"""Seconds between two looks at the work directory."""


class Moment(NamedTuple):
    """A point in the life of a stage."""

    stage: str
    when: When


Tell = Callable[[Moment], bool]
"""Called when a moment has come; True: the run is dead by now."""


class Watch:
    """Tells of the moments of one run after another, each at least once, in the thread that sees it."""

    def __init__(self, work: Path, tell: Tell) -> None:
        self._work, self._tell = work, tell
        self._one_at_a_time = threading.RLock()
        self._ended = threading.Event()
        self.steps = Steps(work)
        self.stage: str | None = None
        self.latest = ""
        """The artifact stored last, as kind/digest."""

    def before(self, method: str, path: str) -> bool:
        """The proxy's: a request has come in."""
        if method == "GET" and (found := STARTED.search(path)):
            self.stage = found[1]
            self.steps.begun(self.stage)
            return self._is("start")
        return bool(method == "PUT" and MANIFEST.search(path)) and self._is("end")

    def after(self, method: str, path: str, status: int) -> bool:
        """The proxy's: a request was answered."""
        found = MANIFEST.search(path) if method == "PUT" and status == 200 else None
        if found is None:
            return False
        self.latest = found["artifact"]
        dead, stage, self.stage = self._is("stored"), self.stage, None
        if stage is not None:
            self.steps.stored(stage)
        return dead

    def _is(self, when: When) -> bool:
        with self._one_at_a_time:
            if self.stage is None:
                return False
            self.steps.look(self.stage)
            return self._tell(Moment(self.stage, when))

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(GLANCE):
            stage = self.stage
            if stage is None:
                continue
            trains = stage in TRAINING
            with contextlib.suppress(FileNotFoundError):  # the stage ended while we looked
                if trains and any(self._work.glob(f"{stage}-*/out-resume/checkpoint-*/trainer_state.json")):
                    self._is("middle")
                if any(path.is_file() for path in self._work.glob(f"{stage}-*/out/*")):
                    self._is("written" if trains else "middle")
