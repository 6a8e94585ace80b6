"""Rows into splits: what is missing is split off, what leaks is dropped, what is too much is sampled."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tinybert.data_config import SPLITS, DataConfig
from tinybert.errors import DataError
from tinybert.kinds.task_kind import Label
from tinybert.sampling import Purpose, choose


@dataclass(frozen=True)
class Row:
    """One labelled example."""

    text: str
    pair: str | None
    label: Label
    """Named; see `tinybert.kinds.task_kind`."""
    stratum: str = field(default="", compare=False)
    """Rows are sampled and split so that each stratum keeps its share."""
    group: str | None = field(default=None, compare=False)
    """The value of `data.slice_by`. Rows that differ in it alone are duplicates."""

    @property
    def sentences(self) -> tuple[str, str | None]:
        """What a model sees; two rows with the same are the same question."""
        return self.text, self.pair


Splits = dict[str, list[Row]]
"""The rows of each of `SPLITS`, and of the further tests as test_<name>."""


def part(rows: Splits, config: DataConfig, needed: Collection[str] = ()) -> Splits:
    """The splits that are missing, made of the others: validation rows of training rows, test rows of validation rows.

    For each row that is added, or removed, at most one other leaves each split, but for the rounding of quotas
    (`tinybert.sampling`). With `test_share` 0 no test rows are made.

    Args:
        rows: Of each split; maybe none of validation and test.
        config: Shares and seed.
        needed: Strata without which a split is of no use. The others are joined where they are too small to split.

    Raises:
        DataError: There are too few rows of a needed stratum, or in all.
    """
    train, validation, test = (rows[split] for split in SPLITS)
    is_parted = not test and config.test_share > 0
    if not validation:
        least = 2 if is_parted else 1
        train, validation = _split_off("validation", train, config.validation_share, config.seed, needed, least)
    if is_parted:
        validation, test = _split_off("test", validation, config.test_share, config.seed, needed)
    return {**rows, **dict(zip(SPLITS, (train, validation, test), strict=True))}


def _split_off(
    split: str, rows: list[Row], share: float, seed: int, needed: Collection[str], least: int = 1
) -> tuple[list[Row], list[Row]]:
    """What is left, and what is split off: of each stratum at least one row, and at least `least`."""
    strata = _joined(rows, least / min(share, 1 - share), needed)
    sizes = Counter(strata)
    label, size = min(sizes.items(), key=lambda item: item[1])
    if size <= least:
        of_label = f"label {label!r} has" if label in needed else "there are"
        raise DataError(
            f"{of_label} {size} of the rows that data.{split}_share splits; {least + 1} are needed: "
            f"add rows, or name a data.{split}_source"
        )
    count = max(round(share * len(rows)), least * len(sizes))
    if len(rows) - count < len(sizes):
        raise DataError(
            f"{len(rows)} rows cannot be split with data.{split}_share {share:g}: each split "
            f"needs a row of each of the {len(sizes)} labels; add rows, or change the share"
        )
    purpose: Purpose = "test" if split == "test" else "split"
    taken, left = _parted(rows, strata, count, purpose, seed, spare=1, least=least)
    return left, taken


def _joined(rows: Sequence[Row], smallest: float, needed: Collection[str]) -> list[str]:
    """The stratum of each row, those that are smaller, and not needed, made one; and that one a part of the largest
    where it is too small itself."""
    sizes = Counter(row.stratum for row in rows)
    small = {stratum for stratum, size in sizes.items() if size < smallest and stratum not in needed}
    large = [stratum for stratum in sorted(sizes) if stratum not in small]
    is_one = not large or sum(sizes[stratum] for stratum in small) >= smallest
    home = "" if is_one else max(large, key=lambda stratum: sizes[stratum])
    return [home if row.stratum in small else row.stratum for row in rows]


def without_leaks(rows: Splits, config: DataConfig) -> Splits:
    """Validation without what stands in a test, train without what stands in a test or in validation.

    Raises:
        DataError: There is any, and the form wants the data refused then.
    """
    tests = [split for split in rows if split not in ("train", "validation") and rows[split]]
    clean, before = dict(rows), list(tests)
    seen = {row.sentences for split in tests for row in rows[split]}
    for split in ("validation", "train"):
        leaks = [row for row in rows[split] if row.sentences in seen]
        if leaks and config.leaks == "refuse":
            raise DataError(
                f"{len(leaks)} rows of {split} stand in {' or '.join(before)} too, e.g. {leaks[0].text[:60]!r}; "
                "remove them, or set data.leaks to remove"
            )
        clean[split] = [row for row in rows[split] if row.sentences not in seen]
        seen |= {row.sentences for row in rows[split]}
        before.insert(0, split)
    return clean


def sample(rows: list[Row], most: int | None, seed: int, needed: Collection[str] = ()) -> list[Row]:
    """At most so many rows, each stratum in proportion.

    Raises:
        DataError: There are more needed strata than rows.
    """
    if most is None or len(rows) <= most:
        return rows
    strata = _joined(rows, len(rows) / most, needed)
    if most < len(set(strata)):
        raise DataError(f"{most} rows cannot hold {len(set(strata))} labels; allow more rows")
    taken, _ = _parted(rows, strata, most, "sample", seed)
    return taken


def _parted(
    rows: list[Row], strata: list[str], count: int, purpose: Purpose, seed: int, spare: int = 0, least: int = 1
) -> tuple[list[Row], list[Row]]:
    """The rows that are taken, and the others, both in the order they had."""
    sentences = [row.sentences for row in rows]
    taken = choose(sentences, strata, count, purpose=purpose, seed=seed, spare=spare, least=least)
    others = [row for place, row in enumerate(rows) if place not in taken]
    return [rows[place] for place in sorted(taken)], others
