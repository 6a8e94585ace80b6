"""Which rows each stage is given, by kind of task and form; nothing is computed."""

import contextlib
from types import SimpleNamespace

import pytest

from flows import distill as module
from flows.distill import distill, planned
from tinybert.config import DistillConfig


class Recorder:
    """Stands in for a run: notes what each task is given, by the task's name, and names what it makes after it."""

    def __init__(self, states):
        self.given, self.states = {}, states

    def __call__(self, task, *args):
        self.given.setdefault(task.name, args)
        made = dict.fromkeys(("dataset", "model", "corpus", "targets", "copies"), task.name)
        return SimpleNamespace(**made, metrics={"train_rows": 5, "steps": 3})

    def always(self, task, *args):
        states = SimpleNamespace(mapped=[2, 4] if self.states else [])
        named = dict.fromkeys(("data", "teacher", "validation", "test", "vectors", "thesaurus"), "source")
        others = {"student": None, "corpus": None, "translators": [], "states": states, "labels": ["a", "b"]}
        report = SimpleNamespace(totals={}, summary="10 ok")
        return SimpleNamespace(sources=SimpleNamespace(**named, **others), report=report)

    def log(self, metrics, tags):
        pass

    def map(self, task, calls, launch):
        return [self(task, *call) for call in calls]


def form(kind="classification", **boxes):
    common = {"name": "t", "data": {"source": "file:/rows.csv", "kind": kind}, "teacher": {"source": "file:/teacher"}}
    return DistillConfig.model_validate({**common, "general": {"enabled": False}, **boxes})


@pytest.fixture
def recorded(monkeypatch):
    """What the tasks of a run are given."""

    def record(config):
        run = Recorder(states=bool(config.targets.states_gb))
        monkeypatch.setattr(module, "open_run", lambda *args: contextlib.nullcontext(run))
        monkeypatch.setattr(module, "Candidate", SimpleNamespace)
        monkeypatch.setattr(module, "release", lambda *args: run.given)
        return distill.fn(config)

    return record


NONE, AUGMENTED = {"augment": {"enabled": False}}, {"augment": {"enabled": True}}


@pytest.mark.parametrize(
    ("kind", "boxes", "asked", "layers", "logits"),
    [
        ("classification", NONE, "prepare", "prepare", "prepare"),
        ("classification", AUGMENTED, "gather", "screen", "screen"),
        ("multi_label", AUGMENTED, "gather", "screen", "screen"),
        ("token_classification", AUGMENTED, "gather", "screen", "screen"),
        ("classification", {**AUGMENTED, "logits": {"augmented": False}}, "gather", "screen", "prepare"),
        ("regression", AUGMENTED, "prepare", "screen", "prepare"),
        ("question_answering", AUGMENTED, "prepare", "screen", "prepare"),
        ("regression", {**AUGMENTED, "logits": {"augmented": True}}, "gather", "screen", "screen"),
        ("question_answering", {**AUGMENTED, "targets": {"states_gb": 1}}, "gather", "screen", "prepare"),
        ("regression", NONE, "prepare", "prepare", "prepare"),
    ],
)
def test_rows_that_stages_are_given(recorded, kind, boxes, asked, layers, logits):
    config = form(kind, **boxes)
    given = recorded(config)
    assert [given[name][0] for name in ("targets", "layers", "logits")] == [asked, layers, logits]
    judged = "targets" if config.data.judged else None
    assert [given[name][:2] for name in ("screen",) if name in given] == [("gather", judged)] * config.augment.enabled
    assert given["fine_tune"][0] == given["baseline"][0] == given["export"][0] == "prepare"
    after = ["evaluate", "gate", "package"]  # what `release` does
    assert planned(config) == len([*given, *after])


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_the_floor_is_held_once_under_every_teacher(recorded, fine_tuned):
    teacher = {"source": "file:/teacher", "fine_tuned": fine_tuned}
    given = recorded(form(teacher=teacher, fine_tune={"floor": 0.25}, **NONE))
    assert given["targets"][-1] == (0.25 if fine_tuned else None)
    assert ("fine_tune" in given) == (not fine_tuned)


@pytest.mark.parametrize(("gigabytes", "states"), [(1, "fp32"), (0, None)])
def test_the_teacher_answers_at_the_precision_of_those_who_learn_from_it(recorded, gigabytes, states):
    learn = {"logits": {"optim": {"precision": "bf16"}}, "layers": {"optim": {"precision": "fp32"}}}
    given = recorded(form(**learn, targets={"states_gb": gigabytes}, **NONE))
    assert given["targets"][3:5] == ("bf16", states)


def test_a_given_teachers_labels_order_the_datas(recorded):
    assert recorded(form(**NONE))["prepare"][-1] == ["a", "b"]
