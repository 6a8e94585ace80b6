"""The boxes of the form that say how data is augmented, and which copies are kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.form import PIN, Form


class RecipeConfig(Form):
    """Copies made by one of nlpaug's augmenters, beside those of Algorithm 1."""

    kind: Literal["synonym", "swap", "delete", "spelling", "keyboard", "insert", "back_translation"]
    """synonym needs augment.thesaurus or NLTK's WordNet; insert asks the masked language model for new words."""
    copies: int = Field(1, ge=1, le=100)
    """Copies per row."""
    share: float = Field(0.2, gt=0, le=1)
    """Share of words that change; keyboard changes this share of their characters. back_translation does not use it."""


class AugmentConfig(Form):
    """Data augmentation by Algorithm 1 of the paper, and by others if wished."""

    enabled: bool = True
    """Off: task distillation sees the original rows only."""
    copies: int | None = Field(None, ge=0, le=100)
    """Copies per row (N). More take longer to learn from. Empty: 30 up to 20,000 rows, 20 up to 200,000, else 10."""
    candidates: int = Field(15, ge=1, le=100)
    """Words to choose from per position (K)."""
    probability: float = Field(0.4, gt=0, le=1)
    """Chance that an eligible word is replaced (p)."""
    vectors: str | None = Field(None, pattern=PIN)
    """Word vectors (GloVe, word2vec) for words of several pieces. Empty: such words stay."""
    masking: Literal["grouped", "each", "none"] = "grouped"
    """each: a masked word a pass, beside the original, as the reference; grouped: several; none: no mask, one pass."""
    pairs: Literal["one_side", "both_sides"] = "one_side"
    """Sentence pairs: each copy changes one side beside the intact other, in turn, or both sides."""
    language: str = Field("en", pattern="^[a-z]{2}$")
    """Two-letter code: which words are stop words; zh: words are those of a segmenter, not single characters."""
    recipes: list[RecipeConfig] = []
    """More copies, made by nlpaug's augmenters."""
    thesaurus: str | None = Field(None, pattern=PIN)
    """PPDB file with the synonyms of recipe synonym. Empty: NLTK's WordNet."""
    translator: str | None = Field(None, pattern=PIN)
    """Model of recipe back_translation that translates into another language."""
    back_translator: str | None = Field(None, pattern=PIN)
    """Model that translates back."""
    shard_rows: int = Field(4096, ge=1)
    """Rows augmented by one task run, at least half of it. What a killed run has to do again."""
    batch_tokens: int = Field(8192, ge=1024)
    """Tokens per forward pass on a CPU; more need more memory. A GPU gets 8192, or what fits; MPNet on a CPU 2048."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Which words are replaced and by what."""

    @model_validator(mode="after")
    def _recipes_have_what_they_need(self) -> Self:
        if self.copies == 0 and not self.recipes:
            raise ValueError("copies is 0 and recipes is empty, so nothing is augmented; set enabled to false instead")
        translated = any(recipe.kind == "back_translation" for recipe in self.recipes)
        if translated and not (self.translator and self.back_translator):
            raise ValueError("recipe back_translation needs translator and back_translator; name both models")
        return self


class QualityConfig(Form):
    """Which augmented copies the student sees. The teacher's answers to all of them are known by then."""

    flipped: Literal["drop", "relabel", "keep"] = "drop"
    """Copies that the teacher gives another label than their row: drop, give them the teacher's label, or keep."""
    confidence: float = Field(0.0, ge=0, lt=1)
    """Copies whose likeliest label has a lower probability than this are unsure. 0: none is."""
    unsure: Literal["drop", "relabel", "keep"] = "drop"
    """What becomes of unsure copies."""
    similarity: float = Field(0.95, gt=0, le=1)
    """Copies that share more than this part of their words with their row, or another copy of it, are dropped."""


def shards_for(rows: int, shard_rows: int) -> int:
    """Into how many shards rows are cut: a power of two, so that a growing data set changes it seldom."""
    return 1 << max(0, -(-rows // shard_rows) - 1).bit_length()
