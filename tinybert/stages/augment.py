"""Data augmentation of one shard of the training rows: Algorithm 1 of the paper, and nlpaug's recipes."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from tinybert import augmentation
from tinybert import vectors as word_vectors
from tinybert.allocator import give_back_freed_memory, keep_freed_memory
from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.candidates import Proposer
from tinybert.augmentation.copies import CHUNK, Copy, changed_sides, copies_for, draw
from tinybert.augmentation.fixed import Fixed, asked, fixed_parts
from tinybert.augmentation.recipes import Recipes
from tinybert.augmentation.shards import CANDIDATES, COPIES, RECIPES, Kept, Keys, Sides, asked_keys, rows_of_shard
from tinybert.augmentation.words import Language, language
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData
from tinybert.digest import content_digest, json_digest
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
        previous: An earlier output for the same model, vectors and form: candidates that stand there are used again,
            and what recipes made there, if they and what they read are the same.

    Returns:
        rows, copies, asked (copies that were wanted), proposed and reused (rows, or contexts of questions, whose
        candidates were looked for, or known).
    """
    task, spoken = TaskData(data), language(config.language)
    rows = task.rows("train")
    keys = asked_keys(rows, task.kind, task.max_length)
    mine = rows_of_shard(keys, shard, shards)
    config = config.model_copy(update={"copies": copies_for(len(rows), config.copies)})
    proposer = cache(lambda: _load_proposer(model, vectors, resume_beside(out), config, spoken))
    recipes = cache(lambda: Recipes(config, spoken, model, thesaurus, translator, back_translator))
    candidates = Kept(CANDIDATES, out, previous)
    translators = translator, back_translator
    source = _recipes_digest(config, insert=[model], synonym=[thesaurus], back_translation=translators)
    changed = Kept(RECIPES, out, previous, source)
    copier = _Copier(config, spoken, candidates, changed, proposer, recipes)
    progress = Progress(f"augment {shard + 1}/{shards}" if shards > 1 else "augment", len(mine), unit="row")
    made = Counter[str]()
    keep_freed_memory()
    with RowWriter(out / COPIES, task.kind) as writer, candidates, changed:
        for start in range(0, len(mine), CHUNK):
            chunk = mine[start : start + CHUNK]
            batch = rows[chunk]
            for recipe, copy in copier.copies(batch, fixed_parts(batch, task.kind), keys[chunk]):
                label, pair = batch["label"][copy.row], batch["text_pair"][copy.row]
                label = task.kind.moved(label, pair, copy.changes)
                writer.add(copy.text, copy.text_pair, label, int(chunk[copy.row]), recipe)
                made[recipe] += 1
            give_back_freed_memory()
            progress.update(start + len(chunk))
    wanted = _wanted(config, len(mine))
    described = {"rows": len(mine), "asked": dict(wanted), "made": {recipe: made[recipe] for recipe in wanted}}
    (out / "manifest.json").write_text(json.dumps(described, indent=1) + "\n")
    counts = {"rows": len(mine), "copies": writer.count, "asked": wanted.total()}
    counts |= {"proposed": candidates.made, "reused": candidates.reused}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _wanted(config: AugmentConfig, rows: int) -> Counter[str]:
    """Copies wanted of each recipe."""
    wanted = Counter({PAPER: (config.copies or 0) * rows})
    for recipe in config.recipes:
        wanted[recipe.kind] += recipe.copies * rows
    return +wanted


def _recipes_digest(config: AugmentConfig, **read: Sequence[Path | None]) -> str:
    """Digest of everything that recipes' copies depend on, but the row; named are the files that each kind reads."""
    kinds = sorted({recipe.kind for recipe in config.recipes} & read.keys())
    contents = [content_digest(path) for kind in kinds for path in read[kind] if path]
    boxes = [config.seed, config.language, config.candidates, *(recipe.model_dump() for recipe in config.recipes)]
    return json_digest([boxes, contents, content_digest(Path(augmentation.__file__).parent)])


def _load_proposer(
    model: Path, vectors: Path | None, parsed: Path, config: AugmentConfig, language: Language
) -> Proposer:
    lm = AutoModelForMaskedLM.from_pretrained(
        model, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    ).to(device())
    near = word_vectors.load(vectors, parsed) if vectors else None
    return Proposer(lm, load_tokenizer(model), near, config, language)


class _Copier:
    """Copies of a chunk of rows, of every recipe; models are loaded when something is not known."""

    def __init__(
        self,
        config: AugmentConfig,
        language: Language,
        candidates: Kept,
        changed: Kept,
        proposer: Callable[[], Proposer],
        recipes: Callable[[], Recipes],
    ) -> None:
        self._config, self._language = config, language
        self._candidates, self._changed = candidates, changed
        self._proposer, self._recipes = proposer, recipes

    def copies(self, rows: Columns, fixed: Sequence[Fixed], keys: Keys) -> Iterator[tuple[str, Copy]]:
        """Recipe and copy, whose row is its place in the chunk; those of a row stand together.

        Args:
            rows: Columns text and text_pair of the chunk.
            fixed: What stays of each row.
            keys: Of each row (`asked_keys`).
        """
        recipes, number = self._config.recipes, self._config.copies or 0
        assert fixed[0] is None or not recipes, "nlpaug would move the words that labels belong to"
        found = self._find(asked(rows, fixed), keys, number) if number else None
        others = self._by_recipe(rows, keys) if recipes else None
        for place, (text, pair) in enumerate(zip(rows["text"], rows["text_pair"], strict=True)):
            if found:
                for copy in draw(text, pair, found[place], number, self._config, self._language, fixed[place]):
                    yield PAPER, copy._replace(row=place)
            for side, made in enumerate(others[place] if others else []):
                for kind, new in made:
                    yield kind, Copy(place, 0, *((new, pair) if side == 0 else (text, new)))

    def _find(self, rows: Columns, keys: Keys, number: int) -> list[Sides]:
        """Candidates of each row."""

        def propose(places: list[int]) -> list[Sides]:
            texts, pairs = ([rows[side][place] for place in places] for side in ("text", "text_pair"))
            found = [self._proposer().propose(texts, _seconds(pairs), side) for side in range(sides)]
            return [list(row) for row in zip(*found, strict=True)]

        sides = changed_sides(rows["text_pair"][0] is not None, number, self._config)
        return self._candidates.of(keys, sides, propose)

    def _by_recipe(self, rows: Columns, keys: Keys) -> list[Sides]:
        """Copies of each row that nlpaug makes, kind and text of each; of pairs each changes one side."""
        texts = [side for side in (rows["text"], _seconds(rows["text_pair"])) if side is not None]

        def make(places: list[int]) -> list[Sides]:
            given = [[side[place] for place in places] for side in texts]
            found = [self._recipes().copies(side, number, len(texts)) for number, side in enumerate(given)]
            return [[[list(copy) for copy in made] for made in row] for row in zip(*found, strict=True)]

        return self._changed.of(keys, len(texts), make)


def _seconds(pairs: Sequence[str | None]) -> list[str] | None:
    """The second texts, None of single ones."""
    return [pair for pair in pairs if pair is not None] or None


if __name__ == "__main__":
    main(run)
