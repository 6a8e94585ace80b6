"""Several tasks distilled, in turn or on a cluster: what they share is made once, and one table shows them all."""

import logging
import sys
from itertools import chain

from prefect import flow
from rich.console import Console
from rich.table import Table

from flows.distill import distill
from tasks.preflight import preflight_suite
from tasks.run import open_run
from tasks.runners import states_of
from tasks.suite import Suite, SuiteSummary
from tasks.summary import RunSummary
from tinybert.errors import QualityError
from tinybert.suite_config import SuiteConfig
from tinybert.suite_report import markdown, table_rows
from tinybert.training_config import LaunchConfig

logger = logging.getLogger("tinybert")


@flow(name="suite", flow_run_name="{config.name}")
def suite(config: SuiteConfig) -> SuiteSummary:
    """Distil several tasks. A run that fails does not keep the others from running; the suite then fails at its end.

    What can be seen to be wrong with any of them is said before the first begins, and none is run.

    Args:
        config: The tasks, and what their runs have in common.
    """
    runs = config.runs()
    with open_run(config, config.name, len(runs)) as run:
        run.always(preflight_suite, config)
        table = Suite(config.name, len(runs))
        summary = table.show(run)
        calls = [(form,) for form in runs.values()]
        first, others = states_of(distill, calls[:1], LaunchConfig()), states_of(distill, calls[1:], config.launch)
        for (task, form), state in zip(runs.items(), chain(first, others), strict=True):
            found = state.result(raise_on_failure=False)
            if isinstance(found, RunSummary):
                table.finished(task, form, found)
            elif state.is_failed():
                table.failed(task, found)
            else:
                state.result()  # cancelled or crashed: so is the suite
            summary = table.show(run)
        if summary.failures:
            task, why = next(iter(summary.failures.items()))
            logger.info("\n%s", markdown(config.name, summary.lines))
            raise QualityError(f"{len(summary.failures)} of {len(runs)} tasks failed; {task}: {why}")
    return summary


def show(summary: SuiteSummary) -> None:
    """The table."""
    header, *rows = table_rows(summary.lines)
    table = Table(title=summary.name)
    for number, heading in enumerate(header):
        table.add_column(heading, justify="right" if number > 1 else "left")
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    from flows.command import LIBRARIES, main

    main(suite, SuiteConfig, show, loads=LIBRARIES)
