"""Every kind of task through fine_tune, targets, layers and logits: in the end the student agrees with its teacher."""

import numpy as np
import pytest

from tests.unit.kind_data import NAMES, tokenizer_of, write_encoder, write_kind
from tinybert.config import FineTuneConfig, LayersConfig, LogitsConfig, MapConfig, TargetsConfig
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.errors import QualityError
from tinybert.kinds import KINDS
from tinybert.models import load_model
from tinybert.scoring import predict
from tinybert.stages import fine_tune, layers, logits, targets
from tinybert.teacher_cache import TeacherCache
from tinybert.training_config import OptimConfig, SelectionConfig

OPTIM = OptimConfig(epochs=4, batch_size=32, learning_rate=1e-2, warmup=0.1, precision="fp32")
ONCE = SelectionConfig()
ROWS = {"question_answering": 160}
"""Its rows have several features each."""


def nothing(metrics, step):
    """Takes metrics and keeps none."""


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """A directory with one kind's data, teacher, targets and students."""
    root = tmp_path_factory.mktemp(request.param)
    write_kind(root / "data", request.param, rows=ROWS.get(request.param, 384))
    write_encoder(root / "base")
    write_encoder(root / "start", seed=1, layers=1)
    teacher = root / "teacher"
    make(root, "teacher", fine_tune, teacher=root / "base", config=FineTuneConfig(optim=OPTIM, selection=ONCE))
    ask(root, "targets", mapped=[2], floor=0.2)
    taught = {"teacher": teacher, "targets": root / "targets"}
    inner = LayersConfig(optim=OPTIM.model_copy(update={"epochs": 3}))
    make(root, "layers", layers, **taught, student=root / "start", layer_map=MapConfig(), config=inner)
    outer = LogitsConfig(optim=OPTIM, selection=ONCE)
    make(root, "student", logits, **taught, student=root / "layers", config=outer)
    return root


def make(root, name, stage, **inputs):
    """Run a stage on the data; gives its metrics."""
    (root / name).mkdir()
    return stage.run(data=root / "data", **inputs, out=root / name, on_metrics=nothing)


def ask(root, name, **more):
    """Ask the teacher."""
    config = TargetsConfig(states_gb=1, batch_tokens=512)
    return make(root, name, targets, teacher=root / "teacher", config=config, precision="fp32", **more)


def said(directory, task, split, labels=None):
    """What a model says of rows."""
    model, rows = load_model(directory, task.kind, labels), task.rows(split)
    return predict(model, tokenizer_of(directory), rows, task.max_length, task.kind, precision="fp32")


def test_the_student_comes_to_agree_with_its_teacher(made):
    task = TaskData(made / "data")
    kind, taught = task.kind, said(made / "teacher", task, "test").answers
    begun, learnt = said(made / "start", task, "test", NAMES[kind.name]), said(made / "student", task, "test")
    before, after = (
        kind.metrics[task.metric].score(kind.as_labels(taught), found.answers, task.labels) for found in (begun, learnt)
    )
    assert after > 0.9
    assert after > before + 0.1


def test_the_teachers_answers_are_kept(made):
    task, cache = TaskData(made / "data"), TeacherCache(made / "targets")
    found = said(made / "teacher", task, "train")
    assert cache.per_token == task.kind.per_token
    assert cache.lengths.tolist() == found.features.lengths.tolist()
    np.testing.assert_allclose(cache.logits, found.logits, rtol=1e-4, atol=1e-5)
    opinions = list(cache.opinions()) if task.kind.judged else []
    assert (made / "targets" / "opinions.arrow").exists() == task.kind.judged
    if task.kind.judged:
        assert [answer for answer, _ in opinions] == found.answers
        np.testing.assert_allclose([sure for _, sure in opinions], found.confidence, rtol=1e-4)


def test_answers_to_earlier_rows_are_taken_from_there(made, tmp_path):
    """Half of the rows are asked about first, then all of them, in another order."""
    task, cache = TaskData(made / "data"), TeacherCache(made / "targets")
    rows = task.rows("train")
    half = copied(task, tmp_path / "half", range(0, len(rows), 2))
    turned = copied(task, tmp_path / "turned", range(len(rows) - 1, -1, -1))
    (tmp_path / "teacher").symlink_to(made / "teacher")
    metrics = {}
    for name, data, more in (("first", half, {}), ("second", turned, {"previous": tmp_path / "first"})):
        (tmp_path / "data").unlink(missing_ok=True)
        (tmp_path / "data").symlink_to(data)
        metrics[name] = ask(tmp_path, name, mapped=[2], **more)
    assert metrics["second"]["reused"] >= metrics["first"]["scored"] >= len(rows) // 2
    assert metrics["second"]["scored"] > 0
    again = TeacherCache(tmp_path / "second")
    places = again.places(cache.keys, cache.lengths)
    assert (again.lengths[places] == cache.lengths).all()
    for wanted in ("logits", "states"):
        found = again.batch(places[:40], task.max_length, (wanted,))
        expected = cache.batch(np.arange(40), task.max_length, (wanted,))
        for name in expected:
            np.testing.assert_allclose(found[name].float(), expected[name].float(), rtol=0.02, atol=1e-3)


def copied(task, directory, chosen):
    """The data set with some of its training rows."""
    directory.mkdir()
    task.copy_held_out(directory)
    with RowWriter(directory / "train.arrow", task.kind) as writer:
        for row in task.rows("train").select(chosen):
            writer.add(row["text"], row["text_pair"], row["label"], row["origin"])
    write_manifest(directory, **task.described())
    return directory


def test_a_given_teacher_near_chance_is_refused_before_it_is_asked(made, tmp_path):
    (tmp_path / "data").symlink_to(made / "data")
    (tmp_path / "teacher").symlink_to(made / "teacher")
    with pytest.raises(QualityError, match=r"the teacher's .* on validation is .* asks for 150 points more"):
        ask(tmp_path, "targets", floor=1.5)
    assert not list((tmp_path / "targets").iterdir())
