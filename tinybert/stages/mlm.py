"""Masked language modelling: adapts an encoder to the corpus, and grows a head where it came without one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tinybert.batches import Batch, Indices, Rows
from tinybert.checks import has_mlm_head
from tinybert.cli import main
from tinybert.config import MlmConfig
from tinybert.corpus import Corpus, PackedRows
from tinybert.learner import Learner
from tinybert.masked_lm import masked_logits
from tinybert.models import load_tokenizer, save
from tinybert.progress import OnMetrics
from tinybert.scoring import device
from tinybert.training import train

IGNORED = -100


class MaskedRows(Rows):
    """Packed sequences with some tokens masked (80%), swapped (10%) or left (10%) to be predicted."""

    random = True

    def __init__(self, packed: PackedRows, tokenizer: PreTrainedTokenizerBase, share: float) -> None:
        self._packed, self.block = packed, packed.block
        self._mask_id = tokenizer.mask_token_id
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        self._words, self._share = len(tokenizer), share

    def __len__(self) -> int:
        return len(self._packed)

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """input_ids, attention_mask and labels (B, L); labels are -100 where nothing is predicted."""
        batch = self._packed.batch(rows, chance)
        ids_BL = batch["input_ids"]
        eligible_BL = ~torch.isin(ids_BL, self._special)
        chosen_BL = (torch.rand(ids_BL.shape, generator=chance) < self._share) & eligible_BL
        batch["labels"] = ids_BL.masked_fill(~chosen_BL, IGNORED)
        dice_BL = torch.rand(ids_BL.shape, generator=chance)
        masked_BL = torch.where(chosen_BL & (dice_BL < 0.8), self._mask_id, ids_BL)
        swapped_BL = chosen_BL & (dice_BL >= 0.9)
        words_BL = torch.randint(self._words, ids_BL.shape, generator=chance)
        batch["input_ids"] = torch.where(swapped_BL, words_BL, masked_BL)
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
        count = max(1, len(labels_N))  # a slice without a masked token has a loss of 0
        loss = F.cross_entropy(logits_NV.float(), labels_N, reduction="sum") / count
        return {"loss": loss, "masked_accuracy": (logits_NV.argmax(dim=-1) == labels_N).sum() / count}

    def items(self, batch: Batch) -> int:
        """Masked tokens, at least one."""
        return max(1, int((batch["labels"] != IGNORED).sum()))


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

    masked = MaskedRows(rows, tokenizer, config.masked)
    metrics = train("mlm", MlmLearner(model), masked, config.optim, out, remember)
    save(model, tokenizer, out, max_length=None)
    return {**metrics, **{name: latest[name] for name in ("masked_accuracy",) if name in latest}}


def _start_from_frequencies(model: PreTrainedModel, rows: PackedRows) -> None:
    """Give a new head the corpus' word frequencies as bias: it need not spend its first steps on learning them."""
    ids = rows.batch(np.arange(min(len(rows), 2000)), torch.Generator())["input_ids"].flatten()
    counts_V = torch.bincount(ids, minlength=model.config.vocab_size).float() + 0.1
    bias = model.get_output_embeddings().bias
    with torch.no_grad():
        bias.copy_((counts_V / counts_V.sum()).log())


if __name__ == "__main__":
    main(run)
