"""Tasks that train: the teacher, the general student, both parts of task distillation, the baseline."""

import json

from prefect.runtime import flow_run

from tasks import sources
from tasks.data import StatesWanted
from tasks.earlier import recall, remember
from tasks.policy import gpu_stage
from tasks.stage import run_stage
from tinybert.config import (
    BaselineConfig,
    FineTuneConfig,
    GeneralConfig,
    LayersConfig,
    LogitsConfig,
    MapConfig,
    StudentConfig,
    TargetsConfig,
)
from tinybert.refs import CorpusRef, DatasetRef, ModelRef, ModelResult, TargetsRef, TargetsResult
from tinybert.training_config import LaunchConfig, OptimConfig, SelectionConfig


@gpu_stage("fine_tune")
def fine_tune_teacher(data: DatasetRef, teacher: ModelRef, config: FineTuneConfig, launch: LaunchConfig) -> ModelResult:
    """Fine-tune the teacher on the task. Needs one accelerator slot."""
    return run_stage("fine_tune", ModelResult, data=data, teacher=teacher, config=config, launch=launch)


@gpu_stage("general")
def distill_general(
    corpus: CorpusRef | None,
    teacher: ModelRef,
    student: StudentConfig,
    layer_map: MapConfig,
    config: GeneralConfig,
    launch: LaunchConfig,
) -> ModelResult:
    """Distil a pretrained teacher into a general student on plain text. Needs one accelerator slot."""
    return run_stage(
        "general",
        ModelResult,
        corpus=corpus,
        teacher=teacher,
        student=student,
        layer_map=layer_map,
        config=config,
        launch=launch,
    )


@gpu_stage("targets")
def ask_teacher(
    data: DatasetRef,
    teacher: ModelRef,
    states: StatesWanted,
    precision: str,
    states_precision: str | None,
    config: TargetsConfig,
    floor: float | None,
) -> TargetsResult:
    """Ask the fine-tuned teacher about each row, once for all runs. Needs one accelerator slot.

    Args:
        data: Rows to ask about.
        teacher: Whom to ask.
        states: Which of its states to keep.
        precision: Of the passes that give its logits.
        states_precision: Of those that give its states; None where none are kept.
        config: Gigabytes for states, size of a pass.
        floor: Its score must be this far above a constant answer's; None where that has been looked at.
    """
    own, everybodys = _earlier_answers(data, teacher, precision)
    result = run_stage(
        "targets",
        TargetsResult,
        data=data,
        teacher=teacher,
        config=config,
        mapped=states.mapped,
        attention=states.attention,
        precision=precision,
        states_precision=states_precision,
        floor=floor,
        previous=recall("targets", *own, *everybodys),
    )
    for names in (own, everybodys):
        remember("targets", names[0], result.targets)
    return result


def _earlier_answers(data: DatasetRef, teacher: ModelRef, precision: str) -> tuple[list[str], list[str]]:
    """Names of this teacher's answers for about as many rows: those of runs of this name, and those of any run.

    The first of each is by the power of two that the number of rows lies below; its neighbours follow. So neither other
    data sets of a team nor a run with few rows take the place of answers that the next night's run copies.
    """
    manifest = json.loads((sources.local(data) / "manifest.json").read_text())
    size = int(manifest["splits"]["train"]["rows"]).bit_length()
    names = [f"{teacher.digest}-{precision}-{near}" for near in (size, size - 1, size + 1)]
    return [f"{name}-{flow_run.name or ''}" for name in names], names


@gpu_stage("layers")
def distill_layers(
    data: DatasetRef,
    teacher: ModelRef,
    student: ModelRef,
    layer_map: MapConfig,
    targets: TargetsRef,
    config: LayersConfig,
    launch: LaunchConfig,
) -> ModelResult:
    """Distil the fine-tuned teacher's layers. Needs one accelerator slot."""
    return run_stage(
        "layers",
        ModelResult,
        data=data,
        teacher=teacher,
        student=student,
        layer_map=layer_map,
        targets=targets,
        config=config,
        launch=launch,
    )


@gpu_stage("logits")
def distill_logits(
    data: DatasetRef,
    teacher: ModelRef,
    student: ModelRef,
    targets: TargetsRef,
    config: LogitsConfig,
    launch: LaunchConfig,
) -> ModelResult:
    """Distil the fine-tuned teacher's predictions. Needs one accelerator slot."""
    return run_stage(
        "logits",
        ModelResult,
        data=data,
        teacher=teacher,
        student=student,
        targets=targets,
        config=config,
        launch=launch,
    )


@gpu_stage("baseline")
def train_baseline(
    data: DatasetRef,
    student: ModelRef,
    optim: OptimConfig,
    selection: SelectionConfig,
    config: BaselineConfig,
    steps: int,
    launch: LaunchConfig,
) -> ModelResult:
    """Train the student's shape on hard labels alone. Needs one accelerator slot."""
    return run_stage(
        "baseline",
        ModelResult,
        data=data,
        student=student,
        optim=optim,
        selection=selection,
        config=config,
        steps=steps,
        launch=launch,
    )
