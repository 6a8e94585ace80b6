"""What was understood of the data, in words and small tables: for a look before anything is trained on them."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from datasets import Dataset

from tinybert.data import TaskData
from tinybert.data_config import SPLITS, DataConfig
from tinybert.kinds.task_kind import Label, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
FEW = 10
"""Rows of a label that are too few to learn it, or to say how well it was learnt."""
UNBALANCED = 100
"""How many times as often as the rarest the most frequent label may occur unremarked."""
NOTED = 0.01
"""Share of rows that are cut, or of tokens that are unknown, above which it is a problem."""
TOKENISED = 10_000
"""Rows of a split that are tokenised at most."""
EXAMPLES = 3
SHOWN = 240
"""Characters of a text in an example."""
PERCENTILES = (5, 50, 95, 100)
_CELL = str.maketrans({"|": "\\|", "\n": " "})


def describe_prepared(data: TaskData, config: DataConfig, tokenizer: "PreTrainedTokenizerBase | None" = None) -> str:
    """A prepared data set as Markdown that can be read as it is.

    Args:
        data: What `tinybert.stages.prepare` wrote.
        config: What was asked for.
        tokenizer: The teacher's, to count tokens with.
    """
    manifest, kind, labels = data.manifest, data.kind, data.labels
    splits = {split: data.rows(split) for split in manifest["splits"]}
    parts = {split: _Split(rows, kind, labels) for split, rows in splits.items() if len(rows)}
    pieces = {split: _Pieces(part, tokenizer, config.max_length) for split, part in parts.items()} if tokenizer else {}
    problems = [*manifest["problems"], *_problems(parts, labels, data.test_is_validation)]
    problems += _problems_of_pieces(pieces, config, data.test_is_validation)
    sections = {
        "Data": _asked_for(config, labels),
        "Rows": _rows(parts, manifest["dropped"]),
        "Labels": _labels(parts),
        "Length in characters": _percentiles({split: part.lengths for split, part in parts.items()}),
        "Length in tokens": _tokens(pieces, config),
        "Scripts": _scripts(parts),
        "Problems": "\n".join(f"- {problem}" for problem in problems) or "None was found.",
        **{f"Examples of {split}": _examples(part) for split, part in parts.items()},
    }
    return "\n".join(f"## {title}\n\n{content.strip()}\n" for title, content in sections.items() if content)


class _Split:
    """The rows of a split, each column read once."""

    def __init__(self, rows: Dataset, kind: TaskKind, names: Sequence[str]) -> None:
        self.rows, self.kind, self.names = rows, kind, names
        self.labels: list[Label] = rows["label"][:]
        self.counts = kind.counts(self.labels, names)

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Text and second text, which may be none."""
        for batch in self.rows.select_columns(["text", "text_pair"]).iter(1000):
            for text, pair in zip(batch["text"], batch["text_pair"], strict=True):
                yield text, pair or ""

    @cached_property
    def lengths(self) -> list[int]:
        return [len(text) + len(pair) for text, pair in self.texts()]

    @cached_property
    def scripts(self) -> Counter[str]:
        """Letters of each."""
        characters: Counter[str] = Counter()
        for text in chain.from_iterable(self.texts()):
            characters.update(text)
        scripts: Counter[str] = Counter()
        for character, count in characters.items():
            if script := script_of(character):
                scripts[script] += count
        return scripts

    def contradicted(self) -> list[str]:
        """Texts that stand with different labels, each once."""
        labels: dict[tuple[str, str], str] = {}
        found: dict[str, None] = {}
        for texts, label in zip(self.texts(), map(str, self.labels), strict=True):
            if labels.setdefault(texts, label) != label:
                found[" / ".join(filter(None, texts))] = None
        return list(found)

    def misplaced(self) -> int:
        """Answers that do not stand where they should."""
        if self.kind.name != "question_answering":
            return 0
        pairs = zip(self.rows["text_pair"], self.labels, strict=True)
        golds = ((context, answer) for context, answers in pairs for answer in answers)
        return sum(not context.startswith(answer["text"], answer["start"]) for context, answer in golds)


def script_of(character: str) -> str | None:
    """The writing system of a letter (Latin, Han, Cyrillic, ...) by its name in Unicode; None of what is no letter."""
    words = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split()
    is_letter = any(word.startswith(("LETTER", "IDEOGRAPH", "SYLLABLE")) for word in words)
    if not unicodedata.category(character).startswith("L") or not is_letter or words[0] == "MODIFIER":
        return None
    return "Han" if words[0] == "CJK" else words[0].capitalize()


class _Pieces:
    """A split as the tokenizer has it, or rows of it at regular intervals."""

    def __init__(self, part: _Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> None:
        step = -(-len(part) // TOKENISED)
        rows = part.rows.select(range(0, len(part), step))
        texts, pairs = rows["text"][:], rows["text_pair"][:]
        both = None if pairs[0] is None else pairs
        self.part, self.rows = part, len(rows)
        whole = tokenizer(texts, both, truncation=False, verbose=False)["input_ids"]
        self.lengths = [len(ids) for ids in whole]
        self.cut = sum(length > max_length for length in self.lengths) / len(rows)
        unknown = sum(ids.count(tokenizer.unk_token_id) for ids in whole)
        self.unknown = unknown / max(1, sum(self.lengths))
        encoded = part.kind.encode(tokenizer, texts, both, max_length)
        self.windows = len(encoded.ids) / len(rows)
        self.silent: list[str] = []
        if part.kind.name == "token_classification":
            words = sorted({word for text in texts for word in text.split(" ")})
            pieces = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"] if words else []
            self.silent = [word for word, ids in zip(words, pieces, strict=True) if not ids]


# Sections -------------------------------------------------------------------------------------------------------------


def _asked_for(config: DataConfig, labels: Sequence[str]) -> str:
    columns = {"text": config.text_column, "text_pair": config.pair_column, "label": config.label_column}
    sources = {"training": config.source, "validation": config.validation_source, "test": config.test_source}
    lines = [
        f"kind: {config.kind}, decided by {config.score}",
        *(f"{split} rows: {source}" for split, source in sources.items() if source),
        *(f"rows of {split}: files {pattern}" for split, pattern in config.splits.items()),
        f"columns: {', '.join(f'{role} is {column!r}' for role, column in columns.items() if column)}",
        f"outputs of a model: {', '.join(labels)}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _rows(parts: Mapping[str, _Split], dropped: Mapping[str, Mapping[str, int]]) -> str:
    """How many there are, and how many were dropped for which reason."""
    reasons = sorted({reason for found in dropped.values() for reason in found})
    header = ["split", "rows", *(f"{reason.replace('_', ' ')} dropped" for reason in reasons)]
    counts = {s: [len(part), *(dropped.get(s, {}).get(reason, 0) for reason in reasons)] for s, part in parts.items()}
    return _table(header, [[split, *(f"{count:,}" for count in found)] for split, found in counts.items()])


def _labels(parts: Mapping[str, _Split]) -> str:
    """How often each occurs; of numbers, where they lie."""
    if next(iter(parts.values())).kind.name == "regression":
        return _percentiles({split: part.labels for split, part in parts.items()}, (0, *PERCENTILES), ".3g")
    names = [name for name in next(iter(parts.values())).counts if any(part.counts[name] for part in parts.values())]
    rows = [[name, *(_count(part.counts, name) for part in parts.values())] for name in names]
    return _table(["label", *parts], rows) if rows else ""


def _count(counts: Mapping[str, int], name: str) -> str:
    share = counts[name] / max(1, sum(counts.values()))
    return f"{counts[name]:,} ({share:.1%}){' few' if counts[name] < FEW else ''}"


def _percentiles(numbers: Mapping[str, Sequence[float]], at: Sequence[int] = PERCENTILES, form: str = ",.0f") -> str:
    titles = {0: "least", 50: "median", 100: "most"}
    header = ["split", *(titles.get(p, f"{p}%") for p in at)]
    return _table(header, [[split, *(f"{np.percentile(n, p):{form}}" for p in at)] for split, n in numbers.items()])


def _tokens(pieces: Mapping[str, _Pieces], config: DataConfig) -> str:
    if not pieces:
        return ""
    table = _percentiles({split: piece.lengths for split, piece in pieces.items()})
    lines = []
    for split, piece in pieces.items():
        windows = f"{piece.windows:.2f} windows a row" if piece.windows > 1 else f"{piece.cut:.1%} of the rows are cut"
        of = f" ({piece.rows:,} of them looked at)" if piece.rows < len(piece.part) else ""
        lines.append(f"- {split}: {windows} at {config.max_length} tokens; {piece.unknown:.2%} tokens unknown{of}")
    return f"{table}\n" + "\n".join(lines)


def _scripts(parts: Mapping[str, _Split]) -> str:
    """Share of the letters."""
    found = sum((part.scripts for part in parts.values()), Counter[str]())
    rows = []
    for name, _ in found.most_common():
        shares = [part.scripts[name] / max(1, sum(part.scripts.values())) for part in parts.values()]
        rows.append([name, *("under 0.1%" if 0 < share < 0.001 else f"{share:.1%}" for share in shares)])
    return _table(["script", *parts], rows) if rows else ""


def _examples(part: _Split) -> str:
    """The first row, one of the middle and the last."""
    lines = []
    for place in sorted({round(share * (len(part) - 1)) for share in np.linspace(0, 1, EXAMPLES)}):
        row = part.rows[place]
        texts = [_short(text) for text in (row["text"], row["text_pair"]) if text is not None]
        lines.append(f"- {' / '.join(texts)}\n  -> {part.kind.shown(row['label'], part.names)}")
    return "\n".join(lines)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}..."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under each other also where nobody renders it."""
    cells = [[cell.translate(_CELL) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Problems -------------------------------------------------------------------------------------------------------------


def _problems(parts: Mapping[str, _Split], labels: Sequence[str], test_is_validation: bool) -> Iterator[str]:
    if test_is_validation:
        yield "no rows are left to test on: models are compared on the rows that checkpoints are chosen on"
    alike = [name for name in labels if sum(name.casefold() == other.casefold() for other in labels) > 1]
    if alike:
        yield f"labels differ in case only: {', '.join(alike)}"
    for split, part in _looked_at(parts, test_is_validation):
        absent = [name for name, count in part.counts.items() if not count]
        if absent:
            yield f"{split} has nothing of {', '.join(absent)}"
        if texts := part.contradicted():
            yield f"{len(texts):,} texts of {split} stand with different labels, e.g. {_short(texts[0])!r}"
        if misplaced := part.misplaced():
            yield f"{misplaced:,} answers of {split} do not stand at their place in the context"
    counts = parts[SPLITS[0]].counts
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < FEW]
    if few:
        yield f"under {FEW} training rows of {', '.join(few)}"
    most, least = max(counts.values(), default=0), min(filter(None, counts.values()), default=0)
    if most > UNBALANCED * least:
        often, rare = (next(name for name, count in counts.items() if count == number) for number in (most, least))
        yield f"labels are very unbalanced: {most:,} of {often}, {least:,} of {rare}"


def _looked_at(parts: Mapping[str, T], test_is_validation: bool) -> list[tuple[str, T]]:
    """Those with problems of their own: test rows that are the validation rows have none."""
    return [(split, part) for split, part in parts.items() if split != "test" or not test_is_validation]


def _problems_of_pieces(pieces: Mapping[str, _Pieces], config: DataConfig, test_is_validation: bool) -> Iterator[str]:
    for split, piece in _looked_at(pieces, test_is_validation):
        if piece.windows <= 1 and piece.cut > NOTED:
            yield f"{piece.cut:.1%} of the rows of {split} are cut at {config.max_length} tokens: raise data.max_length"
        if piece.unknown > NOTED:
            yield f"{piece.unknown:.1%} of the tokens of {split} are unknown; does the teacher read this language?"
        if piece.silent:
            shown = ", ".join(ascii(word) for word in piece.silent[:5])
            yield f"{len(piece.silent):,} words of {split} give the tokenizer nothing to tag, e.g. {shown}"
