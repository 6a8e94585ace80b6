"""Words of texts in many scripts, and the casing of what replaces them."""

import re
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from stopwordsiso import langs, stopwords

from tinybert.augmentation.letters import IDEOGRAPHS, LETTER, MARKS
from tinybert.augmentation.words import ENGLISH, Language, eligible_words, language, match_case
from tinybert.errors import ConfigError

NO_STOP_WORDS = Language(frozenset())
CHINESE = language("zh")


def texts_of(text, language=ENGLISH):
    return [word.text for word in eligible_words(text, language)]


def is_ideograph(character):
    return (
        "\u3400" <= character <= "\u4dbf"
        or "\u4e00" <= character <= "\u9fff"
        or ("\uf900" <= character <= "\ufaff" or "\U00020000" <= character <= "\U0003ffff")
    )


# --- what is a word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A good film, really!", ["good", "film", "really"]),
        ("THE The the", []),
        ("don't stop o'neill\u2019s 'film'", ["don't", "stop", "o'neill\u2019s", "film"]),
        ("3 films 3rd film3 a_b x2", ["films"]),
        ("[MASK] film [SEP] <mask> <br /> </s>", ["film"]),
        ("\u00fcber \u0444\u0438\u043b\u044c\u043c", ["\u00fcber", "\u0444\u0438\u043b\u044c\u043c"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "cafe\u0301"]),
        ("\u597d\u7535\u5f71", ["\u597d", "\u7535", "\u5f71"]),
        ("\U0001f600 \u2764\ufe0f 1\ufe0f\u20e3 \U0001f1e9\U0001f1ea ... 42 %", []),
        ("", []),
        (" \t\n", []),
    ],
)
def test_eligible_words(text, words):
    found = eligible_words(text, ENGLISH)
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a state-of-the-art film", ["state", "art", "film"]),
        ("rock'n'roll '90s film'3 films' 'films", ["rock'n'roll", "films", "films"]),
        ("\u00bd x\u00b2 \u2163 \u2460 \uff11\uff12 \uff41\uff11 films", ["films"]),
        ("<a href='good.html' class=\"x\">film</a><BR/>&nbsp;story &#39;", ["film", "story"]),
        ("[CLS] [E1] film [/E1] [unused1] <|endoftext|> <extra_id_0>", ["film"]),
        ("https://good.com/film?a=b www.film.org @good_user #film", ["film"]),
        ("1 < two and three > two", ["two", "two"]),
    ],
    ids=["hyphens", "apostrophes", "numbers", "tags", "reserved", "links", "comparisons"],
)
def test_what_is_no_word_is_left_alone(text, words):
    assert texts_of(text, Language(frozenset({"a", "of", "the", "and", "three"}))) == words


@pytest.mark.parametrize(
    ("code", "marked"),
    [
        # "This film very pleased my children."
        ("ru", "\u042d\u0442\u043e\u0442 {\u0444\u0438\u043b\u044c\u043c} \u043e\u0447\u0435\u043d\u044c "
               "{\u043f\u043e\u043d\u0440\u0430\u0432\u0438\u043b\u0441\u044f} {\u043c\u043e\u0438\u043c} "
               "{\u0434\u0435\u0442\u044f\u043c}."),
        # "This film [is] beautiful very", one word with vowel signs.
        ("ar", "\u0647\u0630\u0627 {\u0627\u0644\u0641\u064a\u0644\u0645} "
               "{\u062c\u064e\u0645\u0650\u064a\u0644\u064c} {\u062c\u062f\u0627}."),
        # "This film very good is", with vowel signs and a danda.
        ("hi", "\u092f\u0939 {\u092b\u093f\u0932\u094d\u092e} \u092c\u0939\u0941\u0924 "
               "{\u0905\u091a\u094d\u091b\u0940} \u0939\u0948\u0964"),
        # "I-want this film see", the first with a non-joiner inside.
        ("fa", "{\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645} \u0627\u06cc\u0646 "
               "{\u0641\u06cc\u0644\u0645} \u0631\u0627 {\u0628\u0628\u06cc\u0646\u0645}"),
        # "This film really was-fun, 3 times saw."
        ("ko", "\uc774 {\uc601\ud654\ub294} {\uc815\ub9d0} {\uc7ac\ubbf8\uc788\uc5c8\ub2e4}, 3\ubc88 {\ubd24\ub2e4}."),
        # "I-like-films more-than books": what stands between spaces is one word.
        ("th", "{\u0e09\u0e31\u0e19\u0e0a\u0e2d\u0e1a\u0e2b\u0e19\u0e31\u0e07} "
               "{\u0e21\u0e32\u0e01\u0e01\u0e27\u0e48\u0e32} {\u0e2b\u0e19\u0e31\u0e07\u0e2a\u0e37\u0e2d} 3"),
        # "I-yesterday film saw. Very-good!": so is a run of kana; an ideograph is one of its own.
        ("ja", "{\u308f\u305f\u3057\u306f\u304d\u306e\u3046}{\u6620}{\u753b}"
               "{\u3092\u307f\u307e\u3057\u305f}\u3002{\u3068\u3066\u3082\u3088\u304b\u3063\u305f}\uff01"),
        ("ca", "un {col\u00b7legi}"),
        ("he", "{\u05e6\u05d4\u05f4\u05dc} \u05d4\u05d5\u05d0 {\u05e1\u05e8\u05d8}"),
    ],
)  # fmt: skip
def test_words_of_many_scripts(code, marked):
    text = marked.replace("{", "").replace("}", "")
    assert texts_of(text, language(code)) == re.findall("{(.*?)}", marked)


def test_words_of_other_scripts_stand_beside_ideographs():
    assert texts_of("\u6211\u7528iPhone\u770bfilm\uff0cA4x\u7eb8", NO_STOP_WORDS) == [
        "\u6211",
        "\u7528",
        "iPhone",
        "\u770b",
        "film",
        "\u7eb8",
    ]


def test_an_ideograph_with_a_selector_is_left_alone():
    for known in (NO_STOP_WORDS, CHINESE):
        assert texts_of("\u96fb\U000e0100\u5f71\u9f98", known) == ["\u5f71", "\u9f98"]


# --- stop words


def test_stop_words_are_the_callers():
    assert texts_of("The Film", Language(frozenset({"film"}))) == ["The"]


def test_english_has_the_stop_words_that_leave_something_to_replace():
    assert ENGLISH is language("en")
    assert ENGLISH.stop_words == ENGLISH_STOP_WORDS
    assert {"computer", "interesting", "world"} <= stopwords("en") - ENGLISH.stop_words


def test_stop_words_are_found_however_they_are_written():
    german = "F\u00fcr F\u00dcR f\u00fcr Film"
    assert texts_of(german, language("de")) == ["Film"]
    assert texts_of(unicodedata.normalize("NFD", german), language("de")) == ["Film"]
    assert texts_of("\u0130\u00e7in g\u00fczel", language("tr")) == ["g\u00fczel"]
    # Arabic "that", whose marks stopwordsiso has in another order than NFC.
    assert texts_of("\u0644\u064e\u0643\u0650\u0646\u064e\u0651", language("ar")) == []
    italian = Language(frozenset({"c'\u00e8"}))
    assert texts_of("C\u2019\u00e8 C'\u00e8 film", italian) == ["film"]


def test_every_language_leaves_its_stop_words_alone():
    for code in langs():
        known = language(code)
        assert known.stop_words
        if code != "en":
            words = [word for word in stopwords(code) if word.isalpha() and not any(map(is_ideograph, word))]
            assert [word for word in words if eligible_words(word, known)] == []
        assert (known.cut is None) == (known.is_word is None) == (code != "zh")


@pytest.mark.parametrize("code", ["xx", "nb", "EN", ""])
def test_an_unknown_language_is_told(code):
    with pytest.raises(ConfigError, match=rf"augment.language is '{code}'.* {len(langs())} .*de, en, .*use one"):
        language(code)


def test_a_light_module():
    code = (
        "import sys; from tinybert.augmentation import words; "
        "heavy = lambda: {'torch', 'transformers', 'sklearn', 'stopwordsiso', 'rjieba'} & set(sys.modules); "
        "print(heavy()); words.eligible_words('Der Film', words.language('de')); print(heavy())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n")[:2] == ["set()", "{'stopwordsiso'}"]


def test_names_that_are_none_are_told():
    from tinybert.augmentation import words

    with pytest.raises(AttributeError, match="GERMAN"):
        words.GERMAN  # noqa: B018


# --- Chinese


def test_chinese_is_cut_into_words_at_exact_places():
    text = (
        "\U0001f600\u6211\u4eec\u559c\u6b22ABC\u7535\u5f71\uff0c\uff11\uff12\uff13\uff41"
        "\u7684iPhone\u624b\u673a5\u53f0!\U00020000\u5317\u4eac\u5927\u5b66"
    )
    found = eligible_words(text, CHINESE)
    # "We" and "of" are stop words.
    words = [
        "\u559c\u6b22",
        "ABC",
        "\u7535\u5f71",
        "iPhone",
        "\u624b\u673a",
        "\u53f0",
        "\U00020000",
        "\u5317\u4eac\u5927\u5b66",
    ]
    assert [word.text for word in found] == words
    assert [(word.start, word.end) for word in found] == [
        (text.index(word), text.index(word) + len(word)) for word in words
    ]


@pytest.mark.parametrize(
    "word",
    [
        "\u7535\u5f71",
        "\u559c\u6b22",
        "\u4e0d\u9519",
        "\u8ba1\u7b97\u673a",
        "\u97f3\u4e50",
        "\u5317\u4eac\u5927\u5b66",
        "\u4e00\u5fc3\u4e00\u610f",
    ],
)
def test_a_word_of_the_lexicon_is_one(word):
    assert CHINESE.is_word(word)


@pytest.mark.parametrize(
    "text",
    [
        "\u7535\u597d",
        "\u5f71\u5929",
        "\u5929\u5f88",
        "\u7684\u6211",
        "\u770b\u7535",
        "\u5f88\u597d\u770b\u7535\u5f71",
        "\u8ba1\u673a\u7b97",
    ],
)
def test_what_the_lexicon_has_not_is_none(text):
    assert not CHINESE.is_word(text)


def test_two_frequent_characters_are_seldom_a_word():
    pairs = [
        "".join(pair)
        for pair in product(
            "\u7684\u662f\u4e86\u5728\u4ed6\u8fd9\u4e2a\u4eec\u4e2d\u6765\u5230\u8bf4\u65f6\u8981\u5c31\u51fa\u4f1a\u53ef",
            repeat=2,
        )
    ]
    assert 0.01 < sum(map(CHINESE.is_word, pairs)) / len(pairs) < 0.15


@given(
    st.text(
        "\u6211\u4eec\u559c\u6b22\u770b\u7535\u5f71\u5317\u4eac\u5927\u5b66\u8ba1\u7b97\u673a\u4e00\u4e8c\u3400\u9f98\u96fb\U00020000\ufa0e"
    )
)
def test_words_of_chinese_are_of_the_lexicon_or_one_character(text):
    for word in eligible_words(text, Language(frozenset(), CHINESE.cut, CHINESE.is_word)):
        assert CHINESE.is_word(word.text)


def test_threads_share_the_segmenter():
    text = "\u5317\u4eac\u5927\u5b66\u7684\u5b66\u751f\u559c\u6b22\u770b\u7535\u5f71" * 50
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: eligible_words(text, CHINESE), range(40)))
    assert found == [eligible_words(text, CHINESE)] * 40


def test_a_missing_segmenter_is_told_where_chinese_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    fresh = language.__wrapped__
    with pytest.raises(ConfigError, match=r"pip install 'tinybert-pipeline\[chinese\]'"):
        fresh("zh")
    assert fresh("ja").cut is None


# --- any text

FRAGMENTS = [
    *["film", "don't", "e\u0301", "\u00e4", "\u0915\u0940", "\u200d", "\u200c", "\u2019", "\u0130", "\u00df", "\u7684"],
    *[
        "\u7535\u5f71",
        "\u6620\u753b\u306f",
        "\uff76\uff9e",
        "\ufe0f",
        "\U000e0100",
        "\U00020000",
        "\uff13",
        "\u00bd",
        "_",
        "-",
    ],
    *["\U0001f600", "\U0001f468\u200d\U0001f469", "\ud83d", "[MASK]", "<br />", "<", ">", "&amp;", "@a", "www."],
    *["http://", " ", "\n"],
]
TEXTS = st.text(max_size=40) | st.lists(st.sampled_from(FRAGMENTS) | st.characters(), max_size=25).map("".join)
LANGUAGES = st.sampled_from(["en", "de", "hi", "ja", "tr", "zh"]).map(language)


@given(TEXTS, LANGUAGES)
def test_words_are_ordered_spans_of_the_text(text, known):
    found = eligible_words(text, known)
    assert all(0 <= word.start < word.end <= len(text) for word in found)
    assert all(left.end <= right.start for left, right in pairwise(found))
    assert all(text[word.start : word.end] == word.text for word in found)


@given(TEXTS, LANGUAGES)
def test_words_are_letters_with_nothing_cut_off(text, known):
    for word in eligible_words(text, known):
        kinds = [unicodedata.category(character)[0] for character in word.text]
        assert word.text.lower() not in known.stop_words
        after = text[word.end : word.end + 1]
        assert not after or unicodedata.category(after)[0] != "M"
        if all(map(is_ideograph, word.text)):
            continue
        assert kinds[0] == "L"
        assert not any(map(is_ideograph, word.text))
        between = [character for kind, character in zip(kinds, word.text, strict=True) if kind not in "LM"]
        assert set(between) <= set("'\u2019\u00b7\u05f4\u00ad\u200c\u200d")
        near = [text[word.start - 1 : word.start], after]
        assert not any((other.isalnum() or other == "_") and not is_ideograph(other) for other in near)


LETTERS = st.characters(categories=["L"], max_codepoint=0x33FF) | st.characters(
    categories=["L"], min_codepoint=0xA000, max_codepoint=0xD7FF
)


@given(st.lists(st.text(LETTERS, min_size=1), max_size=8))
def test_every_run_of_letters_is_a_word(words):
    assert texts_of(" ".join(words), NO_STOP_WORDS) == words


@given(
    st.text(
        "a\u00e4\u00f6\u00df\u00e9\u00f1\u00e7 \u0434\u0439\u0451\u0390\u05e7\u05bc \u0915\u093f"
        "\ud55c\uad6d\uc5b4\uc774\u304c\u30fc'",
        max_size=30,
    )
)
def test_composed_and_decomposed_text_have_the_same_words(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    parts = texts_of(decomposed, NO_STOP_WORDS)
    assert [unicodedata.normalize("NFC", word) for word in parts] == texts_of(composed, NO_STOP_WORDS)


EVERY_CHARACTER = [chr(code) for code in (*range(0x40000), *range(0xE0000, 0xE0200))]
"""All that Unicode gives a meaning to."""


def test_ideographs_are_those_that_unicode_names_so():
    ideograph = re.compile(f"[{IDEOGRAPHS}]")
    names = ((character, unicodedata.name(character, "")) for character in EVERY_CHARACTER)
    named = [character for character, name in names if re.match("CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH-", name)]
    assert len(named) > 90_000
    assert all(map(ideograph.match, named))


def test_letters_and_marks_are_those_of_unicode():
    letter, mark = re.compile(LETTER), re.compile(f"[{MARKS}]")
    for character in EVERY_CHARACTER:
        kind = unicodedata.category(character)[0]
        assert bool(mark.match(character)) == (kind == "M")
        assert bool(letter.match(character)) == (kind == "L" and not is_ideograph(character))


# --- casing


@pytest.mark.parametrize(
    ("word", "like", "expected"),
    [
        ("movie", "FILM", "MOVIE"),
        ("movie", "Film", "Movie"),
        ("movie", "film", "movie"),
        ("movie", "X", "Movie"),
        ("McCartney", "lennon", "McCartney"),
        ("movie", "iPhone", "movie"),
        ("movie", "DON'T", "MOVIE"),
        ("\u00e9lan", "\u00c4rger", "\u00c9lan"),
        ("\u97f3\u4e50", "\u7535\u5f71", "\u97f3\u4e50"),
    ],
)
def test_casing_follows_the_original(word, like, expected):
    assert match_case(word, like) == expected


LOWER = st.text("abcxyz\u00e4\u00e9\u00f1\u0436\u044f\u03c9\u03c3'", min_size=1).filter(lambda word: word[0] != "'")


@given(LOWER, LOWER)
def test_casing_changes_nothing_else_and_nothing_twice(word, like):
    assert match_case(word, like) == word
    for written in (like.capitalize(), like.upper()):
        cased = match_case(word, written)
        assert cased.lower().replace("\u03c2", "\u03c3") == word
        assert match_case(cased, written) == cased
        assert match_case(like, written) == written or len(like) == 1
    assert match_case(word, like.upper() + "X").isupper()
