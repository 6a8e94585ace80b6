"""Retention: artifacts, checkpoints and caches that nobody refers to and nobody has used for long are deleted."""

import sys

from prefect import flow
from rich.console import Console
from rich.table import Table

from tasks.collection import HEADINGS, Collection, collect_unused
from tasks.preflight import preflight_services
from tasks.run import open_run
from tinybert.collect_config import CollectConfig


@flow(name="collect", flow_run_name="keep-{config.keep_days}-days")
def collect(config: CollectConfig) -> Collection:
    """Delete what nobody needs any more; as the form stands, only show what that would be.

    Args:
        config: For how long what is kept, and whether anything is to be deleted.
    """
    with open_run(config, "collect", stages=0) as run:
        run.always(preflight_services, "collect", False, [])
        done = run.always(collect_unused, config)
        run.log(done.metrics, {"mlflow.note.content": done.markdown})
        return done


def show(done: Collection) -> None:
    """The table, kind by kind."""
    table = Table()
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for line in done.lines:
        table.add_row(*line.cells)
    table.add_section()
    table.add_row(*done.total.cells)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(done.summary, highlight=False, soft_wrap=True, markup=False)
    if done.dry_run:
        console.print("dry run: nothing was deleted; --set dry_run=false deletes it", highlight=False, markup=False)


if __name__ == "__main__":
    from flows.command import main

    main(collect, CollectConfig, show)
