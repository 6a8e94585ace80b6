"""The layer map g(m): which teacher layer each student layer learns from, and with which weight."""

from tinybert.config import MapConfig
from tinybert.errors import ConfigError


def map_layers(config: MapConfig, student_layers: int, teacher_layers: int) -> list[int]:
    """Teacher layers (1 is the first) for student layers 1..M, rising.

    uniform takes g(m) = round(m * N / M), halves rounded up: the paper's g(m) = 3m for 4 of 12 layers, and
    an evenly spread map ending at the last layer where M does not divide N.

    Raises:
        ConfigError: The student is deeper than the teacher, or an explicit map does not fit the two.
    """
    if student_layers > teacher_layers:
        raise ConfigError(
            f"student.layers: found {student_layers}; the teacher has {teacher_layers} layers, "
            "and a student cannot have more"
        )
    if config.strategy == "uniform":
        return [(2 * m * teacher_layers + student_layers) // (2 * student_layers) for m in _from_one(student_layers)]
    if config.strategy == "top":
        return [teacher_layers - student_layers + m for m in _from_one(student_layers)]
    if config.strategy == "bottom":
        return list(_from_one(student_layers))
    return _checked(config.explicit, student_layers, teacher_layers)


def layer_weights(config: MapConfig, student_layers: int) -> list[float]:
    """Weight lambda_m of each student layer 1..M in the attention and hidden losses; 1 where the form names none.

    Raises:
        ConfigError: The form names more or fewer than the student has layers.
    """
    if config.layer_weights and len(config.layer_weights) != student_layers:
        raise ConfigError(
            f"layer_map.layer_weights: found {len(config.layer_weights)} for a student of {student_layers} layers; "
            "give one weight per student layer, or none"
        )
    return config.layer_weights or [1.0] * student_layers


def _from_one(count: int) -> range:
    return range(1, count + 1)


def _checked(explicit: list[int], student_layers: int, teacher_layers: int) -> list[int]:
    if len(explicit) != student_layers or explicit[-1] > teacher_layers:
        raise ConfigError(
            f"layer_map.explicit: found {explicit}; expected {student_layers} rising teacher layers "
            f"between 1 and {teacher_layers}"
        )
    return explicit
