"""The doctor on tiny real material: what it tells of a form that is fine, and of one that is not; and its command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.command import main, preset
from flows.distill import planned
from flows.doctor import doctor, show
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.errors import InputError
from tinybert.estimate import Amounts, estimate
from tinybert.estimate_encoder import Encoder
from tinybert.form import merge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def form(smoke_material):
    sources = {
        "data": {"source": f"file:{smoke_material}/rows.csv"},
        "teacher": {"source": f"file:{smoke_material}/teacher"},
        "corpus": {"source": f"file:{smoke_material}/corpus.txt"},
        "augment": {"vectors": f"file:{smoke_material}/vectors.txt"},
    }
    return lambda **change: validated(DistillConfig, merge(merge(preset("smoke"), sources), change))


@pytest.fixture(scope="module")
def healthy(shared_home, form):
    """The doctor's report on the preset smoke."""
    return doctor(form())


def test_a_form_that_is_fine(healthy):
    assert healthy.wrong == []
    told = {finding.what: finding.found for finding in healthy.findings}
    assert told["labels"] == "bad, good"
    assert told["rows"].startswith("about 288 training, 48 validation and 48 test rows of")
    assert healthy.hours < 0.1
    assert "| fine_tune |" in Artifact.get("preflight").data


def test_the_tables(healthy, capsys):
    show(healthy)
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("limit accelerator", "how to mend it", "TFLOP", "fine_tune", "estimate:"))


def test_nothing_is_trained_and_nothing_left_behind(healthy, shared_home):
    assert not [path for path in (shared_home / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mlm": {"enabled": False}, "general": {"enabled": False}},
        {"augment": {"enabled": False}, "baseline": {"enabled": False}, "layers": {"enabled": False}},
        {"data": {"kind": "regression"}, "augment": {"recipes": []}},
        {"teacher": {"fine_tuned": True}},
    ],
)
def test_each_stage_that_a_run_will_have_is_estimated(form, change):
    config = form(**change)
    tiny = Encoder(layers=4, hidden=8, ffn=16, heads=4, vocabulary=50, positions=64)
    stages = estimate(config, tiny, tiny, Amounts(train=9, validation=3, test=3, tokens=5), 4, 1024)
    assert len(stages) == planned(config)


def test_stages_are_estimated_in_the_order_of_the_run(healthy):
    before = ["prepare", "corpus", "mlm", "fine_tune", "general", "augment", "gather", "targets", "screen"]
    after = ["layers", "logits", "export", "baseline", "evaluate", "gate", "package"]
    assert [stage.name for stage in healthy.stages] == before + after


def test_rows_and_a_given_teacher_are_looked_at(shared_home, form, smoke_material, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(smoke_material / "teacher", tmp_path / "taught")
    names = {0: "good", 1: "bad"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "taught", id2label=names)
    model.save_pretrained(tmp_path / "taught")
    teacher = {"source": f"file:{tmp_path}/taught", "fine_tuned": True}
    ignorant = form(teacher=teacher, fine_tune={"floor": 0.6})
    with pytest.raises(InputError, match=r"^1 thing is wrong: teacher: the teacher's accuracy on validation is"):
        doctor(ignorant)
    assert "WRONG" in capsys.readouterr().out
    others = tmp_path / "others.csv"
    others.write_text((smoke_material / "rows.csv").read_text().replace(",good", ",fine"))
    with pytest.raises(InputError, match=r"^1 thing is wrong: rows: labels differ: the data has 2 .bad, fine."):
        doctor(form(teacher=teacher, data={"source": f"file:{others}"}))


def test_the_command_line_reads_the_presets_of_distill(capsys):
    def never(config):
        raise AssertionError("the flow was started")

    main(never, DistillConfig, never, ["--list"], presets_of="distill")
    assert "quickstart" in capsys.readouterr().out.split()
    with pytest.raises(SystemExit) as ended:
        main(never, DistillConfig, never, ["--preset", "smok"], presets_of="distill")
    assert ended.value.code == 2
    assert "smoke" in capsys.readouterr().err


def test_what_is_wrong_ends_the_command_with_status_2(shared_home, form, capsys):
    config = form(data={"source": "file:/nowhere/rows.csv"}, student={"layers": 5})
    given = {"name": "x", "data.source": config.data.source, "teacher.source": config.teacher.source}
    given |= {"corpus.source": config.corpus.source, "augment.vectors": config.augment.vectors, "student.layers": "5"}
    fields = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    with pytest.raises(SystemExit) as ended:
        main(lambda config: doctor(config), DistillConfig, lambda report: None, fields, presets_of="distill")
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert "error: 3 things are wrong, first: data.source: file:/nowhere/rows.csv: found nothing" in captured.err
    assert captured.out.count("WRONG") == 3


@pytest.mark.slow
def test_the_program_without_a_server(tmp_path, smoke_material):
    shutil.copytree(smoke_material, tmp_path / "build" / "smoke")
    unset = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.doctor", "--preset", "smoke", "--json", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fine_tune" in done.stdout
    assert '"hours"' in (tmp_path / "report.json").read_text()


def test_the_deployment_has_the_form_of_smoke():
    assert preset("doctor", "doctor") == preset("smoke")
