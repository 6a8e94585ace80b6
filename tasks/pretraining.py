"""Tasks that make a teacher out of a corpus: its sources, the vocabulary with a blank model, and the closing words."""

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict

from tasks import sources
from tasks.policy import cpu_stage, quick_task
from tasks.progress_page import offer
from tasks.run import Run
from tasks.stage import run_stage
from tasks.summary import StageTime
from tinybert.config import CorpusConfig
from tinybert.pretrain_config import EncoderConfig, PretrainConfig, VocabularyConfig
from tinybert.refs import ModelRef, ModelResult, SourceRef


class PretrainSources(BaseModel):
    """What a pretraining run reads, pinned to its content."""

    model_config = ConfigDict(frozen=True)

    corpus: SourceRef
    tokenizer: ModelRef | None = None


class PretrainSummary(BaseModel):
    """What a finished pretraining run has to show."""

    name: str
    masked_accuracy: float | None
    """Share of masked tokens told rightly over the last logged steps."""
    following_accuracy: float | None
    """The same of following segments; None where they were not predicted."""
    loss: float
    steps: int
    pieces: int
    """Of the vocabulary."""
    parameters: int
    sequences: int
    stages: list[StageTime]
    seconds: float
    model: ModelRef
    model_directory: str
    """To be named as teacher.source."""


@quick_task("sources")
def find_pretraining_sources(config: PretrainConfig) -> PretrainSources:
    """Find and pin the corpus, and the model whose tokenizer is taken."""
    assert config.corpus.source is not None  # the form says so
    tokenizer = config.vocabulary.source
    return PretrainSources(
        corpus=sources.pin(config.corpus.source, SourceRef),
        tokenizer=sources.pin(tokenizer, ModelRef) if tokenizer else None,
    )


@cpu_stage("vocabulary")
def learn_vocabulary(
    source: SourceRef,
    tokenizer: ModelRef | None,
    config: VocabularyConfig,
    corpus: CorpusConfig,
    encoder: EncoderConfig,
) -> ModelResult:
    """Learn the word pieces, and make an encoder of random weights for them."""
    boxes = {"config": config, "corpus": corpus, "encoder": encoder}
    return run_stage("vocabulary", ModelResult, source=source, tokenizer=tokenizer, **boxes)


def conclude(
    run: Run, name: str, blank: ModelResult, trained: ModelResult, sequences: int, seconds: float
) -> PretrainSummary:
    """The run in a few numbers, shown in both UIs."""
    summary = PretrainSummary(
        name=name,
        masked_accuracy=trained.metrics.get("masked_accuracy"),
        following_accuracy=trained.metrics.get("following_accuracy"),
        loss=trained.metrics["loss"],
        steps=int(trained.metrics["steps"]),
        pieces=int(blank.metrics["pieces"]),
        parameters=int(blank.metrics["parameters"]),
        sequences=sequences,
        stages=run.stages,
        seconds=round(seconds, 1),
        model=trained.model,
        model_directory=str(sources.local(trained.model)),
    )
    lines = "".join(f"| {label} | {value} |\n" for label, value in rows(summary))
    table = f"## {name}\n\n| | |\n|---|---|\n{lines}"
    offer(create_markdown_artifact, table, key="pretrained", description=f"Pretraining of {name}")
    run.log({"run_seconds": summary.seconds}, {"model.uri": trained.model.uri, "mlflow.note.content": table})
    return summary


def rows(summary: PretrainSummary) -> list[tuple[str, str]]:
    """The summary for people: what, and how much."""
    shares = {
        "masked tokens told rightly": summary.masked_accuracy,
        "following segments told rightly": summary.following_accuracy,
    }
    return [
        *((name, f"{share:.1%}") for name, share in shares.items() if share is not None),
        ("loss", f"{summary.loss:.3f}"),
        ("steps", f"{summary.steps:,}"),
        ("word pieces", f"{summary.pieces:,}"),
        ("parameters", f"{summary.parameters:,}"),
        ("sequences", f"{summary.sequences:,}"),
        ("model", summary.model.uri),
    ]
