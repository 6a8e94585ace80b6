"""A run's page: one HTML file, complete in itself, that says what came out, on what evidence, and made of what."""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tinybert.errors import DataError
from tinybert.metrics import TITLES
from tinybert.page_kinds import WORDS, heading, meaning
from tinybert.page_plots import curve_pictures, latency_picture, reliability_picture, scores_picture
from tinybert.page_words import (
    Findings,
    RunFacts,
    caveats,
    decimal,
    percent,
    points,
    tiles,
    times,
    usage,
    verdict,
)
from tinybert.progress import clock
from tinybert.report import MODELS, ratio

TEMPLATES = Path(__file__).parent / "templates"
_NUMBERS = (
    *("agreement", "parameters", "gigaflops", "megabytes", "throughput"),
    *("latency_ms", "latency_p95_ms", "latency_p99_ms"),
)
"""Of a model that the tables show; one that was not measured is shown as missing."""
_DECIDED = {"verdict", "forced", "metric", "served", "variants", "rules", "summary", "notes", "against_champion"} | {
    *("difference", "difference_low", "difference_high", "p_value", "retention", "speedup", "megabytes", "latency_ms")
}
_COMPARED = {"teacher", "student", "rows", "test_is_validation", "labels", "threads", "device", "throughput_batch"} | {
    *("kind", "metric", "metrics"),
}
WEAK_CLASS = 0.1
"""A class is marked as weak where its F1 is this much below the mean of all classes."""
WEAK_SLICE = 0.05
"""A slice is marked as weak where its score is this much below that of all rows."""
FEW = 30
"""Fewer rows than this are called few, and nothing is made of their scores."""
EXAMPLES = 100
"""Flipped texts shown of each kind at most."""
LARGEST_PICTURE = 400_000
"""Bytes of a picture file that is still taken into the page."""


def write_page(report: Path, decision: Path, run: RunFacts, path: Path) -> None:
    """Write the page.

    Args:
        report: Output of the stage `evaluate`.
        decision: Output of the stage `gate`.
        run: What else is known of the run.
        path: HTML file to write.

    Raises:
        DataError: A directory is not what those stages write.
    """
    findings = _findings(report, decision)
    tables = _tables(findings)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            run=run,
            findings=findings,
            comparison=findings.comparison,
            decision=findings.decision,
            verdict=verdict(findings.decision, run.outcome),
            tiles=tiles(findings),
            caveats=list(caveats(findings, run)),
            ways=usage(run, findings.kind),
            words=WORDS[findings.kind],
            titles=TITLES,
            sections=dict(_sections(findings, tables)),
            **tables,
            **_pictures(findings, run),
            confusions=list(_confusions(report, findings)),
        )
    )
    path.write_text(page, encoding="utf-8", errors="replace")  # a text may hold half a surrogate pair


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "decimal": decimal, "times": times, "clock": clock}
    environment.filters["heading"] = heading
    environment.tests["address"] = _is_address
    return environment


def _findings(report: Path, decision: Path) -> Findings:
    return Findings(
        comparison=_needed(report / "comparison.json", _COMPARED),
        decision=_needed(decision / "decision.json", _DECIDED),
        classes=_read(report / "classes.json") or {},
        calibration=_read(report / "calibration.json") or {},
        flips=_read(report / "flips.json"),
        slices=_read(report / "slices.json") or [],
    )


def _needed(path: Path, keys: set[str]) -> dict[str, Any]:
    """A JSON file that must be there, with these keys."""
    content: dict[str, Any] = _read(path) or {}
    if missing := keys - set(content):
        names = ", ".join(sorted(missing))
        raise DataError(f"{path}: no {names}; name outputs of the stages evaluate and gate of this version")
    return content


def _read(path: Path) -> Any:
    """A JSON file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def _sections(findings: Findings, tables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Anchors and headings of the page's parts; a part about which a task has nothing to say is left out."""
    yield "rules", "Rules"
    yield "models", "Models"
    if WORDS[findings.kind].right:
        yield "changes", "Better and worse"
    parts = [name for name in ("classes", "slices") if tables[name]]
    if parts:
        yield "classes", " and ".join(parts).capitalize()
    if findings.calibration:
        yield "calibration", "Calibration"
    yield "cost", "Cost"
    yield "curves", "Learning curves"
    yield "lineage", "Data and lineage"
    yield "use", "How to use it"
    yield "limits", "Limits"


def _tables(findings: Findings) -> dict[str, Any]:
    confidence = findings.comparison.get("confidence")
    classes = sorted(_class_rows(findings), key=lambda row: row["f1"])
    return {
        "models": list(_model_rows(findings)),
        "meanings": {name: meaning(findings.kind, name) for name in findings.comparison["metrics"]},
        "tests": list(_test_rows(findings)),
        "classes": classes,
        "slices": list(_slice_rows(findings)),
        "slice_models": [name for name in MODELS if any(name in entry for entry in findings.slices)],
        "interval": f"{confidence:.0%} intervals" if confidence else "intervals at the confidence of the form",
        "limits": {"weak_class": WEAK_CLASS, "weak_slice": WEAK_SLICE, "few": FEW, "examples": EXAMPLES},
    }


def _model_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """Each model's numbers, with what it keeps of the teacher's score and how much faster it is."""
    metric = findings.decision["metric"]
    for name in _present(findings):
        own = {key: findings.number(name, key) for key in _NUMBERS}
        scores = {metric: findings.score(name, metric) for metric in findings.comparison["metrics"]}
        retention = _ratio(findings.number(name, metric), findings.number("teacher", metric))
        speedup = _ratio(findings.number("teacher", "latency_ms"), own["latency_ms"])
        served = name == findings.served
        yield {"name": name, "served": served, "retention": retention, "speedup": speedup, "scores": scores, **own}


def _present(findings: Findings) -> list[str]:
    return [name for name in MODELS if name in findings.comparison]


def _test_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """The deciding score on further tests."""
    metric = findings.decision["metric"]
    for test, found in findings.comparison.get("other_tests", {}).items():
        scores = [findings.score(name, metric, test) for name in _present(findings)]
        yield {"name": test, "rows": found["rows"], "scores": scores}


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None else ratio(value, of)


def _class_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """The served student's scores by class, and how they differ from the champion's."""
    own = findings.classes.get(findings.served, {})
    teacher, champion = (findings.classes.get(name, {}) for name in ("teacher", "champion"))
    mean = math.fsum(scores["f1"] for scores in own.values()) / max(1, len(own))
    for label, scores in own.items():
        few = scores["support"] < FEW
        change = {key: scores[key] - champion[label][key] if label in champion else None for key in ("recall", "f1")}
        weak = not few and scores["f1"] <= mean - WEAK_CLASS
        taught = teacher.get(label, {}).get("f1")
        yield {"label": label, **scores, "few": few, "weak": weak, "change": change, "teacher_f1": taught}


def _slice_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """The score on parts of the test rows. Those by label are left out: they are the recall of the classes."""
    judged = findings.served if any(findings.served in entry for entry in findings.slices) else "student"
    overall = findings.number(judged, findings.decision["metric"])
    for entry in findings.slices:
        if entry["slice"] == "label":
            continue
        few = entry["rows"] < FEW
        score = entry.get(judged)
        weak = not few and overall is not None and score is not None and score <= overall - WEAK_SLICE
        yield {**entry, "few": few, "weak": weak}


def _pictures(findings: Findings, run: RunFacts) -> dict[str, Any]:
    """The drawn ones: of scores, latency, reliability, and the curves of each stage that has any."""
    metric, names = findings.decision["metric"], _present(findings)
    scores = {name: findings.score(name, metric) for name in names}
    times = {name: [findings.number(name, key) for key in ("latency_ms", "latency_p95_ms")] for name in names}
    compared = dict.fromkeys([findings.served, "teacher", "champion"])
    bins = {name: findings.calibration[name]["bins"] for name in compared if name in findings.calibration}
    curves = {stage: curve_pictures(stage, metrics) for stage, metrics in run.curves.items()}
    return {
        "scores_picture": scores_picture(_complete(scores), TITLES[metric]),
        "latency_picture": latency_picture(_complete(times)),
        "reliability_picture": reliability_picture(bins) if bins else None,
        "curves": {stage: pictures for stage, pictures in curves.items() if pictures},
    }


def _complete(numbers: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """The models of which all numbers are known."""
    return {name: tuple(values) for name, values in numbers.items() if None not in values}


def _confusions(report: Path, findings: Findings) -> Iterator[tuple[str, str]]:
    """Model and data URI of the confusion matrices, where they are not too large for a page."""
    for model in dict.fromkeys([findings.served, "student", "teacher", "champion"]):
        picture = report / f"confusion_{model}.png"
        if picture.is_file() and picture.stat().st_size <= LARGEST_PICTURE:
            yield model, "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
