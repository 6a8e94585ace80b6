"""What a masked language model would write at chosen places of many texts at once.

Shape suffixes: B passes, L tokens, D width, N chosen positions, V vocabulary, K likeliest tokens.

A pass is padded to a length that follows from its own, and no forward pass has fewer than `LEAST` tokens: from there
on matrix products give a row the same bits in whatever company it is (seen on CPUs with AMX, in bf16 and fp32). So
candidates do not depend on the size of batches, nor on what else is augmented. The libraries of a GPU choose kernels by
the number of rows, so there all passes of a length have as many, whatever the form says.

Whatever the number of passes, a model sees few shapes: for each one it has met, the CPU's kernel library compiles code
and keeps it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augmentation.joint import joint_candidates
from tinybert.errors import ModelError
from tinybert.gradients import SliceSize
from tinybert.last_layer import finish_only
from tinybert.masked_lm import IDEOGRAPH, hidden_and_head, max_tokens, whole_words
from tinybert.precision import native_bf16

LEAST = 1024
"""Tokens of a forward pass, and positions projected onto the vocabulary, at least."""
ON_GPU = 8192
"""Tokens of every forward pass on a GPU, as long as memory suffices."""
GRAIN = 4
"""Passes are padded to a multiple of so many tokens."""
PER_CHARACTER = 30
"""Characters considered at each place of a word that is filled jointly."""


class Tokens(NamedTuple):
    """A text's token ids without special ones, and where each stands in the text."""

    ids: list[int]
    spans: list[tuple[int, int]]


class Pass(NamedTuple):
    """One row of a forward pass."""

    ids: list[int]
    types: list[int]
    places: list[list[int]]
    """For each word to be filled, the positions of its tokens."""


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

    The model is left in eval mode, and in bf16 where the device multiplies it natively.

    Attributes:
        steady: All passes of a length have the same number of rows, the last of them empty.
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
        self.steady = model.device.type == "cuda"
        self._slices = SliceSize("augment")
        self.mask = int(tokenizer.mask_token_id)
        self.limit = max_tokens(model, tokenizer)
        self.templates = [Template.of(tokenizer, pair) for pair in (False, True)]
        self.words = whole_words(tokenizer)
        characters = {token: word for token, word in self.words.items() if IDEOGRAPH.fullmatch(word)}
        self._barred_V = self._all_but(self.words)
        self._not_characters_V = self._all_but(characters)
        self._encode, self._head = hidden_and_head(model)

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
            batch_tokens: Tokens of a forward pass at most, padding included, and at least `LEAST`; not asked where
                passes are steady.
        """
        batches = list(self._batches(passes, batch_tokens))
        order = list(chain(*batches))
        hidden = (self._hidden([passes[index] for index in batch]) for batch in batches)
        words = self._words(hidden, [place for index in order for place in passes[index].places], top)
        found: list[list[list[str]]] = [[] for _ in passes]
        for index in order:
            found[index] = [next(words) for _ in passes[index].places]
        return found

    def _batches(self, passes: Sequence[Pass], batch_tokens: int) -> Iterator[list[int]]:
        """Indices of passes of one padded length at a time: as many as may be, half of that and so on to the fewest."""
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(passes):
            by_length.setdefault(_padded(len(row.ids)), []).append(index)
        for length, members in sorted(by_length.items()):
            fewest, start = self._fewest(length), 0
            most = fewest if self.steady else max(batch_tokens, LEAST) // length
            sizes = [size for halved in range(most.bit_length()) if (size := most >> halved) > fewest]
            while start < len(members):
                size = next((size for size in sizes if start + size <= len(members)), fewest)
                yield members[start : start + size]
                start += size

    def _fewest(self, length: int) -> int:
        """Passes of so many tokens that stand in a batch, or are replaced by empty ones, at least."""
        return max(1, ON_GPU // length - 1) if self.steady else -(-LEAST // length)

    def _hidden(self, rows: Sequence[Pass]) -> Tensor:
        """What the head reads at the places of a batch (N, D), rows in order; in parts where memory runs out."""
        length = _padded(max(len(row.ids) for row in rows))
        # Without any padding in a batch attention takes another kernel; the empty row keeps it from that.
        empty, fewest = int(self.steady), self._fewest(length)

        def compute(most: int) -> Tensor:
            size = max(1, most - empty)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            return torch.cat([self._read(part, length, min(most, max(len(part), fewest) + empty)) for part in parts])

        return self._slices.fitting(compute, max(len(rows), fewest) + empty, lambda: None, length)

    def _read(self, rows: Sequence[Pass], length: int, filled: int) -> Tensor:
        """The same of a single forward pass, with empty rows up to so many."""
        ids_BL = torch.full((filled, length), self.tokenizer.pad_token_id or 0)
        types_BL = torch.zeros_like(ids_BL)
        sizes_B = torch.ones(filled, dtype=torch.long)
        for at, row in enumerate(rows):
            ids_BL[at, : len(row.ids)] = torch.tensor(row.ids)
            types_BL[at, : len(row.types)] = torch.tensor(row.types)
            sizes_B[at] = len(row.ids)
        inputs = {"input_ids": ids_BL, "attention_mask": (torch.arange(length) < sizes_B[:, None]).long()}
        if "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = types_BL
        rows_N = [at for at, row in enumerate(rows) for place in row.places for _ in place]
        places_N = [position for row in rows for position in chain(*row.places)]
        others = [0] * (-len(rows_N) % LEAST)
        chosen = rows_N + others, places_N + others
        device = self.model.device
        # How many positions are chosen depends on the company.
        finishing = None if self.steady else finish_only(self.model, lambda value_BLD: value_BLD[chosen][None])
        with torch.no_grad(), finishing or nullcontext():
            hidden_BLD = self._encode({name: tensor.to(device) for name, tensor in inputs.items()})
        chosen_ND: Tensor = hidden_BLD[0] if finishing else hidden_BLD[chosen]
        return chosen_ND[: len(rows_N)]

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


def _padded(length: int) -> int:
    return -(-length // GRAIN) * GRAIN


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
