"""What would keep a run from its end, all of it at once, and what the run would cost; nothing is trained."""

import sys

from prefect import flow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.preflight import examine_run
from tinybert.config import DistillConfig
from tinybert.preflight_report import HEADER, DoctorReport

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "wrong": "[red]WRONG[/]"}


@flow(name="doctor", flow_run_name="{config.name}")
def doctor(config: DistillConfig) -> DoctorReport:
    """Look at everything that a run of this form needs, and estimate what each of its stages will cost.

    Args:
        config: The form of the run, as distill takes it.
    """
    report = examine_run(config)
    show(report)
    if report.wrong:
        raise report.error()
    return report


def show(report: DoctorReport) -> None:
    """Two tables: what was looked at, and what each stage will cost."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    looked = Table("what", "", "found", "how to mend it", title=f"{report.name}: {report.summary}", show_lines=False)
    for finding in report.findings:
        looked.add_row(finding.what, MARKS[finding.status], escape(finding.found), escape(finding.mend))
    console.print(looked)
    if not report.stages:
        return
    costs = Table()
    for number, heading in enumerate(HEADER):
        costs.add_column(heading, justify="right" if number else "left")
    for cells in report.table():
        costs.add_row(*cells)
    console.print(costs)
    console.print(report.estimated, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    from flows.command import LIBRARIES, main

    main(doctor, DistillConfig, lambda report: None, presets_of="distill", loads=LIBRARIES)
