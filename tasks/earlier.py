"""Earlier outputs that save a stage work: found by a name that says what they are good for, kept for the next run."""

import logging

from tasks.connections import store
from tinybert.errors import StoreError, TransientError
from tinybert.refs import EarlierRef, Ref

logger = logging.getLogger("tinybert")


def recall(kind: str, *keys: str) -> EarlierRef | None:
    """The output that the first of these names still points to, if it is there."""
    for key in keys:
        last = store().pointed(kind, key).get(kind)
        if last and store().holds(last):
            return EarlierRef(uri=last.uri, digest=last.digest)
    return None


def remember(kind: str, key: str, output: Ref) -> None:
    """Let the name point to this output. Where that fails it is a warning: the output itself is stored."""
    try:
        store().point(kind, key, {kind: output})
    except (StoreError, TransientError) as error:
        logger.warning("%s  the next run will not find this output: %s", kind, error)
