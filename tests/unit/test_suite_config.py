"""The form of a suite: fields of all runs, fields of one, and what is wrong said before anything runs."""

import pytest

from flows.command import presets
from tinybert.suite_config import SuiteConfig

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
