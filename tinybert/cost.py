"""What an answer costs: milliseconds and rows a second of several models side by side, operations, bytes."""

import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.kinds.task_kind import Columns, Encoded, Features, TaskKind
from tinybert.precision import device
from tinybert.released import TORCH, Released

Call = Callable[[int], object]
"""Answers something once, given the number of the run."""

Timed = dict[str, NDArray[np.float64]]
"""Milliseconds of each run, by name."""

WARM_UP = 5
"""Untimed calls of each model first."""


def interleaved(calls: Mapping[str, Call], runs: int, settling: Mapping[str, Call] | None = None) -> Timed:
    """Milliseconds of each run of each call.

    The models take turns, so that what else the machine does hits all alike, in another order each round, so that none
    always follows the same one. Before its timed call each makes an untimed one: threads that the one before left
    spinning have gone to sleep by then, and its own are awake.

    Args:
        calls: What is timed.
        runs: Timed calls of each.
        settling: The untimed calls; the timed ones themselves where not given.
    """
    settling = settling or calls
    for name, call in calls.items():
        for run in range(WARM_UP):
            settling[name](run)
        call(0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(0)
    for run in range(runs):
        for name in shuffled.sample(list(calls), len(calls)):
            settling[name](run + 1)
            begun = time.perf_counter()
            calls[name](run)
            times[name].append(1000 * (time.perf_counter() - begun))
    return {name: np.array(values) for name, values in times.items()}


def latencies(calls: Mapping[str, Call], runs: int) -> dict[str, dict[str, float]]:
    """Of each call `latency_ms` (the median), `latency_p95_ms` and `latency_p99_ms`."""
    names = ("latency_ms", "latency_p95_ms", "latency_p99_ms")
    found = {name: np.percentile(times, (50, 95, 99)) for name, times in interleaved(calls, runs).items()}
    return {name: dict(zip(names, values.tolist(), strict=True)) for name, values in found.items()}


def throughputs(
    calls: Mapping[str, Call], batch: int, runs: int, settling: Mapping[str, Call] | None = None
) -> dict[str, float]:
    """Rows a second of calls that answer `batch` rows each, at the median time."""
    times = interleaved(calls, runs, settling)
    return {name: 1000 * batch / float(np.median(values)) for name, values in times.items()}


def answering(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    rows: Columns,
    batch: int,
    kind: TaskKind,
) -> Call:
    """A call that answers `batch` of the rows, from text to answers, other ones each run.

    Batches start at places spread evenly over the rows and wrap round at the end; what is read in windows is one batch
    with all of them. The logits are fetched to the CPU, which waits for an accelerator to finish.
    """
    texts, pairs = rows["text"], rows["text_pair"]

    def answer(run: int) -> object:
        start = int(run * _GOLDEN * len(texts))
        places = [(start + place) % len(texts) for place in range(batch)]
        chosen = {"text": [texts[i] for i in places], "text_pair": [pairs[i] for i in places]}
        second = chosen["text_pair"] if chosen["text_pair"][0] is not None else None
        encoded = kind.encode(tokenizer, chosen["text"], second, max_length)
        inputs, real_BL = _padded(encoded, tokenizer)
        with torch.no_grad():
            output = model(**{name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()})
            logits = kind.logits(output).float().cpu().numpy()
        return kind.answers(logits[real_BL] if kind.per_token else logits, _features(encoded), chosen).values

    return answer


def _padded(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """What a model reads, and which of it are tokens (B, L each). Quicker for few rows than a TokenTable's files."""
    lengths_B = np.array([len(ids) for ids in encoded.ids])
    places_L = np.arange(lengths_B.max())
    real_BL = places_L < lengths_B[:, None]
    ids_BL = np.full(real_BL.shape, tokenizer.pad_token_id or 0)
    ids_BL[real_BL] = np.concatenate(encoded.ids)
    inputs = {"input_ids": ids_BL, "attention_mask": real_BL.astype(np.int64)}
    if "token_type_ids" in tokenizer.model_input_names:
        second_BL = (places_L >= np.array(encoded.firsts)[:, None]) & real_BL
        inputs["token_type_ids"] = second_BL.astype(np.int64)
    return inputs, real_BL


def _features(encoded: Encoded) -> Features:
    places = None if encoded.places is None else np.concatenate(encoded.places)
    lengths = np.array([len(ids) for ids in encoded.ids], np.int32)
    return Features(lengths, np.array(encoded.rows, np.int64), places)


_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, lie evenly spread however many there are."""


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Inside, torch computes on this many CPU threads, None: on as many as before; gives how many they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def gigaflops(model: PreTrainedModel, length: int) -> float:
    """10^9 floating-point operations of one forward pass over one example, a multiply-add being two.

    Matrix products only, as torch's FlopCounterMode counts them. Attention is computed by plain products meanwhile: of
    the fused kernels it knows only some.

    Args:
        model: In torch.
        length: Tokens of the example.
    """
    ids_BL = torch.zeros((1, length), dtype=torch.long, device=model.device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL))
    return float(counter.get_total_flops()) / 1e9


def megabytes(directory: Path, variant: str = TORCH) -> float:
    """10^6 bytes on disk of the weights that a variant needs."""
    if variant == TORCH:
        files = list(directory.glob("*.safetensors"))
    else:
        files = [directory / Released.read(directory).variants[variant].file]
    return sum(file.stat().st_size for file in files) / 1e6


def token_counts(features: Features, rows: int) -> NDArray[np.int64]:
    """Tokens of each row, special tokens included, those of all its windows together."""
    return np.bincount(features.rows, features.lengths, rows).astype(np.int64)


def device_name() -> str:
    """The accelerator's name, or the processor's where there is none."""
    if device().type == "cuda":
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
