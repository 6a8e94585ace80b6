"""Predictions of a masked language model at chosen positions only.

Shape suffixes: B rows, L tokens, D width, N chosen positions, V vocabulary.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augmentation.letters import IDEOGRAPHS, LETTER

_WORD = re.compile(f"[{IDEOGRAPHS}]|[aAiI]|{LETTER}{{2,}}")
IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")


def masked_logits(model: PreTrainedModel, inputs: dict[str, Tensor], mask_BL: Tensor) -> Tensor:
    """Vocabulary logits at the chosen positions, without projecting the others.

    Args:
        model: Any masked language model. BERT, RoBERTa (with XLM-R, CamemBERT, MPNet), ELECTRA and DistilBERT
            apply their head to the chosen positions alone; others run whole and are selected from.
        inputs: What the model's forward takes.
        mask_BL: True at the chosen positions.

    Returns:
        Logits (N, V), positions in row-major order.
    """
    encode, head = hidden_and_head(model)
    return head(encode(inputs)[mask_BL])


def hidden_and_head(
    model: PreTrainedModel,
) -> tuple[Callable[[Mapping[str, Any]], Tensor], Callable[[Tensor], Tensor]]:
    """The two halves of a masked language model: inputs to hidden states (B, L, D), and these to logits (..., V).

    For a family whose head is not known here, the first gives logits (B, L, V) and the second leaves them.
    """
    head = _head(model)
    if head is None:
        return lambda inputs: model(**inputs).logits, lambda logits: logits
    return lambda inputs: model.base_model(**inputs).last_hidden_state, head


def _head(model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """The model's own way from hidden states to logits, None for a family not known here."""
    kind = model.config.model_type
    if kind == "bert" and hasattr(model, "cls"):
        return lambda hidden_ND: model.cls.predictions(hidden_ND)
    if kind in ("roberta", "xlm-roberta", "camembert", "mpnet") and hasattr(model, "lm_head"):
        return lambda hidden_ND: model.lm_head(hidden_ND)
    if kind == "electra" and hasattr(model, "generator_lm_head"):
        return lambda hidden_ND: model.generator_lm_head(model.generator_predictions(hidden_ND))
    if kind == "distilbert" and hasattr(model, "vocab_projector"):
        return lambda hidden_ND: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_ND)))
        )
    return None


def max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens a row may have, special ones included."""
    limits = [int(tokenizer.model_max_length)]
    embedded = _position_embeddings(model)
    if embedded is not None:
        limits.append(embedded.num_embeddings - first_position(model))
    else:
        limits.append(int(getattr(model.config, "max_position_embeddings", 512)))
    return min(limits)


def first_position(model: PreTrainedModel) -> int:
    """The position of a row's first token: RoBERTa and MPNet count from after the padding token's."""
    embedded = _position_embeddings(model)
    return 0 if embedded is None or embedded.padding_idx is None else embedded.padding_idx + 1


def _position_embeddings(model: PreTrainedModel) -> torch.nn.Embedding | None:
    embedded = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    return embedded if isinstance(embedded, torch.nn.Embedding) else None


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that are a whole word: letters alone, two or more (or one that is a word), no word piece."""
    pieces: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    # Byte-level and SentencePiece vocabularies mark the token that begins a word, WordPiece those that go on.
    counts = {mark: sum(piece.startswith(mark) for piece in pieces) for mark in "\u0120\u2581"}
    mark = next((mark for mark, count in counts.items() if count > 0.05 * len(pieces)), "")
    words = {}
    for piece, token in pieces.items():
        if token in special or not piece.startswith(mark):
            continue
        word = tokenizer.convert_tokens_to_string([piece]).strip() if mark else piece
        if _WORD.fullmatch(word):
            words[token] = word
    return words
