"""Handles that travel between tasks instead of tensors and paths, and the results that carry them.

Tasks hand on a `Ref`, never a whole result: seconds and run ids would change the cache key of every later stage.
The classes are concrete because a generic one does not survive Prefect's JSON serializer.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Ref(BaseModel):
    """A directory or file: where it is, and the digest of its content.

    The URI points into the object store, or is a source (`hub:`, `file:`, `package:` ...) that anybody can
    resolve again; the digest is checked on every read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    digest: str = Field(pattern="^[0-9a-f]{64}$")


def refs_in(value: object) -> list[Ref]:
    """The refs that a value is, or is a list of."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Ref)]


class SourceRef(Ref):
    """Raw material a user named: rows, text."""


class DatasetRef(Ref):
    """A prepared task data set (`tinybert.data`)."""


class CopiesRef(Ref):
    """Augmented copies of some rows of a task data set (`tinybert.augmentation.shards`)."""


class CorpusRef(Ref):
    """A tokenised, packed corpus (`tinybert.corpus`)."""


class VectorsRef(Ref):
    """Word vectors (`tinybert.vectors`)."""


class ModelRef(Ref):
    """A Hugging Face model directory with its tokenizer."""


class TargetsRef(Ref):
    """A teacher's answers for the rows of a data set (`tinybert.teacher_cache`)."""


class EarlierRef(Ref):
    """An earlier output that saves a stage work. It has no part in what comes out, so none in the stage's key."""


class ReportRef(Ref):
    """A directory with tables, predictions and pictures of a comparison, or with a decision about it."""


class ScoresRef(Ref):
    """Answers of a published model for rows of text, as Parquet."""


class StageResult(BaseModel):
    """What every stage returns: its final metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, float] = {}


class DatasetResult(StageResult):
    """A stage that made a task data set."""

    dataset: DatasetRef


class CopiesResult(StageResult):
    """A stage that made copies."""

    copies: CopiesRef


class CorpusResult(StageResult):
    """A stage that made a corpus."""

    corpus: CorpusRef


class ModelResult(StageResult):
    """A stage that made a model."""

    model: ModelRef


class TargetsResult(StageResult):
    """A stage that asked a teacher."""

    targets: TargetsRef


class ReportResult(StageResult):
    """A stage that compared models."""

    report: ReportRef


class ScoresResult(StageResult):
    """A stage that scored rows."""

    scores: ScoresRef


class PublishResult(StageResult):
    """A registered model version, and what became of it."""

    name: str
    version: str
    outcome: Literal["promoted", "rejected", "unchanged", "overtaken"]
    """overtaken: another run has changed the champion since the comparison; compare with the new one, and try again."""
