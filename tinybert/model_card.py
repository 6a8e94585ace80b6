"""The README.md beside an exported student: what it is and can do, its limits, its use, where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinybert.config import DistillConfig
from tinybert.digest import content_digest
from tinybert.released import INT8, Released

RECIPE_WITHOUT = {"name", "evaluate", "gate", "publish", "launch"}
"""Boxes of the form that do not shape the student."""
LABELS_SHOWN, WEAK_SHOWN = 50, 5
WEAK = 0.8
"""A class is named as weak where its recall is below this share of the accuracy."""


@dataclass(frozen=True)
class Sources:
    """Directories a packaged student was made of."""

    data: Path
    teacher: Path
    student: Path
    report: Path
    decision: Path


def draft(released: Released) -> str:
    """The card of a student that has not been evaluated."""
    sections = ["# Exported student", _what(released), "It has not been evaluated yet.", _use(released)]
    return _front_matter({}) + "\n\n".join(sections) + "\n"


def card(released: Released, model: str, config: DistillConfig, sources: Sources) -> str:
    """The card of a package; the same inputs give the same text.

    Args:
        released: What the package holds.
        model: What the evaluation calls the variant that answers.
        config: The run's form.
        sources: What the package was made of.
    """
    comparison = read_json(sources.report / "comparison.json")
    source = config.teacher.source
    sections = [
        f"# {config.name}",
        f"{_what(released)} Distilled from `{source}`.",
        _use(released, config.publish.name or config.name),
        _limits(released, model, sources, comparison),
        f"## Evaluation\n\n{(sources.report / 'comparison.md').read_text(encoding='utf-8').strip()}",
        f"#{(sources.decision / 'decision.md').read_text(encoding='utf-8').strip()}",
        _origin(config, sources),
        _recipe(config),
    ]
    return _front_matter(_inherited(sources.teacher, source)) + "\n\n".join(sections) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _front_matter(more: Mapping[str, Any]) -> str:
    fixed = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["tinybert", "distillation"],
    }
    return f"---\n{yaml.safe_dump({**fixed, **more}, sort_keys=True, allow_unicode=True)}---\n\n"


def _inherited(teacher: Path, source: str) -> dict[str, Any]:
    """What the teacher's own card says of its licence and languages, and its name on the hub."""
    found: dict[str, Any] = {}
    if source.startswith("hub:"):
        found["base_model"] = source.removeprefix("hub:").partition("@")[0].partition("#")[0]
    path = teacher / "README.md"
    parts = path.read_text(encoding="utf-8", errors="replace").split("---", 2) if path.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return found
    try:
        written = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return found
    named = written if isinstance(written, dict) else {}
    return found | {key: named[key] for key in ("license", "license_name", "language") if key in named}


def _what(released: Released) -> str:
    shown = [f"`{label}`" for label in released.labels[:LABELS_SHOWN]]
    rest = len(released.labels) - len(shown)
    more = f" and {rest} more (`serving.json`)" if rest else ""
    reads = "pairs of texts" if released.pair else "texts"
    labels = f"{len(released.labels)} labels: {', '.join(shown)}{more}"
    return f"A TinyBERT student (arXiv:1909.10351) that sorts {reads} into {labels}."


def _use(released: Released, registered: str | None = None) -> str:
    one = '{"text": "...", "text_pair": "..."}' if released.pair else '"..."'
    columns = '["..."], ["..."]' if released.pair else '["..."]'
    lines = [
        "## Use",
        "",
        f"Variants: {', '.join(released.variants)}; `{released.default}` answers where none is named.",
        "",
        "```python",
        "from tinybert.serving import Classifier",
        "",
        f'Classifier.load("DIRECTORY").answer({columns})  # raw text in, calibrated probabilities out',
        "",
        "from transformers import pipeline",
        "",
        f'pipeline("text-classification", model="DIRECTORY", truncation=True)({one})  # torch, uncalibrated',
        *(["", "import mlflow", "", *_mlflow(registered, columns)] if registered else []),
        "```",
    ]
    return "\n".join(lines)


def _mlflow(registered: str, columns: str) -> list[str]:
    row = f"[{columns.replace('[', '').replace(']', '')}]" if "," in columns else '"..."'
    return [f'mlflow.pyfunc.load_model("models:/{registered}@champion").predict([{row}])']


def _limits(released: Released, model: str, sources: Sources, comparison: Mapping[str, Any]) -> str:
    numbers, calibration = comparison[model], read_json(sources.report / "calibration.json")[model]
    rows = f"{comparison['rows']:,} {'validation' if comparison['test_is_validation'] else 'test'} rows"
    span = f"{numbers['accuracy_low']:.1%} to {numbers['accuracy_high']:.1%}"
    languages = _inherited(sources.teacher, "").get("language", "not recorded; those of its training data")
    fitted = "the same rows" if comparison["test_is_validation"] else "the validation rows"
    facts = [
        f"Reads {released.max_length} tokens; of longer texts the rest is left out, and the answer says so.",
        f"Languages: {', '.join(languages) if isinstance(languages, list) else languages}.",
        f"Accuracy {numbers['accuracy']:.1%} on {rows} ({comparison['confidence']:.0%} interval {span}).",
        _weak_classes(read_json(sources.report / "classes.json")[model], numbers["accuracy"]),
        f"Probabilities are calibrated by a temperature of {calibration['temperature']:.3g}, fitted on {fitted}. "
        f"Expected calibration error: {calibration['ece']:.3f} without, {calibration['ece_calibrated']:.3f} with it. "
        "Texts unlike the training data may get confident wrong answers.",
    ]
    if INT8 in released.variants:
        facts.append(
            "int8 rounds activations by the largest of a batch, so that probabilities move a little with the company."
        )
    return "## Limits\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _weak_classes(classes: Mapping[str, Mapping[str, float]], accuracy: float) -> str:
    weak = sorted((numbers["recall"], label) for label, numbers in classes.items())
    weak = [(recall, label) for recall, label in weak if recall < WEAK * accuracy][:WEAK_SHOWN]
    if not weak:
        return f"No class is much weaker than the others (recall below {WEAK:.0%} of the accuracy)."
    named = [f"`{label}` {recall:.1%} of {classes[label]['support']:,.0f}" for recall, label in weak]
    return f"Weak classes, by recall: {', '.join(named)}."


def _origin(config: DistillConfig, sources: Sources) -> str:
    manifest = read_json(sources.data / "manifest.json")
    counts = ", ".join(f"{split['rows']:,} {name}" for name, split in manifest["splits"].items())
    rows = [
        ("data", f"`{config.data.source}`: {counts} rows", sources.data),
        ("teacher", f"`{config.teacher.source}`", sources.teacher),
        ("student", "before it was packaged", sources.student),
    ]
    lines = ["## Origin", "", "| | from | SHA-256 |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {text} | `{content_digest(path)}` |" for what, text, path in rows)])


def _recipe(config: DistillConfig) -> str:
    boxes = config.model_dump(mode="json", exclude=RECIPE_WITHOUT)
    text = yaml.safe_dump(boxes, sort_keys=False, allow_unicode=True)
    return f"## Recipe\n\n<details>\n\n```yaml\n{text}```\n\n</details>"
