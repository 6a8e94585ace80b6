"""This process' object store and tracker, as the environment describes them."""

from functools import lru_cache

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
    return Tracker(settings().tracking_uri, settings().experiment, settings().work / "spool")
