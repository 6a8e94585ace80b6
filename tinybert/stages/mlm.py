"""Masked language modelling: adapts an encoder to the corpus, and grows a head where it came without one."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tinybert.checks import has_mlm_head
from tinybert.cli import main
from tinybert.config import MlmConfig
from tinybert.corpus import Corpus, collate_packed
from tinybert.masked_lm import masked_logits
from tinybert.models import load_tokenizer, save
from tinybert.resume import resume_beside
from tinybert.scoring import device
from tinybert.training import Learner, OnMetrics, train

IGNORED = -100


class MlmCollator:
    """Packed sequences to a batch with some tokens masked (80%), swapped (10%) or left (10%) to be predicted."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, share: float) -> None:
        self._mask_id = tokenizer.mask_token_id
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        self._words, self._share = len(tokenizer), share

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """input_ids, attention_mask and labels (B, L); labels are -100 where nothing is predicted."""
        batch = collate_packed(rows)
        ids_BL = batch["input_ids"]
        eligible_BL = ~torch.isin(ids_BL, self._special)
        chosen_BL = (torch.rand(ids_BL.shape) < self._share) & eligible_BL
        batch["labels"] = ids_BL.masked_fill(~chosen_BL, IGNORED)
        dice_BL = torch.rand(ids_BL.shape)
        masked_BL = torch.where(chosen_BL & (dice_BL < 0.8), self._mask_id, ids_BL)
        swapped_BL = chosen_BL & (dice_BL >= 0.9)
        batch["input_ids"] = torch.where(swapped_BL, torch.randint(self._words, ids_BL.shape), masked_BL)
        return batch


class MlmLearner(Learner):
    """Cross entropy of the masked tokens; the vocabulary projection runs at their positions alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """loss, and the share of masked tokens predicted rightly."""
        mask_BL = batch["labels"] != IGNORED
        labels_N = batch["labels"][mask_BL]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits_NV = masked_logits(self.model, inputs, mask_BL)
        right = (logits_NV.argmax(dim=-1) == labels_N).float().mean()
        return {"loss": F.cross_entropy(logits_NV.float(), labels_N), "masked_accuracy": right}


def run(*, corpus: Path, teacher: Path, config: MlmConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Train an encoder as a masked language model.

    Args:
        corpus: Packed corpus (`tinybert.corpus`).
        teacher: Model directory, with or without an MLM head.
        config: Masking and training.
        out: Directory to write: the model with its head, and the tokenizer.
        on_metrics: Points of the curves.

    Returns:
        steps, loss, masked_accuracy over the last logged steps, seconds.
    """
    set_seed(config.optim.seed)
    tokenizer = load_tokenizer(teacher)
    rows = Corpus(corpus).rows()
    model = AutoModelForMaskedLM.from_pretrained(teacher, use_safetensors=True, dtype=torch.float32).to(device())
    if not has_mlm_head(teacher):
        _start_from_frequencies(model, rows)
    latest: dict[str, float] = {}

    def remember(metrics: dict[str, float], step: int) -> None:
        latest.update(metrics)
        on_metrics(metrics, step)

    collate = MlmCollator(tokenizer, config.masked)
    metrics = train("mlm", MlmLearner(model), rows, collate, config.optim, resume_beside(out), remember)
    save(model, tokenizer, out, max_length=None)
    return {**metrics, **{name: latest[name] for name in ("masked_accuracy",) if name in latest}}


def _start_from_frequencies(model: PreTrainedModel, rows: Dataset) -> None:
    """Give a new head the corpus' word frequencies as bias: it need not spend its first steps on learning them."""
    ids = torch.tensor(rows[: min(len(rows), 2000)]["input_ids"]).flatten()
    counts_V = torch.bincount(ids, minlength=model.config.vocab_size).float() + 0.1
    bias = model.get_output_embeddings().bias
    with torch.no_grad():
        bias.copy_((counts_V / counts_V.sum()).log())


if __name__ == "__main__":
    main(run)
