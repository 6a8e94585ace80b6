"""Tasks that make more data out of data: the masked language model, copies in shards, and the choice among them."""

from prefect.artifacts import create_markdown_artifact

from tasks import sources
from tasks.earlier import recall, remember
from tasks.policy import code_digests, cpu_stage, gpu_stage
from tasks.progress_page import offer
from tasks.stage import run_stage
from tinybert.augment_config import AugmentConfig, QualityConfig
from tinybert.config import MlmConfig
from tinybert.digest import json_digest
from tinybert.refs import (
    CopiesRef,
    CopiesResult,
    CorpusRef,
    DatasetRef,
    DatasetResult,
    ModelRef,
    ModelResult,
    SourceRef,
    TargetsRef,
    VectorsRef,
)
from tinybert.training_config import LaunchConfig


@gpu_stage("mlm")
def train_mlm(corpus: CorpusRef, teacher: ModelRef, config: MlmConfig, launch: LaunchConfig) -> ModelResult:
    """Train the encoder as a masked language model. Needs one accelerator slot."""
    return run_stage("mlm", ModelResult, corpus=corpus, teacher=teacher, config=config, launch=launch)


@gpu_stage("augment")
def augment_shard(
    data: DatasetRef,
    model: ModelRef,
    vectors: VectorsRef | None,
    thesaurus: SourceRef | None,
    translators: list[ModelRef],
    config: AugmentConfig,
    shard: int,
    shards: int,
) -> CopiesResult:
    """Make the copies of one shard of the training rows. Needs one accelerator slot."""
    name = _candidates_name(model, vectors, config)
    # A data set that has doubled since the last run has twice the shards: the rows of each are in the half of old.
    previous = recall("copies", *(f"{name}-{shard % n}of{n}" for n in (shards, shards // 2) if n))
    translator, back_translator = translators or (None, None)
    result = run_stage(
        "augment",
        CopiesResult,
        data=data,
        model=model,
        vectors=vectors,
        thesaurus=thesaurus,
        translator=translator,
        back_translator=back_translator,
        config=config,
        shard=shard,
        shards=shards,
        previous=previous,
    )
    remember("copies", f"{name}-{shard}of{shards}", result.copies)
    return result


def _candidates_name(model: ModelRef, vectors: VectorsRef | None, config: AugmentConfig) -> str:
    """Digest of everything a row's candidates depend on, but the row."""
    boxes = [config.candidates, config.masking, config.language]
    digests = [model.digest, vectors.digest if vectors else None]
    return json_digest([digests, boxes, code_digests("tinybert.augmentation.candidates")])


@cpu_stage("gather")
def gather_copies(data: DatasetRef, copies: list[CopiesRef], config: QualityConfig) -> DatasetResult:
    """Join the rows and the copies of all shards, without leaks and duplicates."""
    return run_stage("gather", DatasetResult, data=data, copies=copies, config=config)


@cpu_stage("screen")
def screen_copies(data: DatasetRef, targets: TargetsRef | None, config: QualityConfig) -> DatasetResult:
    """Keep the copies that the teacher, where it is asked, does not contradict, and report what became of all."""
    result = run_stage("screen", DatasetResult, data=data, targets=targets, config=config)
    report = (sources.local(result.dataset) / "augmentation.md").read_text(encoding="utf-8")
    offer(
        create_markdown_artifact, report, key="augmentation", description="Augmented copies: asked, made, dropped, kept"
    )
    return result
