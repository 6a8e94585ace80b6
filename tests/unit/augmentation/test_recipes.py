"""nlpaug's augmenters as recipes: what they change, what they leave alone, and that they repeat themselves."""

import importlib
import json
import math
import random
import re
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import nlpaug
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, BertTokenizer

from tinybert.augment_config import AugmentConfig, RecipeConfig
from tinybert.augmentation.recipes import Recipes, check_recipes
from tinybert.augmentation.words import Language, eligible_words, language
from tinybert.errors import ConfigError, SourceError

CHINESE = "\u7535\u5f71\u6545\u4e8b\u97f3\u4e50"
"""What else stands in the tiny model's vocabulary."""
TEXT = "I don't like the film's ending: \"great\" music ,  [MASK] shallow story (dull <br /> dialogue) again!"
AWKWARD = ["", " \n", "\U0001f600", "\u7535\u5f71\u5f88\u597d\u770b", "film", "42 !", "  ticket\tprice \n", "don't"]
WORD_KINDS = ["swap", "delete", "spelling", "keyboard"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MANY = [f"{one}{two}words" for one in LETTERS[:5] for two in LETTERS[:8]]
DICTIONARY = Path(nlpaug.__file__).parent / "res/word/spelling/spelling_en.txt"


def recipes(*kinds, copies=3, share=0.3, seed=1, candidates=15, **sources):
    configs = [RecipeConfig(kind=kind, copies=copies, share=share) for kind in kinds]
    config = AugmentConfig(
        recipes=configs, seed=seed, candidates=candidates, translator="file:/there", back_translator="file:/back"
    )
    return Recipes(config, language("en"), **sources)


def only(made):
    """The texts of the copies of one text."""
    [copies] = made
    return [text for _, text in copies]


def skeleton(text):
    """A text without its letters."""
    return re.sub(r"[^\W\d_]+(?:'[^\W\d_]+)*", "_", text)


def is_within(few, many):
    """Whether one list is the other with things left out."""
    rest = iter(many)
    return all(thing in rest for thing in few)


@pytest.fixture(scope="module")
def masked_lm(parts, tmp_path_factory):
    """Two directories of the same name, whose models like different words best."""
    model, tokenizer, _ = deepcopy(parts)
    homes = [tmp_path_factory.mktemp(name) / "model" for name in ("first", "second")]
    for home in homes:
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
        with torch.no_grad():
            model.cls.predictions.decoder.bias.neg_()
    return homes


def test_swap_exchanges_neighbours_and_leaves_the_rest():
    words = re.findall(r"[\w']+", TEXT.lower())
    copies = only(recipes("swap").copies([TEXT]))
    assert len(copies) == 3
    for copy in copies:
        assert copy != TEXT
        assert Counter(re.findall(r"[\w']+", copy.lower())) == Counter(words)
        assert skeleton(copy).replace("[_]", "[MASK]") == skeleton(TEXT).replace("[_]", "[MASK]")
        assert "[MASK]" in copy
        assert "<br />" in copy


def test_delete_takes_words_out_with_their_space_but_no_stop_words():
    assert set(only(recipes("delete", copies=20, share=0.5).copies(["good film"]))) == {"good", "film"}
    assert only(recipes("delete", share=0.2).copies(["The film, it was."])) == ["The, it was."]
    assert only(recipes("delete", share=1.0).copies([TEXT])) == ['I the: "" ,  [MASK] ( <br />) again!']


def test_delete_leaves_a_word():
    assert only(recipes("delete", share=1.0).copies(["good film"])) == []
    assert only(recipes("delete").copies(["film!"])) == []


@pytest.mark.parametrize("share", [0.25, 0.5, 1 / 3])
def test_the_share_rules_without_a_limit_of_ten(share):
    for copy in only(recipes("delete", share=share).copies([" ".join(MANY)])):
        assert len(copy.split()) == 40 - math.ceil(40 * share)
        assert is_within(copy.split(), MANY)
    for copy in only(recipes("spelling", share=share).copies([" ".join(["because"] * 40)])):
        assert 40 - Counter(copy.split())["because"] == math.ceil(40 * share)


def test_spelling_takes_misspellings_of_the_word_from_nlpaugs_dictionary():
    known = {}
    for line in DICTIONARY.read_text(encoding="utf-8").splitlines():
        word, *misspelt = line.split()
        known.setdefault(word, set()).update(misspelt)
    text = "their friends received beautiful letters"
    copies = only(recipes("spelling", copies=30, share=0.6).copies([text]))
    changed = set()
    for copy in copies:
        for word, new in zip(text.split(), copy.split(), strict=True):
            assert new == word or new in known[word]
            changed |= {word} if new != word else set()
    assert changed == set(text.split()) & set(known) - {"their"}
    assert len(changed) >= 3


def test_misspellings_are_drawn_from_lists_in_order(monkeypatch):
    """nlpaug's lists come out of sets, whose order is another in every process."""
    seen = []
    choose = random.Random.sample

    def watched(self, population, *rest, **more):
        seen.append(list(population))
        return choose(self, population, *rest, **more)

    monkeypatch.setattr(random.Random, "sample", watched)
    assert only(recipes("spelling").copies(["beautiful because"]))
    assert any(len(population) > 5 for population in seen)
    assert all(population == sorted(population) for population in seen)


def test_keyboard_changes_a_share_of_the_letters_of_a_share_of_the_words():
    words = ["abcdefgh"] * 10
    for copy in only(recipes("keyboard", share=0.5).copies([" ".join(words)])):
        wrong = [sum(a != b for a, b in zip(word, "abcdefgh", strict=True)) for word in copy.split(" ")]
        assert sorted(wrong) == [0] * 5 + [4] * 5


def test_insert_adds_likely_words_and_leaves_the_rest(masked_lm):
    text = "I don't \U0001f600 know the film's  ending, [MASK] zzz (bad!)\n"
    for copy in only(recipes("insert", masked_lm=masked_lm[0]).copies([text])):
        rest = copy
        for piece in re.findall(r"\S+\s*", text):
            assert piece in rest
        assert is_within(text.split(), copy.split())
        added = Counter(copy.split()) - Counter(text.split())
        assert added.total() == math.ceil(0.3 * 8)
        assert set(added) <= {"good", "great", "fine", "movie", "film", "story", "bad", "the", "un", "don", *CHINESE}


def test_insert_puts_ideographs_without_a_space_between_their_like(masked_lm):
    made = recipes("insert", copies=20, share=0.1, masked_lm=masked_lm[0]).copies(["\u7535\u5f71", "bad bad"])
    chinese, english = ([text for _, text in copies] for copies in made)
    assert [copy for copy in chinese if re.fullmatch(f"\u7535[{CHINESE}]\u5f71", copy)]
    assert [copy for copy in chinese if re.fullmatch("[a-z]+ \u7535\u5f71", copy)]
    assert [copy for copy in english if re.fullmatch(f"bad [{CHINESE}] bad", copy)]
    assert all(re.fullmatch(f"(bad |[{CHINESE}] |[a-z]+ ){{2}}bad", copy) for copy in english)


def test_insert_chooses_from_as_many_words_as_the_form_says(masked_lm):
    made = only(recipes("insert", copies=30, candidates=2, masked_lm=masked_lm[0]).copies(["bad bad"]))
    inserted = {word for copy in made for word in copy.split()} - {"bad"}
    assert inserted == {"good", "great"}


def test_models_in_directories_of_the_same_name_are_told_apart(masked_lm):
    first, second = (recipes("insert", copies=9, masked_lm=home) for home in masked_lm)
    assert first.copies(["a film"]) != second.copies(["a film"])


def test_insert_reaches_the_end_of_a_text_longer_than_the_model(masked_lm):
    words = ["bad"] * 200
    [copy] = only(recipes("insert", copies=1, share=0.03, masked_lm=masked_lm[0]).copies([" ".join(words)]))
    assert len(copy.split()) == 206
    places = [at for at, word in enumerate(copy.split()) if word != "bad"]
    assert places[-1] > 64


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """Two directories of the same name: models that answer everything with `x y` and `film movie` in any order."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "movie", "x", "y"]
    tokenizer = BertTokenizer(vocab={word: at for at, word in enumerate(words)}, model_max_length=12)
    homes = []
    for best in (["x", "y"], ["film", "movie"]):
        sizes = {f"{half}_{name}": 1 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        sizes |= {"encoder_ffn_dim": 4, "decoder_ffn_dim": 4, "d_model": 4, "vocab_size": len(words)}
        ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
        torch.manual_seed(0)
        config = BartConfig(
            **sizes, **ends, forced_eos_token_id=3, forced_bos_token_id=None, max_position_embeddings=12
        )
        model = BartForConditionalGeneration(config)
        model.final_logits_bias[0] = -100.0
        model.final_logits_bias[0, [words.index(word) for word in best]] = torch.tensor([101.0, 100.5])
        homes.append(tmp_path_factory.mktemp(best[0]) / "model")
        model.save_pretrained(homes[-1])
        tokenizer.save_pretrained(homes[-1])
    return {"translator": homes[0], "back_translator": homes[1]}


def test_back_translation_gives_as_many_different_copies_as_are_wanted(translators):
    texts = ["x y x", "", "x " * 30, "y"]
    made = recipes("back_translation", copies=3, **translators).copies(texts)
    assert [len(copies) for copies in made] == [3, 0, 0, 3]
    for _, copy in made[0]:
        assert set(copy.split()) <= {"film", "movie"}
    assert len(set(made[0])) == 3
    assert made[3] == made[0]


def test_back_translation_of_a_pair_shares_the_copies_between_the_sides(translators):
    made = recipes("back_translation", copies=3, **translators)
    assert [len(made.copies(["x"], side, 2)[0]) for side in (0, 1)] == [2, 1]


@pytest.mark.parametrize("kind", [*WORD_KINDS, "insert"])
def test_what_is_drawn_does_not_depend_on_order_or_batch(kind, masked_lm):
    made = recipes(kind, masked_lm=masked_lm[0])
    texts = [TEXT, *AWKWARD, "an other  text, about the beautiful weather"]
    state, numbers = random.getstate(), torch.get_rng_state()
    together = made.copies(texts)
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), numbers)
    assert made.copies(texts[::-1])[::-1] == together
    assert [made.copies([text])[0] for text in texts] == together
    assert recipes(kind, masked_lm=masked_lm[0]).copies(texts) == together
    assert recipes(kind, masked_lm=masked_lm[0], seed=2).copies(texts) != together


def test_recipes_of_a_kind_draw_differently():
    twice = recipes("swap", "swap", copies=1).copies([" ".join(MANY)])[0]
    assert len(twice) == 2


@pytest.mark.parametrize("kind", [*WORD_KINDS, "insert"])
def test_awkward_texts_give_copies_or_none(kind, masked_lm):
    made = recipes(kind, masked_lm=masked_lm[0]).copies(AWKWARD)
    assert made[:2] == [[], []]
    for text, copies in zip(AWKWARD, made, strict=True):
        for name, copy in copies:
            assert name == kind
            assert copy.split() not in (text.split(), [])


@pytest.mark.parametrize("kind", WORD_KINDS)
def test_six_hundred_words_have_copies(kind):
    text = " ".join(["beautiful friends receive letters"] * 150)
    assert len(only(recipes(kind).copies([text]))) == 3


@settings(max_examples=40, deadline=None)
@given(text=st.text("aIbcdEz' -.,!([<\n\u00e9", max_size=40), share=st.floats(0.01, 1))
def test_no_word_is_lost_by_swapping_nor_made_by_deleting(text, share):
    def words(of):
        return [word.text.casefold() for word in eligible_words(of, Language(frozenset()))]

    for copy in only(recipes("swap", share=share).copies([text])):
        assert Counter(words(copy)) == Counter(words(text))
    for copy in only(recipes("delete", share=share).copies([text])):
        assert is_within(words(copy), words(text))
        assert len(words(copy)) < len(words(text))


def test_sides_take_turns_over_all_recipes():
    made = recipes("swap", "delete", copies=3)
    text = " ".join(MANY)
    everything = made.copies([text])[0]
    assert [kind for kind, _ in everything] == ["swap"] * 3 + ["delete"] * 3
    assert made.copies([text], 0, 2)[0] == everything[0::2]
    assert made.copies([text], 1, 2)[0] == everything[1::2]


def test_copies_are_told_apart_without_their_spaces(translators):
    made = recipes("back_translation", copies=2, **translators)
    first, second = only(made.copies(["x"]))
    assert only(made.copies([first.replace(" ", " \n")])) == [second]


def test_nothing_is_printed(capfd):
    recipes(*WORD_KINDS).copies([TEXT, *AWKWARD])
    assert capfd.readouterr() == ("", "")


def form(*kinds, **fields):
    return AugmentConfig(recipes=[RecipeConfig(kind=kind) for kind in kinds], **fields)


def test_recipes_that_know_english_only_say_so():
    for kind in ("spelling", "synonym"):
        with pytest.raises(ConfigError, match=f"{kind} knows English only.*'de'"):
            check_recipes(form(kind, language="de"))
    check_recipes(form("swap", "delete", "keyboard", "insert", language="de"))
    check_recipes(form("spelling"))


@pytest.mark.parametrize("thesaurus", [None, "file:/ppdb"])
def test_a_missing_nltk_is_said_with_its_remedy(monkeypatch, thesaurus):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ConfigError, match=r"pip install .*synonyms.* nltk\.downloader averaged") as caught:
        check_recipes(form("synonym", thesaurus=thesaurus))
    assert ("wordnet" in str(caught.value)) == (thesaurus is None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="downloader"):
        recipes("synonym")


def test_checking_loads_neither_torch_nor_nlpaug():
    code = (
        "import sys; from tinybert.augmentation.recipes import check_recipes\n"
        "from tinybert.augment_config import AugmentConfig\n"
        "check_recipes(AugmentConfig(recipes=[{'kind': 'insert'}, {'kind': 'spelling'}]))\n"
        "assert not {'torch', 'transformers', 'nlpaug'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """A tagger that knows three words, and a WordNet with one meaning, as NLTK's own files."""
    nltk = pytest.importorskip("nltk")
    name = "averaged_perceptron_tagger_eng"
    tagger = tmp_path / "taggers" / name
    tagger.mkdir(parents=True)
    tags = {"film": "NN", "movie": "NN", "the": "DT"}
    for part, content in {"weights": {}, "tagdict": tags, "classes": ["JJ"]}.items():
        (tagger / f"{name}.{part}.json").write_text(json.dumps(content))
    wordnet = tmp_path / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        for file in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (wordnet / file).write_text("")
    (wordnet / "index.sense").write_text("")
    (wordnet / "lexnames").write_text("00\tnoun.Tops\t1\n")
    (wordnet / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000  \n" for word in ("film", "movie")))
    (wordnet / "data.noun").write_text("00000000 00 n 02 film 0 movie 0 000 | moving pictures  \n")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    yield tmp_path
    importlib.import_module("nltk.corpus").wordnet._unload()


def test_synonyms_come_from_wordnet(nltk_data):
    check_recipes(form("synonym"))
    assert only(recipes("synonym", share=0.1).copies(['Is "the" film [MASK], 3?'])) == ['Is "the" movie [MASK], 3?']


def test_missing_nltk_data_is_said_with_its_remedy(nltk_data, monkeypatch):
    (nltk_data / "corpora").rename(nltk_data / "elsewhere")
    monkeypatch.setattr("nltk.download", lambda *_: pytest.fail("downloads"), raising=False)
    with pytest.raises(ConfigError, match="downloader averaged_perceptron_tagger_eng wordnet"):
        check_recipes(form("synonym"))
    check_recipes(form("synonym", thesaurus="file:/ppdb"))


def test_synonyms_come_from_the_given_thesaurus(nltk_data, tmp_path):
    for place, synonym in {"one": "picture", "two": "flick"}.items():
        (tmp_path / place).mkdir()
        file = tmp_path / place / "ppdb"
        file.write_text(f"[NN] ||| film ||| {synonym} ||| AGigaSim=0.9 ||| 0-0 ||| Equivalence\n")
        assert only(recipes("synonym", thesaurus=file).copies(["the film"])) == [f"the {synonym}"]


def test_a_thesaurus_of_another_format_is_refused(nltk_data, tmp_path):
    for content in (b"film movie\n", b"\x1f\x8b\x08\xff\xfe"):
        (tmp_path / "ppdb.gz").write_bytes(content)
        with pytest.raises(SourceError, match=r"ppdb\.gz.*unpack"):
            recipes("synonym", thesaurus=tmp_path / "ppdb.gz")
