"""The models that are compared: which there are, and what each says of rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert import cost
from tinybert.checks import check_teacher_labels
from tinybert.data import TaskData
from tinybert.errors import ModelError
from tinybert.kinds.task_kind import Columns, TaskKind
from tinybert.models import load_model, load_tokenizer
from tinybert.onnx_model import OnnxModel
from tinybert.progress import logger
from tinybert.released import INT8, ONNX, TORCH, Released
from tinybert.scoring import Said, predict
from tinybert.serving import load_variant

T = TypeVar("T")


@dataclass(frozen=True)
class Contestant:
    """A model that is measured."""

    model: Any
    """Called as a model in torch is."""
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    network: PreTrainedModel
    """The same in torch, of which operations and parameters are counted."""
    megabytes: float

    def said(self, name: str, kind: TaskKind, rows: Columns, batch_size: int) -> Said:
        """What it says of rows.

        Raises:
            ModelError: A logit is not finite; the message has the name.
        """
        return predict(self.model, self.tokenizer, rows, self.max_length, kind, batch_size, precision="fp32", name=name)


def load_contestants(task: TaskData, directories: Mapping[str, Path], threads: int) -> dict[str, Contestant]:
    """The models, each variant of the student one of its own, in the order of the directories.

    Args:
        task: What they are compared on.
        directories: Of the models by name; those of student and champion are exported ones.
        threads: CPU threads of ONNX Runtime.

    Raises:
        ModelError: A model's labels are not the data's.
    """
    found = {}
    for name, directory in directories.items():
        check_teacher_labels(directory, task.labels, task.kind.name)
        network, tokenizer = load_model(directory, task.kind).eval(), load_tokenizer(directory)
        max_length, variants = task.max_length, {name: TORCH}
        if name == "student":
            variants |= {variant: variant for variant in (ONNX, INT8) if variant in Released.read(directory).variants}
        if name == "champion":
            max_length, variants = Released.read(directory).max_length, {name: Released.read(directory).default}
        for shown, variant in variants.items():
            model = network if variant == TORCH else load_variant(directory, variant, threads)
            loaded = variant if isinstance(model, OnnxModel) else TORCH
            if shown in (name, loaded):  # without onnxruntime torch stands in, and must not pass for onnx
                found[shown] = Contestant(model, tokenizer, max_length, network, cost.megabytes(directory, loaded))
    return found


def each(
    contestants: Mapping[str, Contestant], ask: Callable[[str, Contestant], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """What is found of each model; and why variants, which may be broken, are left out.

    Raises:
        ModelError: The logits of another model are not finite.
    """
    found, broken = dict[str, T](), dict[str, str]()
    for name, contestant in contestants.items():
        try:
            found[name] = ask(name, contestant)
        except ModelError as error:
            if name not in (ONNX, INT8):
                raise
            logger.warning("%s is left out: %s", name, error)
            broken[name] = str(error)
    return found, broken


def left_out(champion: Path | None, task: TaskData) -> str | None:
    """Why the champion cannot be compared; None where it can."""
    if champion is None:
        return None
    own = Released.read(champion)
    if own.kind != task.kind.name:
        return f"it is a model for {_spoken(own.kind)}, and the data is for {_spoken(task.kind.name)}."
    if own.labels != task.labels:
        return f"it answers with other labels ({_listed(own.labels)}) than the data has ({_listed(task.labels)})."
    return None


def _spoken(kind: str) -> str:
    return kind.replace("_", " ")


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
