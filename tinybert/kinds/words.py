"""Words as a tokenizer cuts them up: which piece is the first of which word.

The text is read as a whole. Words handed over one by one (`is_split_into_words`) would lose the space before them, by
which byte-level tokenizers tell that a word begins.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinybert.kinds.task_kind import Encoded, Spans, first_segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encoded(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int) -> Encoded:
    """Texts, of words with a single space between two, as tokens with the numbers of the words they are the first of.

    They are cut at `max_length`; a text is one feature.
    """
    if not tokenizer.is_fast:
        return _encoded_word_by_word(tokenizer, texts, max_length)
    found = tokenizer(list(texts), truncation=True, max_length=max_length, return_offsets_mapping=True, verbose=False)
    places = [first_pieces(text, spans) for text, spans in zip(texts, found["offset_mapping"], strict=True)]
    return Encoded(found["input_ids"], first_segments(tokenizer, found), list(range(len(texts))), places)


def first_pieces(text: str, spans: Spans) -> NDArray[np.int32]:
    """The number of the word each token is the first of, else -1 (L, 1).

    Args:
        text: Words with a single space between two.
        spans: Where in the text each token begins and ends. Some tokenizers count the space before a word to its first
            piece, or make it a piece of its own.
    """
    blanks = np.array([character == " " for character in text], bool)
    words, last, numbers = np.cumsum(blanks).tolist(), -1, []
    for start, end in spans:
        is_first = start < end and not blanks[end - 1] and words[end - 1] > last
        numbers.append(words[end - 1] if is_first else -1)
        last = max(last, numbers[-1])
    return np.array(numbers, np.int32).reshape(-1, 1)


def _encoded_word_by_word(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int) -> Encoded:
    """For tokenizers written in Python, which do not say where in the text their pieces stand."""
    room = max_length - tokenizer.num_special_tokens_to_add()
    before = tokenizer.build_inputs_with_special_tokens([tokenizer.unk_token_id]).index(tokenizer.unk_token_id)
    ids, places = [], []
    for text in texts:
        words = [tokenizer.tokenize(word) for word in text.split(" ")]
        pieces = [(piece, -1 if at else word) for word, cut in enumerate(words) for at, piece in enumerate(cut)][:room]
        numbers = tokenizer.convert_tokens_to_ids([piece for piece, _ in pieces])
        ids.append(tokenizer.build_inputs_with_special_tokens(numbers))
        firsts = np.full((len(ids[-1]), 1), -1, np.int32)
        firsts[before : before + len(pieces), 0] = [word for _, word in pieces]
        places.append(firsts)
    return Encoded(ids, [len(tokens) for tokens in ids], list(range(len(ids))), places)
