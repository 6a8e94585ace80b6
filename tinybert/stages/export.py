"""The finished student as a plain Hugging Face directory: no projections, label names inside, a card beside."""

import json
import shutil
from pathlib import Path

from tinybert.cli import main
from tinybert.data import TaskData
from tinybert.models import load_classifier, load_tokenizer, save
from tinybert.progress import OnMetrics


def run(*, data: Path, student: Path, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Export a student.

    `AutoModelForSequenceClassification.from_pretrained` and `pipeline("text-classification")` load what is written.

    Args:
        data: Prepared task data set, for the label names and the length.
        student: Distilled classifier.
        out: Directory to write.
        on_metrics: Told parameters and megabytes.

    Returns:
        parameters and megabytes (of the weights, 10^6 bytes).
    """
    task = TaskData(data)
    model = load_classifier(student, task.labels).cpu()
    save(model, load_tokenizer(student), out, task.max_length)
    (out / "README.md").write_text(_card(task))
    shutil.copyfile(data / "manifest.json", out / "data.json")
    metrics = {"parameters": float(model.num_parameters()), "megabytes": megabytes(out)}
    on_metrics(metrics, 0)
    return metrics


def megabytes(model: Path) -> float:
    """Size of a model's weights on disk, 10^6 bytes."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6


def _card(task: TaskData) -> str:
    pair = task.rows("train")[0]["text_pair"] is not None
    sample = '{"text": "...", "text_pair": "..."}' if pair else '"..."'
    labels = json.dumps(task.labels, ensure_ascii=False)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-classification\n---\n"
        "A TinyBERT student distilled from a BERT teacher (arXiv:1909.10351).\n\n"
        f"Labels: {labels}. At most {task.max_length} tokens. Training data: `data.json`.\n\n"
        "```python\nfrom transformers import pipeline\n"
        f'pipeline("text-classification", model="PATH_OF_THIS_DIRECTORY", truncation=True)({sample})\n```\n'
    )


if __name__ == "__main__":
    main(run)
