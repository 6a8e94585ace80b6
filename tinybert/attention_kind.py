"""Which attention a student can learn from a teacher: scores where heads agree, relations elsewhere. No torch here."""

import math
from dataclasses import dataclass
from typing import Literal

from tinybert.config import MapConfig
from tinybert.errors import ConfigError, ModelError

Kind = Literal["scores", "relations", "hidden"]
"""What is compared of each layer beside its hidden states; hidden: nothing."""

MOST_HEADS = 64
"""Relation heads at most where the form names none and the teacher's do not fit; MiniLMv2 uses 48 and 64."""


@dataclass(frozen=True)
class AttentionShape:
    """What decides whether two models' attention can be compared."""

    heads: int
    width: int
    """Of queries, keys and values: that of the hidden states."""


@dataclass(frozen=True)
class AttentionKind:
    """What a student learns of its teacher's attention."""

    kind: Kind
    relation_heads: int = 1
    """Heads that queries, keys and values are cut into; only with relations."""


def attention_kind(
    config: MapConfig, student: AttentionShape, teacher: AttentionShape, where: str = "student"
) -> AttentionKind:
    """What `layer_map.attention` means for these two models.

    Args:
        config: The form's choice, weight and relation heads.
        student: Shape of the student.
        teacher: Shape of the teacher.
        where: The box of the form that the student's shape comes from, for messages.

    Raises:
        ModelError: Scores are asked for, and heads differ.
        ConfigError: `relation_heads` does not divide both widths.
    """
    if not config.attention_weight:
        return AttentionKind("hidden")
    agree = student.heads == teacher.heads
    if config.attention == "scores" and not agree:
        raise ModelError(
            f"{where}.heads: found {student.heads}; the attention loss needs as many as the teacher has, "
            f"{teacher.heads} (or set layer_map.attention to auto, which learns relations where heads differ, "
            "or layer_map.attention_weight to 0)"
        )
    if config.attention != "relations" and agree:
        return AttentionKind("scores")
    return AttentionKind("relations", _relation_heads(config.relation_heads, student, teacher))


def _relation_heads(asked: int | None, student: AttentionShape, teacher: AttentionShape) -> int:
    both = math.gcd(student.width, teacher.width)
    most = max(heads for heads in range(1, MOST_HEADS + 1) if both % heads == 0)
    if asked is None:
        return most if both % teacher.heads else teacher.heads
    if both % asked:
        raise ConfigError(
            f"layer_map.relation_heads: found {asked}, which does not divide both widths, the student's "
            f"{student.width} and the teacher's {teacher.width}; leave it empty, or choose a divisor of {both}, "
            f"such as {most}"
        )
    return asked
