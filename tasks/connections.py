"""This process' object store, tracker and registry, as the environment describes them."""

from functools import lru_cache

from tasks.registry import Registry
from tasks.settings import settings
from tasks.store import Store
from tasks.tracking import Tracker


@lru_cache(maxsize=1)
def store() -> Store:
    """The object store."""
    return Store(settings().store, settings().work / "fetched")


@lru_cache(maxsize=1)
def tracker() -> Tracker:
    """The MLflow experiment."""
    known = settings()
    return Tracker(known.tracking_uri, known.experiment, known.work / "spool", address=known.tracking_page)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registered models of the same MLflow."""
    return Registry(tracker())
