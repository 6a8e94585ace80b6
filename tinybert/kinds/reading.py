"""What the kinds share in reading values of columns as texts, class names and their order."""

from collections.abc import Set
from typing import Any

from tinybert.data_config import DataConfig
from tinybert.errors import DataError


def plain_text(value: Any) -> str:
    """A value as text with single spaces; the parts of a list are joined by commas."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())


def label_name(value: Any, config: DataConfig) -> str:
    """The name of a class without blanks around, which the data may have by its number.

    Raises:
        DataError: There is none, or a number beyond those the form names.
    """
    column = config.label_column
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = "" if value is None else str(value).strip()
    if not name:
        raise DataError(f"column {column!r} is empty in some rows; every row needs a label")
    if config.labels and name.isdigit() and name not in config.labels:
        if int(name) >= len(config.labels):
            raise DataError(
                f"column {column!r} holds {name}, but data.labels names only {len(config.labels)} "
                f"classes, 0 to {len(config.labels) - 1}: {', '.join(config.labels)}"
            )
        return config.labels[int(name)]
    return name


def class_names(found: Set[str], config: DataConfig) -> list[str]:
    """The classes in the form's order; where it has none, numbers as such first, then words as they are sorted.

    Raises:
        DataError: The data has one that the form does not name.
    """
    unknown = sorted(found - set(config.labels))
    if config.labels and unknown:
        allowed = ", ".join(config.labels)
        raise DataError(f"column {config.label_column!r} holds {unknown[0]!r}; data.labels allows {allowed}")
    return config.labels or sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (0, name))
