"""The teacher's answers for every training row, which the student then imitates: logits, and states if they fit."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from tinybert.allocator import keep_freed_memory
from tinybert.attention_kind import Kind
from tinybert.batches import Indices, cut_by_tokens
from tinybert.cli import main
from tinybert.config import TargetsConfig
from tinybert.data import TaskData
from tinybert.last_layer import finish_first_token_only
from tinybert.models import load_classifier, load_encoder, load_tokenizer
from tinybert.precision import halve_linears
from tinybert.progress import OnMetrics, Progress, logger
from tinybert.rows import TokenTable
from tinybert.scoring import autocast, device, use_bf16
from tinybert.teacher_cache import STATES, StateShape, TeacherCache, find_rows, row_keys
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
        precision: auto, bf16 or fp32.
        previous: Answers of the same teacher for other rows; rows that stand there are copied.

    Returns:
        rows, scored (by the teacher), reused (from `previous`), states_gb.
    """
    task, tokenizer = TaskData(data), load_tokenizer(teacher)
    rows = task.rows("train")
    table, keys = TokenTable(rows, tokenizer, task.max_length), row_keys(rows, task.max_length)
    shape = _affordable(teacher, mapped or [], attention, table.lengths, config.states_gb)
    old = _usable(previous, shape)
    places = find_rows(keys, old.keys) if old else np.full(len(keys), -1)
    known, missing = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
    logger.info("targets  the teacher answers for %d rows; %d are known", len(missing), len(known))

    np.save(out / "keys.npy", keys)
    np.save(out / "lengths.npy", table.lengths)
    keep_freed_memory()
    missing = missing[np.argsort(-table.lengths[missing], kind="stable")]
    asked = _Questions(table, list(cut_by_tokens(table.lengths, missing, config.batch_tokens)), precision)
    logits = _logits(load_classifier(teacher), asked, len(rows), out)
    if old:
        logits[known] = old.logits[places[known]]
    if shape:
        states, starts = _states(load_encoder(teacher), asked, shape, out), shape.starts(table.lengths)
        for row in known:
            states[starts[row] : starts[row + 1]] = old.row_states(int(places[row])) if old else 0
    described = {"rows": len(rows), "states": asdict(shape) if shape else None}
    (out / "manifest.json").write_text(json.dumps(described, indent=1) + "\n")
    metrics = {"rows": float(len(rows)), "scored": float(len(missing)), "reused": float(len(known))}
    metrics["states_gb"] = (out / STATES).stat().st_size / GIGABYTE if shape else 0.0
    on_metrics(metrics, 0)
    return metrics


def _affordable(
    teacher: Path, mapped: list[int], attention: Kind, lengths: NDArray[np.int32], gigabytes: float
) -> StateShape | None:
    """Shape of the states, None where none are wanted or they would take more than they may."""
    if not mapped or not gigabytes:
        return None
    config = AutoConfig.from_pretrained(teacher)
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


def _usable(previous: Path | None, shape: StateShape | None) -> TeacherCache | None:
    """Earlier answers, if they hold all that is wanted now."""
    old = TeacherCache(previous) if previous else None
    return old if old and shape in (None, old.states) else None


@dataclass(frozen=True)
class _Questions:
    """What the teacher is asked, in batches of similar length."""

    table: TokenTable
    batches: list[Indices]
    precision: str

    def answers(self, what: str, model: nn.Module) -> Iterator[tuple[Indices, Any]]:
        """Each batch of rows, and what the model says of it."""
        where = device()
        if use_bf16(where, self.precision):
            halve_linears(model)
        progress = Progress(f"targets  {what}", sum(map(len, self.batches)), unit="row")
        done = 0
        for rows in self.batches:
            inputs = {name: tensor.to(where) for name, tensor in self.table.inputs(rows).items()}
            with torch.no_grad(), autocast(where, self.precision):
                answer = model(**inputs)
            yield rows, answer
            done += len(rows)
            progress.update(done)


def _logits(model: PreTrainedModel, asked: _Questions, rows: int, out: Path) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = open_memmap(out / "logits.npy", "w+", np.float32, (rows, model.config.num_labels))
    finish_first_token_only(model)
    for batch, answer in asked.answers("logits", model.eval()):
        logits[batch] = answer.logits.float().cpu().numpy()
    return logits


def _states(model: PreTrainedModel, asked: _Questions, shape: StateShape, out: Path) -> NDArray[np.int16]:
    """Write the states file; gives its numbers, those of rows not asked for still missing."""
    teacher = TeacherStates(model, list(shape.mapped), shape.kind)
    lengths = asked.table.lengths
    starts = shape.starts(lengths)
    numbers = np.memmap(out / STATES, np.int16, "w+", shape=(int(starts[-1]),))
    for batch, answer in asked.answers("states", teacher):
        tensors = [answer[name].to(torch.bfloat16).cpu() for name in shape.parts(1)]
        for row, *parts in zip(batch, *tensors, strict=True):
            inside = [tuple(map(slice, sizes)) for sizes in shape.parts(int(lengths[row])).values()]
            flat = torch.cat([part[where].flatten() for part, where in zip(parts, inside, strict=True)])
            numbers[starts[row] : starts[row + 1]] = flat.view(torch.int16).numpy()
    return numbers


if __name__ == "__main__":
    main(run)
