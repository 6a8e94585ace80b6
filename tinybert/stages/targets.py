"""The teacher's answers for every training row, which the student then imitates: logits, and states if they fit."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from tinybert.allocator import keep_freed_memory
from tinybert.attention_kind import Kind
from tinybert.batches import Indices, cut_by_tokens
from tinybert.cli import main
from tinybert.config import TargetsConfig
from tinybert.data import TaskData
from tinybert.floor import check_floor
from tinybert.gradients import SliceSize, slice_tokens
from tinybert.kinds.task_kind import Answers, TaskKind
from tinybert.last_layer import finish_first_token_only
from tinybert.models import load_config, load_encoder, load_model, load_tokenizer
from tinybert.precision import autocast, device, halve_linears, use_bf16
from tinybert.progress import OnMetrics, Progress, logger
from tinybert.rows import TokenTable, parts
from tinybert.supervised import validation_scores
from tinybert.teacher_cache import FORMAT, STATES, StateShape, TeacherCache, feature_keys, write_opinions
from tinybert.teacher_states import TeacherStates

GIGABYTE = 1e9


def run(
    *,
    data: Path,
    teacher: Path,
    config: TargetsConfig,
    out: Path,
    on_metrics: OnMetrics,
    mapped: list[int] | None = None,
    attention: Kind = "scores",
    precision: str = "auto",
    states_precision: str | None = None,
    floor: float | None = None,
    previous: Path | None = None,
) -> dict[str, float]:
    """Ask the teacher once for each training row.

    Args:
        data: Task data set to train on, augmented or not (`tinybert.data`).
        teacher: Fine-tuned teacher.
        config: Gigabytes for states, size of a forward pass.
        out: Directory to write (see `tinybert.teacher_cache`).
        on_metrics: Told the counts.
        mapped: Teacher layers, from 1, whose states are wanted.
        attention: What of their attention: scores, relations or hidden (nothing).
        precision: Of the passes that give the logits: auto, bf16 or fp32.
        states_precision: Of those that give the states. None: the same.
        floor: By how much the teacher's validation score must be above the best constant answer's. None: that was
            looked at when it was trained.
        previous: Answers of the same teacher, at this precision, for other rows. The logits of rows that stand there
            are copied, and their states where it holds those that are wanted.

    Returns:
        rows (features: of long contexts there are several a row), scored (whose logits the teacher gave), reused (whose
        logits are those of `previous`), states_gb.

    Raises:
        QualityError: The teacher's score is below the floor.
    """
    states_precision = states_precision or precision
    task, tokenizer = TaskData(data), load_tokenizer(teacher)
    rows, kind, model = task.rows("train"), task.kind, load_model(teacher, task.kind)
    if floor is not None:
        check_floor(validation_scores(model, tokenizer, task, precision)[task.metric], task, floor)
    table = TokenTable(rows, tokenizer, task.max_length, kind)
    keys = feature_keys(rows, table.features, task.max_length)
    shape = _affordable(teacher, mapped or [], attention, table.lengths, config.states_gb)
    old = _usable(previous)
    places = old.known(keys, table.lengths) if old else np.full(len(keys), -1)
    known, missing = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
    logger.info("targets  the teacher answers for %d rows; %d are known", len(missing), len(known))

    np.save(out / "keys.npy", keys)
    np.save(out / "lengths.npy", table.lengths)
    keep_freed_memory()
    logits = _logits(model, kind, _questions(table, missing, config, precision), out)
    del model  # the states are those of the encoder alone, loaded apart
    if old:
        _copy_known(logits, old, table, known, places[known])
    if kind.judged:
        write_opinions(kind, _opinions(kind, logits, table, rows), out)
    if shape:
        same = old if old and old.holds(shape, states_precision) else None
        asked = _questions(table, missing if same else np.arange(len(keys)), config, states_precision)
        states = _states(load_encoder(teacher), asked, shape, out)
        if same:
            _copy_known_states(states, same, shape.starts(table.lengths), known, places[known])
    described = {"format": FORMAT, "rows": len(table), "per_token": kind.per_token}
    states_kept = {"states": asdict(shape) if shape else None, "states_precision": states_precision if shape else None}
    (out / "manifest.json").write_text(json.dumps(described | states_kept, indent=1) + "\n")
    metrics = {"rows": float(len(table)), "scored": float(len(missing)), "reused": float(len(known))}
    metrics["states_gb"] = (out / STATES).stat().st_size / GIGABYTE if shape else 0.0
    on_metrics(metrics, 0)
    return metrics


def _affordable(
    teacher: Path, mapped: list[int], attention: Kind, lengths: NDArray[np.int32], gigabytes: float
) -> StateShape | None:
    """Shape of the states, None where none are wanted or they would take more than they may."""
    if not mapped or not gigabytes:
        return None
    config = load_config(teacher)
    shape = StateShape(attention, tuple(mapped), config.hidden_size, config.num_attention_heads)
    needed = 2 * int(shape.numbers(lengths).sum()) / GIGABYTE
    fits = needed <= gigabytes
    logger.info(
        "targets  the teacher's states of %d rows take %.3g GB, targets.states_gb allows %.3g: %s",
        len(lengths),
        needed,
        gigabytes,
        "kept" if fits else "computed at each step instead",
    )
    return shape if fits else None


def _usable(previous: Path | None) -> TeacherCache | None:
    """Earlier answers, if they were made as answers are made today."""
    old = TeacherCache(previous) if previous else None
    return old if old and old.is_current else None


@dataclass(frozen=True)
class _Questions:
    """What the teacher is asked, in batches of similar length."""

    table: TokenTable
    batches: list[Indices]
    precision: str

    def answers(self, what: str, model: nn.Module) -> Iterator[tuple[Indices, Any]]:
        """Each batch of rows, or each part of it that fits into memory, and what the model says of it."""
        where = device()
        if use_bf16(where, self.precision):
            halve_linears(model)
        progress = Progress(f"targets  {what}", sum(map(len, self.batches)), unit="row")
        size, done = SliceSize("targets", tokens=slice_tokens(where)), 0

        def ask(rows: Indices) -> Any:
            inputs = {name: tensor.to(where) for name, tensor in self.table.inputs(rows).items()}
            with torch.no_grad(), autocast(where, self.precision):
                return model(**inputs)

        for batch in self.batches:
            for rows, answer in size.computed(ask, batch, int(self.table.lengths[batch].max())):
                yield rows, answer
                done += len(rows)
                progress.update(done)


def _questions(table: TokenTable, rows: Indices, config: TargetsConfig, precision: str) -> _Questions:
    """About these rows, the longest first."""
    ordered = rows[np.argsort(-table.lengths[rows], kind="stable")]
    return _Questions(table, list(cut_by_tokens(table.lengths, ordered, config.batch_tokens)), precision)


def _logits(model: PreTrainedModel, kind: TaskKind, asked: _Questions, out: Path) -> NDArray[np.float32]:
    lengths, starts = asked.table.lengths, asked.table.features.starts
    shape = int(starts[-1]) if kind.per_token else len(lengths), model.config.num_labels
    logits: NDArray[np.float32] = open_memmap(out / "logits.npy", "w+", np.float32, shape)
    if not kind.per_token:
        finish_first_token_only(model)
    for batch, answer in asked.answers("logits", model.eval()):
        found = kind.logits(answer).float().cpu().numpy()
        if kind.per_token:
            for row, own_LC in zip(batch, found, strict=True):
                logits[starts[row] : starts[row + 1]] = own_LC[: lengths[row]]
        else:
            logits[batch] = found
    return logits


def _copy_known(
    logits: NDArray[np.float32], old: TeacherCache, table: TokenTable, known: Indices, places: Indices
) -> None:
    """Take the logits of features that earlier answers hold from there."""
    if not old.per_token:
        logits[known] = old.logits[places]
        return
    starts = table.features.starts
    for row, place in zip(known, places, strict=True):
        logits[starts[row] : starts[row + 1]] = old.row_logits(int(place))


def _copy_known_states(
    states: NDArray[np.int16], old: TeacherCache, starts: NDArray[np.int64], known: Indices, places: Indices
) -> None:
    """Take the states of features that earlier answers hold from there."""
    for row, place in zip(known, places, strict=True):
        states[starts[row] : starts[row + 1]] = old.row_states(int(place))


def _opinions(kind: TaskKind, logits: NDArray[np.float32], table: TokenTable, rows: Dataset) -> Iterator[Answers]:
    """What the logits say of the rows, part by part: as Python's own objects they would fill the memory."""
    for part in parts(table.features, len(rows)):
        yield kind.answers(logits[part.tokens if kind.per_token else part.features], part.own, rows[part.rows])


def _states(model: PreTrainedModel, asked: _Questions, shape: StateShape, out: Path) -> NDArray[np.int16]:
    """Write the states file; gives its numbers, those of rows not asked for still missing."""
    teacher = TeacherStates(model, list(shape.mapped), shape.kind)
    lengths = asked.table.lengths
    starts = shape.starts(lengths)
    numbers = np.memmap(out / STATES, np.int16, "w+", shape=(int(starts[-1]),))
    for batch, answer in asked.answers("states", teacher):
        tensors = [answer[name].to(torch.bfloat16).cpu() for name in shape.parts(1)]
        for row, *own in zip(batch, *tensors, strict=True):
            inside = [tuple(map(slice, sizes)) for sizes in shape.parts(int(lengths[row])).values()]
            flat = torch.cat([part[where].flatten() for part, where in zip(own, inside, strict=True)])
            numbers[starts[row] : starts[row + 1]] = flat.view(torch.int16).numpy()
    return numbers


if __name__ == "__main__":
    main(run)
