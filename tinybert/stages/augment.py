"""Data augmentation by Algorithm 1 of the paper: the original rows, and copies with words replaced."""

import shutil
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from tinybert import vectors as word_vectors
from tinybert.augmentation import augment
from tinybert.cli import main
from tinybert.config import AugmentConfig
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.models import load_tokenizer
from tinybert.progress import OnMetrics, Progress
from tinybert.resume import resume_beside
from tinybert.scoring import device


def run(
    *,
    data: Path,
    model: Path,
    config: AugmentConfig,
    out: Path,
    on_metrics: OnMetrics,
    vectors: Path | None = None,
) -> dict[str, float]:
    """Augment the training rows; the validation rows stay as they are.

    Args:
        data: Prepared task data set (`tinybert.data`).
        model: Masked language model that proposes words of one piece.
        config: Copies, candidates, probability.
        out: Directory to write, in the same layout; a copy's `origin` is the row it was made of.
        on_metrics: Told the counts.
        vectors: Word vectors that propose the other words.

    Returns:
        rows, copies, asked (copies that were wanted), leaks (copies dropped for standing in validation).
    """
    task = TaskData(data)
    train = task.rows("train")
    known = word_vectors.load(vectors, resume_beside(out)) if vectors else None
    proposer = AutoModelForMaskedLM.from_pretrained(model, use_safetensors=True, dtype=torch.float32).to(device())
    progress = Progress("augment", len(train), unit="row")
    pairs = list(train["text_pair"]) if train[0]["text_pair"] is not None else None
    copies = augment(
        list(train["text"]),
        pairs,
        proposer,
        load_tokenizer(model),
        known,
        config,
        on_progress=lambda done, _: progress.update(done),
    )
    held_out = _sentences(task.rows("validation"))
    labels, leaks = train["label"], 0
    with RowWriter(out / "train.arrow") as writer:
        for row in train:
            writer.add(row["text"], row["text_pair"], row["label"], row["origin"])
        for copy in copies:
            if (copy.text, copy.text_pair) in held_out:
                leaks += 1
                continue
            writer.add(copy.text, copy.text_pair, labels[copy.row], train[copy.row]["origin"])
    shutil.copyfile(data / "validation.arrow", out / "validation.arrow")
    write_manifest(out, task.labels, task.max_length, original_rows=len(train), dropped={"leaks": leaks})
    counts = {"rows": len(train), "copies": writer.count - len(train), "leaks": leaks}
    metrics = {name: float(value) for name, value in {**counts, "asked": len(train) * config.copies}.items()}
    on_metrics(metrics, 0)
    return metrics


def _sentences(rows: Dataset) -> set[tuple[str, str | None]]:
    return set(zip(rows["text"], rows["text_pair"], strict=True))


if __name__ == "__main__":
    main(run)
