"""nlpaug's augmenters as the form lists them: what they draw is repeatable, and what they leave alone stays as it was.

nlpaug draws from Python's global generator and writes a text anew from its tokens: "don't" becomes "don ' t". Here
an augmenter sees the words of a text only, draws from numbers of that text and copy, and what it makes of the words
is put in their places; the models it loads by name are replaced. Nothing heavy is imported before a recipe is loaded.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tinybert.augment_config import AugmentConfig, RecipeConfig
from tinybert.augmentation.letters import IDEOGRAPHS
from tinybert.augmentation.words import Language, Word, eligible_words
from tinybert.errors import ConfigError, ModelError, SourceError

BATCH_TEXTS = 32
"""Texts translated together."""
_GAP, _GONE = "\x00", "\x01"
_GONE_WORDS = re.compile(rf"^(?:\s*{_GONE})+\s*|(?:\s+{_GONE})+(?=[\s,.;:!?)]|$)|{_GONE}")
"""Deleted words, with one of the two spaces around each."""
Draw = Callable[[Sequence[str], Sequence[str]], list[list[str]]]
"""For each text a copy per key; key and text decide what is drawn. A copy may equal its text."""


def check_recipes(config: AugmentConfig) -> None:
    """Whether the recipes can run here, found out before anything is loaded.

    Raises:
        ConfigError: A recipe knows English only and the language is another, or what it needs of NLTK is missing.
    """
    kinds = {recipe.kind for recipe in config.recipes}
    for kind in sorted(kinds & {"spelling", "synonym"}):
        if config.language != "en":
            raise ConfigError(
                f"recipe {kind} knows English only; leave it out for augment.language {config.language!r}"
            )
    if "synonym" in kinds:
        _check_nltk(wordnet=config.thesaurus is None)


class Recipes:
    """nlpaug's augmenters as the form lists them, loaded once.

    What is drawn depends on the seed, the recipe's place and kind, the copy's number and the text. Stop words stay.

    Raises:
        ConfigError, ModelError: NLTK or data of it is missing; a model cannot play its part.
        SourceError: The thesaurus is no PPDB file.
    """

    def __init__(
        self,
        config: AugmentConfig,
        language: Language,
        masked_lm: Path | None = None,
        thesaurus: Path | None = None,
        translator: Path | None = None,
        back_translator: Path | None = None,
    ) -> None:
        def load(recipe: RecipeConfig) -> Draw:
            if recipe.kind == "insert":
                assert masked_lm, "insert needs a masked language model"
                return _insertions(masked_lm, recipe.share, config, language)
            if recipe.kind == "back_translation":
                assert translator, "back_translation needs two models"
                assert back_translator, "back_translation needs two models"
                return _back_translations(translator, back_translator)
            return _word_changes(_word_augmenter(recipe.kind, recipe.share, thesaurus), language)

        self._recipes: list[tuple[str, list[str], Draw]] = []
        for place, recipe in enumerate(config.recipes):
            keys = [json.dumps([config.seed, place, recipe.kind, number]) for number in range(recipe.copies)]
            self._recipes.append((recipe.kind, keys, load(recipe)))

    def copies(self, texts: Sequence[str], side: int = 0, sides: int = 1) -> list[list[tuple[str, str]]]:
        """For each text its copies, as (kind of recipe, text), without those equal to it or to an earlier one.

        Of the copies asked for, numbered from 0 over all recipes, those with number % sides == side. White space
        makes no difference between copies; a blank text has none, and no copy is blank.
        """
        rows = [row for row, text in enumerate(texts) if text.strip()]
        found: list[list[tuple[str, str]]] = [[] for _ in texts]
        seen = {row: {(), tuple(texts[row].split())} for row in rows}
        numbers = count()
        for kind, keys, draw in self._recipes:
            wanted = [key for key in keys if next(numbers) % sides == side]
            if not wanted or not rows:
                continue
            for row, copies in zip(rows, draw([texts[row] for row in rows], wanted), strict=True):
                for copy in copies:
                    if (words := tuple(copy.split())) not in seen[row]:
                        seen[row].add(words)
                        found[row].append((kind, copy))
        return found


def _rng(*key: str) -> random.Random:
    return random.Random(blake2b(json.dumps(key).encode(), digest_size=8).digest())


def _check_nltk(wordnet: bool) -> None:
    """The very calls that nlpaug would answer with a download."""
    data = " ".join(["averaged_perceptron_tagger_eng", *(["wordnet"] if wordnet else [])])
    try:
        import nltk
        from nltk.corpus import wordnet as corpus

        nltk.pos_tag(["word"])
        if wordnet:
            corpus.ensure_loaded()
    except (ImportError, LookupError):
        remedy = f"pip install 'tinybert-pipeline[synonyms]' and python -m nltk.downloader {data}"
        raise ConfigError(f"recipe synonym needs NLTK and its {data.replace(' ', ' and ')}; {remedy}") from None


def _word_augmenter(kind: str, share: float, thesaurus: Path | None) -> Any:
    """nlpaug's augmenter of words or characters, without its limit of ten."""
    if kind == "synonym":
        _check_nltk(wordnet=thesaurus is None)
    from nlpaug.augmenter import char, word

    options: dict[str, Any] = {"aug_p": share, "aug_max": None}
    if kind == "synonym":
        source = {} if thesaurus is None else {"aug_src": "ppdb", "model_path": str(thesaurus)}
        try:
            # Reloaded, for nlpaug knows what it has loaded by the file's name without its directory.
            return word.SynonymAug(**options, **source, force_reload=True)
        except (IndexError, ValueError):
            raise SourceError(f"{thesaurus}: no PPDB file with lines '[NN] ||| a ||| b ...'; unpack it first") from None
    if kind == "spelling":
        augmenter = word.SpellingAug(**options, include_reverse=False)
        # nlpaug keeps the first dictionary whatever is asked for next, and its lists come out of sets.
        augmenter.model = augmenter.get_model(force_reload=True)
        augmenter.model.dict = {word: sorted(misspelt) for word, misspelt in augmenter.model.dict.items()}
        return augmenter
    if kind == "keyboard":
        return char.KeyboardAug(aug_char_p=share, aug_char_max=None, aug_word_p=share, aug_word_max=None)
    if kind == "delete":
        # nlpaug's own delete does not say which words went, and brings the second back when the first goes.
        return word.RandomWordAug(action="substitute", target_words=[_GONE], **options)
    return word.RandomWordAug(action="swap", **options)


def _word_changes(augmenter: Any, language: Language) -> Draw:
    """Copies in which an augmenter changes words, each where it stood."""
    every = replace(language, stop_words=frozenset())

    def one(text: str, key: str) -> str:
        augmenter.sample = _rng(key, text).sample
        return str(augmenter.augment(text)[0])

    def all_of(text: str, keys: Sequence[str]) -> list[str]:
        words = eligible_words(text, every)
        augmenter.tokenizer = lambda _: [word.text for word in words]
        augmenter.reverse_tokenizer = partial(_put_back, text, words)
        augmenter.stopwords = {word.text for word in words} - {word.text for word in eligible_words(text, language)}
        return [one(text, key) for key in keys]

    return lambda texts, keys: [all_of(text, keys) for text in texts]


def _put_back(text: str, words: Sequence[Word], changed: Sequence[str]) -> str:
    """The text with other words in the places of its own; the text itself where all of them are gone."""
    if all(word == _GONE for word in changed):
        return text
    ends = [0, *(word.end for word in words)]
    parts = [text[end : word.start] + new for end, word, new in zip(ends[:-1], words, changed, strict=True)]
    return _GONE_WORDS.sub("", "".join([*parts, text[ends[-1] :]]))


def _load(auto: Any, directory: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a directory, on this machine's device."""
    import torch

    from tinybert.models import load_tokenizer
    from tinybert.precision import device

    model = auto.from_pretrained(directory, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
    try:
        return model.to(device()).eval(), load_tokenizer(directory)
    except ImportError:
        raise ModelError(f"{directory}: its tokenizer needs SentencePiece; pip install sentencepiece") from None


def _insertions(masked_lm: Path, share: float, config: AugmentConfig, language: Language) -> Draw:
    """Copies with some of the K likeliest words inserted, by our model: nlpaug's confuses two of a name."""
    from nlpaug.augmenter.word import ContextualWordEmbsAug
    from transformers import AutoModelForMaskedLM

    from tinybert.augmentation.predictor import WordPredictor

    predictor = WordPredictor(*_load(AutoModelForMaskedLM, masked_lm))
    cut = partial(_cut, every=replace(language, stop_words=frozenset()))

    class Inserter(ContextualWordEmbsAug):
        key = ""

        def get_model(self, **_: Any) -> SimpleNamespace:
            tokenizer = SimpleNamespace(tokenize=cut, convert_tokens_to_ids=list, decode="".join)
            return SimpleNamespace(
                device="cpu",
                config=SimpleNamespace(max_position_embeddings=-1),
                get_model=self.get_model,
                get_tokenizer=lambda: tokenizer,
                get_max_num_token=lambda: sys.maxsize,
                get_mask_token=lambda: _GAP,
                get_subword_prefix=lambda: _GAP,
                predict=self._predict,
            )

        def _predict(self, texts: Sequence[str], **_: Any) -> list[list[str]]:
            passes = [_gap_pass(text, predictor) for text in texts]
            found = predictor.fill(passes, config.candidates, config.batch_tokens)
            likely = [sorted(words) or [""] for (words,) in found]
            # One word each or none, so that nlpaug has nothing to draw; without a space between ideographs.
            drawn = [_rng(self.key, text).choice(words) for text, words in zip(texts, likely, strict=True)]
            return [[_before(word, text.partition(_GAP)[2])] for word, text in zip(drawn, texts, strict=True)]

        def _get_aug_idxes(self, tokens: list[str]) -> list[int]:
            self.sample = _rng(self.key, *tokens).sample
            return list(super()._get_aug_idxes(tokens))

        def one_each(self, texts: Sequence[str], key: str) -> list[str]:
            self.key = key
            return list(self.insert(list(texts)))

    inserter = Inserter(model_type="bert", action="insert", aug_p=share, aug_max=None)
    return lambda texts, keys: [list(row) for row in zip(*(inserter.one_each(texts, key) for key in keys), strict=True)]


def _before(word: str, rest: str) -> str:
    return word if not word or re.fullmatch(f"[{IDEOGRAPHS}]{{2}}", word[-1] + rest[:1]) else f"{word} "


def _cut(text: str, every: Language) -> list[str]:
    """The text before every word that follows a space or, in scripts without spaces, another word; joins to itself."""
    starts = [word.start for word in eligible_words(text, every)]
    cuts = [at for at in starts if at and (text[at - 1].isspace() or text[at - 1].isalpha())]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _gap_pass(text: str, predictor: Any) -> Any:
    """As much of the text around its gap as the model takes."""
    before, _, after = text.partition(_GAP)
    left, right = (tokens.ids for tokens in predictor.tokens([before, f" {after}"]))
    room = predictor.limit - len(predictor.templates[0]) - 1
    kept = min(len(left), max(room // 2, room - len(right)))
    seen = [*left[len(left) - kept :], predictor.mask, *right[: room - kept]]
    return predictor.templates[0].fill([seen], 0, [[kept]])


def _back_translations(there: Path, back: Path) -> Draw:
    """Copies translated into another language and back; the n-th is the n-th likeliest, and nothing is drawn.

    nlpaug's own model gives but one, starts a process for every call, and cuts short what is given no copy here.
    """
    from nlpaug.augmenter.word import BackTranslationAug
    from transformers import AutoModelForSeq2SeqLM

    first, second = (partial(_translate, *_load(AutoModelForSeq2SeqLM, model)) for model in (there, back))

    class BackTranslator(BackTranslationAug):
        def get_model(self, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(device="cpu")

        def substitute(self, data: Sequence[str], n: int = 1) -> list[list[str]]:
            return second(["".join(best) for best in first(data, 1)], n)

    translator = BackTranslator()
    return lambda texts, keys: translator.substitute(texts, len(keys))


def _translate(model: Any, tokenizer: Any, texts: Sequence[str], copies: int) -> list[list[str]]:
    """The likeliest translations of each text, none where it is blank or longer than the model takes."""
    from tinybert.masked_lm import max_tokens

    limit = max_tokens(model, tokenizer)
    ids = tokenizer(list(texts), verbose=False)["input_ids"]
    rows = [row for row, text in enumerate(texts) if text.strip() and len(ids[row]) <= limit]
    rows.sort(key=lambda row: len(ids[row]))
    found: list[list[str]] = [[] for _ in texts]
    for start in range(0, len(rows), BATCH_TEXTS):
        batch = rows[start : start + BATCH_TEXTS]
        inputs = tokenizer.pad({"input_ids": [ids[row] for row in batch]}, return_tensors="pt").to(model.device)
        beams = max(copies, model.generation_config.num_beams or 1)
        made = model.generate(**inputs, max_length=limit, do_sample=False, num_beams=beams, num_return_sequences=copies)
        decoded = tokenizer.batch_decode(made, skip_special_tokens=True)
        for place, row in enumerate(batch):
            found[row] = decoded[place * copies : (place + 1) * copies]
    return found
