"""What a student handed over consists of: `serving.json` beside its weights says how raw text becomes an answer."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tinybert.data_config import KindName
from tinybert.errors import ModelError

FILE = "serving.json"
TORCH, ONNX, INT8 = "torch", "onnx", "int8"
"""Names of the variants."""
COMPARED_AS = {INT8: "int8", ONNX: "onnx", TORCH: "student"}
"""What a comparison calls each variant; the one preferred stands first."""
TRUNCATED, ERROR = "truncated", "error"
"""Columns of an answer of any kind."""


def probability_column(label: str) -> str:
    """Where the probability of a label stands."""
    return f"p_{label}"


class Variant(BaseModel):
    """One form of the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Of the weights, relative to the directory."""
    temperature: float = 1.0
    """Logits are divided by it before they become probabilities; fitted on the validation split."""


class Released(BaseModel):
    """The content of `serving.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KindName = "classification"
    """Of the task: what an answer is."""
    labels: list[str]
    """Names of the outputs."""
    max_length: int
    """Tokens per example, or window of a context, at most."""
    pair: bool
    """The model reads pairs: of sentences, or a question and its context."""
    always_answers: bool = False
    """Of a model that finds answers: it was trained on none but questions with an answer, and gives each one."""
    default: str
    """Variant that answers where none is named."""
    variants: dict[str, Variant]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of an answer, in their order."""
        chances = [probability_column(label) for label in self.labels]
        columns: dict[KindName, list[str]] = {
            "classification": ["label", "score", *chances],
            "multi_label": ["labels", *chances],
            "regression": ["value"],
            "token_classification": ["entities"],
            "question_answering": ["answer", "start", "end", "score"],
        }
        return [*columns[self.kind], TRUNCATED, ERROR]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Of a directory that the stage `export` or `package` wrote.

        Raises:
            ModelError: It has no such file, or one that cannot be read.
        """
        path = directory / FILE
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise ModelError(f"{directory}: no {FILE}; name a model that this pipeline exported") from None
        except ValidationError as error:
            raise ModelError(f"{path}: {error.errors()[0]['msg']}; export the model again") from None

    def write(self, directory: Path) -> None:
        """Put it beside the weights."""
        (directory / FILE).write_text(self.model_dump_json(indent=1) + "\n")
