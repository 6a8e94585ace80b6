"""Whether two models read texts as the same tokens: both tokenizers are asked, for files say the same in many ways."""

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = {
    "Chinese characters": "\u6211\u4eeca\u6211 film\u6211",
    "punctuation": "don't, e.g.: (a-b) #c @d \u2018e\u2019 \u2026 f/g ... h_i",
    "numbers": "7 2024 3.14 1,000 10% 2nd",
    "white space": " a  b\tc\n\nd\u00a0e\u3000f \u200bg\u0007h ",
}
"""What tokenizers are known to read in different ways, whatever their vocabulary."""
MARKS = ("##", "\u0120", "\u2581")
"""Before pieces that go on with a word, or that begin one."""
WORDS = 10_000
"""Of a vocabulary that both are given at most: seconds, where it is a large one."""
SHOWN = 3
"""Tokens that a difference is shown by."""


def difference(student: Path, teacher: Path) -> str | None:
    """How the student's tokenizer reads otherwise than the teacher's, in a sentence; None where it does not.

    The vocabularies are compared, and both tokenizers are given their words, in lower and upper case and with accents,
    then a few texts, a pair, and one to cut. What decides no token (padding, decoder, the length limit, types, how
    files say it) does not count.
    """
    from transformers import AutoTokenizer  # loads torch, which those who check nothing here can do without

    own, other = (AutoTokenizer.from_pretrained(place, trust_remote_code=False) for place in (student, teacher))
    if own.get_vocab() != other.get_vocab():
        return f"vocabulary of the student ({len(own)} entries) differs from the teacher's ({len(other)})"
    for what, question in _questions(other).items():
        ids, taught = (tokenizer(**question, verbose=False)["input_ids"] for tokenizer in (own, other))
        if ids != taught:
            place = next(place for place, (one, two) in enumerate(zip_longest(ids, taught)) if one != two)
            said = [own.convert_ids_to_tokens(found[place : place + SHOWN]) for found in (ids, taught)]
            return f"the student's tokenizer reads {what} otherwise than the teacher's: {said[0]} instead of {said[1]}"
    return None


def _questions(tokenizer: "PreTrainedTokenizerBase") -> dict[str, dict[str, Any]]:
    """What both tokenizers are given, by what it would show of them."""
    added = tokenizer.get_added_vocab()
    pieces = sorted(tokenizer.get_vocab().keys() - added)
    words = " ".join(_bare(piece) for piece in pieces[:: 1 + len(pieces) // WORDS])
    asked: dict[str, dict[str, Any]] = {
        "words": {"text": words.lower()},
        "upper case": {"text": f"{words} {words.upper()}"},
        "accents": {"text": words.lower().replace(" ", "\u0301 ")},
        **{what: {"text": text} for what, text in TEXTS.items()},
        "special tokens": {"text": "a".join(sorted(added))},  # without blanks: which of these they swallow is no matter
    }
    pair = {"text": TEXTS["numbers"], "text_pair": TEXTS["punctuation"]}
    return asked | {"pairs": pair, "long texts": {**pair, "truncation": True, "max_length": 12}}


def _bare(piece: str) -> str:
    for mark in MARKS:
        piece = piece.removeprefix(mark)
    return piece
