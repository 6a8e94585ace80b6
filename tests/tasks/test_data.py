"""What is looked at before a run: a fine-tuned teacher's labels, and the data as the pipeline understands them."""

import shutil

import pytest

from flows.command import main
from tasks import sources
from tasks.data import check_labels, describe_data, prepare_data, resolve_sources
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.data import TaskData
from tinybert.errors import DataError, ModelError
from tinybert.form import merge


@pytest.fixture(scope="module")
def taught(smoke_material, tmp_path_factory):
    """A teacher with a head for good and bad, in this order."""
    from transformers import AutoModelForSequenceClassification

    directory = tmp_path_factory.mktemp("taught")
    shutil.copytree(smoke_material / "teacher", directory, dirs_exist_ok=True)
    names = {0: "good", 1: "bad"}
    AutoModelForSequenceClassification.from_pretrained(directory, id2label=names).save_pretrained(directory)
    return directory


@pytest.fixture
def form(smoke_material, taught):
    off = {"enabled": False}

    def form(**change):
        values = {
            "name": "mood",
            "data": {"source": f"file:{smoke_material}/rows.csv", "max_length": 16},
            "teacher": {"source": f"file:{taught}", "fine_tuned": True},
            "student": {"layers": 2, "hidden": 16, "ffn": 32, "heads": 4},
            "general": off,
            "augment": off,
        }
        return validated(DistillConfig, merge(values, change))

    return form


def prepared(config):
    found = resolve_sources.fn(config)
    dataset = prepare_data.fn(found.data, found.validation, found.test, config.data, found.labels).dataset
    return found, dataset


def test_prepared_labels_take_the_order_of_a_fine_tuned_teacher(home, form):
    found, dataset = prepared(form())
    assert found.labels == ["good", "bad"]
    data = TaskData(sources.local(dataset))
    assert (data.labels, data.kind.name, data.metric) == (["good", "bad"], "classification", "accuracy")
    check_labels.fn(dataset, found.teacher)


def test_without_one_they_keep_their_own(home, form, smoke_material):
    found, dataset = prepared(form(teacher={"source": f"file:{smoke_material}/teacher", "fine_tuned": False}))
    assert found.labels == []
    assert TaskData(sources.local(dataset)).labels == ["bad", "good"]
    with pytest.raises(ModelError, match=r"labels stand in another order"):
        check_labels.fn(dataset, resolve_sources.fn(form()).teacher)


def test_a_teacher_without_a_head_is_no_fine_tuned_one(home, form, smoke_material):
    with pytest.raises(ModelError, match=r"teacher.fine_tuned is true, but the teacher has no head for a task"):
        resolve_sources.fn(form(teacher={"source": f"file:{smoke_material}/teacher"}))


def test_data_are_described_without_a_run(home, form):
    text = describe_data(form())
    assert "- outputs of a model: good, bad" in text
    assert "## Length in tokens" in text
    assert not list(home.glob("**/manifest.json"))


def test_what_prepare_would_refuse_describing_refuses_too(home, form):
    with pytest.raises(DataError, match=r"rows.csv: no column 'mood'; it has label, text"):
        describe_data(form(data={"label": "mood"}))
    with pytest.raises(ModelError, match=r"another number of outputs: the data has 3 .bad, good, odd., the teacher 2"):
        describe_data(form(data={"labels": ["bad", "good", "odd"]}))


def test_the_command_line_describes_and_trains_nothing(home, form, capsys):
    def never(config):
        raise AssertionError("the flow was started")

    config = form()
    fields = {"name": "mood", "data.source": config.data.source, "teacher.source": config.teacher.source}
    off = {"general.enabled": "false", "augment.enabled": "false"}
    given = [part for name, value in (fields | off).items() for part in ("--set", f"{name}={value}")]
    main(never, DistillConfig, never, ["--describe", *given])
    assert capsys.readouterr().out.startswith("## Data\n\n- kind: classification, decided by accuracy\n")
    with pytest.raises(SystemExit):
        main(never, DistillConfig, never, ["--describe", *given, "--set", "data.text=body"])
    assert "error: rows.csv: no column 'body'; it has label, text" in capsys.readouterr().err.splitlines()
