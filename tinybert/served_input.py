"""Texts out of whatever MLflow hands on: tables, columns, lists, arrays, records, with names and without.

Values are passed on as they are: what is no text gets its error from who answers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tinybert.data_config import KindName
from tinybert.errors import DataError

TEXT, PAIR = "text", "text_pair"
"""Names of the columns a served model reads."""
OTHER_NAMES: dict[KindName, dict[str, str]] = {"question_answering": {"question": TEXT, "context": PAIR}}
"""What else they may be called, by kind of task."""


def example_rows(model_input: Any, kind: KindName = "classification") -> list[tuple[object, object]]:
    """Text and pair (None without one) of each row of whatever MLflow hands on.

    Raises:
        DataError: Columns, or the keys of a record, are not those the model reads.
    """
    if isinstance(model_input, Mapping):
        model_input = pd.DataFrame({name: _listed(values) for name, values in model_input.items()}, dtype=object)
    if not isinstance(model_input, pd.DataFrame):
        return [_example_row(item, kind) for item in _listed(model_input)]
    names = _known_names(model_input.columns, kind)
    if names in ([0], [TEXT]):
        return [_example_row(item, kind) for item in model_input.iloc[:, 0].tolist()]
    if names == [0, 1]:  # without names
        names = [TEXT, PAIR]
    _check_names(names, kind)
    columns = dict(zip(names, (model_input.iloc[:, i].tolist() for i in range(len(names))), strict=True))
    return [(_present(text), _present(pair)) for text, pair in zip(columns[TEXT], columns[PAIR], strict=True)]


def _example_row(item: Any, kind: KindName) -> tuple[object, object]:
    if isinstance(item, np.ndarray):
        item = item.tolist()
    if isinstance(item, Mapping):
        names = _known_names(item, kind)
        _check_names(names, kind)
        found = dict(zip(names, item.values(), strict=True))
        return _present(found[TEXT]), _present(found.get(PAIR))
    if isinstance(item, list | tuple) and len(item) in (1, 2):
        return _present(item[0]), _present(item[1]) if len(item) == 2 else None
    return _present(item), None


def _known_names(names: Iterable[Any], kind: KindName) -> list[Any]:
    return [OTHER_NAMES.get(kind, {}).get(name, name) for name in names]


def _check_names(names: list[Any], kind: KindName) -> None:
    if TEXT not in names or set(names) - {TEXT, PAIR} or len(set(names)) < len(names):
        found = ", ".join(repr(name) for name in names) or "none"
        expected = " and ".join(map(repr, OTHER_NAMES[kind])) if kind in OTHER_NAMES else f"{TEXT!r} (and {PAIR!r})"
        raise DataError(f"found the columns {found}; expected {expected}, or one column without a name")


def _listed(values: Any) -> list[Any]:
    """A column as a list; one value is a column of one."""
    if isinstance(values, np.ndarray | pd.Series):
        values = values.tolist()
    return list(values) if isinstance(values, list | tuple) else [values]


def _present(value: Any) -> object:
    """None for the ways in which tables say that nothing is there."""
    return None if not isinstance(value, str) and pd.api.types.is_scalar(value) and pd.isna(value) else value
