"""The task that compares teacher, student and baseline."""

from tasks.policy import gpu_stage
from tasks.stage import run_stage
from tinybert.config import EvaluateConfig
from tinybert.refs import DatasetRef, ModelRef, ReportResult


@gpu_stage("evaluate")
def evaluate_models(
    data: DatasetRef, teacher: ModelRef, student: ModelRef, baseline: ModelRef | None, config: EvaluateConfig
) -> ReportResult:
    """Score and time the models side by side. Needs one accelerator slot, so that nothing disturbs the timing."""
    return run_stage(
        "evaluate", ReportResult, data=data, teacher=teacher, student=student, baseline=baseline, config=config
    )
