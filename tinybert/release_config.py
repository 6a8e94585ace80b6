"""The boxes of the form that say how a finished student is measured, judged, exported and published."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.form import Form


class ExportConfig(Form):
    """The forms in which the student is handed over, beside its safetensors weights."""

    onnx: bool = True
    """ONNX for ONNX Runtime, lengths and batch free. Needs the extra `export`."""
    int8: bool = True
    """ONNX with 8-bit weights, embeddings included: a quarter of the size and the fastest on CPUs. Needs onnx."""

    @model_validator(mode="after")
    def _int8_needs_onnx(self) -> Self:
        if self.int8 and not self.onnx:
            raise ValueError("int8 is true but onnx is false; set onnx to true or int8 to false")
        return self


class EvaluateConfig(Form):
    """Comparison of teacher, student, baseline and the current champion on the test split."""

    batch_size: int = Field(64, ge=1, le=4096)
    """Rows per forward pass when scoring."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of the intervals around each score."""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """Bootstrap resamples behind each interval. More are smoother and take longer."""
    examples: int = Field(20, ge=0, le=1000)
    """Texts shown of those the student gets right and the champion wrong, and of those the other way round."""
    latency_runs: int = Field(100, ge=3, le=10_000)
    """Timed single-sentence predictions per model, interleaved between the models."""
    throughput_batch: int = Field(32, ge=1, le=4096)
    """Rows per batch when rows per second are measured."""
    throughput_runs: int = Field(10, ge=1, le=10_000)
    """Timed batches per model, interleaved between the models."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads while timing. Empty: torch's default."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Of the resamples."""


class GateConfig(Form):
    """What a student must show on the test rows, by the task's score (`data.metric`), to become champion.

    The first one of all meets floors and budgets.
    """

    require: Literal["better", "not_worse"] = "better"
    """better: shown to be better than the champion; not_worse: shown to be less than `margin` worse."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Chance at most of promoting a student that is no better (or worse by margin). Lowering it asks for more rows."""
    margin: float = Field(0.01, ge=0, lt=1)
    """With require not_worse: how much lower (0.01: a point) the score may be."""
    class_margin: float = Field(0.05, ge=0, lt=1)
    """No class's recall may be this much lower than the champion's."""
    class_rows: int = Field(400, ge=1)
    """Classes with as many test rows must be shown to keep class_margin; smaller ones must not be shown to break it."""
    min_rows: int = Field(200, ge=2)
    """Test rows without which nothing is promoted."""
    retention: float = Field(0.9, ge=0, le=2)
    """Share of the teacher's score the student keeps at least."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Median milliseconds of one prediction at most, on the machine that evaluates. Empty: any."""
    max_slowdown: float | None = Field(1.5, gt=0)
    """Median latency relative to the champion's at most, both measured side by side. Empty: any."""
    max_megabytes: float | None = Field(None, gt=0)
    """Size of the served weights at most. Empty: any."""
    variant_margin: float = Field(0.02, gt=0, lt=1)
    """ONNX and int8 are published where shown to score less than this below the student in torch."""
    force: str | None = Field(None, min_length=10)
    """A reason to promote whatever the rules say, ten characters at least. It is recorded with the decision."""


class PublishConfig(Form):
    """Registration of the exported student, and its promotion where the gate lets it pass."""

    enabled: bool = True
    """Off: the student is evaluated and judged, but no model version is registered."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$")
    """Registered model. Empty: the run's name."""
