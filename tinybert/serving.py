"""Raw text in, labels and calibrated probabilities out: what answers for a student once it is handed over.

ONNX variants are answered without torch and transformers. MLflow loads this module by name (`_load_pyfunc`).

Shapes: B batch, L length, C classes.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinybert.errors import DataError, ModelError
from tinybert.onnx_model import OnnxClassifier
from tinybert.released import TORCH, Released
from tinybert.text_reader import Reader, reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("tinybert")

TEXT, PAIR = "text", "text_pair"
"""Names of the columns a served model reads."""
THREADS = "OMP_NUM_THREADS"
"""Environment variable that says how many CPU threads a served model has, as it does for torch."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about one example; with an `error`, nothing else is there."""

    label: str | None = None
    score: float | None = None
    """Probability of the label."""
    probabilities: dict[str, float] | None = None
    """By label."""
    truncated: bool = False
    """The example has more tokens than the model reads; the rest was left out."""
    error: str | None = None


class Classifier:
    """A student that answers for raw text. May be asked from several threads at once."""

    def __init__(
        self, model: "PreTrainedModel | OnnxClassifier", reader: Reader, released: Released, temperature: float
    ) -> None:
        self._model, self._reader, self._released, self._temperature = model, reader, released, temperature

    @property
    def labels(self) -> list[str]:
        """Names of what it tells apart."""
        return self._released.labels

    @classmethod
    def load(cls, directory: Path | str, variant: str | None = None, threads: int | None = None) -> Self:
        """Of a directory that the stage `export` or `package` wrote; arguments are those of `load_variant`."""
        directory = Path(directory)
        released = Released.read(directory)
        model = load_variant(directory, variant, threads)
        asked = released.variants[variant or released.default]
        used = asked if isinstance(model, OnnxClassifier) else released.variants.get(TORCH, asked)
        return cls(model, reader(directory, released.max_length), released, used.temperature)

    def answer(
        self, texts: Sequence[object], pairs: Sequence[object] | None = None, batch_size: int = 32
    ) -> list[Answer]:
        """Answers in the order of the texts; what is no text gets an answer with an `error`, and the others go on.

        Args:
            texts: Strings of any length, empty ones included.
            pairs: Second sentences, for a model that reads pairs; None where there is none.
            batch_size: Examples per forward pass; those of like length share one.

        Raises:
            DataError: The texts are one string, or texts and pairs differ in number.
        """
        if isinstance(texts, str):
            raise DataError("texts is one string; give a list of strings")
        second = [None] * len(texts) if pairs is None else pairs
        if len(second) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(second)} pairs; give one pair for each text")
        answers = [Answer(error=self._problem(text, pair)) for text, pair in zip(texts, second, strict=True)]
        sound = [i for i, answer in enumerate(answers) if answer.error is None]
        sound.sort(key=lambda i: len(texts[i]) + len(second[i] or ""))  # type: ignore[arg-type]
        for start in range(0, len(sound), batch_size):
            chosen = sound[start : start + batch_size]
            for i, answer in zip(chosen, self._answers([(texts[i], second[i]) for i in chosen]), strict=True):
                answers[i] = answer
        return answers

    def _problem(self, text: object, pair: object) -> str | None:
        if not isinstance(text, str):
            return _no_text("text", text)
        if not self._released.pair:
            return None if pair is None else "text_pair is given, but the model reads single texts; leave it out"
        return None if isinstance(pair, str) else _no_text("text_pair", pair)

    def _answers(self, examples: list[tuple[Any, Any]]) -> list[Answer]:
        pairs = [pair for _, pair in examples] if self._released.pair else None
        tokens = self._reader.read([text for text, _ in examples], pairs)
        logits_BC = self._logits(self._reader.padded(tokens))
        chances_BC = softmax(logits_BC / self._temperature)
        labels, cut = self.labels, [one.truncated for one in tokens]
        return [
            Answer(labels[best], chances[best], dict(zip(labels, chances, strict=True)), truncated)
            for chances, best, truncated in zip(chances_BC.tolist(), chances_BC.argmax(1).tolist(), cut, strict=True)
        ]

    def _logits(self, batch_BL: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        if isinstance(self._model, OnnxClassifier):
            return self._model.logits(batch_BL)
        import torch

        from tinybert.states import model_inputs

        tensors_BL = {name: torch.from_numpy(array_BL).to(self._model.device) for name, array_BL in batch_BL.items()}
        with torch.inference_mode():
            logits_BC: NDArray[np.float32] = (
                self._model(**model_inputs(self._model, tensors_BL)).logits.float().cpu().numpy()
            )
        return logits_BC


def load_variant(
    directory: Path, variant: str | None = None, threads: int | None = None
) -> "PreTrainedModel | OnnxClassifier":
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
            return OnnxClassifier(directory, released.variants[chosen].file, threads)
        except (ImportError, OSError) as error:
            logger.warning("onnxruntime cannot be imported (%s); torch answers instead, more slowly", error)
    from tinybert.models import load_classifier

    return load_classifier(directory).eval()


def softmax(logits_BC: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (B, C)."""
    powers_BC = np.exp(logits_BC.astype(np.float64) - logits_BC.max(axis=1, keepdims=True))
    chances_BC: NDArray[np.float64] = powers_BC / powers_BC.sum(axis=1, keepdims=True)
    return chances_BC


class ServedModel:
    """What MLflow calls."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Label, score, truncated, error and `p_<label>` of each row, in the order of the rows.

        Args:
            model_input: A table with the columns text (and text_pair), or with one column (two, of pairs) without a
                name; a list, array or series of texts, of pairs or of records; columns by name.
            params: There are none.

        Raises:
            DataError: It has other columns.
        """
        rows = example_rows(model_input)
        answers = self._classifier.answer([text for text, _ in rows], [pair for _, pair in rows])
        columns: dict[str, list[Any]] = {
            name: [getattr(answer, name) for answer in answers] for name in ("label", "score", "truncated", "error")
        }
        for label in self._classifier.labels:
            columns[f"p_{label}"] = [(answer.probabilities or {}).get(label) for answer in answers]
        return pd.DataFrame({name: _series(values) for name, values in columns.items()})


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow asks a `loader_module` for."""
    threads = os.environ.get(THREADS, "")
    return ServedModel(Classifier.load(path, threads=int(threads) if threads.isdecimal() else None))


def example_rows(model_input: Any) -> list[tuple[object, object]]:
    """Text and pair (None without one) of each row of whatever MLflow hands on.

    Raises:
        DataError: Columns, or the keys of a record, are not those the model reads.
    """
    if isinstance(model_input, Mapping):
        model_input = pd.DataFrame({name: _listed(values) for name, values in model_input.items()}, dtype=object)
    if not isinstance(model_input, pd.DataFrame):
        return [_example_row(item) for item in _listed(model_input)]
    names: list[Any] = list(model_input.columns)
    if names in ([0], [TEXT]):
        return [_example_row(item) for item in model_input.iloc[:, 0].tolist()]
    if names == [0, 1]:  # without names
        names = [TEXT, PAIR]
    _check_names(names)
    columns = dict(zip(names, (model_input.iloc[:, i].tolist() for i in range(len(names))), strict=True))
    return [(_present(text), _present(pair)) for text, pair in zip(columns[TEXT], columns[PAIR], strict=True)]


def _example_row(item: Any) -> tuple[object, object]:
    if isinstance(item, np.ndarray):
        item = item.tolist()
    if isinstance(item, Mapping):
        _check_names(list(item))
        return _present(item[TEXT]), _present(item.get(PAIR))
    if isinstance(item, list | tuple) and len(item) in (1, 2):
        return _present(item[0]), _present(item[1]) if len(item) == 2 else None
    return _present(item), None


def _check_names(names: list[Any]) -> None:
    if TEXT not in names or set(names) - {TEXT, PAIR}:
        found = ", ".join(repr(name) for name in names) or "none"
        raise DataError(f"found the columns {found}; expected {TEXT!r} (and {PAIR!r}), or one column without a name")


def _listed(values: Any) -> list[Any]:
    """A column as a list; one value is a column of one."""
    if isinstance(values, np.ndarray | pd.Series):
        values = values.tolist()
    return list(values) if isinstance(values, list | tuple) else [values]


def _present(value: Any) -> object:
    """None for the ways in which tables say that nothing is there."""
    return None if not isinstance(value, str) and pd.api.types.is_scalar(value) and pd.isna(value) else value


def _series(values: list[Any]) -> "pd.Series[Any]":
    """A column in which None stays None: NaN is no JSON."""
    return pd.Series(values, dtype=object if any(isinstance(value, str | None) for value in values) else None)


def _no_text(name: str, value: object) -> str:
    found = "is missing" if value is None else f"is of type {type(value).__name__}"
    return f"{name} {found}; give a string"
