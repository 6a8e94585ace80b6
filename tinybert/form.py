"""The base of every form class: frozen, strict, ordered as written, and able to say what is wrong in one line."""

import difflib
import inspect
import json
import re
import types
from collections.abc import Iterator
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

PIN = r"^(hub|file|s3|package|models):.+$"
"""A source URI."""
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "array": "list"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _in_written_order(schema: dict[str, Any]) -> None:
    """Number the properties: the Prefect form sorts alphabetically without a `position`."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


def _title(form: type) -> str:
    """What stands over the box: `FineTuneConfig` is "Fine tune"."""
    words = re.findall(r"[A-Z][a-z0-9]*", form.__name__.removesuffix("Config"))
    return " ".join([words[0], *(word.lower() for word in words[1:])])


class Form(BaseModel):
    """One box of the Prefect form. The docstring under a field is its description there."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        json_schema_extra=_in_written_order,
        model_title_generator=_title,
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_boxes(cls, values: Any) -> Any:
        """A box given in part keeps the defaults of the field it stands in, not those of its class."""
        if not isinstance(values, dict):
            return values
        defaults = {name: cls.model_fields[name].default for name in values if name in cls.model_fields}
        parts = {name: d for name, d in defaults.items() if isinstance(d, Form) and isinstance(values[name], dict)}
        return {**values, **{name: merge(default.model_dump(), values[name]) for name, default in parts.items()}}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, box by box."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def nested_form(annotation: Any) -> type[Form] | None:
    """The form class of a field that is a box of its own, else None."""
    candidates = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Form)), None)


def fields(form: type[Form], prefix: str = "", box: Form | None = None) -> Iterator[tuple[str, str, Any, str]]:
    """Every leaf field of a form: dotted name, type, default (in `box` where one is given), description."""
    for name, info in form.model_fields.items():
        inner = nested_form(info.annotation)
        default = getattr(box, name) if box else info.get_default(call_default_factory=True)
        if inner is not None:
            yield from fields(inner, f"{prefix}{name}.", default if isinstance(default, Form) else None)
        else:
            kind = getattr(info.annotation, "__name__", None) or str(info.annotation)
            kind = kind if "[" not in str(info.annotation) else str(info.annotation).replace("typing.", "")
            yield f"{prefix}{name}", kind, default, info.description or ""


def explain(error: ValidationError, form: type[Form]) -> str:
    """A validation error as lines of `field: found ...; allowed ...`."""
    return "\n".join(_explain_one(dict(detail), form) for detail in error.errors())


def _explain_one(detail: dict[str, Any], form: type[Form]) -> str:
    where = [str(part) for part in detail["loc"]]
    name = ".".join(where) or form.__name__
    if detail["type"] == "extra_forbidden":
        siblings = _siblings(form, where)
        close = difflib.get_close_matches(where[-1], siblings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(siblings)}"
        return f"{name}: unknown field; {hint}"
    if detail["type"] == "missing":
        return f"{name}: nothing given; this field is required"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if isinstance(detail["input"], dict | BaseModel):
        return f"{name}: {message}"
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float | date):
        message += f"; YAML reads it as one in quotes: {name}='\"...\"'"  # as 2024, no, 2024-05-01
    return f"{name}: found {detail['input']!r}; {message[0].lower()}{message[1:]}"


def _siblings(form: type[Form], where: list[str]) -> list[str]:
    for part in where[:-1]:
        info = form.model_fields.get(part)
        inner = nested_form(info.annotation) if info else None
        if inner is None:
            break
        form = inner
    return list(form.model_fields)


def markdown(form: type[Form]) -> str:
    """The form as a reference: a heading per box, its docstring, and a table of its fields.

    A box that stands in several places is described once, and its places are named.
    """
    return "\n".join(_section(box, places) for box, places in _places(form).items())


def _places(form: type[Form], name: str = "") -> dict[type[Form], list[str]]:
    """Every form class inside a form, itself first, with the dotted names under which it stands."""
    places: dict[type[Form], list[str]] = {form: [name] if name else []}
    for field, info in form.model_fields.items():
        inner = nested_form(info.annotation)
        if inner is not None:
            for box, names in _places(inner, f"{name}.{field}" if name else field).items():
                places.setdefault(box, []).extend(names)
    return places


def _section(box: type[Form], places: list[str]) -> str:
    properties = box.model_json_schema()["properties"]
    rows = [_row(name, info, properties[name]) for name, info in box.model_fields.items()]
    header = [["field", "type", "default", "allowed", "meaning"], ["---"] * 5]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in [*header, *rows])
    stands = f"`{'`, `'.join(places)}`\n\n" if places else ""
    return f"## {box.__name__}\n\n{stands}{inspect.getdoc(box)}\n\n{table}"


def _row(name: str, info: FieldInfo, schema: dict[str, Any]) -> list[str]:
    inner = nested_form(info.annotation)
    branches = schema.get("anyOf", [schema])
    kind = next(branch for branch in branches if branch.get("type") != "null")
    shown = f"[{inner.__name__}](#{inner.__name__.lower()})" if inner else _TYPES.get(kind.get("type", ""), "map")
    empty = " or empty" if len(branches) > 1 else ""
    cells = [f"`{name}`", shown + empty, _default(info), _allowed(kind), info.description or ""]
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def _default(info: FieldInfo) -> str:
    """What a field holds where nothing is given; of a box, only what differs from the box's own table."""
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    if isinstance(default, Form):
        changed = default.model_dump(mode="json", exclude_defaults=True)
        return ", ".join(f"`{name}` {json.dumps(value)}" for name, value in changed.items()) or "its own"
    return "empty" if default is None else f"`{json.dumps(default)}`"


def _allowed(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    bounds = [f"{sign} {kind[bound]}" for bound, sign in _BOUNDS.items() if bound in kind]
    return ", ".join(bounds) or (f"`{kind['pattern']}`" if "pattern" in kind else "")
