"""Which words of a text may be replaced, in any script, and how a replacement is written."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from tinybert.augmentation.letters import IDEOGRAPHS, MARKS
from tinybert.errors import ConfigError

_JOINTS = "'\u2019\u00b7\u05f4\u00ad\u200c\u200d"
"""Apostrophes, the Catalan middle dot, gershayim, soft hyphen, and the (non-)joiners of Persian and Hindi."""
_OTHER = rf"[^\W{IDEOGRAPHS}]"
"""A letter, digit or underscore. Ideographs stand beside words of other scripts without a space."""
_WORDS = re.compile(
    # What is written for machines is matched first, so that no word is found inside it: reserved tokens, tags,
    # entities, links and mentions.
    rf"\[[A-Z]+\d*\]|<\|\w+\|>|</?[A-Za-z][^<>]*+>|&#?\w+;"
    rf"|(?:https?://|www\.)[^\s<>{IDEOGRAPHS}]+|@{_OTHER}+"
    rf"|(?P<run>{_OTHER}++(?:[{MARKS}]*+[{_JOINTS}]?+{_OTHER}++)*+[{MARKS}]*+)"
    # An ideograph with a selector of its variant is left alone: the selector would stay behind.
    rf"|(?P<ideographs>(?:[{IDEOGRAPHS}](?![{MARKS}]))++)"
)
_NO_LETTERS = re.compile(f"[{MARKS}{_JOINTS}]")
"""What a word may have beside letters."""


class Word(NamedTuple):
    """A word's span in the original string."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Language:
    """What of a language decides over words."""

    stop_words: frozenset[str]
    """Never replaced; in lower case, accents composed (NFC), apostrophes straight."""
    cut: Callable[[str], list[str]] | None = None
    """Cuts a run of ideographs into words. None: each is a word of its own."""
    is_word: Callable[[str], bool] | None = None
    """Whether a string of ideographs is one word of the lexicon. None: there is no lexicon."""


@cache
def language(code: str) -> Language:
    """What decides over words in a language, by its two-letter code.

    English has scikit-learn's 318 stop words. Those of all others are stopwordsiso's, whose 1,298 English ones hold
    words such as "computer", "interesting" and "world" and would leave little to replace.

    Raises:
        ConfigError: No stop words are known for it, or its segmenter is not installed.
    """
    if code == "en":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return Language(frozenset(ENGLISH_STOP_WORDS))
    from stopwordsiso import langs, stopwords

    if code not in langs():
        raise ConfigError(
            f"augment.language is {code!r}, but stop words are known for {len(langs())} two-letter codes only, "
            "such as ar, de, en, es, fr, hi, ja, ru and zh; use one of these"
        )
    stop_words = frozenset(_plain(word) for word in stopwords(code))
    return Language(stop_words, *_segmenter()) if code == "zh" else Language(stop_words)


def __getattr__(name: str) -> Language:
    """ENGLISH, made when it is asked for first: scikit-learn takes a second or two to import."""
    if name == "ENGLISH":
        return language("en")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def eligible_words(text: str, language: Language) -> list[Word]:
    """The words that may be replaced: letters of any script, with inner apostrophes, that are no stop words.

    Numbers, punctuation, emoji, words with digits, reserved tokens ([MASK], <mask>), tags (<br />), links and
    mentions are none. Words joined by hyphens are words each, as vocabularies and vectors have them. A run of
    ideographs is cut into the language's words; in any other script without spaces (Thai, kana) a run is one word.
    """
    return [
        Word(start, start + len(word), word)
        for start, word in _words(text, language.cut or list)
        if _plain(word) not in language.stop_words
    ]


def match_case(word: str, like: str) -> str:
    """The word in the casing of another: UPPER, Capitalised, or as it is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _words(text: str, cut: Callable[[str], list[str]]) -> Iterator[tuple[int, str]]:
    """Every word, stop words too, and where it starts."""
    for match in _WORDS.finditer(text):
        start, run = match.start(), match.group()
        if match.lastgroup == "ideographs":
            for word in cut(run):
                yield start, word
                start += len(word)
        elif match.lastgroup == "run" and (run.isalpha() or _NO_LETTERS.sub("", run).isalpha()):
            yield start, run


def _plain(word: str) -> str:
    """A word as stop words are written, however the text composes its accents and writes its apostrophes."""
    # The lower case of the Turkish dotted capital I keeps a dot of its own.
    return unicodedata.normalize("NFC", word.lower()).replace("\u2019", "'").replace("i\u0307", "i")


def _segmenter() -> tuple[Callable[[str], list[str]], Callable[[str], bool]]:
    """How Chinese is cut into words, and whether a string is one of them."""
    try:
        import rjieba
    except ImportError as error:
        raise ConfigError(
            "augment.language is 'zh', whose segmenter is not installed; pip install 'tinybert-pipeline[chinese]'"
        ) from error

    def cut(run: str) -> list[str]:
        # By the lexicon alone: the hidden Markov model would make words of unrelated neighbours, so that nearly any
        # two characters were one. What the lexicon has not (names, most traditional forms) falls into characters.
        return list(rjieba.cut(run, hmm=False))

    return cut, lambda text: len(rjieba.cut(text, hmm=False)) == 1
