"""Rows into splits: what is missing is split off, what leaks is dropped, what is too much is sampled."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tinybert.data_config import SPLITS, DataConfig
from tinybert.errors import DataError
from tinybert.kinds.task_kind import Label, Texts
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
    unit: Texts | None = field(default=None, compare=False)
    """What rows share that no split parts, e.g. the context of questions; None: their sentences."""

    @property
    def sentences(self) -> Texts:
        """What a model sees; two rows with the same are the same question."""
        return self.text, self.pair

    @property
    def key(self) -> Texts:
        """By what rows are split: those with the same go the same way."""
        return self.unit or self.sentences


Splits = dict[str, list[Row]]
"""The rows of each of `SPLITS`, and of the further tests as test_<name>."""


def part(rows: Splits, config: DataConfig, needed: Collection[str] = ()) -> Splits:
    """The splits that are missing, made of the others: validation rows of training rows, test rows of validation rows.

    What is split are the rows' keys. For each that is added, or removed, at most one other leaves each split, but for
    the rounding of quotas (`tinybert.sampling`). With `test_share` 0 no test rows are made.

    Args:
        rows: Of each split; maybe none of validation and test.
        config: Shares and seed.
        needed: Strata that a split of training rows must have; of which given validation rows have but one, that stays
            there. The others are joined where they are too small to split.

    Raises:
        DataError: There are too few rows of a needed stratum, or in all.
    """
    train, validation, test = (rows[split] for split in SPLITS)
    is_parted = not test and config.test_share > 0
    if not validation:
        least = 2 if is_parted else 1
        train, validation = _split_off("validation", train, config.validation_share, config.seed, needed, least)
    if is_parted:
        alone = _alone(validation, needed)
        others = [row for row in validation if row.key not in alone]
        _, test = _split_off("test", others, config.test_share, config.seed, needed)
        taken = {row.key for row in test}
        validation = [row for row in validation if row.key not in taken]
    return {**rows, **dict(zip(SPLITS, (train, validation, test), strict=True))}


def _split_off(
    split: str, rows: list[Row], share: float, seed: int, needed: Collection[str], least: int = 1
) -> tuple[list[Row], list[Row]]:
    """What is left, and what is split off: of each stratum at least one unit, and at least `least`."""
    units = _units(rows)
    strata = _joined(units, least / min(share, 1 - share), needed)
    sizes = Counter(strata)
    _check_sizes(split, sizes, needed, least)
    count = max(round(share * len(units)), least * len(sizes))
    if len(units) - count < len(sizes):
        raise DataError(
            f"{len(units)} rows cannot be split with data.{split}_share {share:g}: each split "
            f"needs a row of each of the {len(sizes)} labels; add rows, or change the share"
        )
    purpose: Purpose = "test" if split == "test" else "split"
    places = choose([unit.key for unit in units], strata, count, purpose=purpose, seed=seed, spare=1, least=least)
    taken = {units[place].key for place in places}
    return [row for row in rows if row.key not in taken], [row for row in rows if row.key in taken]


def _units(rows: Sequence[Row]) -> list[Row]:
    """The first row of each key."""
    firsts: dict[Texts, Row] = {}
    for row in rows:
        firsts.setdefault(row.key, row)
    return list(firsts.values())


def _alone(rows: Sequence[Row], needed: Collection[str]) -> set[Texts]:
    """Keys of the only units of needed strata."""
    units = _units(rows)
    sizes = Counter(unit.stratum for unit in units)
    return {unit.key for unit in units if unit.stratum in needed and sizes[unit.stratum] == 1}


def _check_sizes(split: str, sizes: Mapping[str, int], needed: Collection[str], least: int) -> None:
    """Refuse strata that are too small to be split, all of them at once."""
    few = {stratum: size for stratum, size in sorted(sizes.items()) if size <= least}
    if few or not sizes:
        named = ", ".join(f"{stratum!r} ({size})" for stratum, size in few.items() if stratum in needed)
        found = f"too few rows of {named}" if named else f"too few rows ({sum(sizes.values())})"
        raise DataError(
            f"{found}: data.{split}_share splits what has at least {least + 1} different texts, or contexts; "
            f"add rows, or name a data.{split}_source"
        )


def _joined(rows: Sequence[Row], smallest: float, needed: Collection[str]) -> list[str]:
    """The stratum of each row, those that are smaller, and not needed, made one; and that one a part of the largest
    where it is too small itself."""
    sizes = Counter(row.stratum for row in rows)
    small = {stratum for stratum, size in sizes.items() if size < smallest and stratum not in needed}
    large = [stratum for stratum in sorted(sizes) if stratum not in small]
    is_one = not large or sum(sizes[stratum] for stratum in small) >= smallest
    home = "" if is_one else max(large, key=lambda stratum: sizes[stratum])
    return [home if row.stratum in small else row.stratum for row in rows]


def leaking(rows: Splits, split: str) -> tuple[list[Row], list[str]]:
    """Rows of train, or of validation, that stand in a split that judges it too; and which splits judge it."""
    judges = [other for other in rows if rows[other] and other not in ("train", "validation")]
    if split == "train" and rows["validation"]:
        judges.insert(0, "validation")
    seen = {row.sentences for other in judges for row in rows[other]}
    return [row for row in rows[split] if row.sentences in seen], judges


def without_leaks(rows: Splits, config: DataConfig) -> Splits:
    """Train without what stands in any other split. The others stay as they were given.

    Raises:
        DataError: A row of train or validation stands in a split that judges it, and the form wants that refused.
    """
    for split in ("validation", "train") if config.leaks == "refuse" else ():
        found, judges = leaking(rows, split)
        if found:
            raise DataError(
                f"{len(found)} rows of {split} stand in {' or '.join(judges)} too, e.g. {found[0].text[:60]!r}; "
                "remove them, or set data.leaks to remove"
            )
    gone = {row.sentences for row in leaking(rows, "train")[0]}
    return {**rows, "train": [row for row in rows["train"] if row.sentences not in gone]}


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
    taken = choose([row.sentences for row in rows], strata, most, purpose="sample", seed=seed)
    return [rows[place] for place in sorted(taken)]
