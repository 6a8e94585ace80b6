"""Tasks that hand the student over: the export, and its version in the model registry."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from tasks.connections import tracker
from tasks.policy import RETRIES, cpu_stage, is_transient
from tasks.stage import run_stage
from tinybert.refs import DatasetRef, ModelRef, ModelResult, PublishResult


@cpu_stage("export")
def export_student(data: DatasetRef, student: ModelRef) -> ModelResult:
    """Write the student as a plain Hugging Face directory."""
    return run_stage("export", ModelResult, data=data, student=student)


@task(
    name="publish",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_condition_fn=is_transient,
)
def publish_model(name: str, model: ModelRef, metrics: dict[str, float]) -> PublishResult:
    """Register the exported student as a version; the same content is registered once, however often it is run."""
    tags = {key: f"{value:.6g}" for key, value in metrics.items()}
    tags["prefect.flow_run_id"] = str(flow_run.id or "")
    version = tracker().register(name, model.uri, model.digest, None, tags)
    return PublishResult(name=name, version=version, metrics=metrics)
