"""Raw text in, answers with calibrated probabilities out: what answers for a student once it is handed over.

ONNX variants are answered without torch and transformers. MLflow loads this module by name (`_load_pyfunc`).

Shapes: B batch, L length, F features, T tokens of all features, C outputs.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinybert.answering import answers, asked
from tinybert.answers import ANSWERS, Answer
from tinybert.errors import DataError, ModelError
from tinybert.kinds import kind_of
from tinybert.onnx_model import OnnxModel
from tinybert.released import TORCH, Released
from tinybert.served_input import example_rows
from tinybert.text_reader import Reader, Reading, reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("tinybert")

THREADS = "OMP_NUM_THREADS"
"""Environment variable that says how many CPU threads a served model has, as it does for torch."""


class Student:
    """A student that answers for raw text. May be asked from several threads at once."""

    def __init__(
        self, model: "PreTrainedModel | OnnxModel", reader: Reader, released: Released, temperature: float
    ) -> None:
        self._model, self._reader, self._temperature = model, reader, temperature
        self.released = released
        """Its kind of task, its labels, and the columns of its answers."""

    @property
    def labels(self) -> list[str]:
        """Names of its outputs: of classes, where it tells some apart."""
        return self.released.labels

    @classmethod
    def load(cls, directory: Path | str, variant: str | None = None, threads: int | None = None) -> Self:
        """Of a directory that the stage `export` or `package` wrote; arguments are those of `load_variant`."""
        directory = Path(directory)
        released = Released.read(directory)
        model = load_variant(directory, variant, threads)
        used = released.variants[variant or released.default]
        used = used if isinstance(model, OnnxModel) else released.variants.get(TORCH, used)
        return cls(model, reader(directory, released.max_length, kind_of(released.kind)), released, used.temperature)

    def answer(
        self, texts: Sequence[object], pairs: Sequence[object] | None = None, batch_size: int = 32
    ) -> list[Answer]:
        """Answers in the order of the texts; what is no text gets an answer with an `error`, and the others go on.

        Args:
            texts: Strings of any length, empty ones included; questions, for a model that finds answers to them.
            pairs: Second sentences, for a model that reads pairs, or the contexts the questions are about; None where
                there is none.
            batch_size: Examples, or windows of contexts, per forward pass; those of like length share one.

        Raises:
            DataError: The texts are one string, or texts and pairs differ in number.
        """
        if isinstance(texts, str):
            raise DataError("texts is one string; give a list of strings")
        second = [None] * len(texts) if pairs is None else pairs
        if len(second) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(second)} pairs; give one pair for each text")
        problems = [self._problem(text, pair) for text, pair in zip(texts, second, strict=True)]
        found = [ANSWERS[self.released.kind](error=problem) for problem in problems]
        sound = [i for i, problem in enumerate(problems) if problem is None]
        sound.sort(key=lambda i: len(texts[i]) + len(second[i] or ""))  # type: ignore[arg-type]
        for start in range(0, len(sound), batch_size):
            chosen = sound[start : start + batch_size]
            answered = self._answers([texts[i] for i in chosen], [second[i] for i in chosen], batch_size)
            for i, answer in zip(chosen, answered, strict=True):
                found[i] = answer
        return found

    def _problem(self, text: object, pair: object) -> str | None:
        if not isinstance(text, str):
            return _no_text("text", text)
        if not self.released.pair:
            return None if pair is None else "text_pair is given, but the model reads single texts; leave it out"
        return None if isinstance(pair, str) else _no_text("text_pair", pair)

    def _answers(self, texts: list[Any], pairs: list[Any], batch_size: int) -> list[Answer]:
        examples = asked(self.released.kind, texts, pairs if self.released.pair else None)
        reading = self._reader.read(examples.rows["text"], examples.rows["text_pair"] if self.released.pair else None)
        logits = self._logits(reading, batch_size) / self._temperature
        return answers(self.released, logits, reading.features, examples, reading.truncated)

    def _logits(self, reading: Reading, batch_size: int) -> NDArray[np.float32]:
        """(F, C), or (T, C) where each token has its own."""
        lengths = reading.features.lengths
        found: dict[int, NDArray[np.float32]] = {}
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size].tolist()
            logits = self._passed(self._reader.padded(reading.encoded, chosen))
            found |= {feature: logits[row] for row, feature in enumerate(chosen)}
        in_order = [found[feature] for feature in range(len(order))]
        if kind_of(self.released.kind).per_token:
            return np.concatenate([one[:length] for one, length in zip(in_order, lengths.tolist(), strict=True)])
        return np.stack(in_order)

    def _passed(self, batch_BL: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """(B, C) or (B, L, C)."""
        if isinstance(self._model, OnnxModel):
            return self._model.logits(batch_BL)
        import torch

        from tinybert.states import model_inputs

        tensors_BL = {name: torch.from_numpy(array_BL).to(self._model.device) for name, array_BL in batch_BL.items()}
        with torch.inference_mode():
            output = self._model(**model_inputs(self._model, tensors_BL))
            logits: NDArray[np.float32] = kind_of(self.released.kind).logits(output).float().cpu().numpy()
        return logits


def load_variant(
    directory: Path, variant: str | None = None, threads: int | None = None
) -> "PreTrainedModel | OnnxModel":
    """A variant of a student, ready to be called; torch's instead where onnxruntime cannot be imported.

    Args:
        directory: Written by the stage `export` or `package`.
        variant: torch, onnx or int8. None: the directory's default.
        threads: CPU threads of ONNX Runtime. None: its own choice. Torch has one number for the whole process.

    Raises:
        ModelError: The directory is no exported student, or has no such variant.
    """
    released = Released.read(directory)
    chosen = variant or released.default
    if chosen not in released.variants:
        raise ModelError(f"{directory}: found no variant {chosen!r}; choose one of {', '.join(released.variants)}")
    if chosen != TORCH:
        try:
            return OnnxModel(directory, released.variants[chosen].file, threads)
        except (ImportError, OSError) as error:
            logger.warning("onnxruntime cannot be imported (%s); torch answers instead, more slowly", error)
    from tinybert.models import load_model

    return load_model(directory, kind_of(released.kind)).eval()


class ServedModel:
    """What MLflow calls."""

    def __init__(self, student: Student) -> None:
        self._student = student

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The columns of each row's answer (`Released.columns`), in the order of the rows.

        Args:
            model_input: A table with the columns text (and text_pair; of questions, question and context), or with one
                column (two, of pairs) without a name; a list, array or series of texts, of pairs or of records; columns
                by name.
            params: There are none.

        Raises:
            DataError: It has other columns.
        """
        columns = self._student.released.columns
        rows = example_rows(model_input, self._student.released.kind)
        found = self._student.answer([text for text, _ in rows], [pair for _, pair in rows])
        values = [answer.values(columns) for answer in found]
        return pd.DataFrame({name: _series([row[at] for row in values]) for at, name in enumerate(columns)})


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow asks a `loader_module` for."""
    threads = os.environ.get(THREADS, "")
    return ServedModel(Student.load(path, threads=int(threads) if threads.isdecimal() else None))


def _series(values: list[Any]) -> "pd.Series[Any]":
    """A column in which None stays None: NaN is no JSON."""
    return pd.Series(values, dtype=object if any(isinstance(value, str | list | None) for value in values) else None)


def _no_text(name: str, value: object) -> str:
    found = "is missing" if value is None else f"is of type {type(value).__name__}"
    return f"{name} {found}; give a string"
