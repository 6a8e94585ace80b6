"""The way back: an earlier version of a registered model becomes its champion again."""

import sys

from prefect import flow
from pydantic import Field
from rich.console import Console
from rich.table import Table

from tasks.preflight import preflight_services
from tasks.publishing import RolledBack, restore_champion
from tinybert.form import Form


class RollbackConfig(Form):
    """Which model goes back to which version, and why."""

    name: str = Field(min_length=1)
    """Registered model."""
    reason: str = Field(min_length=10)
    """Why, in ten characters at least. It is recorded with both versions."""
    version: int | None = Field(None, ge=1)
    """Version that becomes champion. Empty: the one that was champion before."""


@flow(name="rollback", flow_run_name="{config.name}")
def rollback(config: RollbackConfig) -> RolledBack:
    """Make an earlier version of a registered model its champion again.

    Args:
        config: Which model, and why.
    """
    preflight_services(config.name, models=[config.name], stores=False)
    version = str(config.version) if config.version else None
    return restore_champion(config.name, version, config.reason)


def show(done: RolledBack) -> None:
    """What was done, as a table."""
    table = Table()
    table.add_column("version", justify="right")
    table.add_column("was")
    table.add_column("is now")
    table.add_row(done.restored, "", "champion")
    table.add_row(done.withdrawn, "champion", "previous")
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{done.name}: rolled back at {done.at}", highlight=False, markup=False)
    console.print(table)
    console.print(f"reason: {done.reason}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    from flows.command import main

    main(rollback, RollbackConfig, show)
