"""What became of the augmented copies, counted row by row: for the manifest, as Markdown, examples and a picture."""

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from tinybert.augmentation.comparison import Comparison
from tinybert.augmentation.quality import KEPT, Row, Side, sides
from tinybert.kinds.task_kind import Label, TaskKind

EXAMPLES, LONGEST = 20, 240
"""How many examples are shown, and how many characters of each text in Markdown."""
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$])")
_JOINER = "\u200d"
_BETWEEN = " \u2016 "
"""Stands between the two sides of a pair."""


class Example(NamedTuple):
    """A copy beside its row; its fields are the columns of the tables of examples."""

    recipe: str
    original: tuple[str, ...]
    """One text, or both of a pair."""
    copy: tuple[str, ...]
    label: str
    teacher: str
    """The label that the teacher gives the copy."""
    confidence: float
    became: str


class Survey:
    """Counts rows and copies as the teacher is held against them.

    Args:
        kind: Of the task.
        labels: Names of the labels.
        gathered: `augmentation` of the manifest of the stage `gather`.
    """

    def __init__(self, kind: TaskKind, labels: list[str], gathered: Mapping[str, Any]) -> None:
        self._kind, self._labels, self._gathered = kind, labels, gathered
        self._chosen = choose(gathered["kept"], EXAMPLES)
        self._rows, self._copies = Comparison(kind, labels), Comparison(kind, labels)
        self._fates: dict[str, Counter[str]] = {name: Counter() for name in (*KEPT, "flipped", "unsure")}
        self._places, self._words, self._replaced = Counter[str](), Counter[str](), Counter[str]()
        self._own: set[str] = set()
        self._new: set[str] = set()
        self._row: tuple[Row | None, tuple[Side, ...]] = (None, ())
        self.examples: list[Example] = []

    def add_row(self, row: Row, said: Label) -> None:
        """Count an original row and the label that the teacher gives it."""
        self._own.update(*(side.words for side in sides(row)))
        self._rows.add(row.label, said)

    def add_copy(self, row: Row, copy: Row, said: Label, confidence: float, fate: str) -> None:
        """Count a copy of a row, what the teacher says of it, and what became of it (see `quality.judge`)."""
        recipe = str(copy.made_by)
        self._copies.add(copy.label, said)
        self._fates[fate][recipe] += 1
        if self._places[recipe] in self._chosen.get(recipe, ()):
            label, teacher = (self._kind.shown(value, self._labels) for value in (copy.label, said))
            became = fate if fate in KEPT else f"dropped: {fate}"
            self.examples.append(Example(recipe, row.texts, copy.texts, label, teacher, round(confidence, 4), became))
        self._places[recipe] += 1
        if fate in KEPT:
            if self._row[0] is not row:  # the copies of a row come together
                self._row = (row, sides(row))
            self._count_words(recipe, self._row[1], sides(copy))

    def _count_words(self, recipe: str, own: Sequence[Side], copied: Sequence[Side]) -> None:
        for before, after in zip(own, copied, strict=True):
            self._new.update(after.words)
            self._words[recipe] += len(before.bag) + len(after.bag)
            self._replaced[recipe] += len(before.bag ^ after.bag)

    def summary(self) -> dict[str, Any]:
        """`augmentation` of the manifest: that of `gather`, the teacher's part, and the words.

        `judged` counts rows and copies, and those of them to which the teacher gives another label; `classes` how often
        their labels have each class, and how often the teacher's have it not.
        """
        kept = self._fates["kept"] + self._fates["relabelled"]
        teachers = {reason: dict(self._fates[reason]) for reason in ("flipped", "unsure")}
        rows, copies = self._rows.found(), self._copies.found()
        return {
            **self._gathered,
            "dropped": {**self._gathered["dropped"], **teachers},
            "kept": dict(kept),
            "relabelled": dict(self._fates["relabelled"]),
            "judged": _counts(rows.labels, rows.others, copies.labels, copies.others),
            "classes": {name: _counts(*own, *copies.classes[name]) for name, own in rows.classes.items()},
            "words_replaced": _share(self._replaced.total(), self._words.total()),
            "words_replaced_by": {name: _share(self._replaced[name], self._words[name]) for name in kept},
            "vocabulary": {"rows": len(self._own), "with_copies": len(self._own | self._new)},
        }


def _counts(rows: int, misread: int, copies: int, flipped: int) -> dict[str, int]:
    return {"rows": rows, "misread": misread, "copies": copies, "flipped": flipped}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# Numbers --------------------------------------------------------------------------------------------------------------


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """asked, made, kept, relabelled, dropped_<reason>, flip_rate, words_replaced, vocabulary_growth."""
    counted = {name: summary[name] for name in ("asked", "made", "kept", "relabelled")}
    counted |= {f"dropped_{reason}": counts for reason, counts in summary["dropped"].items()}
    judged, vocabulary = summary["judged"], summary["vocabulary"]
    return {
        **{name: float(sum(counts.values())) for name, counts in counted.items()},
        "flip_rate": _share(judged["flipped"], judged["copies"]),
        "words_replaced": summary["words_replaced"],
        "vocabulary_growth": _share(vocabulary["with_copies"] - vocabulary["rows"], vocabulary["rows"]),
    }


# Examples -------------------------------------------------------------------------------------------------------------


def choose(counts: Mapping[str, int], most: int) -> dict[str, set[int]]:
    """Which copies of each recipe are shown, counted from 0: as many of each recipe as there are, spread evenly."""
    seats = Counter[str]()
    while seats.total() < most and (free := [name for name in sorted(counts) if seats[name] < counts[name]]):
        seats.update(free[: most - seats.total()])
    return {name: _spread(counts[name], number) for name, number in seats.items()}


def _spread(count: int, parts: int) -> set[int]:
    """A number of each of so many equal parts, drawn, so that it falls into no rhythm that the copies have."""
    chance = random.Random(0)
    return {chance.randrange(part * count // parts, (part + 1) * count // parts) for part in range(parts)}


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """The examples with their whole texts, as a table that MLflow shows."""
    data = [[_BETWEEN.join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in examples]
    table = {"columns": Example._fields, "data": data}
    path.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def shorten(text: str, most: int = LONGEST) -> str:
    """The beginning of a text, in one line; no character is cut from its marks, no emoji in two."""
    text = "".join(c for c in " ".join(text.split()) if unicodedata.category(c) != "Cc")
    if len(text) <= most:
        return text
    end = most - 1
    while end and (_continues(text[end]) or text[end - 1] == _JOINER):
        end -= 1
    return text[:end].rstrip() + "\u2026"


def _continues(character: str) -> bool:
    """Marks, joiners, skin tones, and the letters that flags are made of."""
    flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return flag or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")


def escape(text: str) -> str:
    """Text as it is, for a cell of a Markdown table."""
    return _MARKUP.sub(r"\\\1", text)


# Report ---------------------------------------------------------------------------------------------------------------


def report(summary: Mapping[str, Any], examples: Sequence[Example]) -> str:
    """What became of the copies, as Markdown."""
    numbers, vocabulary = metrics_of(summary), summary["vocabulary"]
    misread, rows = summary["judged"]["misread"], summary["judged"]["rows"]
    return "\n".join(
        [
            "# Augmentation\n",
            f"Of {numbers['asked']:,.0f} copies that were asked for, {numbers['made']:,.0f} were made and "
            f"{numbers['kept']:,.0f} kept, beside {rows:,} rows.\n",
            *_recipes(summary),
            "\n## Labels\n",
            f"The teacher gives another label than the data to {numbers['flip_rate']:.1%} of the copies it was shown, "
            f"and to {_share(misread, rows):.1%} of the rows themselves.\n",
            *_classes(summary),
            "\n## Words\n",
            f"- Words replaced: {numbers['words_replaced']:.1%}, the share of the words of the kept copies and their "
            "rows that only one of the two has. Compared are multisets: a word that only moved is not replaced.",
            f"- Vocabulary: {vocabulary['rows']:,} different words in the rows, {vocabulary['with_copies']:,} with the "
            f"kept copies, {numbers['vocabulary_growth']:+.1%}.",
            "\n## Examples\n",
            *(_examples(examples) if examples else ["There are no copies to show."]),
            "",
        ]
    )


def _recipes(summary: Mapping[str, Any]) -> list[str]:
    """A recipe a line, and all together where there are several."""
    reasons: dict[str, Mapping[str, int]] = summary["dropped"]
    columns = [summary["asked"], summary["made"], *reasons.values(), summary["kept"], summary["relabelled"]]
    recipes = list(dict.fromkeys([*summary["asked"], *summary["made"]]))
    replaced = summary["words_replaced_by"]
    lines = [
        [escape(name), *(f"{counts.get(name, 0):,}" for counts in columns), f"{replaced.get(name, 0.0):.1%}"]
        for name in recipes
    ]
    if len(recipes) != 1:
        sums = (f"{sum(counts.values()):,}" for counts in columns)
        lines.append(["all", *sums, f"{summary['words_replaced']:.1%}"])
    named = [f"dropped: {reason.replace('_', ' ')}" for reason in reasons]
    header = ["recipe", "asked", "made", *named, "kept", "of these relabelled", "words replaced"]
    return _table(header, lines, "l" + "r" * (len(header) - 1))


def _classes(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        [
            escape(shorten(name)),
            f"{counts['rows']:,}",
            f"{_share(counts['misread'], counts['rows']):.1%}",
            f"{counts['copies']:,}",
            f"{_share(counts['flipped'], counts['copies']):.1%}",
        ]
        for name, counts in summary["classes"].items()
    ]
    return _table(["label", "in rows", "teacher misses", "in copies", "flipped"], lines, "lrrrr")


def _examples(examples: Sequence[Example]) -> list[str]:
    lines = [
        [
            escape(example.recipe),
            *(_BETWEEN.join(escape(shorten(text)) for text in texts) for texts in (example.original, example.copy)),
            *(escape(shorten(label)) for label in (example.label, example.teacher)),
            f"{example.confidence:.2f}",
            example.became,
        ]
        for example in examples
    ]
    return _table(Example._fields, lines, "lllllrl")


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], alignment: str) -> list[str]:
    rule = ["---:" if edge == "r" else "---" for edge in alignment]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]


# Picture --------------------------------------------------------------------------------------------------------------


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """What became of the copies asked for: a bar for those kept, and one for each reason that others are not."""
    asked, made, kept = (sum(summary[name].values()) for name in ("asked", "made", "kept"))
    counts = {"kept": kept, "not made": asked - made}
    counts |= {reason.replace("_", " "): sum(found.values()) for reason, found in summary["dropped"].items()}
    figure = Figure(figsize=(7, 0.9 + 0.4 * len(counts)), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:green", "lightgray", *["tab:red"] * len(summary["dropped"])]
    bars = axes.barh(list(counts), list(counts.values()), color=colors)
    axes.bar_label(bars, [f"{count:,} ({_share(count, asked):.1%})" for count in counts.values()], padding=4)
    axes.set(title=f"{asked:,} augmented copies asked for", xlabel="copies", xlim=(0, 1.3 * max(1, *counts.values())))
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)
