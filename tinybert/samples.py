"""Tiny real material, built in code: a BERT of two small layers, labelled rows, a corpus, word vectors.

`python -m tinybert.samples DIRECTORY` writes what the presets with smoke in their names read.
"""

import csv
import itertools
import random
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, set_seed

from tinybert import kind_samples

GOOD = ("wonderful", "charming", "moving", "brilliant", "funny", "gripping")
BAD = ("dreadful", "boring", "clumsy", "tedious", "awful", "shallow")
THINGS = ("film", "story", "cast", "script", "music", "ending", "camera", "dialogue")
FRAMES = ("the {thing} is {mood}", "a truly {mood} {thing}", "what a {mood} {thing} this is", "{mood} {thing} , I say")


def sentences() -> list[tuple[str, str]]:
    """Every frame with every thing and mood, and its label."""
    moods = [(mood, "good") for mood in GOOD] + [(mood, "bad") for mood in BAD]
    combined = itertools.product(FRAMES, THINGS, moods)
    return [(frame.format(thing=thing, mood=mood), label) for frame, thing, (mood, label) in combined]


def write_rows(path: Path) -> None:
    """Labelled rows as a csv with the columns text and label, shuffled."""
    rows = sentences()
    random.Random(0).shuffle(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def write_corpus(path: Path) -> None:
    """The sentences as plain text, a paragraph of four a line."""
    texts = [text for text, _ in sentences()]
    random.Random(1).shuffle(texts)
    paragraphs = (" . ".join(texts[start : start + 4]) for start in range(0, len(texts), 4))
    path.write_text("\n".join(paragraphs) + "\n")


def write_vectors(path: Path) -> None:
    """GloVe text of 6 dimensions in which the words of a group point the same way."""
    random_numbers = random.Random(2)
    with path.open("w") as file:
        for axis, group in enumerate((GOOD, BAD, THINGS)):
            for word in group:
                numbers = [(1.0 if i == axis else 0.0) + random_numbers.uniform(-0.1, 0.1) for i in range(6)]
                file.write(f"{word} {' '.join(f'{number:.4f}' for number in numbers)}\n")


def vocabulary() -> dict[str, int]:
    """Special tokens, letters, and every word of the sentences but the last of each group."""
    frames = {word for frame in FRAMES for word in frame.split() if word.isalpha()}
    words = sorted({*frames, *GOOD[:-1], *BAD[:-1], *THINGS[:-1]})
    letters = sorted({letter for text, _ in sentences() for letter in text if letter.isalpha()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "."]
    pieces += [*letters, *(f"##{letter}" for letter in letters), *(word for word in words if len(word) > 1)]
    return {piece: number for number, piece in enumerate(pieces)}


def write_teacher(
    directory: Path,
    layers: int = 4,
    hidden: int = 32,
    heads: int = 4,
    seed: int = 0,
    words: dict[str, int] | None = None,
) -> None:
    """A BERT with its MLM head and random weights, and a WordPiece tokenizer that cuts some words into letters.

    Args:
        directory: To write.
        layers: Of the model.
        hidden: Width.
        heads: Of attention.
        seed: Of the weights.
        words: The vocabulary; that of the sentences where none is given.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast(vocab=words or vocabulary(), model_max_length=64)
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
    )
    with torch.no_grad():
        BertForMaskedLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def write(directory: Path) -> None:
    """Everything the `smoke` preset reads."""
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory / "rows.csv")
    write_corpus(directory / "corpus.txt")
    write_vectors(directory / "vectors.txt")
    write_teacher(directory / "teacher")
    kind_samples.write(directory / "kinds")
    pieces = list(vocabulary())
    known = [*pieces, *(word for word in kind_samples.words() if word not in pieces)]
    words = {piece: number for number, piece in enumerate(known)}
    write_teacher(directory / "kinds" / "teacher", layers=3, hidden=48, words=words)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tinybert.samples DIRECTORY")
    write(Path(sys.argv[1]))
