"""Scoring end to end with a tiny real model: what is delivered, what is computed again, what is refused."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL

from flows.score import score, show
from tasks.connections import registry
from tasks.scoring import SUMMARY
from tests.tasks.conftest import s3, s3_server  # noqa: F401
from tests.unit.test_score import LABELS, write_model
from tinybert.digest import content_digest
from tinybert.errors import ConfigError, DataError, ModelError, SourceError
from tinybert.samples import sentences
from tinybert.score_config import ScoreConfig

ROOT = Path(__file__).parents[2]
TEXTS = [text for text, _ in sentences()[::10]]


@pytest.fixture(scope="module")
def model(tmp_path_factory, smoke_material):
    return write_model(tmp_path_factory.mktemp("model"), smoke_material)


def write_rows(path, texts, first=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"id": number, "text": text}) for number, text in enumerate(texts, start=first))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def rows(tmp_path):
    """A table of rows, one of which has no text."""
    return write_rows(tmp_path / "rows.jsonl", [*TEXTS[:20], None, *TEXTS[20:]])


@pytest.fixture
def form(model, rows, tmp_path):
    """A form as plain values: two full shards, and one that is not."""
    shard_rows = (len(TEXTS) + 1) // 2 - 1
    return {
        "model": f"file:{model}",
        "source": f"file:{rows}",
        "output": f"file:{tmp_path}/scored",
        "keep": ["id"],
        "shard_rows": shard_rows,
        "batch_size": 8,
    }


def scored(form):
    return score(ScoreConfig(**form))


def answers(directory):
    """The rows of all parts, in the order of their names."""
    return [row for part in sorted(Path(directory, "rows").iterdir()) for row in pq.read_table(part).to_pylist()]


def fates(caplog):
    """How the shards of the runs so far ended, in order."""
    told = [record.getMessage().rsplit(" ", 1) for record in caplog.records if record.name == "tinybert"]
    caplog.clear()
    return [fate for place, fate in told if "  shard " in place]


def test_answers_stand_at_the_destination_in_order_with_a_summary(shared_home, form, tmp_path, capsys):
    summary = scored(form)
    found = answers(tmp_path / "scored")
    assert [row["id"] for row in found] == list(range(len(TEXTS) + 1))
    assert [row["id"] for row in found if row["error"]] == [20]
    given = [row for row in found if not row["error"]]
    assert (summary.rows, summary.answered, summary.errors, summary.shards) == (len(found), len(given), 1, 3)
    assert summary.labels == {name: sum(row["label"] == name for row in given) for name in LABELS}
    assert min(summary.labels.values()) > 0
    assert summary.mean_score == pytest.approx(sum(row["score"] for row in given) / len(given), abs=1e-5)
    assert summary.model_digest == content_digest(Path(form["model"].removeprefix("file:")))
    assert summary.seconds > 0
    written = json.loads((tmp_path / "scored" / SUMMARY).read_text())
    assert written == json.loads(summary.model_dump_json(exclude={"answers"}))
    assert f"`{form['output']}`" in Artifact.get("scores").data
    show(summary)
    assert f"{summary.labels['good']}" in capsys.readouterr().out


def test_the_same_again_computes_nothing_and_more_rows_only_theirs(shared_home, form, rows, tmp_path, caplog):
    rows = write_rows(tmp_path / "growing/1.jsonl", [f"{text} ." for text in TEXTS[:20]])
    form |= {"source": f"file:{rows.parent}", "shard_rows": 10, "output": None}
    first = scored(form)
    assert fates(caplog) == ["Completed", "Completed"]
    again = scored(form)
    assert fates(caplog) == ["Cached", "Cached"]
    assert again == first
    write_rows(tmp_path / "growing/2.jsonl", TEXTS[:3], first=20)
    more = scored(form)
    assert fates(caplog) == ["Cached", "Cached", "Completed"]
    stored = [answers(summary.answers.removeprefix("file:")) for summary in (first, more)]
    assert stored[1][:20] == stored[0]
    assert [row["id"] for row in stored[1][20:]] == [20, 21, 22]


def test_one_shard_gives_what_several_give(shared_home, form, tmp_path):
    scored(form)
    one = scored(form | {"shard_rows": 1000, "output": f"file:{tmp_path}/one"})
    assert one.shards == 1
    for row, same in zip(answers(tmp_path / "scored"), answers(tmp_path / "one"), strict=True):
        assert (row["id"], row["label"], row["error"]) == (same["id"], same["label"], same["error"])
        assert row["p_good"] == pytest.approx(same["p_good"], abs=1e-5)


def test_the_champion_is_named_by_its_version(shared_home, form, model):
    version = registry().register("reviews", f"file:{model}", content_digest(model), {}).number
    registry().crown("reviews", version)
    summary = scored(form | {"model": "models:/reviews@champion", "output": None})
    assert summary.model == f"models:/reviews/{version}"
    assert summary.answered == len(TEXTS)


def test_a_destination_of_somebody_else_is_refused_and_left_as_it_is(shared_home, form, rows, tmp_path, caplog):
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / SUMMARY).write_text("mine")
    with pytest.raises(ConfigError, match=r"scored holds other files, such as summary\.json; name another place"):
        scored(form)
    assert (tmp_path / "scored" / SUMMARY).read_text() == "mine"
    (tmp_path / "scored" / SUMMARY).unlink()
    scored(form)
    before = answers(tmp_path / "scored")
    write_rows(rows, TEXTS[:5])
    caplog.clear()
    with pytest.raises(ConfigError, match=r"scored holds other files, such as rows/part-00000-\w{8}\.parquet"):
        scored(form)
    assert fates(caplog) == []
    assert answers(tmp_path / "scored") == before


def test_what_cannot_be_scored_is_refused_in_a_line(shared_home, form, smoke_material, tmp_path):
    refused = {
        "text": ("review", DataError, r"rows\.jsonl: no column 'review'; it has id, text"),
        "source": (f"file:{tmp_path}/none.csv", SourceError, "found nothing at"),
        "model": (f"file:{smoke_material}/teacher", ModelError, "name a model that this pipeline exported"),
        "variant": ("int8", ConfigError, "variant 'int8': the model has torch"),
    }
    for field, (value, kind, message) in refused.items():
        with pytest.raises(kind, match=message) as caught:
            scored(form | {field: value})
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "scored").exists()


def test_rows_come_from_s3_and_answers_go_there(shared_home, form, rows, s3):  # noqa: F811
    prefix = uuid.uuid4().hex
    for name in ("b.jsonl", "a.jsonl"):
        s3.client().upload_file(str(rows), s3.bucket, f"{prefix}/in/{name}")
    places = {"source": f"s3://{s3.bucket}/{prefix}/in/", "output": f"s3://{s3.bucket}/{prefix}/out"}
    for _ in range(2):
        summary = scored(form | places)
    assert summary.rows == 2 * (len(TEXTS) + 1)
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{prefix}/out/")["Contents"]
    names = sorted(item["Key"].removeprefix(f"{prefix}/out/") for item in listed)
    assert [name.rpartition("-")[0] for name in names] == [*(f"rows/part-{n:05}" for n in range(summary.shards)), ""]
    written = s3.client().get_object(Bucket=s3.bucket, Key=f"{prefix}/out/{SUMMARY}")["Body"].read()
    assert json.loads(written)["labels"] == summary.labels
    with pytest.raises(ConfigError, match="out holds other files, such as rows/part-00000-"):
        scored(form | {"output": places["output"]})


def begun(form, store):
    """The command line at work."""
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    environment |= {"TINYBERT_STORE": f"file:{store}", "PREFECT_LOCAL_STORAGE_PATH": f"{store}/results"}
    command = [sys.executable, "-m", "flows.score"]
    for name, value in form.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(form, store):
    """How each shard ended."""
    with begun(form, store) as process:
        told = process.stdout.read()
    assert process.returncode == 0, told
    return [line.rsplit(" ", 1)[1] for line in told.splitlines() if "  shard " in line]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_at_the_next_shard_and_gives_the_same_answers(home, form, tmp_path):
    with begun(form, home / "store") as process:
        for line in process.stdout:
            if "shard 2 of 3" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "scored").exists()
    assert finished(form, home / "store") == ["Cached", "Cached", "Completed"]
    assert finished(form | {"output": f"file:{tmp_path}/unbroken"}, home / "other") == ["Completed"] * 3
    assert content_digest(tmp_path / "scored/rows") == content_digest(tmp_path / "unbroken/rows")
