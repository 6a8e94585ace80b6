"""What a student handed over consists of: `serving.json` beside its weights says how raw text becomes an answer."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tinybert.errors import ModelError

FILE = "serving.json"
TORCH, ONNX, INT8 = "torch", "onnx", "int8"
"""Names of the variants."""
COMPARED_AS = {INT8: "int8", ONNX: "onnx", TORCH: "student"}
"""What a comparison calls each variant; the one preferred stands first."""


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

    labels: list[str]
    max_length: int
    """Tokens per example at most."""
    pair: bool
    """The model reads pairs of sentences."""
    default: str
    """Variant that answers where none is named."""
    variants: dict[str, Variant]

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
