"""Tasks that make data: the sources of a run, the task data set, the corpus."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks import sources
from tasks.policy import cpu_stage, quick_task, stage_module
from tasks.settings import settings
from tasks.stage import run_stage
from tinybert.attention_kind import Kind
from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.recipes import check_recipes
from tinybert.augmentation.words import language
from tinybert.checks import check_models, check_teacher_labels, taught_labels, wanted_states
from tinybert.config import CorpusConfig, DistillConfig
from tinybert.data_config import DataConfig
from tinybert.errors import ConfigError
from tinybert.onnx_model import check_export
from tinybert.refs import CorpusResult, DatasetRef, DatasetResult, ModelRef, Ref, SourceRef, VectorsRef


class StatesWanted(BaseModel):
    """Which of the teacher's states the student will learn from; none where they are not to be kept."""

    model_config = ConfigDict(frozen=True)

    mapped: list[int] = []
    attention: Kind = "hidden"


class Sources(BaseModel):
    """Everything a run reads from outside, pinned to its content."""

    model_config = ConfigDict(frozen=True)

    data: SourceRef
    teacher: ModelRef
    validation: SourceRef | None = None
    test: SourceRef | None = None
    student: ModelRef | None = None
    corpus: SourceRef | None = None
    vectors: VectorsRef | None = None
    thesaurus: SourceRef | None = None
    translators: list[ModelRef] = []
    """There and back, or none."""
    states: StatesWanted = StatesWanted()
    labels: list[str] = []
    """Names of the outputs of a teacher that is fine-tuned already."""


@quick_task("sources")
def resolve_sources(config: DistillConfig) -> Sources:
    """Find and pin every source, and hold the form against the models' shapes. Needs no accelerator."""
    if config.publish.enabled and settings().keeps_models_from_mlflow:
        raise ConfigError(
            f"publish.enabled is true, but the MLflow server cannot read the local store {settings().store}; "
            "set TINYBERT_STORE to s3://bucket/prefix, or publish.enabled to false"
        )
    check_export(config.export)
    student = sources.pin(config.student.source, ModelRef) if config.student.source else None
    teacher = sources.pin(config.teacher.source, ModelRef)
    directories = sources.local(teacher), sources.local(student) if student else None
    check_models(config, *directories)
    mapped, attention = wanted_states(config, *directories)
    return Sources(
        labels=taught_labels(directories[0]) if config.teacher.fine_tuned else [],
        data=sources.pin(config.data.source, SourceRef),
        validation=sources.pin(config.data.validation_source, SourceRef) if config.data.validation_source else None,
        test=sources.pin(config.data.test_source, SourceRef) if config.data.test_source else None,
        teacher=teacher,
        student=student,
        states=StatesWanted(mapped=mapped, attention=attention),
        corpus=sources.pin(config.corpus.source, SourceRef) if config.corpus.source and config.needs_corpus else None,
        **_augmentation_sources(config.augment),
    )


def _augmentation_sources(config: AugmentConfig) -> dict[str, Any]:
    """What augmentation reads beside the data, after a look at what it needs of this machine."""
    if not config.enabled:
        return {}
    language(config.language)
    check_recipes(config)
    used = {recipe.kind for recipe in config.recipes}
    found: dict[str, Any] = {}
    if config.vectors and config.copies != 0:
        found["vectors"] = sources.pin(config.vectors, VectorsRef)
    if config.thesaurus and "synonym" in used:
        found["thesaurus"] = sources.pin(config.thesaurus, SourceRef)
    if config.translator and config.back_translator and "back_translation" in used:
        found["translators"] = [sources.pin(uri, ModelRef) for uri in (config.translator, config.back_translator)]
    return found


@quick_task("labels")
def check_labels(data: DatasetRef, teacher: ModelRef) -> None:
    """Hold the teacher's labels against the data's, before anything is distilled from it. Needs no accelerator."""
    manifest = json.loads((sources.local(data) / "manifest.json").read_text())
    check_teacher_labels(sources.local(teacher), manifest["labels"], manifest["kind"])


@cpu_stage("prepare")
def prepare_data(
    source: SourceRef,
    validation: SourceRef | None,
    test: SourceRef | None,
    config: DataConfig,
    labels: Sequence[str] = (),
) -> DatasetResult:
    """Clean, label and split the rows of the task; their labels take the order of the names that are given."""
    splits = {"source": source, "validation": validation, "test": test}
    return run_stage("prepare", DatasetResult, **splits, config=config, order=list(labels))


def describe_data(config: DistillConfig) -> str:
    """What is understood of a run's data, as `prepare_data` would have them; nothing is kept.

    Raises:
        InputError: What `prepare_data` would say of the data, or what is wrong with a source.
    """
    importlib.import_module("tinybert.libraries").quiet()
    describe = importlib.import_module("tinybert.describe")
    teacher = _fetched(config.teacher.source, ModelRef)
    named = {"validation": config.data.validation_source, "test": config.data.test_source}
    splits = {split: _fetched(uri, SourceRef) for split, uri in named.items() if uri}
    with TemporaryDirectory() as directory:
        importlib.import_module(stage_module("prepare")).run(
            source=_fetched(config.data.source, SourceRef),
            **splits,
            config=config.data,
            out=Path(directory),
            on_metrics=lambda metrics, step: None,
            order=taught_labels(teacher) if config.teacher.fine_tuned else [],
        )
        data = importlib.import_module("tinybert.data").TaskData(Path(directory))
        tokenizer = importlib.import_module("tinybert.models").load_tokenizer(teacher)
        text: str = describe.describe_prepared(data, config.data, tokenizer)
    return text


def _fetched(uri: str, kind: type[Ref]) -> Path:
    return sources.local(sources.pin(uri, kind))


@cpu_stage("corpus")
def prepare_corpus(source: SourceRef, tokenizer: ModelRef, config: CorpusConfig) -> CorpusResult:
    """Tokenise and pack the corpus."""
    return run_stage("corpus", CorpusResult, source=source, tokenizer=tokenizer, config=config)
