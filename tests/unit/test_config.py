"""The form: what it refuses and in which words, and what the Prefect form needs of its schema."""

import pytest
from pydantic import ValidationError

from flows.command import presets
from tests.security.test_forms import FLOWS, boxes
from tinybert.cli import describe_fields, parse_assignments, validated
from tinybert.config import DistillConfig
from tinybert.errors import ConfigError
from tinybert.form import fields, merge

LEAST = {"name": "x", "data": {"source": "file:/rows.csv"}, "teacher": {"source": "file:/teacher"}}
CORPUS = {"corpus": {"source": "file:/corpus.txt"}}


def test_only_name_data_and_teacher_are_required():
    config = validated(DistillConfig, merge(LEAST, CORPUS))
    assert (config.student.layers, config.student.hidden, config.student.ffn, config.student.heads) == (
        4,
        312,
        1200,
        12,
    )
    assert (config.augment.copies, config.augment.candidates, config.augment.probability) == (None, 15, 0.4)
    assert (config.layers.optim.epochs, config.logits.optim.epochs) == (20, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studnet": {}}, "studnet: unknown field; did you mean 'student'?"),
        ({"student": {"layerz": 3}}, "student.layerz: unknown field; did you mean 'layers'?"),
        ({"student": {"layers": 0}}, "student.layers: found 0; input should be greater than or equal to 1"),
        ({"layers": {"optim": {"epochs": "3"}}}, "layers.optim.epochs: found '3'; input should be a valid integer"),
        ({"student": {"hidden": 310}}, "student: hidden 310 is not a multiple of heads 12; choose one that is"),
        ({"logits": {"optim": {"accumulation": 3}}}, "logits.optim: accumulation 3 does not divide batch_size 32"),
        ({"data": {"labels": ["a", "a"]}}, r"data: labels ['a', 'a']: give at least two names, each once"),
        ({"data": {"source": "ftp:/x"}}, "data.source: found 'ftp:/x'; string should match pattern"),
        (
            {"layer_map": {"strategy": "explicit"}},
            "layer_map: explicit [] with strategy 'explicit'; give both or neither",
        ),
        (
            {"layer_map": {"strategy": "explicit", "explicit": [4, 2, 6, 8]}},
            "layer_map: explicit [4, 2, 6, 8]: teacher layers must rise and start at 1 or later",
        ),
        (
            {"layer_map": {"strategy": "explicit", "explicit": [3, 6]}},
            "layer_map.explicit has 2 entries but student.layers is 4; give one teacher layer per student layer",
        ),
        (
            {"layer_map": {"layer_weights": [1, 2, 3]}},
            "layer_map.layer_weights has 3 entries but student.layers is 4; give one weight per student layer",
        ),
        (
            {"corpus": {"source": None}},
            "general.enabled is true but corpus.source is empty; name a corpus or set it to false",
        ),
        ({"mlm": {"adapt_teacher": True}}, "mlm.adapt_teacher is true, which needs mlm.enabled true"),
        (
            {"layer_map": {"attention_weight": 0.0, "hidden_weight": 0.0, "embedding_weight": 0.0}},
            "attention_weight, hidden_weight and embedding_weight are all 0; nothing is learnt",
        ),
        (
            {"launch": {"processes": 32}, "general": {"optim": {"batch_size": 16}}},
            "launch.processes is 32 but general.optim.batch_size is 16; each process needs a row of every batch",
        ),
        ({"teacher": None}, "teacher: found None; input should be a valid dictionary or instance of TeacherConfig"),
    ],
)
def test_bad_values_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError) as refused:
        validated(DistillConfig, merge(merge(LEAST, CORPUS), change))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_given_student_sets_the_shape_that_the_map_must_fit():
    mapped = {"strategy": "explicit", "explicit": [2, 4, 6, 8, 10, 12], "layer_weights": [1, 1, 1, 1, 1, 2]}
    given = {"student": {"source": "file:/general"}, "layer_map": mapped}
    assert validated(DistillConfig, merge(LEAST, given)).layer_map.explicit == mapped["explicit"]


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="data: nothing given; this field is required"):
        validated(DistillConfig, {"name": "x", "teacher": {"source": "file:/t"}})


def test_only_stages_that_run_need_a_row_for_each_process():
    small = {"launch": {"processes": 32}, "general": {"enabled": False, "optim": {"batch_size": 16}}}
    assert validated(DistillConfig, merge(LEAST, small)).launch.processes == 32


def test_a_form_is_frozen():
    config = validated(DistillConfig, merge(LEAST, CORPUS))
    with pytest.raises(ValidationError, match="frozen"):
        config.student.layers = 3


@pytest.mark.parametrize("name", FLOWS)
def test_every_form_keeps_the_written_order_and_describes_every_field(name):
    for title, box in boxes(FLOWS[name].parameters.model_dump()):
        assert [field["position"] for field in box["properties"].values()] == [*range(len(box["properties"]))], title
        undescribed = [field for field, content in box["properties"].items() if not content.get("description")]
        assert not undescribed, f"{title}: {undescribed}"


def test_the_form_begins_with_what_has_to_be_given():
    assert list(DistillConfig.model_json_schema()["properties"])[:3] == ["name", "benchmark", "data"]


@pytest.mark.parametrize("name", FLOWS)
def test_numbers_have_bounds(name):
    for title, box in boxes(FLOWS[name].parameters.model_dump()):
        for field, content in box["properties"].items():
            for kind in [content, *content.get("anyOf", [])]:
                if kind.get("type") in ("integer", "number"):
                    assert {"minimum", "exclusiveMinimum"} & kind.keys(), f"{title}.{field}"


def test_every_preset_is_valid():
    assert set(presets()) >= {"quickstart", "smoke", "sst2-tinybert4", "sst2-tinybert6"}
    for name, values in presets().items():
        assert validated(DistillConfig, values).name == name


def test_assignments():
    values = parse_assignments(["layers.optim.epochs=3", "data.labels=[a, b]", "augment.vectors=null", "name=x=y"])
    assert values == {
        "layers": {"optim": {"epochs": 3}},
        "data": {"labels": ["a", "b"]},
        "augment": {"vectors": None},
        "name": "x=y",
    }
    with pytest.raises(ConfigError, match="--set layers: expected field=value"):
        parse_assignments(["layers"])
    with pytest.raises(ConfigError, match="name is already a plain value"):
        parse_assignments(["name=x", "name.first=y"])


def test_help_lists_every_field_with_its_default():
    text = describe_fields(DistillConfig)
    assert all(f"  {name} (" in text for name, *_ in fields(DistillConfig))
    assert "student.layers (int, default 4)" in text
    assert "data.source (str, required)" in text


def test_a_box_given_in_part_keeps_the_defaults_of_its_field():
    changed = {"layers": {"optim": {"batch_size": 16}}, "fine_tune": {"selection": {"evaluations_per_epoch": 3}}}
    config = validated(DistillConfig, merge(merge(LEAST, CORPUS), changed))
    assert (config.layers.optim.batch_size, config.layers.optim.epochs) == (16, 20)
    assert config.fine_tune.selection.patience == 2
    assert "layers.optim.epochs (int, default 20)" in describe_fields(DistillConfig)


@pytest.mark.parametrize("text", ["1e-4", "5e-05", "2E-5", "1.0e-4", "0.0001"])
def test_learning_rates_as_people_write_them(text):
    values = merge(merge(LEAST, CORPUS), parse_assignments([f"layers.optim.learning_rate={text}"]))
    assert validated(DistillConfig, values).layers.optim.learning_rate == float(text)
