"""How good an answer out of a text is, as the scripts of SQuAD and of CMRC 2018 count.

Answers are compared by their segments. Those of SQuAD (evaluate-v2.0.py) are words in lower case, without ASCII
punctuation and English articles; F1 counts the words that two answers share, wherever they stand. Where one of the two
has ideographs they are those of CMRC 2018 (cmrc2018_evaluate.py, v5): each ideograph, and words of what stands between
them, without punctuation of any script; F1 counts the longest run that two answers share. Differing from that script,
all Unicode punctuation goes, not a list of some, words end at white space alone, and white space does not count.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from unicodedata import category

from tinybert.augmentation.letters import IDEOGRAPHS

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_IDEOGRAPH_OR_WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]+")
_MORE_PUNCTUATION = {*string.punctuation, "\uff5e"}
"""What Unicode has among the symbols."""


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where the answer has the segments of a right one, else 0.

    Args:
        answer: Empty: that there is none.
        golds: Right answers; without one, or with none but punctuation and articles, "" is right.
    """
    return _best(lambda one, other: float(one == other), answer, golds)


def answer_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's segments, against the right answer it fits best.

    Args:
        answer: Empty: that there is none. Then, or where there is no right answer, it is 1 or 0 as `exact_match`.
        golds: Right answers; without one, or with none but punctuation and articles, "" is right.
    """
    return _best(_f1, answer, golds)


def _best(score: Callable[[list[str], list[str]], float], answer: str, golds: Sequence[str]) -> float:
    real = [gold for gold in golds if _segments(gold, has_ideographs(gold))] or [""]
    pairs = ((gold, has_ideographs(answer + gold)) for gold in real)
    return max(score(_segments(answer, mixed), _segments(gold, mixed)) for gold, mixed in pairs)


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    if has_ideographs("".join(answer + gold)):
        common = SequenceMatcher(None, answer, gold, autojunk=False).find_longest_match().size
    else:
        common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold))


def has_ideographs(text: str) -> bool:
    """Whether a character of the text is one."""
    return _IDEOGRAPH.search(text) is not None


def _segments(text: str, mixed: bool) -> list[str]:
    """Ideographs and words where the text is mixed, else words without articles."""
    if not mixed:
        return _ARTICLE.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split()
    kept = (char for char in text.lower() if category(char)[0] != "P" and char not in _MORE_PUNCTUATION)
    return _IDEOGRAPH_OR_WORD.findall("".join(kept))
