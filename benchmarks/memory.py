"""Claims: intermediate distillation needs a fraction of the reference's memory; a larger corpus needs no more.

Each line is a process of its own. Its peak is what Linux calls VmHWM, or what the GPU had allocated at most, but for
the lines of general distillation: a corpus lies in the machine's own memory. What the process held before its models
were built (Python, torch, transformers, CUDA) is told beside it: ratios are given with it and without.

Batches come in many lengths, for oneDNN compiles kernels for each, and keeps them.

    python benchmarks/memory.py [--json FILE] [--steps N] [--length N]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from distill_step import BATCH, MAPPED, Engine, commit, nothing, processor, sentences
from reference import STUDENT, TEACHER, Reference
from transformers import BertConfig, BertModel

from tinybert.batches import Batch, Indices, Rows
from tinybert.config import MapConfig
from tinybert.corpus import PackedRows, write
from tinybert.distillation import StateLearner
from tinybert.libraries import quiet
from tinybert.models import load_encoder, load_teacher
from tinybert.precision import device
from tinybert.teacher_cache import TeacherCache
from tinybert.training import train
from tinybert.training_config import OptimConfig

SEQUENCES = 20_000
"""Packed sequences of the small corpus, which is read ten times; the large one has ten times as many."""
BATCHES = 16
"""Different ones, of many lengths."""
FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "1"}
"""How many compiled kernels oneDNN and PyTorch's layer above it keep; their own default is 1,024 each."""
SENTENCES = 10_000
"""Sentences whose words the line of more words has in its tables."""


class MoreWords(Rows):
    """The same batches, in a task of many more words."""

    def __init__(self, made: Engine) -> None:
        self._rows, self._words = made.plain, made.directory / "words.npy"
        self.lengths = made.plain.lengths

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self) -> Indices:
        """Those of all the sentences."""
        return np.load(self._words)

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """A batch of the few."""
        return self._rows.batch(rows, chance)


def peak(host: bool) -> float:
    """Megabytes this process has held at most: of the GPU where there is one, else or if asked of the host."""
    if device().type == "cuda" and not host:
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def reference(made: Engine, length: int, steps: int) -> None:
    """The reference's intermediate step, sentences padded to one length."""
    model = Reference(length)
    ids = made.tokenizer(made.task.rows("train")["text"][:], truncation=True, max_length=length)["input_ids"]
    for step in range(steps):
        model.intermediate_step(ids[step % BATCHES * BATCH :][:BATCH])


def intermediate(made: Engine, rows: Rows, steps: int, accumulation: int = 1) -> None:
    """The engine's, with the teacher at each step."""
    teacher = load_teacher(made.teacher, MAPPED[-1], "auto", rows.tokens())
    learner = StateLearner(load_encoder(made.directory / "student"), teacher, MAPPED, MapConfig(), "auto")
    optim = OptimConfig(epochs=1000, steps=steps, batch_size=BATCH, accumulation=accumulation)
    train("memory", learner.to(device()), rows, optim, made.directory / "out", nothing)


def cached(made: Engine, steps: int) -> None:
    """The engine's, on the teacher's cached states."""
    learner = StateLearner(load_encoder(made.directory / "student"), TEACHER, MAPPED, MapConfig()).to(device())
    optim = OptimConfig(epochs=1000, steps=steps, batch_size=BATCH)
    rows = made.rows(TeacherCache(made.directory / "cache"), "states")
    train("memory", learner, rows, optim, made.directory / "out", nothing)


def general(made: Engine, sequences: int, epochs: int) -> None:
    """General distillation with small models: the corpus is what counts, so as many steps are made over any."""
    shape = BertConfig(hidden_size=48, num_hidden_layers=1, intermediate_size=48, num_attention_heads=12)
    learner = StateLearner(BertModel(shape), BertModel(shape), [1], MapConfig()).to(device())
    optim = OptimConfig(epochs=epochs, batch_size=256)
    rows = PackedRows(made.directory / f"{sequences}.arrow", sequences)
    train("memory", learner, rows, optim, made.directory / "out", nothing)


def write_words(made: Engine, length: int) -> None:
    """The token ids that occur in many sentences, special ones included."""
    ids = made.tokenizer(sentences(SENTENCES), truncation=True, max_length=length)["input_ids"]
    np.save(made.directory / "words.npy", np.unique(np.concatenate([[made.tokenizer.pad_token_id], *ids])))


def write_corpora(directory: Path) -> None:
    """Random tokens; their number is all that matters."""
    chance = np.random.default_rng(0)
    for sequences in (SEQUENCES, 10 * SEQUENCES):
        rows = ((chance.integers(1000, 30_000, 16).tolist(), True) for _ in range(sequences))
        write(rows, 16, directory / f"{sequences}.arrow")


def child(name: str, directory: Path, steps: int, length: int) -> None:
    """Run one line of the table and print its megabytes."""
    quiet()
    made = Engine(directory, [], length)
    if device().type == "cuda":
        torch.zeros(1, device=device())  # CUDA's own share of the machine's memory belongs to the base
    host = name.startswith("general")  # of the corpus, which no GPU holds
    base = peak(host)
    {
        "reference": lambda: reference(made, length, steps),
        "engine": lambda: intermediate(made, made.plain, steps),
        "engine, few kernels": lambda: intermediate(made, made.plain, steps),
        "engine, more words": lambda: intermediate(made, MoreWords(made), steps),
        "engine, batch in 4 slices": lambda: intermediate(made, made.plain, steps, 4),
        "engine, cached states": lambda: cached(made, steps),
        "general, corpus": lambda: general(made, SEQUENCES, 10),
        "general, corpus x 10": lambda: general(made, 10 * SEQUENCES, 1),
    }[name]()
    print(json.dumps({"peak": peak(host) - base, "base": base}))


LINES = [
    "reference",
    "engine",
    "engine, few kernels",
    "engine, more words",
    "engine, batch in 4 slices",
    "engine, cached states",
    "general, corpus",
    "general, corpus x 10",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="of intermediate distillation")
    parser.add_argument("--length", type=int, default=64, metavar="N", help="tokens the reference pads to")
    parser.add_argument("--child", choices=LINES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.directory, given.steps, given.length)
    with tempfile.TemporaryDirectory() as scratch:
        made = Engine(Path(scratch), sentences(BATCHES * BATCH), given.length)
        made.fill(gigabytes=10)[0].directory.rename(made.directory / "cache")
        BertModel(STUDENT).save_pretrained(made.directory / "student")
        write_words(made, given.length)
        write_corpora(made.directory)
        found = {name: measured(name, made.directory, given) for name in LINES}
    print(report(found, given.length))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return None


def measured(name: str, directory: Path, given: argparse.Namespace) -> dict[str, float]:
    """What a process of its own tells of one line."""
    shutil.rmtree(directory / "out-resume", ignore_errors=True)
    command = [sys.executable, __file__, "--child", name, "--directory", str(directory)]
    command += ["--steps", str(given.steps), "--length", str(given.length)]
    environment = os.environ | FEW_KERNELS if name.endswith("few kernels") else None
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:28} {figures['peak']:8.0f} MB", file=sys.stderr, flush=True)
    return figures


def report(found: dict[str, dict[str, float]], length: int) -> str:
    """What was measured, as Markdown."""
    lines = [
        f"{processor()}; commit {commit()}; `{' '.join(['python', *sys.argv])}`",
        "",
        f"Batches of {BATCH}, the reference's padded to {length} tokens. Python and its libraries are "
        f"{found['reference']['base']:.0f} MB of each whole peak. More words: the tables hold those of "
        f"{SENTENCES:,} sentences.",
        "",
        "| | whole peak, MB | of the reference | without libraries, MB | of the reference |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in LINES:
        other = found["general, corpus" if "general" in name else "reference"]
        whole, wholes = (figures["base"] + figures["peak"] for figures in (found[name], other))
        of = " of one corpus" if "general" in name else ""
        own = f"{found[name]['peak']:.0f} | {found[name]['peak'] / other['peak']:.2f}{of}"
        lines.append(f"| {name} | {whole:.0f} | {whole / wholes:.2f}{of} | {own} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
