"""Masked language modelling: adapts an encoder to the corpus, and grows a head where it came without one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from tinybert.batches import Batch, Indices, Rows
from tinybert.checks import has_mlm_head, read_model_config
from tinybert.cli import main
from tinybert.config import MlmConfig
from tinybert.corpus import Corpus, PackedRows
from tinybert.errors import DataError, ModelError
from tinybert.learner import Learner
from tinybert.masked_lm import masked_logits
from tinybert.models import load_tokenizer, save
from tinybert.precision import device
from tinybert.progress import OnMetrics
from tinybert.training import train

IGNORED = -100
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class MaskedRows(Rows):
    """Packed sequences with some tokens masked (80%), swapped (10%) or left (10%) to be predicted.

    With `whole_words` a word's pieces are chosen together; what becomes of each is drawn piece by piece, as in BERT.
    """

    random = True

    def __init__(
        self, packed: PackedRows, tokenizer: PreTrainedTokenizerBase, share: float, whole_words: bool = False
    ) -> None:
        self._packed, self.block = packed, packed.block
        self._continues_V = _continuing(tokenizer) if whole_words else None
        self._mask_id = tokenizer.mask_token_id
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        self._words, self._share = len(tokenizer), share

    def __len__(self) -> int:
        return len(self._packed)

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """input_ids, attention_mask, labels (B, L), and masked_tokens (B), how many a row of this batch has on average.

        Labels are -100 where nothing is predicted. Any slice of a batch can tell from `masked_tokens` what part of the
        whole batch it is, also one without a masked token; a batch without any counts as having one.
        """
        batch = self._packed.batch(rows, chance)
        ids_BL = batch["input_ids"]
        eligible_BL = ~torch.isin(ids_BL, self._special)
        chosen_BL = torch.rand(ids_BL.shape, generator=chance) < self._share
        if self._continues_V is not None:
            chosen_BL = _of_first_pieces(chosen_BL, self._continues_V[ids_BL])
        chosen_BL &= eligible_BL
        batch["labels"] = ids_BL.masked_fill(~chosen_BL, IGNORED)
        batch["masked_tokens"] = torch.full((len(ids_BL),), max(1, int(chosen_BL.sum())) / len(ids_BL))
        dice_BL = torch.rand(ids_BL.shape, generator=chance)
        masked_BL = torch.where(chosen_BL & (dice_BL < 0.8), self._mask_id, ids_BL)
        swapped_BL = chosen_BL & (dice_BL >= 0.9)
        words_BL = torch.randint(self._words, ids_BL.shape, generator=chance)
        batch["input_ids"] = torch.where(swapped_BL, words_BL, masked_BL)
        return batch


def _continuing(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Of each token whether it goes on with a word (V)."""
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    marked = any(piece.startswith(("\u0120", "\u2581")) for piece in pieces)  # those vocabularies mark beginnings
    special = set(tokenizer.all_special_tokens)
    return torch.tensor(
        [
            piece not in special and not piece.startswith(("\u0120", "\u2581")) if marked else piece.startswith("##")
            for piece in pieces
        ]
    )


def _of_first_pieces(chosen_BL: Tensor, continues_BL: Tensor) -> Tensor:
    """What was drawn for the first piece of each word, for all its pieces."""
    places_BL = torch.arange(chosen_BL.shape[1]).expand_as(chosen_BL)
    first_BL = torch.where(continues_BL, 0, places_BL).cummax(dim=1).values
    return chosen_BL.gather(1, first_BL)


class MlmLearner(Learner):
    """Cross entropy of the masked tokens; the vocabulary projection runs at their positions alone.

    A mean over the masked tokens of the whole batch, in slices that weigh by their rows: see `MaskedRows.batch`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """loss, and the share of masked tokens predicted rightly."""
        mask_BL = batch["labels"] != IGNORED
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        return _masked_terms(masked_logits(self.model, inputs, mask_BL), batch["labels"][mask_BL], batch)


class PretrainingLearner(MlmLearner):
    """With next-sentence prediction beside (arXiv:1810.04805, section 3.1): a mean over rows, which is added."""

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """loss, both of its parts, and the shares of masked tokens and of following segments told rightly."""
        follows_B = batch["next_sentence_label"]
        mask_BL = batch["labels"] != IGNORED
        encoded = self.model.base_model(**{name: batch[name] for name in INPUTS if name in batch})
        logits_NV = self.model.cls.predictions(encoded.last_hidden_state[mask_BL])
        masked = _masked_terms(logits_NV, batch["labels"][mask_BL], batch)
        logits_B2 = self.model.cls.seq_relationship(encoded.pooler_output)
        following = F.cross_entropy(logits_B2.float(), follows_B)
        return {
            **masked,
            "loss": masked["loss"] + following,
            "masked_loss": masked["loss"],
            "following_loss": following,
            "following_accuracy": (logits_B2.argmax(dim=-1) == follows_B).float().mean(),
        }


def _masked_terms(logits_NV: Tensor, labels_N: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Sums over the masked tokens of a slice, divided by how many its rows would have if all had as many."""
    count = batch["masked_tokens"].sum()
    loss = F.cross_entropy(logits_NV.float(), labels_N, reduction="sum") / count
    return {"loss": loss, "masked_accuracy": (logits_NV.argmax(dim=-1) == labels_N).sum() / count}


def run(*, corpus: Path, teacher: Path, config: MlmConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Train an encoder as a masked language model.

    Args:
        corpus: Packed corpus (`tinybert.corpus`).
        teacher: Model directory, with or without an MLM head.
        config: Masking and training.
        out: Directory to write: the model with its head, and the tokenizer.
        on_metrics: Points of the curves.

    Returns:
        steps, loss, masked_accuracy (and following_accuracy) over the last logged steps, seconds.

    Raises:
        ModelError: Next sentences are to be predicted, and the teacher is no BERT.
        DataError: Or the corpus has no pairs.
    """
    set_seed(config.optim.seed)
    tokenizer = load_tokenizer(teacher)
    packed = Corpus(corpus)
    rows = packed.rows()
    if config.next_sentence:
        _check_pairs(packed, teacher)
    auto_class = AutoModelForPreTraining if config.next_sentence else AutoModelForMaskedLM
    model = auto_class.from_pretrained(teacher, use_safetensors=True, trust_remote_code=False, dtype=torch.float32).to(
        device()
    )
    if not has_mlm_head(teacher):
        _start_from_frequencies(model, rows)
    latest: dict[str, float] = {}

    def remember(metrics: dict[str, float], step: int) -> None:
        latest.update(metrics)
        on_metrics(metrics, step)

    masked = MaskedRows(rows, tokenizer, config.masked, config.whole_words)
    learner = PretrainingLearner(model) if config.next_sentence else MlmLearner(model)
    metrics = train("mlm", learner, masked, config.optim, out, remember)
    save(model, tokenizer, out, max_length=None)
    return {**metrics, **{name: latest[name] for name in ("masked_accuracy", "following_accuracy") if name in latest}}


def _check_pairs(corpus: Corpus, teacher: Path) -> None:
    kind = read_model_config(teacher).get("model_type")
    if kind != "bert":
        raise ModelError(f"mlm.next_sentence is true, but a {kind} has no such head; set it to false")
    if not corpus.manifest["pairs"]:
        raise DataError("mlm.next_sentence is true, but the corpus has no pairs; set corpus.pairs")


def _start_from_frequencies(model: PreTrainedModel, rows: PackedRows) -> None:
    """Give a new head the corpus' word frequencies as bias: it need not spend its first steps on learning them."""
    ids = rows.batch(np.arange(min(len(rows), 2000)), torch.Generator())["input_ids"].flatten()
    counts_V = torch.bincount(ids, minlength=model.config.vocab_size).float() + 0.1
    bias = model.get_output_embeddings().bias
    with torch.no_grad():
        bias.copy_((counts_V / counts_V.sum()).log())


if __name__ == "__main__":
    main(run)
