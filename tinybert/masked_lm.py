"""Predictions of a masked language model at chosen positions only.

Shape suffixes: B rows, L tokens, D width, N chosen positions, V vocabulary, K likeliest tokens.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.errors import ModelError
from tinybert.precision import native_bf16

IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
_LETTER = rf"(?:(?![{IDEOGRAPHS}])[^\W\d_][{MARKS}]*+)"
LETTERS = f"{_LETTER}++"
"""A run of letters with their combining marks. An ideograph is no part of one: it is a word of its own."""

_WORD = re.compile(f"[{IDEOGRAPHS}]|[aAiI]|{_LETTER}{{2,}}")
_UNITS = re.compile(rf"\s*(?:[{IDEOGRAPHS}]|\w{{1,64}}|[^\w\s])")
"""What a long text is cut between."""


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
    head = _head(model)
    if head is None:
        whole_NV: Tensor = model(**inputs).logits[mask_BL]
        return whole_NV
    hidden_BLD = model.base_model(**inputs).last_hidden_state
    return head(hidden_BLD[mask_BL])


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
    embedded = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(embedded, torch.nn.Embedding):
        # RoBERTa and MPNet count positions from after the padding token's.
        limits.append(embedded.num_embeddings - (0 if embedded.padding_idx is None else embedded.padding_idx + 1))
    else:
        limits.append(int(getattr(model.config, "max_position_embeddings", 512)))
    return min(limits)


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


class MaskedText(NamedTuple):
    """A text, or a pair, into which mask tokens were written."""

    text: str
    text_pair: str | None
    chosen: tuple[bool, ...]
    """One entry per mask token in order: to be predicted, or one that stood in the text before."""


class _Row(NamedTuple):
    inputs: dict[str, list[int]]
    positions: list[int]


class WordPredictor:
    """The likeliest whole words at the masks of many texts at once. Puts the model in eval mode."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            raise ModelError(f"{type(tokenizer).__name__} has no mask token; use a masked language model")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mask = str(tokenizer.mask_token)
        self.limit = max_tokens(model, tokenizer)
        self.words = whole_words(tokenizer)
        size = int(model.config.vocab_size)
        barred_V = torch.ones(size, dtype=torch.bool)
        barred_V[[token for token in self.words if token < size]] = False
        self.barred_V = barred_V.to(model.device)

    def fill(self, texts: Sequence[MaskedText], top: int, batch_tokens: int) -> list[list[list[str]]]:
        """At most `top` words per chosen mask of each text, the likeliest first.

        Batches are sorted by length and hold at most `batch_tokens` tokens, padding included. A mask that the
        model's length limit cuts off gets no words.
        """
        rows = self._encode(texts)
        found: list[list[list[str]]] = [[[] for chosen in text.chosen if chosen] for text in texts]
        for batch in _batches([len(row.inputs["input_ids"]) for row in rows], batch_tokens):
            words = iter(self._predict([rows[index] for index in batch], top))
            for index in batch:
                if rows[index].positions:
                    found[index] = [next(words) for _ in rows[index].positions]
        return found

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special ones left out."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    def one_piece(self, words: Sequence[str]) -> set[str]:
        """The words that are a single piece of the tokenizer."""
        # The leading space makes a word-initial piece of it where the vocabulary tells these apart.
        pieces = zip(words, self.pieces([f" {word}" for word in words]), strict=True)
        return {word for word, ids in pieces if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id}

    def views(self, text: str, size: int, beside: tuple[str, int] | None) -> tuple[list[tuple[int, int]], str | None]:
        """Spans of a text that fit the model: the whole, or windows that overlap by half.

        Args:
            text: The text to be seen.
            size: Its tokens.
            beside: The other text of a pair and its tokens.

        Returns:
            The spans, and the other text, cut short where both are long.
        """
        room = self.limit - self.tokenizer.num_special_tokens_to_add(pair=beside is not None)
        other, other_size = beside or (None, 0)
        share = min(other_size, max(room - size, room // 2))
        if other is not None and share < other_size:
            start, end = self._windows(other, share)[0]
            other = other[start:end]
        return [(0, len(text))] if size <= room - share else self._windows(text, room - share), other

    def _windows(self, text: str, room: int) -> list[tuple[int, int]]:
        if room < 4:
            raise ModelError(f"the model takes rows of {self.limit} tokens; augmentation needs at least 16")
        units = [match.span() for match in _UNITS.finditer(text)]
        sizes = [len(ids) for ids in self.pieces([text[start:end] for start, end in units])]
        before = [0, *accumulate(sizes)]
        spans = []
        for at in range(0, max(1, before[-1] - room // 2), room // 2):
            first, last = bisect_left(before, at), bisect_right(before, at + room) - 1
            if first < last:
                spans.append((units[first][0], units[last - 1][1]))
        return spans or [(0, 0)]

    def _encode(self, texts: Sequence[MaskedText]) -> list[_Row]:
        if not texts:
            return []
        pairs = None if texts[0].text_pair is None else [text.text_pair for text in texts]
        encoded = self.tokenizer([text.text for text in texts], text_pair=pairs, truncation=True, max_length=self.limit)
        rows = []
        for index, text in enumerate(texts):
            inputs = {name: encoded[name][index] for name in encoded}
            masks = [at for at, token in enumerate(inputs["input_ids"]) if token == self.tokenizer.mask_token_id]
            whole = len(masks) == len(text.chosen)
            chosen = [at for at, wanted in zip(masks, text.chosen, strict=True) if wanted] if whole else []
            rows.append(_Row(inputs, chosen))
        return rows

    def _predict(self, rows: Sequence[_Row], top: int) -> list[list[str]]:
        """Words for every chosen position of a batch, in row-major order."""
        device = self.model.device
        inputs = {name: self._pad(name, [row.inputs[name] for row in rows]) for name in rows[0].inputs}
        mask_BL = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for index, row in enumerate(rows):
            mask_BL[index, row.positions] = True
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device)):
            moved = {name: tensor.to(device) for name, tensor in inputs.items()}
            logits_NV = masked_logits(self.model, moved, mask_BL.to(device))
            logits_NV.masked_fill_(self.barred_V, -torch.inf)
            best_NK, tokens_NK = logits_NV.topk(min(top, len(self.words), logits_NV.shape[-1]))
        return [
            [self.words[token] for token, value in zip(tokens, values, strict=True) if value > -torch.inf]
            for tokens, values in zip(tokens_NK.tolist(), best_NK.float().tolist(), strict=True)
        ]

    def _pad(self, name: str, rows: list[list[int]]) -> Tensor:
        value = self.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, cut so that rows times the longest stays within the tokens of a batch."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
