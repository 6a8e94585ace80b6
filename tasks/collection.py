"""Deletes what nobody refers to and nobody has used for long, or says what that would be."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from tasks import checkpoints
from tasks.connections import store, tracker
from tasks.folder import Folder
from tasks.leftovers import leftovers
from tasks.policy import quick_task, slot
from tasks.progress_page import offer
from tasks.references import References, find_references, is_known
from tasks.settings import settings
from tasks.spool import without_credentials
from tasks.store import Artifact, Pointer
from tinybert.collect_config import CHECKPOINTS, CollectConfig
from tinybert.errors import InputError, StoreError

logger = logging.getLogger("tinybert")

DAY = 24 * 3600.0
UPLOADS = "unfinished uploads"
Reason = Literal["registered", "run", "recent", "pointer"]
"""Why something stays, the first that holds."""
HEADINGS = ("kind", "number", "MB", "registered", "run", "recent", "pointer", "unused", "MB of it")


class Line(BaseModel):
    """What there is of one kind."""

    kind: str
    number: int = 0
    bytes: int = 0
    registered: int = 0
    """Stay because a registered model with an alias, or a young version, names them or was made from them."""
    run: int = 0
    """Stay because a run that is in progress, or ended not long ago, wrote or read them."""
    recent: int = 0
    """Stay because they were stored or used not long ago."""
    pointer: int = 0
    """Stay because a pointer that is in use names them."""
    unused: int = 0
    """Were deleted, or in a dry run would be."""
    freed: int = 0
    """Bytes of the unused."""

    def add(self, reason: Reason | None, size: int, number: int = 1) -> None:
        """Count something, with the reason why it stays."""
        self.number, self.bytes = self.number + number, self.bytes + size
        setattr(self, reason or "unused", getattr(self, reason or "unused") + number)
        self.freed += 0 if reason else size

    @property
    def cells(self) -> list[str]:
        """Of the table, as `HEADINGS` names them."""
        counts = (self.registered, self.run, self.recent, self.pointer, self.unused)
        return [self.kind, str(self.number), _megabytes(self.bytes), *map(str, counts), _megabytes(self.freed)]


class Collection(BaseModel):
    """What a collection found, and deleted unless it was a dry run."""

    dry_run: bool
    store: str
    lines: list[Line]
    pointers: int
    """Pointers that nobody has used for long, and that went before what they named."""

    @property
    def total(self) -> Line:
        """All kinds together."""
        names = Line.model_fields.keys() - {"kind"}
        return Line(kind="total", **{name: sum(getattr(line, name) for line in self.lines) for name in names})

    @property
    def summary(self) -> str:
        """In one sentence."""
        done, total = "would be deleted" if self.dry_run else "deleted", self.total
        size = f"{_megabytes(total.freed)} of {_megabytes(total.bytes)} MB"
        return f"{self.store}: {total.unused} of {total.number} {done}, {size}, and {self.pointers} pointers"

    @property
    def metrics(self) -> dict[str, float]:
        """For MLflow, kind by kind and in total."""
        names = ("number", "bytes", "unused", "freed")
        lines = [*self.lines, self.total]
        return {f"{line.kind.replace(' ', '_')}_{name}": float(getattr(line, name)) for line in lines for name in names}

    @property
    def markdown(self) -> str:
        """The table and the sentence."""
        rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *(line.cells for line in [*self.lines, self.total])]
        return f"{self.summary}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


class _Item(NamedTuple):
    """Something that may go."""

    kind: str
    size: int
    reason: Reason | None
    """Why it stays; None where nothing speaks for it."""
    expire: Callable[[], bool]
    """Deletes it, unless somebody has used it meanwhile."""


@quick_task("collect")
def collect_unused(config: CollectConfig) -> Collection:
    """Delete what nobody needs any more, or find out what that would be. Nobody moves a champion meanwhile.

    Raises:
        TransientError: MLflow or the store does not answer; without MLflow nobody knows what is referred to.
        InputError: This MLflow is not the one that the store's runs told of themselves.
    """
    collector = _Collector(config, now())
    with _promotions_wait(config.dry_run):
        done = collector.collect()
    logger.info("%s", done.summary)
    offer(create_markdown_artifact, done.markdown, key="collection", description="Artifacts by kind, and why they stay")
    return done


def now() -> float:
    """Seconds since 1970."""
    return time.time()


@contextmanager
def _promotions_wait(dry_run: bool) -> Iterator[None]:
    """Inside, no version is given an alias that was looked at without one; a dry run need not care."""
    if dry_run:
        yield
        return
    with slot(settings().promotions):
        yield


class _Collector:
    """One look at the store, at one time."""

    def __init__(self, config: CollectConfig, at: float) -> None:
        self._config, self._at = config, at

    def collect(self) -> Collection:
        """Look, then delete: pointers first, so that none names what is gone."""
        referred = find_references(self._at - self._config.keep_days * DAY)
        artifacts = [*store().artifacts()]
        _check_same_installation(artifacts, referred)
        reasons = self._reasons(artifacts, referred)
        for found in artifacts if not self._config.dry_run else ():
            if reasons.get(found.ref.digest) == "registered":
                store().holds(found.ref)  # which makes it young: it stays for a while when it loses its alias
        stale = self._follow_pointers(reasons, referred)
        expired = [self._config.dry_run or store().expire_pointer(old, self._since(old.kind)) for old in stale]
        lines: dict[str, Line] = {}
        for item in self._items(artifacts, reasons, referred):
            gone = item.reason is None and (self._config.dry_run or item.expire())
            lines.setdefault(item.kind, Line(kind=item.kind)).add(None if gone else item.reason or "recent", item.size)
        number, size = self._sweep()
        if number:
            lines.setdefault(UPLOADS, Line(kind=UPLOADS)).add(None, size, number)
        ordered = [lines[kind] for kind in sorted(lines)]
        return Collection(dry_run=self._config.dry_run, store=store().root, lines=ordered, pointers=sum(expired))

    def _since(self, kind: str) -> float:
        """What was last used before is old."""
        is_checkpoint = kind in (CHECKPOINTS, checkpoints.POINTER)
        return self._at - DAY * (self._config.checkpoints_days if is_checkpoint else self._config.keep_days)

    def _is_wanted(self, kind: str) -> bool:
        """Artifacts or pointers of this kind are to be looked at."""
        kind = CHECKPOINTS if kind == checkpoints.POINTER else kind
        return not self._config.kinds or kind in self._config.kinds

    def _reasons(self, artifacts: list[Artifact], referred: References) -> dict[str, Reason]:
        """Why artifacts stay, by digest, as far as pointers have no say in it."""
        reasons: dict[str, Reason] = {}
        for artifact in filter(lambda found: found.whole, artifacts):
            digest = artifact.ref.digest
            if digest in referred.registered:
                reasons[digest] = "registered"
            elif digest in referred.runs:
                reasons[digest] = "run"
            elif artifact.modified >= self._since(artifact.kind):
                reasons[digest] = "recent"
        return reasons

    def _follow_pointers(self, reasons: dict[str, Reason], referred: References) -> list[Pointer]:
        """Adds what pointers in use name, and gives back the others.

        A pointer is in use while it is young, while anything it names is kept for another reason (whoever follows a
        pointer makes that young), or while the teacher whose digest its key begins with is kept or referred to.
        """
        kept, stale = reasons.keys() | referred.registered | referred.runs, []
        for pointer in store().pointers():
            named = {ref.digest for ref in store().pointed(pointer.kind, pointer.key).values()}
            if pointer.modified >= self._since(pointer.kind) or kept & (named | {pointer.key[:64]}):
                reasons.update((digest, "pointer") for digest in named if digest not in reasons)
            elif self._is_wanted(pointer.kind):
                stale.append(pointer)
        return stale

    def _items(self, artifacts: list[Artifact], reasons: dict[str, Reason], referred: References) -> Iterator[_Item]:
        """Everything that is looked at."""
        a_day_ago = self._at - DAY
        for found in filter(lambda found: self._is_wanted(found.kind), artifacts):
            since = self._since(found.kind) if found.whole else a_day_ago
            recent: Reason | None = "recent" if found.modified >= since else None
            reason = reasons.get(found.ref.digest) if found.whole else recent
            kind = found.kind if found.whole else UPLOADS
            yield _Item(kind, found.size, reason, partial(store().expire, found, since))
        for left in leftovers(settings().work) if not self._config.kinds else ():
            since = self._since("")
            reason = "run" if left.path.name in referred.runs else "recent" if left.modified >= since else None
            yield _Item(left.kind, left.size, reason, partial(left.expire, since))

    def _sweep(self) -> tuple[int, int]:
        """Number and bytes of temporary files, and of uploads that were never completed; they are deleted."""
        before, number, size = self._at - DAY, 0, 0
        for sweep in (store().sweep, Folder(settings().work).sweep) if not self._config.kinds else ():
            try:
                swept = sweep(before, self._config.dry_run)
            except StoreError as error:  # not every account may list or abort uploads
                logger.warning("uploads that were never completed cannot be looked at: %s", error)
            else:
                number, size = number + swept[0], size + swept[1]
        return number, size


def _check_same_installation(artifacts: list[Artifact], referred: References) -> None:
    """A new or foreign MLflow names nothing, and everything would go."""
    digests = {found.ref.digest for found in artifacts if found.whole and found.kind != CHECKPOINTS}
    if digests and digests.isdisjoint(referred.registered | referred.runs) and not is_known(digests):
        raise InputError(
            f"MLflow at {without_credentials(tracker().uri)} names nothing of what is in {store().root}, so it cannot "
            "tell what is referred to; set MLFLOW_TRACKING_URI to the MLflow that the store's runs use"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"
