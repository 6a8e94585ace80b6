"""Algorithm 1 as an nlpaug augmenter, so that it composes with nlpaug's own."""

from collections.abc import Sequence

from nlpaug.augmenter.word import WordAugmenter
from nlpaug.util import Action
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.copies import augment
from tinybert.augmentation.words import ENGLISH, Language
from tinybert.vectors import Vectors


class TinyBertAug(WordAugmenter):
    """Replaces words by likely ones: `tinybert.augmentation.copies.augment` behind nlpaug's interface.

    Every call draws anew; the calls of two augmenters with the same config give the same in the same order.
    Where nlpaug limits a list to one copy per item, this gives n.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: Vectors | None = None,
        config: AugmentConfig | None = None,
        language: Language = ENGLISH,
        name: str = "TinyBert_Aug",
    ) -> None:
        config = config or AugmentConfig()
        super().__init__(action=Action.SUBSTITUTE, name=name, aug_p=config.probability, stopwords=language.stop_words)
        self.language = language
        self.model = model
        self.word_pieces = tokenizer
        self.vectors = vectors
        self.config = config
        self.calls = 0

    def augment(self, data: str | Sequence[str] | None, n: int = 1, num_thread: int = 1) -> list[str]:
        """Up to n copies of a text, or exactly n per text of a list, in order; num_thread is not used.

        A text without a possible copy stands for itself, and a list's item with fewer than n repeats them.
        """
        if not data:
            return []
        if isinstance(data, str):
            return self._copies([data], n)[0] or [data]
        flat = []
        for text, copies in zip(data, self._copies([text or "" for text in data], n), strict=True):
            choices = copies or [text]
            flat += [choices[number % len(choices)] for number in range(n)]
        return flat

    def substitute(self, data: str) -> str:
        """One copy of a text, or the text itself where none is possible."""
        return (self.augment(data) or [data])[0]

    def _copies(self, texts: Sequence[str], n: int) -> list[list[str]]:
        # More draws than asked for: one in which no word happened to be replaced is no copy.
        changes = {"copies": 4 * n, "seed": self.config.seed + self.calls}
        self.calls += 1
        config = self.config.model_copy(update=changes)
        made: list[list[str]] = [[] for _ in texts]
        for copy in augment(texts, None, self.model, self.word_pieces, self.vectors, config, self.language):
            made[copy.row].append(copy.text)
        return [copies[:n] for copies in made]
