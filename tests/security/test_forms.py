"""No form reaches code: no field names a module or a callable, and a field that nobody knows is refused."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import prefect
import pytest
from pydantic import BaseModel

import flows
from tinybert.config import DistillConfig
from tinybert.form import Form

REACHES_CODE = re.compile(
    r"trust|remote|callable|callback|import|module|class_?name|function|entry|loader|script|hook|pickle"
)


def deployed() -> dict[str, prefect.Flow]:
    """Every flow that a form starts."""
    found = {}
    for module in pkgutil.iter_modules(flows.__path__, "flows."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, prefect.Flow):
                found[value.name] = value
    return found


FLOWS = deployed()


def boxes(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON schema that have fields, with their names."""
    for name, box in {"": schema, **schema.get("definitions", {}), **schema.get("$defs", {})}.items():
        if "properties" in box:
            yield name, box


def forms(form: type[BaseModel]) -> set[type[BaseModel]]:
    """A form and all that stand in it."""
    found, waiting = set(), [form]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        waiting += [inner for field in current.model_fields.values() for inner in classes(field.annotation)]
    return found


def classes(annotation: Any) -> list[type[BaseModel]]:
    inner = [found for argument in getattr(annotation, "__args__", ()) for found in classes(argument)]
    return inner + ([annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else [])


def test_all_flows_are_looked_at():
    assert {"distill", "score", "suite", "pretrain", "rollback"} <= set(FLOWS)


@pytest.mark.parametrize("name", FLOWS)
def test_no_field_names_code(name):
    schema = FLOWS[name].parameters.model_dump()
    fields = {field for _, box in boxes(schema) for field in box["properties"]}
    assert len(fields) > 1
    assert {field for field in fields if REACHES_CODE.search(field)} == set()
    text = str(schema)
    assert "trust_remote_code" not in text
    assert "'type': 'string', 'format': 'callable'" not in text


@pytest.mark.parametrize("name", FLOWS)
def test_no_box_takes_a_field_it_does_not_have(name):
    schema = FLOWS[name].parameters.model_dump()
    open_boxes = [box for where, box in boxes(schema) if where and box.get("additionalProperties") is not False]
    assert [box["title"] for box in open_boxes] == []


@pytest.mark.parametrize("form", sorted(forms(DistillConfig), key=lambda form: form.__name__))
def test_trust_in_remote_code_is_refused_in_every_box(form):
    assert issubclass(form, Form)
    with pytest.raises(ValueError, match="trust_remote_code") as refused:
        form.model_validate({"trust_remote_code": True})
    assert "Extra inputs are not permitted" in str(refused.value)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_refuses_parameters_that_reach_code(name):
    with pytest.raises(prefect.exceptions.ParameterTypeError, match="trust_remote_code"):
        FLOWS[name].validate_parameters({"config": {"trust_remote_code": True}})
