"""Layer maps against the paper's and against lists written by hand."""

import pytest

from tinybert.config import MapConfig
from tinybert.errors import ConfigError
from tinybert.layer_map import layer_weights, map_layers


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, [3, 6, 9, 12]),  # the paper's g(m) = 3m
        ("uniform", 6, 12, [2, 4, 6, 8, 10, 12]),
        ("uniform", 3, 6, [2, 4, 6]),
        ("uniform", 4, 6, [2, 3, 5, 6]),  # 1.5, 3, 4.5, 6, halves up
        ("uniform", 5, 12, [2, 5, 7, 10, 12]),
        ("uniform", 3, 3, [1, 2, 3]),
        ("top", 4, 12, [9, 10, 11, 12]),
        ("bottom", 4, 12, [1, 2, 3, 4]),
    ],
)
def test_maps(strategy, student, teacher, expected):
    assert map_layers(MapConfig(strategy=strategy), student, teacher) == expected


def test_uniform_maps_rise_and_end_at_the_top():
    for teacher in range(1, 25):
        for student in range(1, teacher + 1):
            mapped = map_layers(MapConfig(), student, teacher)
            assert mapped == sorted(set(mapped))
            assert (mapped[0] >= 1, mapped[-1]) == (True, teacher)


def test_explicit():
    config = MapConfig(strategy="explicit", explicit=[1, 4, 11])
    assert map_layers(config, 3, 12) == [1, 4, 11]
    with pytest.raises(ConfigError, match=r"layer_map.explicit: found \[1, 4, 11\]; expected 3 .* between 1 and 6"):
        map_layers(config, 3, 6)


def test_a_student_deeper_than_its_teacher_is_refused():
    with pytest.raises(ConfigError, match=r"student.layers: found 4; the teacher has 3"):
        map_layers(MapConfig(), 4, 3)


def test_layer_weights():
    assert layer_weights(MapConfig(), 3) == [1.0, 1.0, 1.0]
    assert layer_weights(MapConfig(layer_weights=[0.5, 2]), 2) == [0.5, 2.0]
    with pytest.raises(ConfigError, match=r"layer_weights: found 2 for a student of 3 layers; give one weight per"):
        layer_weights(MapConfig(layer_weights=[0.5, 2]), 3)
