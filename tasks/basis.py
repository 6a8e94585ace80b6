"""What a student is made from, as digests that the tags of its version keep: data, teacher, form, code."""

import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from tasks.data import Sources
from tasks.policy import DECLARATIONS, source_modules, stage_module
from tinybert.config import DistillConfig, LayersConfig, LogitsConfig
from tinybert.digest import file_digest, json_digest
from tinybert.refs import Ref

TAG = "made_from."
"""What the tags of a version begin with that tell what it was made from."""
STAGES = (
    *("prepare", "corpus", "mlm", "fine_tune", "general", "augment", "gather", "targets", "screen", "layers", "logits"),
    *("export", "baseline", "evaluate", "gate", "package"),
)
"""Those of distill: their code counts."""
LIBRARIES = ("torch", "transformers", "tokenizers")
"""Their versions count as code."""
NO_MATTER: dict[str, bool | set[str]] = {
    **dict.fromkeys(("name", "reason", "launch", "publish"), True),
    "data": {"source", "validation_source", "test_source", "labels"},
    **{box: {"source"} for box in ("teacher", "student", "corpus")},
    "augment": {"vectors", "thesaurus", "translator", "back_translator"},
}
"""Fields that change nothing of what is computed, or count by the content they name."""


class Basis(BaseModel):
    """What a student is made from, as short digests."""

    model_config = ConfigDict(frozen=True)

    data: str
    """Rows."""
    labels: str
    """Names of labels, where the form or a fine-tuned teacher gives them."""
    teacher: str
    corpus: str
    """Plain text, word vectors and what else augmentation reads, and the student's start."""
    config: str
    code: str

    @classmethod
    def of(cls, config: DistillConfig, found: Sources, code: str) -> Self:
        """What a run of this form and these sources is made from.

        Args:
            config: The form.
            found: Its sources, pinned.
            code: Digest of the code, see `code`.
        """
        read = (found.corpus, found.vectors, found.thesaurus, *found.translators, found.student)
        return cls(
            data=_short(_contents(found.data, found.validation, found.test)),
            labels=_short([config.data.labels, found.labels]),
            teacher=_short(_contents(found.teacher)),
            corpus=_short(_contents(*read)),
            config=config_digest(config),
            code=code,
        )

    @classmethod
    def told(cls, tags: dict[str, str]) -> Self | None:
        """What a version's tags tell; None where they do not."""
        told = {name: tags[TAG + name] for name in cls.model_fields if TAG + name in tags}
        return cls(**told) if len(told) == len(cls.model_fields) else None

    @property
    def tags(self) -> dict[str, str]:
        """Of a version."""
        return {TAG + name: digest for name, digest in self}

    def since(self, before: "Basis") -> list[str]:
        """What has changed since, a phrase each."""
        pairs = [(name, getattr(before, name), digest) for name, digest in self]
        return [f"{name} changed: {old[:8]} -> {new[:8]}" for name, old, new in pairs if old != new]


def _contents(*refs: Ref | None) -> list[str | None]:
    return [ref.digest if ref else None for ref in refs]


def _short(value: object) -> str:
    return json_digest(value)[:12]


def config_digest(config: DistillConfig) -> str:
    """Digest of the fields that decide what is computed; sources count by content, elsewhere."""
    return _short(config.model_dump(mode="json", exclude=NO_MATTER))


@cache
def code() -> str:
    """Digest of the code that a run of this process computes with: our stages, and the libraries beneath."""
    modules: dict[str, Path] = {}
    for stage in STAGES:  # each module is read once
        modules |= source_modules(stage_module(stage), without={*DECLARATIONS, *modules})
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return _short([{name: file_digest(path) for name, path in modules.items()}, versions])


def renewed(config: DistillConfig, version: str) -> DistillConfig:
    """The form with other seeds of layers and logits: their own plus the number of the version that has grown old."""
    boxes: dict[str, LayersConfig | LogitsConfig] = {"layers": config.layers, "logits": config.logits}
    changes = {}
    for name, box in boxes.items():
        optim = box.optim.model_copy(update={"seed": (box.optim.seed + int(version)) % 2**31})
        changes[name] = box.model_copy(update={"optim": optim})
    return config.model_copy(update=changes)
