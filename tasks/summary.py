"""What a run says of itself when it ends: its stages, its numbers, where everything is."""

from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from tasks.progress_page import Row
from tinybert.refs import ModelRef, PublishResult, ReportRef


class StageTime(BaseModel):
    """How one stage of a run went."""

    name: str
    seconds: float
    cached: bool
    output: str = ""
    """Kind of artifact it made."""
    megabytes: float | None = None
    """Of its output, all shards together; None where the store does not say."""

    @property
    def row(self) -> Row:
        """Of the table of stages."""
        return stage_row(self.name, "cached" if self.cached else "done", self.seconds, self.output, self.megabytes)


def stage_row(
    name: str, state: str, seconds: float | None = None, output: str = "", megabytes: float | None = None
) -> Row:
    """A row of the table of stages, by the columns' names; what is not known yet stays empty."""
    return {"stage": name, "state": state, "seconds": seconds, "output": output, "MB": megabytes}


class RunSummary(BaseModel):
    """What a finished run has to show."""

    name: str
    reason: str = ""
    """Why there was a run, where something decided it."""
    comparison: dict[str, Any]
    decision: dict[str, Any]
    stages: list[StageTime]
    seconds: float
    model: ModelRef
    model_directory: str
    report_directory: str
    page: str
    registered: str | None = None
    outcome: str | None = None
    tracking_uri: str
    tracking_page: str | None = None
    """Of the MLflow run; None without a server, as are the others."""
    report_page: str | None = None
    model_page: str | None = None

    @property
    def pages(self) -> dict[str, str]:
        """What servers show of the run: its MLflow run, its report, its model."""
        pages = {"MLflow run": self.tracking_page, "report": self.report_page, "model": self.model_page}
        return {what: page for what, page in pages.items() if page}


class Made(BaseModel):
    """What the last stages of a run left to show."""

    model: ModelRef
    report: ReportRef
    decision: ReportRef
    published: PublishResult | None = None

    @property
    def outcome(self) -> str | None:
        """What became of it in the registry; None where it was not published."""
        return self.published.outcome if self.published else None

    @property
    def registered(self) -> str | None:
        """The registered model and version; None where it was not published."""
        return f"{self.published.name} version {self.published.version}" if self.published else None


def markdown(summary: RunSummary, table: str, rules: str) -> str:
    """The summary for people, with links where servers have pages.

    Args:
        summary: Of the run.
        table: The comparison, in Markdown.
        rules: The gate's, in Markdown.
    """
    stages = "".join(
        f"| {row['stage']} | {row['state']} | {row['seconds']:.1f} | {row['output']} "
        f"| {'' if row['MB'] is None else row['MB']} |\n"
        for row in (stage.row for stage in summary.stages)
    )
    page = f"[MLflow run]({summary.tracking_page})" if summary.tracking_page else f"MLflow: `{summary.tracking_uri}`"
    report = f"[report]({summary.report_page})" if summary.report_page else f"report `{summary.page}`"
    name = f"[{summary.registered}]({summary.model_page})" if summary.model_page else f"`{summary.registered}`"
    registered = f", registered as {name} ({summary.outcome})" if summary.registered else ""
    reason = f"Reason for this run: {summary.reason}\n\n" if summary.reason else ""
    return (
        f"## {summary.name}\n\n{reason}{summary.decision['summary']}\n\n{table}\n{rules}\n"
        f"{page}, {report}, model `{summary.model.uri}`{registered}\n\n"
        f"| stage | state | seconds | output | MB |\n|---|---|---:|---|---:|\n{stages}"
    )


def model_page(mlflow: str, published: PublishResult) -> str:
    """Where the same server as an MLflow run's page shows a version."""
    server = mlflow.partition("/#/")[0]
    return f"{server}/#/models/{quote(published.name, safe='')}/versions/{published.version}"
