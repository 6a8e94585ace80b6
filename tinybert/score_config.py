"""What a scoring run can be asked to do: the form of `flows/score.py`, and how it must fit the model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.errors import ConfigError
from tinybert.form import PIN, Form
from tinybert.released import Released
from tinybert.training_config import LaunchConfig


class AnswerConfig(Form):
    """What decides the answers, beside the model and the rows."""

    text: str = "text"
    """Column of the (first) sentence, or of the question."""
    text_pair: str | None = None
    """Column of the second sentence, for a model that reads pairs, or of the context a question is about."""
    keep: list[str] = []
    """Columns to carry along beside the answers, e.g. an id. Empty: those of the text."""
    variant: Literal["torch", "onnx", "int8"] | None = None
    """Form of the weights that answers. Empty: the model's default."""
    batch_size: int = Field(32, ge=1, le=4096)
    """Rows per forward pass. Raising it needs more memory; on CPUs it gains little beyond 32."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of ONNX Runtime for each shard. Empty: its own choice, all cores."""

    @property
    def texts(self) -> list[str]:
        """Columns the model reads."""
        return [self.text, *([self.text_pair] if self.text_pair is not None else [])]

    @property
    def kept(self) -> list[str]:
        """Columns carried along."""
        return self.keep or self.texts

    @property
    def columns(self) -> list[str]:
        """Columns read from the source, each once."""
        return list(dict.fromkeys([*self.texts, *self.kept]))

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.text == self.text_pair:
            raise ValueError(f"text and text_pair are both {self.text!r}; name two columns, or leave text_pair empty")
        repeated = [name for name in self.keep if self.keep.count(name) > 1]
        if repeated:
            raise ValueError(f"keep names {repeated[0]!r} more than once; name each column once")
        return self

    def check(self, model: Released) -> None:
        """Hold the form against a model.

        Raises:
            ConfigError: It has no such variant, reads one text where two are given or two where one is, or a column
                carried along has the name of one of its answers.
        """
        if self.variant is not None and self.variant not in model.variants:
            raise ConfigError(
                f"variant {self.variant!r}: the model has {', '.join(model.variants)}; choose one of them"
            )
        if model.pair != (self.text_pair is not None):
            pairs = "questions and contexts" if model.kind == "question_answering" else "pairs"
            reads, change = (pairs, "name the second column") if model.pair else ("single texts", "leave it empty")
            raise ConfigError(f"text_pair is {self.text_pair!r}, but the model reads {reads}; {change}")
        taken = [name for name in self.kept if name in model.columns]
        if taken:
            raise ConfigError(f"keep: column {taken[0]!r} has the name of an answer; rename it in the source")


class _Place(Form):
    """What is scored, with what, and where the answers go."""

    name: str = Field("score", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the run."""
    model: str = Field(pattern=PIN)
    """A published model: models:/name@champion, models:/name/3, or a package directory, file:/path or s3://..."""
    source: str = Field(pattern=PIN)
    """Rows: a csv, tsv, parquet, json, jsonl, txt or arrow file, or a directory or S3 prefix (s3://.../) of them."""
    output: str | None = Field(None, pattern=r"^(file:|s3://).+$")
    """Where the answers go: file:/directory or s3://bucket/prefix, with nothing else in it. Empty: the store only."""
    shard_rows: int = Field(50_000, ge=1)
    """Rows scored by one task run. What a killed run has to do again, and what lies in one file of the output."""
    launch: LaunchConfig = LaunchConfig()
    """Here, shard by shard, or with engine ray spread over a cluster."""

    @model_validator(mode="after")
    def _shards_have_one_process(self) -> Self:
        if self.launch.processes != 1:
            raise ValueError(
                f"launch.processes is {self.launch.processes}, but a shard is scored by one process; leave it at 1, "
                "and use engine ray to score shards side by side"
            )
        return self


class ScoreConfig(AnswerConfig, _Place):  # pydantic lists the fields of the last base first
    """Everything one scoring run needs to know. Only the model and the source are required."""

    @property
    def answers(self) -> AnswerConfig:
        """The part that decides the answers: whoever changes the rest scores nothing again."""
        return AnswerConfig(**{name: getattr(self, name) for name in AnswerConfig.model_fields})
