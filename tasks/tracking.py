"""Runs, metrics and data set inputs; with `tasks.registry` the only user of mlflow.

A tracking outage delays logging and never ends training: what a run has to say is queued and sent when MLflow
answers; what is left when the run closes goes to a file in the spool directory, from which `Tracker.replay`
completes it later.
"""

import json
import logging
import os
import re
import tempfile
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks import spool as events
from tasks.database_file import make_whole
from tasks.spool import Artifact, Close, Event, Input, Metrics, Outage, Params, Start, Tags
from tasks.tracked_run import TrackedRun
from tinybert.errors import InputError, TransientError

log = logging.getLogger("tinybert")

FLOW_TAG, STAGE_TAG = "tinybert.flow_run", "tinybert.stage_run"
PARENT_TAG = "mlflow.parentRunId"
TRAINS = {"mlflow.experimentKind": "custom_model_development"}
"""On the experiment: MLflow's pages show runs with curves, not the traces of a language model."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
"""Error codes of what MLflow will never accept, as opposed to not now."""
_USER = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_PASSWORD = f"it asks for a password (401); set {_USER}"
_RIGHT = f"it denies access (403); let {_USER} name a user who may edit the experiment, or --allowed-hosts this host"
LOCKED = {"UNAUTHENTICATED": _PASSWORD, "CUSTOMER_UNAUTHORIZED": _PASSWORD, "PERMISSION_DENIED": _RIGHT}
"""What to do where MLflow answers, but not to us, by error code."""


class Tracker:
    """One experiment of one MLflow. Building it needs no network, and imports mlflow only when it is used.

    Args:
        tracking_uri: What is called.
        experiment: By its name.
        spool: Directory for what could not be told.
        flush_seconds: Between two times that runs tell what has gathered.
        address: Of the pages that links for people lead to, where it is not the tracking URI.

    Raises:
        InputError: The tracking URI or the experiment's name can be seen to be wrong.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, spool: Path, flush_seconds: float = 5.0, address: str = ""
    ) -> None:
        if not experiment.strip() or len(experiment) > 500:
            raise InputError(f"experiment {experiment[:40]!r}: found {len(experiment)} characters; give 1 to 500")
        self.uri, self.artifacts = _checked(tracking_uri)
        self.experiment, self.spool, self.flush_seconds = experiment, spool, flush_seconds
        self._address = address or self.uri
        self.outage = Outage()
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, str] = {}

    def start_flow(self, flow_run: str, name: str, tags: dict[str, str]) -> TrackedRun:
        """The parent run of a flow run. It is found again, and re-opened, when the flow is retried.

        Raises:
            InputError: MLflow answers, but not to us; unlike an outage, that does not pass by itself.
        """
        start = Start(experiment=self.experiment, flow_run=flow_run, name=name, tags=events.allowed_tags(tags))
        run = TrackedRun(self, start)
        if self.outage.error and (problem := locked(self.outage.error)):
            raise InputError(f"MLflow at {events.without_credentials(self.uri)}: {problem}")
        return run

    def start_stage(self, flow_run: str, name: str, tags: dict[str, str]) -> TrackedRun:
        """A new child of the flow run's parent, which is created where nobody has done so yet."""
        key, tags = uuid.uuid4().hex, events.allowed_tags(tags)
        start = Start(experiment=self.experiment, flow_run=flow_run, stage=key, name=name, tags=tags)
        return TrackedRun(self, start)

    def replay(self) -> int:
        """Tell MLflow what earlier outages left in the spool directory; how many runs were completed."""
        completed = failed = 0
        for file in events.waiting(self.spool):
            if failed == 3:  # one file may be at fault itself; three say that MLflow is
                break
            with events.claimed(file) as mine:
                if not mine:
                    continue
                done = self._replay(file)
                completed, failed = completed + done, failed + (not done)
        return completed

    def _replay(self, file: Path) -> bool:
        found = events.read(file)
        if found is None:
            log.warning("%s is damaged from its first line on; renamed to .damaged and not replayed", file)
            file.rename(file.with_suffix(".damaged"))
            return False
        done = TrackedRun(self, *found).flush(insist=True)
        if done:
            file.unlink()
        return done

    def curves(self, digest: str) -> dict[str, list[tuple[int, float]]]:
        """How the metrics of the stage that made an output went: steps and values of those with more than one.

        Args:
            digest: Of the output. Of several runs that made it the newest is taken.

        Returns:
            Nothing where no run made it, or MLflow does not answer.
        """
        try:
            found = self.client.search_runs(
                [self.experiment_id(self.experiment)],
                filter_string=f"tags.`output.digest` = '{digest}'",
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
            names = [(run.info.run_id, name) for run in found for name in sorted(run.data.metrics)]
            histories = {name: self.client.get_metric_history(run_id, name) for run_id, name in names}
        except Exception as error:
            log.warning("MLflow does not answer, curves are left out: %s", events.without_credentials(error)[:500])
            return {}
        told = {name: sorted((m.step, m.value) for m in history) for name, history in histories.items()}
        return {name: points for name, points in told.items() if len(points) > 1}

    @cached_property
    def client(self) -> Any:
        """The MlflowClient, quiet and impatient: waiting is done by `Outage`, between training steps."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the URI's password
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        if self.uri.startswith("sqlite:"):
            file = Path(self.uri.removeprefix("sqlite:///").partition("?")[0])
            make_whole(file, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
        return MlflowClient(self.uri, registry_uri=self.uri)

    def experiment_id(self, name: str) -> str:
        """The experiment's id; it is created where it does not exist."""
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                raise TransientError(f"experiment {name!r} is deleted; `mlflow experiments restore` brings it back")
            self._experiments[name] = found.experiment_id if found else self._new_experiment(name)
        return self._experiments[name]

    def _new_experiment(self, name: str) -> str:
        try:
            return str(self.client.create_experiment(name, artifact_location=self.artifacts, tags=TRAINS))
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":  # somebody was faster
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)

    def open_run(self, start: Start, reopen: bool, asked: bool) -> str:
        """The id of the run that `start` describes, found by its key or created.

        Args:
            start: Of the run.
            reopen: It goes on now; otherwise its end is among what will be told.
            asked: MLflow was told of it before, and may have it; a flow's run it may have anyhow.
        """
        if start.stage is not None:
            found = self._find(start) if asked else None
            return found or self._create(start, {**start.tags, PARENT_TAG: self._parent(start)})
        found = self._find(start)
        if found is None:
            return self._create(start, start.tags)
        self.client.update_run(found, status="RUNNING" if reopen else None, name=start.name)
        self.tell(found, [Tags(values=start.tags)])
        return found

    def _parent(self, start: Start) -> str:
        """The id of the flow's run that a stage belongs to."""
        if start.flow_run not in self._parents:
            key = {"experiment": start.experiment, "flow_run": start.flow_run, "at": start.at}
            flow = Start(name=start.flow_run, tags={}, **key)
            self._parents[start.flow_run] = self._find(flow) or self._create(flow, {})
        return self._parents[start.flow_run]

    def _find(self, start: Start) -> str | None:
        tag, key = _key(start)
        found = self.client.search_runs(
            [self.experiment_id(start.experiment)],
            filter_string=f"tags.`{tag}` = '{key}'",
            order_by=["attributes.start_time ASC"],
        )
        wanted = (run.info.run_id for run in found if start.stage or PARENT_TAG not in run.data.tags)
        return next(wanted, None)

    def _create(self, start: Start, tags: dict[str, str]) -> str:
        tag, key = _key(start)
        experiment = self.experiment_id(start.experiment)
        run = self.client.create_run(experiment, start.at, tags={**tags, tag: key}, run_name=start.name)
        return str(run.info.run_id)

    def page(self, experiment: str, run_id: str) -> str | None:
        """Where a server shows the run; None without a server."""
        if not self._address.startswith("http"):
            return None
        server = events.without_credentials(self._address).rstrip("/")
        return f"{server}/#/experiments/{self.experiment_id(experiment)}/runs/{run_id}"

    def tell(self, run_id: str, batch: list[Event]) -> None:
        """Send one event, or several of metrics. What MLflow will never accept is dropped with a warning."""
        try:
            _send(self.client, run_id, batch)
        except Exception as error:
            if error_code(error) not in REFUSALS:
                raise
            what = type(batch[0]).__name__.lower()
            log.warning("MLflow refuses %s: %s; dropped", what, events.without_credentials(error)[:500])


def _send(client: Any, run_id: str, batch: list[Event]) -> None:
    """One call of the client for an event, or for several of metrics."""
    from mlflow import entities

    match batch[0]:
        case Metrics():
            told = [e for e in batch if isinstance(e, Metrics)]
            values = [entities.Metric(k, v, e.at, e.step) for e in told for k, v in e.values.items()]
            client.log_batch(run_id, metrics=values)
        case Params(values=params):  # the client splits what is more than MLflow takes at once
            client.log_batch(run_id, params=[entities.Param(k, v) for k, v in params.items()])
        case Tags(values=tags):
            client.log_batch(run_id, tags=[entities.RunTag(k, v) for k, v in tags.items()])
        case Input(role=role, uri=uri, digest=digest):
            profile = json.dumps({"sha256": digest})  # MLflow's own digest has 36 characters at most
            dataset = entities.Dataset(role, digest[:36], uri.partition(":")[0], uri, profile=profile)
            context = entities.InputTag("mlflow.data.context", role)
            client.log_inputs(run_id, [entities.DatasetInput(dataset, [context])])
        case Artifact(path=path, content=content):
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory, Path(path).name)
                file.write_bytes(content)
                client.log_artifact(run_id, str(file), str(Path(path).parent) if "/" in path else None)
        case Close(status=status, at=at):
            ended = client.get_run(run_id).info.end_time
            if not ended or ended < at:  # else a later attempt of the flow has closed it
                client.set_terminated(run_id, status, at)


def _key(start: Start) -> tuple[str, str]:
    return (FLOW_TAG, start.flow_run) if start.stage is None else (STAGE_TAG, start.stage)


def error_code(error: Exception) -> str | None:
    """What MLflow calls an error; None where it is not MLflow's."""
    return getattr(error, "error_code", None)


def locked(error: Exception) -> str | None:
    """What to set where MLflow refuses to listen to us; None for any other error."""
    return LOCKED.get(error_code(error) or "")


def _checked(uri: str) -> tuple[str, str | None]:
    """The tracking URI, for SQLite absolute and with its directory made; and where its artifacts go."""
    shown = events.without_credentials(uri)
    if not re.match(r"(https?|sqlite|(postgresql|mysql|mssql)(\+\w+)?)://.", uri):
        raise InputError(f"tracking URI {shown!r}: use http(s)://host, sqlite:///file or a postgresql:// URI")
    if not uri.startswith("sqlite"):
        return uri, None
    path, _, options = uri.removeprefix("sqlite:///").partition("?")
    if path in ("", ":memory:") or not uri.startswith("sqlite:///"):
        raise InputError(f"tracking URI {shown!r} names no file; use sqlite:///relative or sqlite:////absolute")
    file = Path(path).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"tracking URI {shown!r}: cannot make {file.parent} ({error.strerror})") from error
    return f"sqlite:///{file}" + (f"?{options}" if options else ""), (file.parent / "mlartifacts").as_uri()
