"""What MLflow speaks of, by digest: registered models that matter, and runs in progress or not long ago.

Whatever names an artifact, in a tag, a parameter or as an input, names its digest; so digests are all that is looked
for, and how a URI is written does not matter.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.connections import tracker
from tasks.spool import without_credentials
from tinybert.errors import TransientError

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
MAKERS = 10
"""Newest runs that are asked what an artifact was made from, where several made the same."""
SAMPLE = 1000
"""Newest runs that are asked whether MLflow knows a store at all."""


@dataclass(frozen=True)
class References:
    """Digests that somebody refers to."""

    registered: frozenset[str]
    """Named by versions that have an alias or are young, and what those were made from."""
    runs: frozenset[str]
    """Written or read by runs that are in progress, or ended not long ago."""


def find_references(since: float) -> References:
    """Ask MLflow who refers to what.

    Args:
        since: Seconds since 1970; what is older counts only if it has an alias or is in progress.

    Raises:
        TransientError: MLflow does not answer.
    """
    with _answering():
        experiments = _experiments()
        named = _named_by_versions(since)
        makers = (run for digest in sorted(named) for run in _makers(experiments, digest))
        return References(
            registered=frozenset(named.union(*map(_inputs, makers))),
            runs=frozenset(set().union(*map(_said, _recent_runs(experiments, since)))),
        )


def is_known(digests: set[str]) -> bool:
    """Whether any of the newest runs, however old, names one of these.

    Raises:
        TransientError: MLflow does not answer.
    """
    with _answering():
        order = ["attributes.start_time DESC"]
        runs = tracker().client.search_runs(_experiments(), order_by=order, max_results=SAMPLE)
        return any(not digests.isdisjoint(_said(run)) for run in runs)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        found = without_credentials(error).partition("\n")[0][:300]
        raise TransientError(
            f"MLflow at {without_credentials(tracker().uri)} does not answer, so nobody knows what is referred to, and "
            f"nothing is deleted; start it, or set MLFLOW_TRACKING_URI ({found})"
        ) from None


def _experiments() -> list[str]:
    """Ids of all experiments: others may work with the same store."""
    return [found.experiment_id for found in _all(tracker().client.search_experiments)]


def _named_by_versions(since: float) -> set[str]:
    """What the versions with an alias, and the young ones, name in their tags."""
    client = tracker().client
    models = _all(client.search_registered_models)
    aliased = {(model.name, str(version)) for model in models for version in model.aliases.values()}
    versions = [
        version
        for version in _all(client.search_model_versions)
        if (version.name, str(version.version)) in aliased or version.creation_timestamp >= since * 1000
    ]
    return set().union(*(_digests([version.source or "", *version.tags.values()]) for version in versions))


def _makers(experiments: list[str], digest: str) -> Iterable[Any]:
    """The runs that made an artifact."""
    condition, order = f"tags.`output.digest` = '{digest}'", ["attributes.start_time DESC"]
    return tracker().client.search_runs(experiments, condition, order_by=order, max_results=MAKERS)  # type: ignore[no-any-return]


def _recent_runs(experiments: list[str], since: float) -> Iterator[Any]:
    for condition in ("attributes.status = 'RUNNING'", f"attributes.end_time >= {int(since * 1000)}"):
        yield from _all(tracker().client.search_runs, experiment_ids=experiments, filter_string=condition)


def _said(run: Any) -> set[str]:
    """What a run has read and written, and what its form names."""
    return _inputs(run) | _digests([*run.data.tags.values(), *run.data.params.values()])


def _inputs(run: Any) -> set[str]:
    """What a run has read."""
    datasets = [given.dataset for given in run.inputs.dataset_inputs]
    return _digests([text or "" for dataset in datasets for text in (dataset.source, dataset.profile)])


def _digests(texts: Iterable[str]) -> set[str]:
    return {digest for text in texts for digest in _DIGEST.findall(text)}


def _all(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """Everything that MLflow finds, page by page."""
    page = search(**query)
    yield from page
    while page.token:
        page = search(**query, page_token=page.token)
        yield from page
