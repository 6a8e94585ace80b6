"""The README.md beside an exported student: what it is and can do, its limits, its use, where it comes from."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinybert.config import DistillConfig
from tinybert.digest import content_digest
from tinybert.kinds import kind_of
from tinybert.page_kinds import WORDS, ask_directory, ask_registered, ask_transformers, heading
from tinybert.released import INT8, Released

RECIPE_WITHOUT = {"name", "reason", "evaluate", "gate", "publish", "launch"}
"""Boxes of the form that do not shape the student."""
LABELS_SHOWN, WEAK_SHOWN = 50, 5
WEAK = 0.8
"""A class is named as weak where its recall is below this share of that of all classes together."""


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
    return _front_matter(released, {}) + "\n\n".join(sections) + "\n"


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
    return _front_matter(released, _inherited(sources.teacher, source)) + "\n\n".join(sections) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _front_matter(released: Released, more: Mapping[str, Any]) -> str:
    fixed = {
        "library_name": "transformers",
        "pipeline_tag": kind_of(released.kind).pipeline,
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
    texts = "pairs of texts" if released.pair else "texts"
    does = WORDS[released.kind].does.format(texts=texts, count=len(released.labels), names=", ".join(shown) + more)
    return f"A TinyBERT student (arXiv:1909.10351) that {does}."


def _use(released: Released, registered: str | None = None) -> str:
    asked = released.kind, released.pair
    ways = [ask_directory(*asked, "DIRECTORY"), ask_transformers(*asked, "DIRECTORY")]
    ways += [ask_registered(*asked, f"models:/{registered}@champion")] if registered else []
    variants = f"Variants: {', '.join(released.variants)}; `{released.default}` answers where none is named."
    return "\n\n".join(["## Use", variants, *(f"```python\n{code}\n```" for code in ways)])


def _limits(released: Released, model: str, sources: Sources, comparison: Mapping[str, Any]) -> str:
    facts = [
        _reads(released),
        _languages(sources.teacher),
        _scored(model, comparison),
        *_weak_classes(read_json(sources.report / "classes.json").get(model, {})),
        *_calibrated(read_json(sources.report / "calibration.json").get(model), comparison),
        "Texts unlike the training data may get wrong answers, and nothing about them tells.",
    ]
    if INT8 in released.variants:
        facts.append(
            "int8 rounds activations by the largest of a batch, so that numbers move a little with the company."
        )
    return "## Limits\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _reads(released: Released) -> str:
    if released.kind == "question_answering":
        return f"Reads {released.max_length} tokens at once, a longer text in parts of that length that overlap."
    return f"Reads {released.max_length} tokens; of longer texts the rest is left out, and the answer says so."


def _languages(teacher: Path) -> str:
    named = _inherited(teacher, "").get("language", "not recorded; those of its training data")
    return f"Languages: {', '.join(named) if isinstance(named, list) else named}."


def _scored(model: str, comparison: Mapping[str, Any]) -> str:
    metric, numbers = comparison["metric"], comparison[model]
    rows = f"{comparison['rows']:,} {'validation' if comparison['test_is_validation'] else 'test'} rows"
    span = f"{numbers[f'{metric}_low']:.1%} to {numbers[f'{metric}_high']:.1%}"
    return f"{heading(metric)} {numbers[metric]:.1%} on {rows} ({comparison['confidence']:.0%} interval {span})."


def _calibrated(found: Mapping[str, Any] | None, comparison: Mapping[str, Any]) -> Iterator[str]:
    """What is known of the probabilities, where there are any."""
    if found is None:
        return
    fitted = "the same rows" if comparison["test_is_validation"] else "the validation rows"
    yield (
        f"Probabilities are calibrated by a temperature of {found['temperature']:.3g}, fitted on {fitted}. "
        f"Expected calibration error: {found['ece']:.3f} without, {found['ece_calibrated']:.3f} with it."
    )


def _weak_classes(classes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Which they are, or that there are none; nothing where there are no classes."""
    if not classes:
        return
    members = math.fsum(numbers["support"] for numbers in classes.values())
    found = math.fsum(numbers["recall"] * numbers["support"] for numbers in classes.values())
    recalls = sorted((numbers["recall"], label) for label, numbers in classes.items() if numbers["support"])
    weak = [(recall, label) for recall, label in recalls if recall * members < WEAK * found][:WEAK_SHOWN]
    named = [f"`{label}` {recall:.1%} of {classes[label]['support']:,.0f}" for recall, label in weak]
    none = f"No class is much weaker than the others (recall below {WEAK:.0%} of that of all together)."
    yield f"Weak classes, by recall: {', '.join(named)}." if weak else none


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
