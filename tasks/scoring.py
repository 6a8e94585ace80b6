"""Tasks that score rows with a published model: what is read, the rows in shards, their answers, and where those go."""

import importlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict

from tasks import sources
from tasks.connections import registry, store
from tasks.folder import staging
from tasks.policy import cpu_stage, quick_task, stage_module
from tasks.progress_page import offer
from tasks.settings import settings
from tasks.stage import run_stage
from tasks.store import copy_to, names_at
from tinybert.digest import json_digest
from tinybert.errors import ConfigError
from tinybert.refs import ModelRef, ScoresResult, SourceRef
from tinybert.released import Released
from tinybert.score_config import AnswerConfig, ScoreConfig
from tinybert.sources import parse

SUMMARY = "summary.json"


class ScoreInputs(BaseModel):
    """What a scoring run reads, pinned to its content."""

    model_config = ConfigDict(frozen=True)

    model: ModelRef
    published: str
    """The model as its source names it; a registered one by its version, not by an alias."""
    variant: str
    source: SourceRef


class RowsResult(BaseModel):
    """The rows of the source, shard by shard."""

    shards: list[SourceRef]


class ScoreSummary(BaseModel):
    """What a scoring run found, and where the answers are."""

    name: str
    rows: int
    answered: int
    errors: int
    truncated: int
    labels: dict[str, int]
    """Rows that were given each class: a label, a type of entity, an answer or none."""
    mean_score: float | None
    """Probability of the answer, of a regression the value, on average over the answered rows; None where there are
    none, or answers have no such number."""
    model: str
    model_digest: str
    variant: str
    source: str
    source_digest: str
    shards: int
    seconds: float
    """Spent on answering, all shards together, in this run or in those before whose shards it took over."""
    answers: str
    """Where the answers are: files `rows/part-...` in the order of the rows, and this summary."""


@quick_task("sources")
def find_inputs(config: ScoreConfig) -> ScoreInputs:
    """Find and pin model and rows, and refuse before anything is computed what could not end well."""
    published = _by_version(config.model)
    model = sources.pin(published, ModelRef)
    released = Released.read(sources.local(model))
    config.check(released)
    found = ScoreInputs(
        model=model,
        published=str(parse(published)),
        variant=config.variant or released.default,
        source=sources.pin(config.source, SourceRef),
    )
    if config.output is not None:
        _check_output(config.output, _run_key(config, found))
    return found


def _by_version(uri: str) -> str:
    """A model's source, with the version an alias names: the alias may move while the run is on its way."""
    source = parse(uri)
    name, at, alias = source.location.rpartition("@")
    if source.scheme != "models" or not at:
        return uri
    version = registry().model(name).get(alias).number
    return f"models:/{name}/{version}" + (f"#sha256={source.pin}" if source.pin else "")


def _run_key(config: ScoreConfig, inputs: ScoreInputs) -> str:
    """Eight digits by which a run tells its own files at the destination from those of others."""
    digests = [inputs.model.digest, inputs.source.digest]
    return json_digest([digests, config.answers.model_dump(mode="json"), config.shard_rows])[:8]


def _check_output(uri: str, key: str) -> None:
    """Refuse a destination with other files than the same run, killed or finished, has left there."""
    names = names_at(uri)
    ours = {name for name in names if re.fullmatch(rf"rows/part-\d+-{key}\.parquet", name)}
    others = names - ours - ({SUMMARY} if ours else set())
    if others:
        raise ConfigError(f"output: {uri} holds other files, such as {min(others)}; name another place, or empty it")


@quick_task("rows")
def cut_rows(source: SourceRef, config: ScoreConfig) -> RowsResult:
    """Read the source once, and store what is needed of it in shards. Shards that are stored already cost nothing."""
    stage, path = importlib.import_module(stage_module("score")), sources.local(source)
    shards = []
    with staging(settings().work / "scoring") as directory:
        for shard in stage.cut(path, config.answers, config.shard_rows, directory):
            ref = store().put("rows", shard)
            shards.append(SourceRef(uri=ref.uri, digest=ref.digest))
            shutil.rmtree(shard)
    return RowsResult(shards=shards)


@cpu_stage("score")
def score_shard(model: ModelRef, rows: SourceRef, config: AnswerConfig) -> ScoresResult:
    """Answer the rows of one shard."""
    return run_stage("score", ScoresResult, model=model, rows=rows, config=config)


@quick_task("deliver")
def deliver_answers(config: ScoreConfig, inputs: ScoreInputs, shards: list[ScoresResult]) -> ScoreSummary:
    """Put the answers of all shards where they are wanted, and with them, written last, a summary."""
    key, counts = _run_key(config, inputs), []
    with staging(settings().work / "scoring") as directory:
        (directory / "rows").mkdir()
        for number, shard in enumerate(shards):
            answers = sources.local(shard.scores)
            shutil.copyfile(answers / "answers.parquet", directory / f"rows/part-{number:05}-{key}.parquet")
            counts.append(json.loads((answers / "counts.json").read_text()))
        seconds = sum(shard.metrics["seconds"] for shard in shards)
        summary = _summary(config, inputs, counts, seconds)
        (directory / SUMMARY).write_text(summary.model_dump_json(indent=1, exclude={"answers"}) + "\n")
        summary = summary.model_copy(update={"answers": _put(directory, config.output, key)})
    offer(create_markdown_artifact, _markdown(summary), key="scores", description=f"Answers for {summary.source}")
    return summary


def _put(directory: Path, output: str | None, key: str) -> str:
    """Copy the files to the destination, or into the store; where they are then."""
    if output is None:
        return store().put("scores", directory).uri
    _check_output(output, key)
    copy_to(output, directory, last=SUMMARY)
    return output


def _summary(config: ScoreConfig, inputs: ScoreInputs, counts: list[dict[str, Any]], seconds: float) -> ScoreSummary:
    labels = sum((Counter(shard["labels"]) for shard in counts), Counter[str]())
    total = {name: sum(shard[name] for shard in counts) for name in ("rows", "answered", "errors", "truncated")}
    scores = [shard["scores"] for shard in counts if shard["scores"] is not None]
    return ScoreSummary(
        name=config.name,
        **total,
        labels={name: labels[name] for name in counts[0]["labels"]},
        mean_score=sum(scores) / total["answered"] if scores and total["answered"] else None,
        model=inputs.published,
        model_digest=inputs.model.digest,
        variant=inputs.variant,
        source=str(parse(config.source)),
        source_digest=inputs.source.digest,
        shards=len(counts),
        seconds=round(seconds, 2),
        answers="",
    )


def _markdown(summary: ScoreSummary) -> str:
    labels = "".join(
        f"| {name.replace('|', '&#124;')} | {rows} | {rows / max(1, summary.answered):.1%} |\n"
        for name, rows in summary.labels.items()
    )
    table = f"| label | rows | share |\n|---|---:|---:|\n{labels}\n" if labels else ""
    mean = "" if summary.mean_score is None else f", mean score {summary.mean_score:.3f}"
    return (
        f"## {summary.name}\n\n{summary.rows} rows of `{summary.source}`: {summary.answered} answered, "
        f"{summary.errors} not, {summary.truncated} truncated{mean}\n\n{table}"
        f"Model `{summary.model}` ({summary.variant}, {summary.model_digest[:12]}), {summary.shards} shards, "
        f"{summary.seconds:.0f} s of scoring; answers: `{summary.answers}`\n"
    )
