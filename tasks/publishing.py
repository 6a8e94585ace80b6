"""Tasks that hand the student over: the export, and its version in the model registry."""

from prefect.runtime import flow_run

from tasks.connections import tracker
from tasks.policy import cpu_stage, quick_task
from tasks.stage import run_stage
from tinybert.refs import DatasetRef, ModelRef, ModelResult, PublishResult


@cpu_stage("export")
def export_student(data: DatasetRef, student: ModelRef) -> ModelResult:
    """Write the student as a plain Hugging Face directory."""
    return run_stage("export", ModelResult, data=data, student=student)


@quick_task("publish")
def publish_model(name: str, model: ModelRef, metrics: dict[str, float]) -> PublishResult:
    """Register the exported student as a version; the same content is registered once, however often it is run."""
    tags = {key: f"{value:.6g}" for key, value in metrics.items()}
    tags["prefect.flow_run_id"] = str(flow_run.id or "")
    version = tracker().register(name, model.uri, model.digest, None, tags)
    return PublishResult(name=name, version=version, metrics=metrics)
