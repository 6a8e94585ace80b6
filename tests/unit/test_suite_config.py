"""The form of a suite: fields of all runs, fields of one, and what is wrong said before anything runs."""

import pytest

from flows.command import presets
from tinybert.config import DistillConfig
from tinybert.suite_config import SuiteConfig, part_of

SHARED = {"teacher": {"source": "file:/teacher"}, "general": {"enabled": False}}


def test_a_run_has_the_fields_of_all_and_its_own_which_go_first():
    settings = SHARED | {"layers": {"optim": {"epochs": 2, "batch_size": 8}}}
    tasks = {"a": {"benchmark": "glue/cola"}, "b": {"data": {"source": "file:/b"}, "layers": {"optim": {"epochs": 7}}}}
    runs = SuiteConfig(name="many", tasks=tasks, settings=settings).runs()
    assert [run.name for run in runs.values()] == ["many-a", "many-b"]
    assert (runs["a"].layers.optim.epochs, runs["b"].layers.optim.epochs) == (2, 7)
    assert runs["b"].layers.optim.batch_size == 8
    assert runs["a"].data.score == "mcc"


def test_a_field_that_is_wrong_is_named_with_its_task():
    tasks = {"good": {"benchmark": "glue/rte"}, "bad": {"benchmark": "glue/rte", "data": {"max_length": 4}}}
    with pytest.raises(ValueError, match=r"tasks\.bad: data\.max_length"):
        SuiteConfig(name="many", tasks=tasks, settings=SHARED)


def bare(schema):
    """Without what a form says of fields that are left out, and with the classes' names as those of its parts."""
    if isinstance(schema, list):
        return [bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema.removesuffix("Config") if isinstance(schema, str) else schema
    left_out = {"required", "default"}
    return {bare(name): bare(content) for name, content in schema.items() if name not in left_out}


def test_what_a_server_holds_against_the_fields_of_a_run_is_the_form_of_distill_with_nothing_required():
    part, whole = part_of(DistillConfig).model_json_schema(), DistillConfig.model_json_schema()
    assert bare(part) == bare(whole)
    boxes = {"": part, **part["$defs"]}
    assert [name for name, box in boxes.items() if "required" in box] == ["RecipeConfig"]  # one of a list is whole


def test_browsers_see_no_box_to_fill_in_for_the_fields_of_a_run():
    properties = SuiteConfig.model_json_schema()["properties"]
    for shown in (properties["settings"], properties["tasks"]["additionalProperties"]):
        assert "properties" not in shown
        assert shown["then"]["properties"].keys() == DistillConfig.model_fields.keys()


def test_a_suite_without_tasks_is_refused():
    with pytest.raises(ValueError, match="tasks"):
        SuiteConfig(name="none", tasks={}, settings=SHARED)


@pytest.mark.parametrize("name", presets("suite"))
def test_presets_are_valid(name):
    config = SuiteConfig.model_validate(presets("suite")[name])
    assert len(config.runs()) == len(config.tasks)


def test_the_preset_of_glue_shares_one_general_student():
    runs = SuiteConfig.model_validate(presets("suite")["glue-all"]).runs().values()
    shared = [(run.teacher, run.student, run.corpus, run.general, run.layer_map) for run in runs]
    assert len(shared) == 9
    assert all(boxes == shared[0] for boxes in shared)
