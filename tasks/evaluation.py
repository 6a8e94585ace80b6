"""Tasks that compare teacher, student, baseline and champion, and decide what the comparison means."""

from tasks.policy import cpu_stage, gpu_stage
from tasks.stage import run_stage
from tinybert.refs import DatasetRef, ModelRef, ReportRef, ReportResult
from tinybert.release_config import EvaluateConfig, GateConfig


@gpu_stage("evaluate")
def evaluate_models(
    data: DatasetRef,
    teacher: ModelRef,
    student: ModelRef,
    baseline: ModelRef | None,
    champion: ModelRef | None,
    champion_data: DatasetRef | None,
    config: EvaluateConfig,
) -> ReportResult:
    """Score and time the models side by side. Needs one accelerator slot, so that nothing disturbs the timing."""
    return run_stage(
        "evaluate",
        ReportResult,
        data=data,
        teacher=teacher,
        student=student,
        baseline=baseline,
        champion=champion,
        champion_data=champion_data,
        config=config,
    )


@cpu_stage("gate")
def judge_student(report: ReportRef, config: GateConfig) -> ReportResult:
    """Decide by the comparison which variants are published, and whether the student takes the champion's place."""
    return run_stage("gate", ReportResult, report=report, config=config)
