"""The job that uses what the main one made: answers of a published model for rows of text, written as Parquet."""

import sys

from prefect import flow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.preflight import preflight_services
from tasks.run import open_run
from tasks.scoring import ScoreSummary, cut_rows, deliver_answers, find_inputs, score_shard
from tinybert.score_config import ScoreConfig


@flow(name="score", flow_run_name="{config.name}")
def score(config: ScoreConfig) -> ScoreSummary:
    """Score rows with a published model. A run that was killed goes on at the first shard that has no answers.

    Args:
        config: Only the model and the source are required.
    """
    with open_run(config, config.name, stages=3) as run:
        run.always(preflight_services, config.name)
        inputs = run.always(find_inputs, config)
        rows = run(cut_rows, inputs.source, config)
        calls = [(inputs.model, shard, config.answers) for shard in rows.shards]
        answers = run.map(score_shard, calls, config.launch)
        summary = run(deliver_answers, config, inputs, answers)
        counts = {
            name: float(getattr(summary, name)) for name in ("rows", "answered", "errors", "truncated", "seconds")
        }
        run.log(counts, {"answers.uri": summary.answers, "model.registered": summary.model})
        return summary


def show(summary: ScoreSummary) -> None:
    """Counts by label, where answers are labels, and where the answers are."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    title = f"{escape(summary.source)}: {summary.rows} rows, {summary.answered} answered"
    table = Table(title=title)
    for heading in ("label", "rows", "share"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, rows in summary.labels.items():
        table.add_row(escape(label), str(rows), f"{rows / max(1, summary.answered):.1%}")
    console.print()
    console.print(table if summary.labels else title)
    mean = "none" if summary.mean_score is None else f"{summary.mean_score:.3f}"
    for line in (
        f"errors: {summary.errors}, truncated: {summary.truncated}, mean score: {mean}",
        f"model:   {summary.model}, {summary.variant}, {summary.seconds:.1f} s of scoring",
        f"answers: {summary.answers}",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    from flows.command import main

    main(score, ScoreConfig, show)
