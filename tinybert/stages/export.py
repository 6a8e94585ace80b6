"""The finished student in the forms it is handed over in: a Hugging Face directory, with ONNX and int8 beside."""

import shutil
from pathlib import Path

import numpy as np
import torch

from tinybert.batches import Batch
from tinybert.cli import main
from tinybert.cost import megabytes
from tinybert.data import TaskData
from tinybert.errors import ModelError
from tinybert.model_card import draft
from tinybert.models import load_model, load_tokenizer, save
from tinybert.onnx_model import OnnxModel, check_export, export_onnx, quantise
from tinybert.progress import OnMetrics
from tinybert.release_config import ExportConfig
from tinybert.released import COMPARED_AS, INT8, ONNX, TORCH, Released, Variant
from tinybert.rows import TokenTable
from tinybert.states import model_inputs

FILES = {TORCH: "model.safetensors", ONNX: "onnx/model.onnx", INT8: "onnx/model_int8.onnx"}
"""Where the weights of each variant stand."""
DIFFERENCE = 1e-3
"""Between a logit of ONNX and one of torch at most."""
COMPARED = 8
"""Validation rows on which the two are compared, from the shortest to the longest."""


def run(*, data: Path, student: Path, config: ExportConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Export a student.

    The class and the pipeline of transformers for its kind of task (`TaskKind.auto_class`, `TaskKind.pipeline`) and
    `tinybert.serving.Student` load what is written.

    Args:
        data: Prepared task data set, for the label names, the length, and texts to compare ONNX with torch on.
        student: Distilled model.
        config: Which variants.
        out: Directory to write.
        on_metrics: Told the numbers.

    Returns:
        parameters, megabytes (of the torch weights, 10^6 bytes), and with ONNX onnx_megabytes and onnx_difference (the
        largest between a logit and torch's), with int8 int8_megabytes.

    Raises:
        ConfigError: ONNX is wanted, and what it needs is not installed.
        ModelError: ONNX gives other logits than torch.
    """
    check_export(config)
    task = TaskData(data)
    kind = task.kind
    model, tokenizer = load_model(student, kind, task.labels).cpu(), load_tokenizer(student)
    names = list(model_inputs(model, dict(tokenizer(["a"], return_tensors="pt"))))
    # Some tokenizers name inputs that their model does not take (DistilBERT, with BERT's); pipelines would pass them.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    save(model, tokenizer, out, task.max_length)
    metrics = {"parameters": float(model.num_parameters()), "megabytes": megabytes(out)}
    variants = [TORCH]
    if config.onnx:
        (out / FILES[ONNX]).parent.mkdir()
        export_onnx(model, kind, names, out / FILES[ONNX])
        metrics["onnx_difference"] = check_parity(task, out)
        variants.append(ONNX)
    if config.int8:
        quantise(out / FILES[ONNX], out / FILES[INT8])
        variants.append(INT8)
    released = _released(task, variants)
    released.write(out)
    (out / "README.md").write_text(draft(released), encoding="utf-8")
    shutil.copyfile(data / "manifest.json", out / "data.json")
    metrics |= {f"{name}_megabytes": megabytes(out, name) for name in variants if name != TORCH}
    on_metrics(metrics, 0)
    return metrics


def _released(task: TaskData, variants: list[str]) -> Released:
    return Released(
        kind=task.kind.name,
        labels=task.labels,
        max_length=task.max_length,
        pair=task.rows("train")[0]["text_pair"] is not None,
        always_answers=task.always_answers,
        default=next(name for name in COMPARED_AS if name in variants),
        variants={name: Variant(file=FILES[name]) for name in variants},
    )


def check_parity(task: TaskData, directory: Path) -> float:
    """The largest difference between a logit of ONNX and torch, on validation rows alone and in one batch.

    Raises:
        ModelError: It is too large.
    """
    rows = task.rows("validation")
    lengths = [len(text) + len(pair or "") for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]
    chosen = np.argsort(lengths, kind="stable")[np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).astype(int)]
    table = TokenTable(rows.select(chosen), load_tokenizer(directory), task.max_length, task.kind)
    difference = max(_difference(task, directory, table))
    if not difference <= DIFFERENCE:
        raise ModelError(
            f"in ONNX a logit of the student differs by {difference:.2g} from torch's on the data's own texts, "
            f"{DIFFERENCE:g} at most is right; set export.onnx and export.int8 to false, and report the model's kind"
        )
    return difference


def _difference(task: TaskData, directory: Path, table: TokenTable) -> list[float]:
    """Of some of the features (a long context has many) together, and of each alone."""
    kind = task.kind
    plain, exported = load_model(directory, kind).cpu().eval(), OnnxModel(directory, FILES[ONNX])
    some = np.unique(np.linspace(0, len(table) - 1, COMPARED).astype(int))
    batches: list[Batch] = [table.inputs(some), *(table.inputs(some[[place]]) for place in range(len(some)))]
    with torch.inference_mode():
        logits = [(kind.logits(plain(**batch)), kind.logits(exported(**batch))) for batch in batches]
    # Nobody reads what a model says of padding.
    read = [batch["attention_mask"].bool() if kind.per_token else slice(None) for batch in batches]
    return [(one - other)[where].abs().max().item() for (one, other), where in zip(logits, read, strict=True)]


if __name__ == "__main__":
    main(run)
