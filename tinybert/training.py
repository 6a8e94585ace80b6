"""One training loop for all stages: Hugging Face's Trainer around a learner that knows its own loss.

A learner is a module whose `forward(**batch)` returns its loss terms by name, "loss" being what is minimised.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tinybert.errors import QualityError
from tinybert.progress import Progress
from tinybert.resume import last_checkpoint
from tinybert.scoring import device, encode, use_bf16
from tinybert.training_config import OptimConfig, SelectionConfig

LOG_EVERY = 10
"""Steps between two points of a loss curve."""

OnMetrics = Callable[[dict[str, float], int], None]
Batch = dict[str, Tensor]


class Learner(nn.Module, ABC):
    """Base of the learners. Its loss is a mean over the batch, so the Trainer must divide slices evenly."""

    accepts_loss_kwargs = False

    @abstractmethod
    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch, each a scalar; "loss" is minimised."""


@dataclass(frozen=True)
class Validation:
    """How a stage is scored while it trains."""

    score: Callable[[], dict[str, float]]
    """Metrics of the learner as it stands."""
    selection: SelectionConfig
    """Which metric decides, how often it is measured, when to give up."""


class TextCollator:
    """Rows of text to a padded batch. Tokenising here costs under a hundredth of a training step."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Token ids and masks (B, L), labels (B,), and teacher logits (B, C) where rows carry them."""
        texts, pairs = [row["text"] for row in rows], [row["text_pair"] for row in rows]
        batch = encode(self._tokenizer, texts, pairs, self._max_length)
        batch["labels"] = torch.tensor([row["label"] for row in rows])
        if "teacher_logits" in rows[0]:
            batch["teacher_logits"] = torch.tensor([row["teacher_logits"] for row in rows])
        return batch


def with_lengths(rows: Dataset) -> Dataset:
    """The rows with their length in characters, by which batches are grouped so that little is padded."""
    texts, pairs = rows["text"], rows["text_pair"]
    return rows.add_column("length", [len(t) + len(p or "") for t, p in zip(texts, pairs, strict=True)])


def train(
    what: str,
    learner: Learner,
    rows: Dataset,
    collate: Callable[[list[dict[str, Any]]], Batch],
    optim: OptimConfig,
    resume: Path,
    on_metrics: OnMetrics,
    validation: Validation | None = None,
) -> dict[str, float]:
    """Train a learner in place; with a validation, it ends up with its best weights.

    Args:
        what: The stage's name, for progress lines.
        learner: What is trained.
        rows: Training rows; those with a "length" column are batched by similar length.
        collate: Rows to a batch for the learner.
        optim: Epochs, steps, learning rate and so on.
        resume: Directory of checkpoints. What an earlier, killed call left there is continued.
        on_metrics: Called with points of the curves and their step.
        validation: Scores that choose the best checkpoint.

    Returns:
        steps, loss (of the last logged steps), seconds, examples_per_second, and the best validation scores.

    Raises:
        QualityError: The loss is not finite.
    """
    steps_per_epoch = math.ceil(len(rows) / optim.batch_size)
    steps = min(optim.epochs * steps_per_epoch, optim.steps or optim.epochs * steps_per_epoch)
    _set_dropout(learner, optim.dropout)
    arguments = _arguments(optim, steps, steps_per_epoch, resume, rows, validation)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several would make it DataParallel, which state capture cannot bear
    trainer = _StageTrainer(learner, arguments, rows, collate, validation)
    reporter = _Reporter(what, steps, on_metrics, trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(reporter)
    if validation and validation.selection.patience:
        trainer.add_callback(EarlyStoppingCallback(validation.selection.patience))
    resume.mkdir(parents=True, exist_ok=True)
    output = trainer.train(resume_from_checkpoint=last_checkpoint(resume))
    return {
        "steps": float(trainer.state.global_step),
        "loss": next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry),
        "seconds": output.metrics["train_runtime"],
        "examples_per_second": output.metrics["train_samples_per_second"],
        **(_best_scores(trainer.state, validation.selection.metric) if validation else {}),
    }


def _set_dropout(learner: Learner, share: float | None) -> None:
    """Override every dropout of the learner; the saved model's config keeps its own."""
    for module in learner.modules():
        if isinstance(module, nn.Dropout) and share is not None:
            module.p = share


def _arguments(
    optim: OptimConfig,
    steps: int,
    steps_per_epoch: int,
    resume: Path,
    rows: Dataset,
    validation: Validation | None,
) -> TrainingArguments:
    selection = validation.selection if validation else None
    every = math.ceil(steps_per_epoch / selection.evaluations_per_epoch) if selection else optim.checkpoint_every
    where = device()
    return TrainingArguments(
        output_dir=str(resume),
        max_steps=steps,
        per_device_train_batch_size=optim.batch_size // optim.accumulation,
        gradient_accumulation_steps=optim.accumulation,
        learning_rate=optim.learning_rate,
        warmup_steps=math.ceil(optim.warmup * steps),
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        bf16=use_bf16(where, optim.precision),
        seed=optim.seed,
        train_sampling_strategy="group_by_length" if "length" in rows.column_names else "random",
        logging_steps=LOG_EVERY,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if selection else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=selection is not None,
        metric_for_best_model=selection.metric if selection else None,
        greater_is_better=True,
        use_cpu=where.type == "cpu",
        dataloader_pin_memory=where.type != "cpu",
        remove_unused_columns=False,
        average_tokens_across_devices=False,
        disable_tqdm=True,
        report_to="none",
    )


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Whatever is drawn inside, the random numbers after the block are those without it."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


class _StageTrainer(Trainer):
    """The Trainer with the loss, the evaluation and the weights file of a learner."""

    def __init__(
        self,
        learner: Learner,
        arguments: TrainingArguments,
        rows: Dataset,
        collate: Callable[[list[dict[str, Any]]], Batch],
        validation: Validation | None,
    ) -> None:
        # The Trainer insists on an evaluation set where it evaluates; `evaluate` below does not read it.
        eval_rows = rows if validation else None
        super().__init__(learner, arguments, data_collator=collate, train_dataset=rows, eval_dataset=eval_rows)
        self._validation = validation
        self.terms: dict[str, Tensor] = {}
        self.batches = 0

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        terms: dict[str, Tensor] = model(**inputs)
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value.detach()
        self.batches += 1
        return terms["loss"]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        assert self._validation is not None
        with preserved_rng():
            scores = self._validation.score()
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # save_model keeps tied weights once; the Trainer's own file for plain modules refuses them.
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(directory / "model.safetensors"))


class _Reporter(TrainerCallback):
    """Turns the Trainer's logs into progress lines and curves, and evaluates after the last step."""

    def __init__(self, what: str, steps: int, on_metrics: OnMetrics, trainer: _StageTrainer) -> None:
        self._what, self._on_metrics, self._trainer = what, on_metrics, trainer
        self._progress = Progress(what, steps)
        self._latest: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self._on_loss(logs, state.global_step)
        scores = {k.removeprefix("eval_"): v for k, v in logs.items() if k.startswith("eval_")}
        if scores:
            self._latest = {name: scores[name] for name in ("accuracy",) if name in scores}
            self._on_metrics({f"validation_{k}": v for k, v in scores.items()}, state.global_step)

    def _on_loss(self, logs: dict[str, float], step: int) -> None:
        if not math.isfinite(logs["loss"]):
            raise QualityError(
                f"{self._what}: loss {logs['loss']} at step {step}; lower the learning rate or use precision fp32"
            )
        count, terms = max(self._trainer.batches, 1), self._trainer.terms
        means = {name: float(value) / count for name, value in terms.items() if name != "loss"}
        self._trainer.terms, self._trainer.batches = {}, 0
        curves = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], **means}
        self._on_metrics(curves, step)
        self._progress.update(step, loss=logs["loss"], **self._latest)


def _best_scores(state: TrainerState, metric: str) -> dict[str, float]:
    """The validation scores of the chosen checkpoint; its log outlives a kill."""
    for entry in state.log_history:
        scores = {k.removeprefix("eval_"): v for k, v in entry.items() if k.startswith("eval_")}
        if scores and scores[metric] == state.best_metric:
            return {f"validation_{k}": v for k, v in scores.items()}
    return {}
