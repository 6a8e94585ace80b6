"""What a masked language model would write at chosen places of many texts at once.

Shape suffixes: D width, N chosen positions, V vocabulary, K likeliest tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augmentation.forward import LEAST, Pass, forward_of
from tinybert.augmentation.joint import joint_candidates
from tinybert.errors import ModelError
from tinybert.masked_lm import IDEOGRAPH, hidden_and_head, max_tokens, whole_words
from tinybert.precision import native_bf16

PER_CHARACTER = 30
"""Characters considered at each place of a word that is filled jointly."""


class Tokens(NamedTuple):
    """A text's token ids without special ones, and where each stands in the text."""

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Template:
    """The special tokens around a text, or around a pair, as the tokenizer puts them."""

    parts: tuple[list[int], ...]
    """Before, (between,) and after."""
    types: tuple[list[int], ...]
    """Segment of each of them."""
    segments: tuple[int, ...]
    """Segment of each text's own tokens."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, pair: bool) -> "Template":
        """Read off what the tokenizer makes of a known text."""
        encoded = tokenizer("a", "a" if pair else None, return_token_type_ids=True)
        ids, types = encoded["input_ids"], encoded["token_type_ids"]
        parts: list[list[int]] = [[]]
        kinds: list[list[int]] = [[]]
        segments: list[int] = []
        before = None
        for token, kind, side in zip(ids, types, encoded.sequence_ids(0), strict=True):
            if side is None:
                parts[-1].append(token)
                kinds[-1].append(kind)
            elif side != before:
                parts.append([])
                kinds.append([])
                segments.append(kind)
            before = side if side is not None else before
        return cls(tuple(parts), tuple(kinds), tuple(segments))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def fill(self, texts: Sequence[list[int]], changed: int, places: Sequence[Sequence[int]]) -> Pass:
        """A pass over texts, of which one has the places to be filled."""
        ids, types = list(self.parts[0]), list(self.types[0])
        start = 0
        for side, text in enumerate(texts):
            if side == changed:
                start = len(ids)
            ids += [*text, *self.parts[side + 1]]
            types += [self.segments[side]] * len(text) + self.types[side + 1]
        return Pass(ids, types, [[start + place for place in word] for word in places])


class WordPredictor:
    """The likeliest words at places of many passes.

    The model is left in eval mode, in bf16 where the device multiplies it natively, and with an attention function of
    its own (`forward.Packed`).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, is_word: Callable[[str], bool] | None = None
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise ModelError(f"{type(tokenizer).__name__} has no mask token; use a masked language model")
        if not tokenizer.is_fast:
            raise ModelError(f"{type(tokenizer).__name__} does not tell where its tokens stand; use a fast tokenizer")
        self.model, self.tokenizer, self.is_word = model.eval(), tokenizer, is_word
        if native_bf16(model.device):
            model.to(torch.bfloat16)
        self._forward = forward_of(model, tokenizer.pad_token_id or 0)
        self.mask = int(tokenizer.mask_token_id)
        self.limit = max_tokens(model, tokenizer)
        self.templates = [Template.of(tokenizer, pair) for pair in (False, True)]
        self.words = whole_words(tokenizer)
        characters = {token: word for token, word in self.words.items() if IDEOGRAPH.fullmatch(word)}
        self._barred_V = self._all_but(self.words)
        self._not_characters_V = self._all_but(characters)
        _, self._head = hidden_and_head(model)

    def _all_but(self, kept: dict[int, str]) -> Tensor:
        size = int(self.model.config.vocab_size)
        barred_V = torch.ones(size, dtype=torch.bool)
        barred_V[[token for token in kept if token < size]] = False
        return barred_V.to(self.model.device)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, and their spans."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return [Tokens(*row) for row in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def fill(self, passes: Sequence[Pass], top: int, batch_tokens: int) -> list[list[list[str]]]:
        """At most `top` words for each place of each pass, the likeliest first.

        Args:
            passes: Rows of token ids with their places.
            top: Words per place at most. A place of several tokens gets words of as many ideographs.
            batch_tokens: Tokens of a forward pass at most; not asked where all have as many (`forward.Padded`).
        """
        batches = list(self._forward.batches(passes, batch_tokens))
        order = list(chain(*batches))
        hidden = (self._forward.hidden([passes[index] for index in batch]) for batch in batches)
        words = self._words(hidden, [place for index in order for place in passes[index].places], top)
        found: list[list[list[str]]] = [[] for _ in passes]
        for index in order:
            found[index] = [next(words) for _ in passes[index].places]
        return found

    def _words(self, hidden: Iterable[Tensor], places: Sequence[Sequence[int]], top: int) -> Iterator[list[str]]:
        """Words for each place, from what the head reads at its tokens, in parts (N, D) of any number."""
        single_N = torch.tensor([len(place) == 1 for place in places for _ in place], device=self.model.device)
        best = self._best(_blocks(hidden), single_N, top)
        for place in places:
            found = [next(best) for _ in place]
            if len(place) == 1:
                yield [word for word, _ in found[0][:top]]
            else:
                yield joint_candidates(found, self.is_word or (lambda _: True), top)

    def _best(self, blocks: Iterable[Tensor], single_N: Tensor, top: int) -> Iterator[list[tuple[str, float]]]:
        """For each position its likeliest tokens as text, with their log probabilities up to a constant."""
        count = min(max(top, PER_CHARACTER), len(self._barred_V))
        for block_ND, single in zip(blocks, single_N.split(LEAST), strict=True):
            best_NK, tokens_NK = self._likeliest(block_ND, single, count)
            for scores, tokens in zip(best_NK.float().tolist(), tokens_NK.tolist(), strict=True):
                likely = zip(tokens, scores, strict=True)
                yield [(self.words[token], score) for token, score in likely if score > -torch.inf]

    def _likeliest(self, block_ND: Tensor, single_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Scores and ids of so many tokens for each position of a block, words or, where not single, characters."""
        logits_NV = self._logits(block_ND)
        joint_N = (~single_N).nonzero()[:, 0]
        joint_NV = logits_NV[joint_N].masked_fill_(self._not_characters_V, -torch.inf)
        logits_NV.masked_fill_(self._barred_V, -torch.inf)
        logits_NV[joint_N] = joint_NV
        best = logits_NV.topk(count)
        return best.values, best.indices

    def _logits(self, block_ND: Tensor) -> Tensor:
        """What the head says of at most `LEAST` positions (N, V), computed for exactly so many."""
        padded_ND = torch.cat([block_ND, block_ND[:1].expand(LEAST - len(block_ND), -1)])
        with torch.no_grad():
            logits_NV: Tensor = self._head(padded_ND)[: len(block_ND)]
        return logits_NV


def _blocks(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same rows, `LEAST` at a time, as soon as there are so many."""
    rest_ND: Tensor | None = None
    for part_ND in parts:
        rest_ND = part_ND if rest_ND is None else torch.cat([rest_ND, part_ND])
        while len(rest_ND) >= LEAST:
            yield rest_ND[:LEAST]
            rest_ND = rest_ND[LEAST:]
    if rest_ND is not None and len(rest_ND):
        yield rest_ND
