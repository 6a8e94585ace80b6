"""How fast this machine trains, from a few steps of a model like the teacher, so that hours can be told beforehand."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from transformers import AutoModel

from tinybert.allocator import keep_freed_memory
from tinybert.dropout import set_dropout
from tinybert.estimate import TRAINED
from tinybert.estimate_encoder import Encoder
from tinybert.families import shape_fields
from tinybert.gradients import slice_tokens
from tinybert.models import load_config
from tinybert.precision import autocast, device, use_bf16
from tinybert.preflight_report import Speed
from tinybert.states import train_with_own_attention
from tinybert.training_config import OptimConfig

STEPS = 10
"""Timed at most."""
LAYERS = 2
"""Layers of the model that is trained: the others would take the same time again, each."""
VOCABULARY = 128
"""Of the model that is trained: a step touches few rows of an embedding, however many it has."""
SHARE = 5
"""A step takes at most this part of the time there is; with more rows it would, so it gets fewer."""
_CGROUP = Path("/sys/fs/cgroup")


def measure(teacher: Path, optim: OptimConfig, length: int, seconds: float) -> Speed:
    """Train a shallow model of the teacher's shape on nothing for a moment.

    Random numbers that are drawn afterwards are as if this had not happened.

    Args:
        teacher: Directory of a model, of which only the config is read.
        optim: Batch size, dropout and precision of the training.
        length: Tokens of a row.
        seconds: After which no further step begins.
    """
    begun, where = time.perf_counter(), device()
    mine = [torch.cuda.current_device()] if where.type == "cuda" else []
    with torch.random.fork_rng(mine):
        shape, step = _step(teacher, optim, length)
        step(1)
        alone = step(1)
        left = seconds - (time.perf_counter() - begun)
        most = min(optim.batch_size // optim.accumulation, slice_tokens(where) // length)
        rows = max(1, min(most, int(left / SHARE / alone)))
        times = [alone] if rows == 1 else [step(rows)]
        while len(times) < STEPS and time.perf_counter() - begun < seconds:
            times.append(step(rows))
    done = TRAINED * rows * shape.forward(length)
    return Speed(
        flops=done / statistics.median(times),
        steps=len(times),
        rows=rows,
        length=length,
        bf16=use_bf16(where, optim.precision),
        cuda=where.type == "cuda",
    )


def _step(teacher: Path, optim: OptimConfig, length: int) -> tuple[Encoder, Callable[[int], float]]:
    """The shape of the model that is trained, and one training step of so many rows, which gives its seconds."""
    config, where = load_config(teacher), device()
    layers = shape_fields(config.model_type)["layers"]
    setattr(config, layers, min(LAYERS, getattr(config, layers)))
    config.vocab_size = VOCABULARY
    config.pad_token_id = min(config.pad_token_id or 0, VOCABULARY - 1)
    model = AutoModel.from_config(config, dtype=torch.float32).train().to(where)
    set_dropout(model, optim.dropout)
    if where.type == "cpu":
        train_with_own_attention(model)
        keep_freed_memory()
    adam = torch.optim.AdamW(model.parameters(), lr=optim.learning_rate, fused=True)

    def step(rows: int) -> float:
        begun = time.perf_counter()
        ids_BL = torch.full((rows, length), VOCABULARY - 2, device=where)
        with autocast(where, optim.precision):
            states_BLD = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).last_hidden_state
        loss = states_BLD.float().square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
        loss.item()  # waits for an accelerator to finish
        return time.perf_counter() - begun

    return Encoder.of(config.to_dict()), step


def free_memory() -> float:
    """Bytes that training may take: of the accelerator where there is one, else of this machine or container."""
    if device().type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    machine = float(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return machine
    return machine if limit == "max" else min(machine, float(limit) - used + float(kept["inactive_file"]))
