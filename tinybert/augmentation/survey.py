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
    teacher: str | None
    """The label that the teacher gives the copy; with confidence None where copies are not judged."""
    confidence: float | None
    became: str


class Survey:
    """Counts rows and copies as they come, and where the kind's copies are judged, what the teacher says of them.

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
        self._count = 0
        self.examples: list[Example] = []

    def add_row(self, row: Row, said: Label | None) -> None:
        """Count an original row and the label that the teacher gives it, if it was asked."""
        self._count += 1
        self._own.update(*(side.words for side in sides(row)))
        if said is not None:
            self._rows.add(row.label, said)

    def add_copy(self, row: Row, copy: Row, said: Label | None, confidence: float | None, fate: str) -> None:
        """Count a copy of a row, what the teacher says of it, and what became of it (see `quality.judge`)."""
        recipe = str(copy.made_by)
        if said is not None:
            self._copies.add(copy.label, said)
        self._fates[fate][recipe] += 1
        if self._places[recipe] in self._chosen.get(recipe, ()):
            self.examples.append(self._example(row, copy, said, confidence, fate))
        self._places[recipe] += 1
        if fate in KEPT:
            if self._row[0] is not row:  # the copies of a row come together
                self._row = (row, sides(row))
            self._count_words(recipe, self._row[1], sides(copy))

    def _example(self, row: Row, copy: Row, said: Label | None, sure: float | None, fate: str) -> Example:
        label = self._kind.shown(copy.label, self._labels)
        teacher = None if said is None else self._kind.shown(said, self._labels)
        became = fate if fate in KEPT else f"dropped: {fate}"
        return Example(str(copy.made_by), row.texts, copy.texts, label, teacher, sure and round(sure, 4), became)

    def _count_words(self, recipe: str, own: Sequence[Side], copied: Sequence[Side]) -> None:
        for before, after in zip(own, copied, strict=True):
            self._new.update(after.words)
            self._words[recipe] += len(before.bag) + len(after.bag)
            self._replaced[recipe] += len(before.bag ^ after.bag)

    def summary(self) -> dict[str, Any]:
        """`augmentation` of the manifest: that of `gather`, the teacher's part where there is one, and the words."""
        kept = self._fates["kept"] + self._fates["relabelled"]
        return {
            **self._gathered,
            "rows": self._count,
            "kept": dict(kept),
            **(self._judged() if self._kind.judged else {}),
            "words_replaced": _share(self._replaced.total(), self._words.total()),
            "words_replaced_by": {name: _share(self._replaced[name], self._words[name]) for name in kept},
            "vocabulary": {"rows": len(self._own), "with_copies": len(self._own | self._new)},
        }

    def _judged(self) -> dict[str, Any]:
        """What follows from the teacher's answers.

        `judged` counts rows and copies, and those of them to which the teacher gives another label; `classes` how often
        their labels have each class, and how often the teacher's have it not.
        """
        teachers = {reason: dict(self._fates[reason]) for reason in ("flipped", "unsure")}
        rows, copies = self._rows.found(), self._copies.found()
        return {
            "dropped": {**self._gathered["dropped"], **teachers},
            "relabelled": dict(self._fates["relabelled"]),
            "judged": _counts(rows.labels, rows.others, copies.labels, copies.others),
            "classes": {name: _counts(*own, *copies.classes[name]) for name, own in rows.classes.items()},
        }


def _counts(rows: int, misread: int, copies: int, flipped: int) -> dict[str, int]:
    return {"rows": rows, "misread": misread, "copies": copies, "flipped": flipped}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# Numbers --------------------------------------------------------------------------------------------------------------


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """asked, made, kept, dropped_<reason>, words_replaced, vocabulary_growth; of judged ones relabelled, flip_rate."""
    counted = {name: summary[name] for name in ("asked", "made", "kept", "relabelled") if name in summary}
    counted |= {f"dropped_{reason}": counts for reason, counts in summary["dropped"].items()}
    judged, vocabulary = summary.get("judged"), summary["vocabulary"]
    return {
        **{name: float(sum(counts.values())) for name, counts in counted.items()},
        **({"flip_rate": _share(judged["flipped"], judged["copies"])} if judged else {}),
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


def _columns(examples: Sequence[Example]) -> list[str]:
    """The fields that the examples have: those of a kind whose copies are not judged have nothing of a teacher."""
    return [name for name in Example._fields if all(getattr(example, name) is not None for example in examples)]


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """The examples with their whole texts, as a table that MLflow shows."""
    columns = _columns(examples)
    rows = ([getattr(example, name) for name in columns] for example in examples)
    data = [[_BETWEEN.join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in rows]
    table = {"columns": columns, "data": data}
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
    return "\n".join(
        [
            "# Augmentation\n",
            f"Of {numbers['asked']:,.0f} copies that were asked for, {numbers['made']:,.0f} were made and "
            f"{numbers['kept']:,.0f} kept, beside {summary['rows']:,} rows.\n",
            *_recipes(summary),
            "\n## Labels\n",
            *_opinions(summary),
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
    columns = [summary["asked"], summary["made"], *reasons.values(), summary["kept"]]
    columns += [summary["relabelled"]] if "relabelled" in summary else []
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
    relabelled = ["of these relabelled"] if "relabelled" in summary else []
    header = ["recipe", "asked", "made", *named, "kept", *relabelled, "words replaced"]
    return _table(header, lines, "l" + "r" * (len(header) - 1))


def _opinions(summary: Mapping[str, Any]) -> list[str]:
    """How often the teacher disagrees, in all and by class."""
    if not (judged := summary.get("judged")):
        return ["Copies keep their rows' labels; no teacher judges them."]
    flipped, misread = _share(judged["flipped"], judged["copies"]), _share(judged["misread"], judged["rows"])
    said = (
        f"The teacher gives another label than the data to {flipped:.1%} of the copies it was shown, and to "
        f"{misread:.1%} of the rows themselves.\n"
    )
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
    return [said, *_table(["label", "in rows", "teacher misses", "in copies", "flipped"], lines, "lrrrr")]


def _examples(examples: Sequence[Example]) -> list[str]:
    columns = _columns(examples)
    lines = [[_cell(getattr(example, name)) for name in columns] for example in examples]
    return _table(columns, lines, ["r" if name == "confidence" else "l" for name in columns])


def _cell(value: str | float | tuple[str, ...]) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return _BETWEEN.join(escape(shorten(text)) for text in ([value] if isinstance(value, str) else value))


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], alignment: Iterable[str]) -> list[str]:
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
