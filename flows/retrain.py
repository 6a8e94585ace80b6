"""Nightly, or when data land: has anything changed since the champion was made? If so the main job, else nothing."""

import sys

from prefect import flow
from rich.console import Console

from flows.distill import distill
from tasks.data import resolve_sources
from tasks.preflight import preflight_services
from tasks.retraining import RetrainSummary, alone, conclude, find_changes, stepped_aside
from tasks.run import open_run
from tinybert.retrain_config import RetrainConfig


@flow(name="retrain", flow_run_name="{config.distill.name}")
def retrain(config: RetrainConfig) -> RetrainSummary:
    """Retrain a registered model where there is reason to, and say why or why not.

    Reasons are: no champion, other data, labels, teacher, corpus, config or code than the champion's, its age, and one
    that is given. What was tried and rejected is not tried again. Two runs of one model never train at once. The same
    seed would give an old champion's student again, so a run for age alone has new ones, made of the form's and the
    champion's version: each champion is challenged once for its age.

    Args:
        config: The run of distill, and what is reason to make it again.
    """
    model = config.model
    with open_run(config, f"retrain {model}", stages=0) as run:
        run.always(preflight_services, f"retrain {model}", True, [model])
        with alone(model, config.if_running) as mine:
            if not mine:
                return conclude(run, model, stepped_aside(model), None)
            found = run.always(resolve_sources, config.distill)
            plan = run.always(find_changes, config, found)
            summary = distill(plan.run) if plan.run else None
            return conclude(run, model, plan, summary)


def show(done: RetrainSummary) -> None:
    """What was decided; of a run its closing table."""
    from flows.command import show as show_run

    if done.summary is not None:
        show_run(done.summary)
    Console(width=None if sys.stdout.isatty() else 110).print(
        f"{done.model}: {done.said}", highlight=False, soft_wrap=True, markup=False
    )


if __name__ == "__main__":
    from flows.command import main

    main(retrain, RetrainConfig, show)
