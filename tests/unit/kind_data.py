"""Small task data sets of every kind, made in code, and tiny BERTs that read them."""

import random

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.kinds import KINDS
from tinybert.models import save

FILLERS = [f"f{number}" for number in range(8)]
MARKS = ["red", "green", "blue"]
"""What labels are about; each is two pieces long, so that words and tokens differ."""
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *(word[:-1] for word in MARKS), "##d", "##n", "##e"]
NAMES = {
    "classification": ["without", "with"],
    "multi_label": MARKS,
    "regression": ["reds"],
    "token_classification": ["O", *(f"B-{word}" for word in MARKS)],
    "question_answering": ["start", "end"],
}
LENGTHS = {"question_answering": 16}
"""So short that contexts are read in windows."""


def example(kind, chance):
    """A text, its pair and its label as it stands in a row."""
    known = FILLERS if kind == "question_answering" else [*FILLERS, *MARKS]
    words = [chance.choice(known) for _ in range(chance.randint(2, 6))]
    text = " ".join(words)
    if kind == "classification":
        return text, None, int("red" in words)
    if kind == "multi_label":
        return text, None, [number for number, word in enumerate(MARKS) if word in words]
    if kind == "regression":
        return text, None, float(words.count("red"))
    if kind == "token_classification":
        return text, None, [MARKS.index(word) + 1 if word in MARKS else 0 for word in words]
    words *= 4  # for most contexts several windows
    if chance.random() < 0.3:
        return "f0", " ".join(words), []
    place = chance.randrange(len(words))
    words[place] = "red"
    return "f0", " ".join(words), [{"text": "red", "start": len(" ".join([*words[:place], ""]))}]


def write_kind(directory, kind, rows=64, held_out=64, seed=0):
    """A task data set of a kind, other rows in each split."""
    directory.mkdir(parents=True)
    chance = random.Random(seed)
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow", KINDS[kind]) as writer:
            for number in range(rows if split == "train" else held_out):
                writer.add(*example(kind, chance), number)
    metric = next(iter(KINDS[kind].metrics))
    write_manifest(directory, NAMES[kind], LENGTHS.get(kind, 24), kind=kind, metric=metric)
    return TaskData(directory)


def write_encoder(directory, seed=0, hidden=32, layers=2):
    """A tiny BERT with random weights, and its tokenizer."""
    torch.manual_seed(seed)
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": hidden}
    limits = {"max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertModel(BertConfig(vocab_size=len(PIECES), **shape, **limits))
    save(model, BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)}), directory, 32)
    return directory


def tokenizer_of(directory):
    """The tokenizer of a model directory."""
    return AutoTokenizer.from_pretrained(directory)
