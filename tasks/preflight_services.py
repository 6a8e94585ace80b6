"""What every run needs, looked at before it: store, MLflow, Prefect's limits. Nothing raises; each check is a row."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from tasks.connections import registry, store, tracker
from tasks.settings import settings
from tasks.spool import without_credentials
from tinybert.errors import InputError, IntegrityError, TransientError
from tinybert.preflight_report import Finding


def services(models: Sequence[str], trains: bool = True, stores: bool = True, asks: bool = False) -> list[Finding]:
    """What all runs need.

    Args:
        models: Names of the registered models that will get a version, or change their champion.
        trains: An accelerator slot will be taken.
        stores: The store will be used.
        asks: What MLflow answers decides what is done, so that nothing can be logged later instead.
    """
    stored = [check_store()] if stores else []
    return [*stored, *check_tracking(models, asks), *check_limits(trains, publishes=bool(models))]


def check_store() -> Finding:
    """Write, read back and delete a small artifact. A run ends at once where that is not possible."""

    def probe() -> str:
        begun = time.monotonic()
        with TemporaryDirectory() as directory:
            written = uuid.uuid4().hex
            Path(directory, "probe").write_text(written)
            ref = store().put("preflight", Path(directory))
            if (store().get(ref) / "probe").read_text() != written:
                raise IntegrityError(f"{ref.uri}: what was read is not what was written")
            store().delete(ref)
        return f"{store().root}: written, read back and deleted in {time.monotonic() - begun:.1f} s"

    found = tried("store", probe, "check TINYBERT_STORE, the AWS_* variables, and the rights to put, get and delete")
    return found.model_copy(update={"passing": False})


def check_tracking(models: Sequence[str], asks: bool = False) -> Iterator[Finding]:
    """MLflow answers; where it does not, a run that `asks` nothing goes on and is logged later, but cannot publish."""
    shown = without_credentials(settings().tracking_uri)
    try:
        tracker().experiment_id(settings().experiment)
    except InputError as error:
        yield Finding(what="MLflow", status="wrong", found=str(error), mend="set MLFLOW_TRACKING_URI")
        return
    except Exception as error:  # whatever mlflow and its HTTP client raise
        reason = without_credentials(error).splitlines()[0][:200]
        later = "logging will be delayed" + (", and publishing at the end needs it" if models else "")
        found = f"{shown}: {reason}; {'what it knows decides what is done' if asks else later}"
        mend, status = "start it, or set MLFLOW_TRACKING_URI", "wrong" if asks else "warning"
        yield Finding.model_validate(
            {"what": "MLflow", "status": status, "found": found, "mend": mend, "passing": asks}
        )
        return
    yield Finding(what="MLflow", status="ok", found=f"{shown}: experiment {settings().experiment!r}")
    for name in models:
        yield tried("registry", partial(_versions, name))


def _versions(name: str) -> str:
    return f"{name!r} has {len(registry().model(name).versions)} versions"


def check_limits(trains: bool, publishes: bool) -> Iterator[Finding]:
    """The concurrency limits that stages and publishing occupy exist, and have slots."""
    named = {settings().slots: "TINYBERT_SLOTS"} if trains else {}
    if publishes:
        named[settings().promotions] = "TINYBERT_PROMOTIONS"
    with get_client(sync_client=True) as client:
        for name, variable in named.items():
            make = f"prefect gcl create {name} --limit 1, or set {variable}"
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                yield Finding(what=f"limit {name}", status="wrong", found="Prefect has no such limit", mend=make)
                continue
            found = f"{limit.active_slots} of {limit.limit} slots are taken"
            if not limit.active:
                found, mend = "switched off: nothing is limited", f"prefect gcl enable {name}"
                yield Finding(what=f"limit {name}", status="warning", found=found, mend=mend)
            elif not limit.limit:
                mend = f"prefect gcl update {name} --limit 1"
                yield Finding(what=f"limit {name}", status="wrong", found="it has no slots", mend=mend)
            else:
                yield Finding(what=f"limit {name}", status="ok", found=found)


def tried(what: str, check: Callable[[], str], mend: str = "") -> Finding:
    """A check that gives what it found, or raises what is wrong."""
    try:
        return Finding(what=what, status="ok", found=check())
    except (InputError, IntegrityError, TransientError) as error:
        return failed(what, error, mend)


def failed(what: str, error: Exception, mend: str = "") -> Finding:
    """What is wrong, as the row of a check."""
    passing = isinstance(error, TransientError)
    return Finding(what=what, status="wrong", found=without_credentials(error), mend=mend, passing=passing)
