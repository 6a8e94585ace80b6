"""A command line for any stage function: paths as flags, the boxes of its form as `--set field=value`."""

import argparse
import inspect
import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import ValidationError

from tinybert.attention_kind import Kind
from tinybert.errors import ConfigError, InputError
from tinybert.form import Form, explain, fields, nested_form
from tinybert.resume import resume_beside

F = TypeVar("F", bound=Form)
Parameters = Mapping[str, inspect.Parameter]
_KINDS: dict[Any, tuple[Callable[[str], Any], dict[str, Any]]] = {
    int: (int, {"metavar": "N"}),
    str: (str, {"metavar": "NAME"}),
    Kind: (str, {"choices": get_args(Kind)}),
    list[int] | None: (int, {"metavar": "N", "nargs": "*"}),
    list[str] | None: (str, {"metavar": "NAME", "nargs": "*"}),
    list[Path]: (Path, {"metavar": "PATH", "nargs": "*"}),
}
"""How a stage's plain arguments are read; all others are paths."""
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""1e-4, which YAML 1.1 takes for text because it has no point."""


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["optim.epochs=3", "leaks=refuse"]` as nested values, each read as YAML.

    Raises:
        ConfigError: An assignment has no `=`, its value is not YAML, or its field lies inside another value.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected field=value, e.g. --set layers.optim.epochs=3")
        *boxes, last = name.strip().split(".")
        box: Any = values
        for part in boxes:
            box = box.setdefault(part, {}) if isinstance(box, dict) else None
        if not isinstance(box, dict):
            raise ConfigError(f"--set {assignment}: {'.'.join(boxes)} is already a plain value")
        try:
            box[last] = float(text) if _EXPONENT.fullmatch(text.strip()) else yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: {text!r} is not a YAML value; quote it") from None
    return values


def validated(form: type[F], values: dict[str, Any]) -> F:
    """The form filled with values.

    Raises:
        ConfigError: One line per bad field: what was found, what is allowed.
    """
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, form)) from None


def describe_fields(form: type[Form], prefix: str = "") -> str:
    """Every field of a form with its type, default and meaning, for `--help`."""
    lines = []
    for name, kind, default, text in fields(form, prefix):
        shown = "required" if str(default) == "PydanticUndefined" else f"default {default!r}"
        lines += [f"  {name} ({kind}, {shown})", textwrap.indent(textwrap.fill(text, 90), " " * 6)]
    return "\n".join(lines)


def fail(error: Exception) -> NoReturn:
    """End the program with the error's message and status 2, without a traceback: the mistake is the caller's."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def main(stage: Callable[..., dict[str, float]], arguments: Sequence[str] | None = None) -> None:
    """Run a stage function from the command line and print its metrics."""
    from tinybert.libraries import quiet  # here, so that the flows' command line does without torch

    quiet()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parameters = inspect.signature(stage).parameters
    given = _parser(stage, parameters).parse_args(arguments)
    try:
        inputs = {**_plain(parameters, given), **_forms(parameters, given.set)}
        given.out.mkdir(parents=True, exist_ok=True)
        metrics = stage(**inputs, out=given.out, on_metrics=lambda metrics, step: None)
    except InputError as error:
        fail(error)
    shutil.rmtree(resume_beside(given.out), ignore_errors=True)
    for name, value in metrics.items():
        print(f"{name}  {value:.6g}")


def _parser(stage: Callable[..., Any], parameters: Parameters) -> argparse.ArgumentParser:
    boxes = _boxes(parameters)
    described = "\n".join(describe_fields(form, "" if name == "config" else f"{name}.") for name, form in boxes.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {_module(stage)}",
        description=inspect.getdoc(stage),
        epilog=f"fields for --set:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in parameters.items():
        if name in boxes or name == "on_metrics":
            continue
        kind, options = _KINDS.get(parameter.annotation, (Path, {"metavar": "PATH"}))
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        parser.add_argument(f"--{name}", type=kind, required=required, default=default, **options)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="one field of the form")
    return parser


def _module(stage: Callable[..., Any]) -> str:
    """The stage's module, also where it runs as the program."""
    spec = sys.modules[stage.__module__].__spec__
    return spec.name if spec else stage.__module__


def _boxes(parameters: Parameters) -> dict[str, type[Form]]:
    forms = {name: nested_form(parameter.annotation) for name, parameter in parameters.items()}
    return {name: form for name, form in forms.items() if form is not None}


def _plain(parameters: Parameters, given: argparse.Namespace) -> dict[str, Any]:
    names = [name for name in parameters if hasattr(given, name) and name != "out"]
    for name in names:
        value = getattr(given, name)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not path.exists():
                raise ConfigError(f"--{name}: no such file or directory: {path}")
    return {name: getattr(given, name) for name in names}


def _forms(parameters: Parameters, assignments: Sequence[str]) -> dict[str, Form]:
    values = parse_assignments(assignments)
    boxes = _boxes(parameters)
    filled = {name: validated(form, values.pop(name, {})) for name, form in boxes.items() if name != "config"}
    if "config" in boxes:
        filled["config"] = validated(boxes["config"], values)
    return filled
