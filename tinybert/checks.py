"""What can be known to fail from the models' own files, before any accelerator time is spent. No torch here."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tinybert.attention_kind import AttentionShape, Kind, attention_kind
from tinybert.config import DistillConfig, StudentConfig
from tinybert.data_config import DataConfig
from tinybert.errors import ModelError, SourceError
from tinybert.families import LAYER_MODULES, shape_fields
from tinybert.layer_map import layer_weights, map_layers
from tinybert.same_tokens import difference

HEAD_KEYS = ("cls.predictions.", "lm_head.", "generator_predictions.", "vocab_transform.", "predictions.")
TASK_KEYS = ("classifier.", "pre_classifier.", "qa_outputs.", "score.", "sequence_summary.")
"""How the weights of heads for tasks are called."""
_NAMELESS = ("regression", "question_answering")
"""Kinds of task whose outputs are known by their number."""
_OTHER_TEACHER = "choose a teacher of this task, or set teacher.fine_tuned to false"


def read_model_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a model directory.

    Raises:
        SourceError: There is none, or it is not JSON.
    """
    path = directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise SourceError(f"{directory}: no config.json; is this a Hugging Face model directory?") from None
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from None
    return config


def check_models(config: DistillConfig, teacher: Path, student: Path | None) -> None:
    """Hold the form against the teacher's shape, and against the general student's where one is given.

    Raises:
        ConfigError: The layer map, its weights or the relation heads do not fit the two.
        ModelError: Heads differ, the teacher has not what the student is to start from, or the vocabularies differ.
        SourceError: A directory is no model.
    """
    for check in model_checks(config, teacher, student).values():
        check()


def model_checks(config: DistillConfig, teacher: Path, student: Path | None) -> dict[str, Callable[[], object]]:
    """What `check_models` looks at, one by one, so that all that is wrong can be said at once.

    Raises:
        ModelError: A model is no encoder.
        SourceError: A directory is no model.
    """
    teacher_config = read_model_config(teacher)
    taught_by = _shape(teacher_config)
    shape = _shape(read_model_config(student)) if student else config.student.model_dump()
    where = "student.source" if student else "student"
    own, other = (AttentionShape(model["heads"], model["hidden"]) for model in (shape, taught_by))
    checks: dict[str, Callable[[], object]] = {
        "layers": lambda: map_layers(config.layer_map, shape["layers"], taught_by["layers"])
    }
    if config.general_is_run or config.layers.enabled:
        checks["heads"] = lambda: attention_kind(config.layer_map, own, other, where)
        checks["layer weights"] = lambda: layer_weights(config.layer_map, shape["layers"])
    if student:
        checks["vocabulary"] = lambda: check_same_vocabulary(student, teacher)
    else:
        checks["start"] = lambda: check_start(config.student, teacher)
    checks["length"] = lambda: _check_length(config, teacher_config)
    if config.augment.enabled and not config.mlm.enabled:
        checks["masked language model"] = lambda: _check_proposer(teacher)
    return checks


def _check_proposer(teacher: Path) -> None:
    if not has_mlm_head(teacher):
        raise ModelError(
            "augment.enabled is true, but the teacher has no masked language modelling head to propose words with; "
            "set mlm.enabled to true (and name a corpus), or augment.enabled to false"
        )


def wanted_states(config: DistillConfig, teacher: Path, student: Path | None) -> tuple[list[int], Kind]:
    """Teacher layers whose states are to be kept for `layers`, and what of their attention; none where none are."""
    if not config.layers.enabled or not config.targets.states_gb:
        return [], "hidden"
    taught_by = _shape(read_model_config(teacher))
    shape = _shape(read_model_config(student)) if student else config.student.model_dump()
    own, other = (AttentionShape(model["heads"], model["hidden"]) for model in (shape, taught_by))
    mapped = map_layers(config.layer_map, shape["layers"], taught_by["layers"])
    return mapped, attention_kind(config.layer_map, own, other).kind


def check_start(student: StudentConfig, teacher: Path) -> None:
    """A student that starts from the teacher's layers must fit into them.

    Raises:
        ModelError: It is wider, has other heads, or is narrower than a teacher whose parts are not known by name.
        SourceError: The directory is no model.
    """
    if student.start == "random":
        return
    model = read_model_config(teacher)
    shape, taught_by = student.model_dump(), _shape(model)
    if shape["heads"] != taught_by["heads"]:
        raise _unfit("heads", shape, "copies heads one by one, which needs the teacher's", taught_by)
    for width in ("hidden", "ffn"):
        if shape[width] > taught_by[width]:
            raise _unfit(width, shape, "copies layers or cuts them down, which needs at most the teacher's", taught_by)
        if shape[width] < taught_by[width] and model.get("model_type") not in LAYER_MODULES:
            family = f"cuts down {', '.join(LAYER_MODULES)}; a {model.get('model_type', 'model')} it can only copy"
            raise _unfit(width, shape, f"{family}, which needs the teacher's", taught_by)


def _unfit(field: str, student: dict[str, int], why: str, teacher: dict[str, int]) -> ModelError:
    return ModelError(
        f"student.{field}: found {student[field]}; student.start 'teacher' {why} {teacher[field]} "
        "(or set student.start to random)"
    )


def has_mlm_head(directory: Path) -> bool:
    """Whether a saved model holds a masked language modelling head, by the names of its weights alone.

    Raises:
        ModelError: The directory has no safetensors weights, or unreadable ones.
    """
    return any(name.startswith(HEAD_KEYS) for name in _weight_names(directory))


def _weight_names(directory: Path) -> list[str]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    try:
        if single.is_file():
            with safe_open(single, "numpy") as weights:
                return list(weights.keys())
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except FileNotFoundError:
        raise ModelError(
            f"{directory} has neither {single.name} nor {index.name}; save the model with save_pretrained"
        ) from None
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"the weights in {directory} cannot be read ({error}); fetch the model again") from error


def check_same_vocabulary(student: Path, teacher: Path) -> None:
    """Student and teacher must read the same token ids.

    Raises:
        ModelError: They do not; the message says how the tokenizers differ.
        SourceError: One has no tokenizer.
    """
    for directory in (student, teacher):  # transformers would make an empty one
        if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise SourceError(f"{directory}: no tokenizer.json or vocab.txt; a model needs its tokenizer beside it")
    found = difference(student, teacher)
    if found:
        raise ModelError(
            f"{found}; distillation compares token by token, so choose a student with the teacher's tokenizer"
        )


def taught_labels(teacher: Path) -> list[str]:
    """Names of the outputs of a teacher that is said to be fine-tuned; LABEL_0, LABEL_1 ... where nobody named them.

    Raises:
        ModelError: Nobody named them, and the model has no head for a task either.
    """
    names = _outputs(teacher)
    if _are_unnamed(names) and not any(name.startswith(TASK_KEYS) for name in _weight_names(teacher)):
        raise ModelError(
            "teacher.fine_tuned is true, but the teacher has no head for a task; name a model that was fine-tuned on "
            "this one, or set teacher.fine_tuned to false"
        )
    return names


def label_order(taught: Sequence[str], labels: list[str], config: DataConfig) -> list[str]:
    """The data's labels in the order of a fine-tuned teacher's outputs, by their names, whatever the case of letters.

    Args:
        taught: Names of the teacher's outputs; none where it is yet to be fine-tuned.
        labels: Of the data.
        config: Whose `labels` say the order where the teacher's outputs have no names.

    Raises:
        ModelError: The teacher's outputs are others, or have no names and the form does not say their order; or a
            tagger's output of words outside of all entities is not its first.
    """
    if not taught or _are_same(taught, labels, config.kind):
        return labels
    places = {name.casefold(): place for place, name in enumerate(taught)}
    if len(places) == len(taught) and sorted(places) == sorted(label.casefold() for label in labels):
        ordered = sorted(labels, key=lambda label: places[label.casefold()])
        _check_outside(ordered, config)
        return ordered
    found = _both(labels, taught)
    if len(taught) != len(labels) or config.kind in _NAMELESS:
        raise ModelError(f"the teacher has another number of outputs: {found}; {_OTHER_TEACHER}")
    if _are_unnamed(taught):
        if config.labels:
            return labels
        raise ModelError(f"the teacher's outputs have no names: {found}; set data.labels in the teacher's order")
    raise ModelError(f"labels differ: {found}; set data.labels to what the teacher calls them, or {_OTHER_TEACHER}")


def _check_outside(ordered: list[str], config: DataConfig) -> None:
    """Words that no output speaks of, such as those beyond the cut, are given output 0, which must then mean that."""
    place = ordered.index("O") if config.kind == "token_classification" and "O" in ordered else 0
    if place:
        raise ModelError(
            f"the teacher's output of 'O' is number {place}, and here it must be number 0; {_OTHER_TEACHER}"
        )


def check_teacher_labels(teacher: Path, labels: list[str], kind: str = "classification") -> None:
    """A teacher that is already fine-tuned must name the data's labels, in the data's order.

    Outputs without names (LABEL_0, ...) need the right number: their order was looked at when the data were prepared.
    So do those of a regression or of questions, whose names mean nothing.

    Raises:
        ModelError: Both lists, and what to change.
    """
    taught = _outputs(teacher)
    folded = [name.casefold() for name in taught], [label.casefold() for label in labels]
    if _are_same(folded[0], folded[1], kind) or (_are_unnamed(taught) and len(taught) == len(labels)):
        return
    found = _both(labels, taught)
    if sorted(folded[0]) == sorted(folded[1]):
        raise ModelError(f"labels stand in another order: {found}; set data.labels to the teacher's order")
    more = "more classes in the data than the teacher has" if len(labels) > len(taught) else "labels differ"
    raise ModelError(f"{more}: {found}; {_OTHER_TEACHER}")


def _outputs(model: Path) -> list[str]:
    """As transformers names them, which says nothing of two outputs that have no names."""
    config = read_model_config(model)
    names = config.get("id2label") or {number: f"LABEL_{number}" for number in range(config.get("num_labels", 2))}
    return [names[key] for key in sorted(names, key=int)]


def _are_unnamed(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def _are_same(taught: Sequence[str], labels: Sequence[str], kind: str) -> bool:
    return len(taught) == len(labels) if kind in _NAMELESS else list(taught) == list(labels)


def _both(labels: Sequence[str], taught: Sequence[str]) -> str:
    return f"the data has {len(labels)} ({', '.join(labels)}), the teacher {len(taught)} ({', '.join(taught)})"


def _shape(model: dict[str, Any]) -> dict[str, int]:
    fields = shape_fields(model.get("model_type", ""))
    missing = [field for field in fields.values() if field not in model]
    if missing:
        raise ModelError(
            f"config.json of a {model.get('model_type', 'model')} has no {missing[0]!r}; "
            "teacher and student must be encoders configured as BERT is"
        )
    return {name: model[field] for name, field in fields.items()}


def _check_length(config: DistillConfig, teacher: dict[str, Any]) -> None:
    positions = teacher.get("max_position_embeddings", config.data.max_length)
    if config.corpus.source and config.needs_corpus and config.corpus.length > positions:
        raise ModelError(f"corpus.length: found {config.corpus.length}; the teacher reads at most {positions}")
    if config.data.max_length > positions:
        raise ModelError(f"data.max_length: found {config.data.max_length}; the teacher reads at most {positions}")
