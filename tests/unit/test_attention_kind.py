"""What is learnt of a teacher's attention, by the form and the two shapes."""

import pytest

from tinybert.attention_kind import AttentionKind, AttentionShape, attention_kind
from tinybert.config import MapConfig
from tinybert.errors import ConfigError, ModelError

BERT, TINY4, MINILM = AttentionShape(12, 768), AttentionShape(12, 312), AttentionShape(6, 192)
LARGE = AttentionShape(16, 1024)


@pytest.mark.parametrize(
    ("fields", "student", "teacher", "expected"),
    [
        ({}, TINY4, BERT, AttentionKind("scores")),
        ({"attention": "scores"}, TINY4, BERT, AttentionKind("scores")),
        ({"attention": "relations"}, TINY4, BERT, AttentionKind("relations", 12)),
        ({}, MINILM, BERT, AttentionKind("relations", 12)),
        # 16 heads do not divide 312; gcd(312, 1024) is 8.
        ({}, TINY4, LARGE, AttentionKind("relations", 8)),
        # 20 heads do not divide 384; gcd(384, 1280) is 128, and 64 is the most that is taken.
        ({}, AttentionShape(12, 384), AttentionShape(20, 1280), AttentionKind("relations", 64)),
        # 10 heads do not divide 12; gcd(12, 70) is 2.
        ({}, AttentionShape(3, 12), AttentionShape(10, 70), AttentionKind("relations", 2)),
        ({"relation_heads": 48}, MINILM, BERT, AttentionKind("relations", 48)),
        ({"relation_heads": 48}, TINY4, BERT, AttentionKind("scores")),
        ({"attention_weight": 0.0}, TINY4, LARGE, AttentionKind("hidden")),
        ({"attention_weight": 0.0, "attention": "scores"}, TINY4, LARGE, AttentionKind("hidden")),
    ],
)
def test_kind(fields, student, teacher, expected):
    assert attention_kind(MapConfig(**fields), student, teacher) == expected


def test_scores_of_other_heads_are_refused():
    with pytest.raises(ModelError, match=r"student.heads: found 12; .* has, 16 \(or set layer_map.attention to auto"):
        attention_kind(MapConfig(attention="scores"), TINY4, LARGE)


@pytest.mark.parametrize("heads", [5, 16, 64])
def test_relation_heads_must_divide_both_widths(heads):
    message = (
        rf"relation_heads: found {heads}, .* the student's 312 and the teacher's 768; .* divisor of 24, such as 24"
    )
    with pytest.raises(ConfigError, match=message):
        attention_kind(MapConfig(attention="relations", relation_heads=heads), TINY4, BERT)
