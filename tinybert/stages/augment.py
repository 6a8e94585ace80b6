"""Data augmentation of one shard of the training rows: Algorithm 1 of the paper, and nlpaug's recipes."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from tinybert import vectors as word_vectors
from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.candidates import Proposer
from tinybert.augmentation.copies import CHUNK, Copy, changed_sides, copies_for, draw
from tinybert.augmentation.fixed import Fixed, asked, fixed_parts
from tinybert.augmentation.recipes import Recipes
from tinybert.augmentation.shards import (
    CANDIDATES,
    COPIES,
    CandidateWriter,
    Keys,
    KnownCandidates,
    Sides,
    asked_keys,
    rows_of_shard,
)
from tinybert.augmentation.words import Language, language
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData
from tinybert.kinds.task_kind import Columns
from tinybert.models import load_tokenizer
from tinybert.precision import device
from tinybert.progress import OnMetrics, Progress
from tinybert.resume import resume_beside

PAPER = "paper"
"""Name of Algorithm 1 among the recipes."""


def run(
    *,
    data: Path,
    model: Path,
    config: AugmentConfig,
    out: Path,
    on_metrics: OnMetrics,
    vectors: Path | None = None,
    thesaurus: Path | None = None,
    translator: Path | None = None,
    back_translator: Path | None = None,
    shard: int = 0,
    shards: int = 1,
    previous: Path | None = None,
) -> dict[str, float]:
    """Make the copies of one shard.

    Args:
        data: Prepared task data set (`tinybert.data`).
        model: Masked language model that proposes words of one piece.
        config: Copies, candidates, probability, recipes.
        out: Directory to write (see `tinybert.augmentation.shards`); a copy's `origin` is its row's place in the data.
        on_metrics: Told the counts.
        vectors: Word vectors that propose the other words.
        thesaurus: Synonyms of the recipe `synonym`.
        translator: Model of the recipe `back_translation`.
        back_translator: The other one.
        shard: Which, from 0.
        shards: Of how many.
        previous: An earlier output for the same model, vectors and form: candidates that stand there are used again.

    Returns:
        rows, copies, asked (copies that were wanted), proposed and reused (rows, or contexts of questions, whose
        candidates were looked for, or known).
    """
    task, spoken = TaskData(data), language(config.language)
    rows = task.rows("train")
    keys = asked_keys(rows, task.kind, task.max_length)
    mine = rows_of_shard(keys, shard, shards)
    config = config.model_copy(update={"copies": copies_for(len(rows), config.copies)})
    candidates = _CandidateSource(model, vectors, resume_beside(out), config, spoken, previous)
    recipes = Recipes(config.recipes, config.seed, spoken, model, thesaurus, translator, back_translator)
    copier = _Copier(config, spoken, candidates, recipes)
    progress = Progress(f"augment {shard + 1}/{shards}" if shards > 1 else "augment", len(mine), unit="row")
    made = Counter[str]()
    with RowWriter(out / COPIES, task.kind) as writer, CandidateWriter(out / CANDIDATES) as kept:
        for start in range(0, len(mine), CHUNK):
            chunk = mine[start : start + CHUNK]
            batch = rows[chunk]
            for recipe, copy in copier.copies(batch, fixed_parts(batch, task.kind), keys[chunk], kept):
                label, pair = batch["label"][copy.row], batch["text_pair"][copy.row]
                label = task.kind.moved(label, pair, copy.changes)
                writer.add(copy.text, copy.text_pair, label, int(chunk[copy.row]), recipe)
                made[recipe] += 1
            progress.update(start + len(chunk))
    wanted = _wanted(config, len(mine))
    described = {"rows": len(mine), "asked": dict(wanted), "made": {recipe: made[recipe] for recipe in wanted}}
    (out / "manifest.json").write_text(json.dumps(described, indent=1) + "\n")
    counts = {"rows": len(mine), "copies": writer.count, "asked": wanted.total()}
    counts |= {"proposed": candidates.proposed, "reused": candidates.reused}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _wanted(config: AugmentConfig, rows: int) -> Counter[str]:
    """Copies wanted of each recipe."""
    wanted = Counter({PAPER: (config.copies or 0) * rows})
    for recipe in config.recipes:
        wanted[recipe.kind] += recipe.copies * rows
    return +wanted


class _CandidateSource:
    """Candidates of rows, taken from an earlier run or found now; the models are loaded when the first is missing."""

    def __init__(
        self,
        model: Path,
        vectors: Path | None,
        cache: Path,
        config: AugmentConfig,
        language: Language,
        previous: Path | None,
    ) -> None:
        self._model, self._vectors, self._cache = model, vectors, cache
        self._config, self._language = config, language
        self._known = KnownCandidates(previous)
        self._proposer: Proposer | None = None
        self.proposed = self.reused = 0

    def find(self, texts: Sequence[str], pairs: Sequence[str] | None, keys: Keys, sides: int) -> list[Sides]:
        """For each row, for each of so many sides, the candidates of its eligible words."""
        known = self._known.find(keys, sides)
        missing = [place for place, row in enumerate(known) if row is None]
        self.proposed += len(missing)
        self.reused += len(known) - len(missing)
        if missing:
            asked = [texts[place] for place in missing]
            beside = [pairs[place] for place in missing] if pairs is not None else None
            found = [self._loaded().propose(asked, beside, side) for side in range(sides)]
            for place, row in zip(missing, zip(*found, strict=True), strict=True):
                known[place] = list(row)
        return [row for row in known if row is not None]

    def _loaded(self) -> Proposer:
        if self._proposer is None:
            model = AutoModelForMaskedLM.from_pretrained(self._model, use_safetensors=True, dtype=torch.float32)
            vectors = word_vectors.load(self._vectors, self._cache) if self._vectors else None
            tokenizer = load_tokenizer(self._model)
            self._proposer = Proposer(model.to(device()), tokenizer, vectors, self._config, self._language)
        return self._proposer


class _Copier:
    """Copies of a chunk of rows, of every recipe."""

    def __init__(
        self, config: AugmentConfig, language: Language, candidates: _CandidateSource, recipes: Recipes
    ) -> None:
        self._config, self._language = config, language
        self._candidates, self._recipes = candidates, recipes

    def copies(
        self, rows: Columns, fixed: Sequence[Fixed], keys: Keys, kept: CandidateWriter
    ) -> Iterator[tuple[str, Copy]]:
        """Recipe and copy, whose row is its place in the chunk; those of a row stand together.

        Args:
            rows: Columns text and text_pair of the chunk.
            fixed: What stays of each row.
            keys: Of each row (`asked_keys`).
            kept: Is given the candidates of the chunk.
        """
        assert fixed[0] is None or not self._config.recipes, "nlpaug would move the words that labels belong to"
        texts, pairs, number = rows["text"], rows["text_pair"], self._config.copies or 0
        others = self._by_recipe(texts, _seconds(pairs))
        found = self._find(asked(rows, fixed), keys, number, kept) if number else [[] for _ in texts]
        for place, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
            for copy in draw(text, pair, found[place], number, self._config, self._language, fixed[place]):
                yield PAPER, copy._replace(row=place)
            for kind, one, two in others[place]:
                yield kind, Copy(place, 0, one, two)

    def _find(self, rows: Columns, keys: Keys, number: int, kept: CandidateWriter) -> list[Sides]:
        """Candidates of each row; of several that ask for the same they are looked for, and kept, once."""
        firsts: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            firsts.setdefault(key.tobytes(), place)
        places = list(firsts.values())
        texts, pairs = ([rows[side][place] for place in places] for side in ("text", "text_pair"))
        sides = changed_sides(pairs[0] is not None, number, self._config)
        found = self._candidates.find(texts, _seconds(pairs), keys[places], sides)
        kept.add(keys[places], [[row[side] for row in found] for side in range(sides)])
        by_key = dict(zip(firsts, found, strict=True))
        return [by_key[key.tobytes()] for key in keys]

    def _by_recipe(
        self, texts: Sequence[str], seconds: Sequence[str] | None
    ) -> list[list[tuple[str, str, str | None]]]:
        """Copies of each row that nlpaug makes; of pairs each changes one side."""
        if seconds is None:
            return [[(kind, text, None) for kind, text in row] for row in self._recipes.copies(texts)]
        first = self._recipes.copies(texts, side=0, sides=2)
        second = self._recipes.copies(seconds, side=1, sides=2)
        return [
            [*((kind, made, pair) for kind, made in one), *((kind, text, made) for kind, made in two)]
            for text, pair, one, two in zip(texts, seconds, first, second, strict=True)
        ]


def _seconds(pairs: Sequence[str | None]) -> list[str] | None:
    """The second texts, None of single ones."""
    return [pair for pair in pairs if pair is not None] or None


if __name__ == "__main__":
    main(run)
