"""A flow from the command line: the presets of prefect.yaml, fields set by hand, no server needed."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.data import describe_data
from tasks.local import local_settings, speak
from tasks.summary import RunSummary
from tinybert.cli import describe_fields, fail, parse_assignments, validated
from tinybert.config import DistillConfig
from tinybert.errors import ConfigError, InputError, TransientError
from tinybert.form import Form, merge
from tinybert.released import Released
from tinybert.report import other_tests, table_rows

T = TypeVar("T", bound=BaseModel)

DEPLOYMENTS = Path(__file__).parent.parent / "prefect.yaml"
LIBRARIES = ("tinybert.libraries", "tinybert.preflight", "tinybert.warm_up", "tinybert.page")
"""What preflight and report load; torch, transformers, datasets, scikit-learn and matplotlib come with it."""


def presets(flow: str = "distill", deployments: Path = DEPLOYMENTS) -> dict[str, dict[str, Any]]:
    """Parameters of each deployment of a flow in prefect.yaml, by its name: the one place where presets are written."""
    listed = yaml.safe_load(deployments.read_text())["deployments"]
    mine = [deployment for deployment in listed if deployment["entrypoint"].startswith(f"flows.{flow}.")]
    return {deployment["name"]: deployment["parameters"]["config"] for deployment in mine if "parameters" in deployment}


def preset(name: str, flow: str = "distill", deployments: Path = DEPLOYMENTS) -> dict[str, Any]:
    """The parameters of one preset of a flow.

    Raises:
        ConfigError: There is none of that name; the message lists those there are.
    """
    known = presets(flow, deployments)
    if name not in known:
        raise ConfigError(f"--preset {name}: unknown; prefect.yaml has {', '.join(sorted(known))}")
    return known[name]


def main(
    flow: Callable[[Any], T],
    form: type[Form],
    show: Callable[[T], None],
    arguments: Sequence[str] | None = None,
    presets_of: str | None = None,
    loads: Sequence[str] = (),
) -> None:
    """Run a flow from the command line: without a Prefect server where none is configured, else against it.

    Bad input ends with status 2 and one line that says what to change; any other failure with status 1.

    Args:
        flow: The flow; its one parameter is `config`.
        form: Class of `config`.
        show: Prints what the flow gave back.
        arguments: Of the command line; otherwise the program's own.
        presets_of: Flow whose presets this one takes, where its own are not meant.
        loads: Modules that it needs at once and that take seconds to load.
    """
    name = str(getattr(flow, "name", flow))
    given = _parser(name, form).parse_args(arguments)
    whose = presets_of or name
    if given.list:
        print("\n".join(sorted(presets(whose))))
        return
    try:
        values = preset(given.preset, whose) if given.preset else {}
        config = validated(form, merge(values, parse_assignments(given.set)))
        speak()
        if given.describe and isinstance(config, DistillConfig):
            print(describe_data(config), end="")
            return
        with local_settings(loads):
            found = flow(config)
    except InputError as error:
        fail(error)
    except TransientError as error:
        print(f"error: {error}\nthe same command continues where this run stopped", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this run stopped", file=sys.stderr)
        raise SystemExit(130) from None
    show(found)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(found.model_dump_json(indent=1) + "\n")


def _parser(flow: str, form: type[Form]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow}",
        description=f"Run the flow {flow} on this machine: a preset of prefect.yaml, or fields given by --set.",
        epilog="fields for --set:\n" + describe_fields(form),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", metavar="NAME", help="parameters of this deployment in prefect.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="one field; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what the run gives back here as well")
    parser.add_argument("--list", action="store_true", help="list the presets and stop")
    parser.set_defaults(describe=False)
    if issubclass(form, DistillConfig):
        parser.add_argument("--describe", action="store_true", help="print what is understood of the data and stop")
    return parser


def show(summary: RunSummary) -> None:
    """The closing table, and where everything is."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    header, *rows = table_rows(summary.comparison)
    table = Table(title=f"{summary.name}: {summary.comparison['rows']:,} test rows, same machine")
    for number, heading in enumerate(header):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    for line in other_tests(summary.comparison):
        console.print(line, highlight=False, markup=False)
    console.print(summary.decision["summary"], highlight=False, markup=False)
    for rule in summary.decision["rules"]:
        mark = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "[dim]  - [/]"}[rule["passed"]]
        console.print(f"  {mark}  {escape(rule['name'])}: {escape(rule['found'])}", highlight=False)
    cached = sum(stage.cached for stage in summary.stages)
    console.print(f"{len(summary.stages)} stages ({cached} cached) in {summary.seconds:.0f} s", highlight=False)
    for line in where(summary):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def where(summary: RunSummary) -> list[str]:
    """Where to find what the run made, and how to use it."""
    server = summary.tracking_uri.startswith("http")
    page = summary.tracking_page or summary.tracking_uri
    model = shown(Path(summary.model_directory))
    mlflow = shown(Path(sys.executable).with_name("mlflow"))
    return [
        f"MLflow:   {page}" if server else f"MLflow:   {mlflow} ui --backend-store-uri {summary.tracking_uri}",
        f"report:   {shown(Path(summary.page))}",
        f"model:    {model}",
        *([f"registry: {summary.registered}, {summary.outcome}"] if summary.registered else []),
        *(f"{'' if number else 'predict:':10}{line}" for number, line in enumerate(_ask(summary, model).splitlines())),
    ]


def _ask(summary: RunSummary, model: str) -> str:
    """Code that asks the student: with transformers, but for kinds of which that gives logits alone."""
    from tinybert.page_kinds import ask_directory, ask_transformers  # scikit-learn behind it takes a second to import

    kind, pair = summary.comparison["kind"], Released.read(Path(summary.model_directory)).pair
    return (ask_directory if kind == "question_answering" else ask_transformers)(kind, pair, model)


def shown(path: Path) -> str:
    """A path as short as the reader can use it: relative where it lies below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
