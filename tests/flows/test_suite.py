"""A suite of tiny runs: what is shared is made once, a run that fails is told of, every kind comes to its end."""

import json

import pytest

from flows.command import presets
from flows.pretrain import pretrain
from flows.suite import show, suite
from tinybert.cli import validated
from tinybert.errors import InputError, QualityError
from tinybert.form import merge
from tinybert.pretrain_config import PretrainConfig
from tinybert.suite_config import SuiteConfig

QUICK = {"optim": {"steps": 8, "epochs": 1, "batch_size": 16, "learning_rate": 3e-3}}
SETTINGS = {
    "student": {"layers": 1, "hidden": 24, "ffn": 48, "heads": 4},
    "corpus": {"length": 16, "sequences": 64},
    "general": {"enabled": True, **QUICK},
    "augment": {"copies": 1, "candidates": 2},
    "layers": QUICK,
    "logits": QUICK,
    "export": {"onnx": False, "int8": False},
    "publish": {"enabled": False},
    "gate": {"retention": 0.0},
}


def small(material, tasks, **changes) -> SuiteConfig:
    """Some tasks of the preset kinds-smoke on the material at hand."""
    preset = json.loads(json.dumps(presets("suite")["kinds-smoke"]).replace("file:build/smoke", f"file:{material}"))
    settings = merge(merge(preset["settings"], SETTINGS), {"corpus": {"source": f"file:{material}/corpus.txt"}})
    chosen = {task: preset["tasks"][task] for task in tasks}
    return validated(SuiteConfig, {"name": "few", "settings": merge(settings, changes), "tasks": chosen})


@pytest.mark.slow
def test_two_kinds_share_a_general_student_and_stand_in_one_table(smoke_material, home, caplog, capsys):
    summary = suite(small(smoke_material, ["conll", "stars"]))
    lines = {line.task: line for line in summary.lines}
    assert [lines[task].scores for task in ("conll", "stars")] == ["entity F1", "Pearson correlation"]
    assert all(line.teacher > 0.5 for line in summary.lines)
    assert summary.average["teacher"] == pytest.approx((lines["conll"].teacher + lines["stars"].teacher) / 2)
    assert not summary.failures
    told = [record.getMessage() for record in caplog.records]
    ended = [line.split("  ")[-1] for line in told if "] general  " in line]
    assert len(ended) == 2
    assert ended[0].startswith("done")
    assert ended[1] == "cached"
    show(summary)
    assert "entity F1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others_alone_and_fails_the_suite_at_its_end(smoke_material, home, caplog):
    config = small(smoke_material, ["stars", "conll"], general={"enabled": False}, augment={"enabled": False})
    broken = merge(config.model_dump(), {"tasks": {"stars": {"fine_tune": {"floor": 1.0}}}})
    with pytest.raises(QualityError, match=r"1 of 2 tasks failed; stars: .*fine_tune\.floor"):
        suite(SuiteConfig.model_validate(broken))
    table = next(record.getMessage() for record in caplog.records if "| average of 1 of 2 |" in record.getMessage())
    assert "| stars |  |  |  |  |  |  |  | failed |" in table
    assert "| conll | entity F1 |" in table


def test_a_suite_with_a_fault_in_its_last_task_runs_none(smoke_material, home, caplog):
    config = small(smoke_material, ["stars", "conll"])
    broken = merge(config.model_dump(), {"tasks": {"conll": {"data": {"source": "file:/nowhere/train.conll"}}}})
    with pytest.raises(InputError, match=r"^1 thing is wrong: data\.source \(conll\): .*found nothing at"):
        suite(SuiteConfig.model_validate(broken))
    assert not any("[1/" in record.getMessage() for record in caplog.records)
    assert not [*(home / "store").glob("dataset/*")]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_smoke_preset_of_suites_comes_to_its_end(smoke_material, home):
    for name in ("kinds-smoke", "glue-smoke", "clue-smoke"):
        preset = json.loads(json.dumps(presets("suite")[name]).replace("file:build/smoke", f"file:{smoke_material}"))
        light = {"export": {"onnx": False, "int8": False}, "publish": {"enabled": False}}
        preset["settings"] = merge(preset["settings"], light)
        # How well their students learn is the presets' own affair.
        for fields in preset["tasks"].values():
            fields |= {"layers": {"optim": {"epochs": 1}}, "logits": {"optim": {"epochs": 1}}}
        summary = suite(validated(SuiteConfig, preset))
        assert not summary.failures
        assert {line.verdict for line in summary.lines} <= {"promote", "reject"}


def test_a_teacher_is_made_from_a_corpus_alone(smoke_material, home):
    preset = presets("pretrain")["pretrain-smoke"]
    changes = {
        "corpus": {"source": f"file:{smoke_material}/corpus.txt"},
        "mlm": merge(QUICK, {"optim": {"epochs": 20}}),
    }
    summary = pretrain(validated(PretrainConfig, merge(preset, changes)))
    assert summary.steps == 8
    assert summary.masked_accuracy is not None
    assert summary.following_accuracy is not None
    assert summary.pieces <= 300
    assert [stage.name for stage in summary.stages] == ["vocabulary", "corpus", "mlm"]
    again = pretrain(validated(PretrainConfig, merge(preset, changes)))
    assert again.model == summary.model
    assert all(stage.cached for stage in again.stages)
