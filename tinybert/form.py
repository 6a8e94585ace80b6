"""The base of every form class: frozen, strict, ordered as written, and able to say what is wrong in one line."""

import difflib
import types
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


def _in_written_order(schema: dict[str, Any]) -> None:
    """Number the properties: the Prefect form sorts alphabetically without a `position`."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Form(BaseModel):
    """One box of the Prefect form. The docstring under a field is its description there."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        json_schema_extra=_in_written_order,
    )


def nested_form(annotation: Any) -> type[Form] | None:
    """The form class of a field that is a box of its own, else None."""
    candidates = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Form)), None)


def fields(form: type[Form], prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """Every leaf field of a form: dotted name, type, default, description."""
    for name, info in form.model_fields.items():
        inner = nested_form(info.annotation)
        if inner is not None:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            kind = getattr(info.annotation, "__name__", None) or str(info.annotation)
            kind = kind if "[" not in str(info.annotation) else str(info.annotation).replace("typing.", "")
            yield f"{prefix}{name}", kind, info.get_default(call_default_factory=True), info.description or ""


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
    return f"{name}: found {detail['input']!r}; {message[0].lower()}{message[1:]}"


def _siblings(form: type[Form], where: list[str]) -> list[str]:
    for part in where[:-1]:
        info = form.model_fields.get(part)
        inner = nested_form(info.annotation) if info else None
        if inner is None:
            break
        form = inner
    return list(form.model_fields)
