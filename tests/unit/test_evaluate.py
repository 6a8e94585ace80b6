"""The comparison of models on test rows: the same rows for all, temperatures from validation, costs side by side."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from tinybert import contestants, samples
from tinybert.calibration import fit_temperature
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.errors import ModelError
from tinybert.kinds import KINDS
from tinybert.models import load_tokenizer, save
from tinybert.release_config import EvaluateConfig, ExportConfig
from tinybert.released import Released, Variant
from tinybert.report import MODELS
from tinybert.stages import evaluate, export

KIND = KINDS["classification"]
LABELS = ["bad", "good"]
METRICS = ("accuracy", "f1_macro", "f1", "mcc")
LENGTH = 24
"""No row is cut."""
CONFIG = EvaluateConfig(latency_runs=5, throughput_runs=3, throughput_batch=4, resamples=100, batch_size=16, threads=1)


def write_data(directory, test_is_validation=False, others=(), metric="accuracy"):
    """Rows of three splits, and of further tests; every test row has a group."""
    directory.mkdir()
    rows = samples.sentences()
    parts = {"train": rows[:40], "validation": rows[40:160:2], "test": rows[41:161:2]}
    if test_is_validation:
        parts["validation"] = parts["test"]
    parts |= {f"test_{name}": rows[160:200] for name in others}
    for split, chosen in parts.items():
        with RowWriter(directory / f"{split}.arrow", KIND) as writer:
            for number, (text, label) in enumerate(chosen):
                writer.add(text, None, LABELS.index(label), number, group=("shop", "web")[number % 2])
    more = {"test_is_validation": test_is_validation, "other_tests": others, "metric": metric}
    write_manifest(directory, LABELS, LENGTH, **more)
    return directory


def write_classifier(directory, material, seed, layers=1, spread=0.5, labels=LABELS):
    """A classifier of random weights, spread so widely that it answers this way and that."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(material / "teacher")
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        initializer_range=spread,
        **shape,
        **KIND.options(labels),
    )
    save(BertForSequenceClassification(config), tokenizer, directory, LENGTH)
    return directory


def write_champion(directory, material, seed, labels=LABELS):
    write_classifier(directory, material, seed, labels=labels)
    variants = {"torch": Variant(file="model.safetensors", temperature=1.5)}
    Released(labels=labels, max_length=LENGTH, pair=False, default="torch", variants=variants).write(directory)
    return directory


@pytest.fixture(scope="module")
def material(smoke_material, tmp_path_factory):
    """Data and models to compare."""
    root = tmp_path_factory.mktemp("evaluate")
    data = write_data(root / "data")
    models = {
        "teacher": write_classifier(root / "teacher", smoke_material, 0, layers=8, spread=0.1),
        "plain": write_classifier(root / "plain", smoke_material, 1),
        "baseline": write_classifier(root / "baseline", smoke_material, 2),
        "champion": write_champion(root / "champion", smoke_material, 3),
    }
    student = root / "student"
    student.mkdir()
    export.run(data=data, student=models["plain"], config=ExportConfig(), out=student, on_metrics=lambda *_: None)
    trained = write_data(root / "champion_data")
    with RowWriter(trained / "train.arrow", KIND) as writer:
        for number, row in enumerate(TaskData(data).rows("test")):
            if number < 10:
                writer.add(row["text"], None, row["label"], number)
        writer.add("something else", None, 0, 10)
    return {**models, "data": data, "student": student, "champion_data": trained}


def evaluated(material, out, *names, **changed):
    """What the stage returns; the student has no variants unless it is named."""
    out.mkdir()
    told = []
    given = {name: material[name] for name in ("data", "teacher", *names)}
    given = {"student": material["champion"]} | given | changed
    metrics = evaluate.run(**given, config=CONFIG, out=out, on_metrics=lambda *point: told.append(point))
    assert told == [(metrics, 0)]
    return metrics


@pytest.fixture(scope="module")
def compared(material, tmp_path_factory):
    """The report with everybody in it, and its metrics."""
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, evaluated(material, out, "student", "baseline", "champion", "champion_data")


def read(out, name="comparison"):
    return json.loads((out / f"{name}.json").read_text())


def logits_of(directory, data, split):
    """By plain transformers, one row at a time."""
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    with torch.no_grad():
        texts = list(TaskData(data).rows(split)["text"])
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def test_scores_agree_with_an_independent_count(compared, material):
    out, _ = compared
    comparison, rows = read(out), TaskData(material["data"]).rows("test")
    teacher = pipeline("text-classification", model=str(material["teacher"]))(list(rows["text"]))
    for name in ("teacher", "student", "baseline", "champion"):
        said = pipeline("text-classification", model=str(material[name]))(list(rows["text"]))
        right = np.mean([entry["label"] == LABELS[label] for entry, label in zip(said, rows["label"], strict=True)])
        agreed = np.mean([one["label"] == other["label"] for one, other in zip(said, teacher, strict=True)])
        assert comparison[name]["accuracy"] == pytest.approx(right)
        assert comparison[name]["agreement"] == pytest.approx(agreed)
        assert 0 < right < 1
        assert comparison[name]["accuracy_low"] < right < comparison[name]["accuracy_high"]


def test_predictions_hold_every_row_and_what_each_model_says(compared, material):
    out, _ = compared
    table = pq.read_table(out / "predictions.parquet").to_pydict()
    rows = TaskData(material["data"]).rows("test")
    for column in ("text", "text_pair", "label", "group"):
        assert table[column] == list(rows[column])
    assert [name for name in table if name.startswith("answer_")] == [f"answer_{name}" for name in MODELS]
    for name in ("student", "champion"):
        logits = logits_of(material[name], material["data"], "test")
        assert table[f"answer_{name}"] == logits.argmax(1).tolist()
        sure = (logits / read(out)[name]["temperature"]).softmax(1).amax(1)
        np.testing.assert_allclose(table[f"confidence_{name}"], sure, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(table["confidence_onnx"], table["confidence_student"], rtol=1e-2, atol=1e-2)
    assert table["confidence_int8"] != table["confidence_onnx"]


def test_temperatures_are_fitted_on_validation_rows(compared, material):
    out, _ = compared
    labels = np.asarray(TaskData(material["data"]).rows("validation")["label"])
    for name in ("student", "champion"):
        expected = fit_temperature(logits_of(material[name], material["data"], "validation").numpy(), labels)
        assert read(out)[name]["temperature"] == pytest.approx(expected, rel=1e-3)
        calibration = read(out, "calibration")[name]
        assert calibration["temperature"] == read(out)[name]["temperature"]
        assert calibration["ece_calibrated"] < calibration["ece"]
        assert sum(entry["rows"] for entry in calibration["bins"]) == 60


def test_costs_of_each_model(compared, material):
    comparison = read(compared[0])
    files = dict.fromkeys(("teacher", "student", "baseline", "champion"), "model.safetensors")
    files |= {"onnx": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
    for name, file in files.items():
        size = (material.get(name, material["student"]) / file).stat().st_size
        assert comparison[name]["megabytes"] == pytest.approx(size / 1e6)
    parameters = sum(
        p.numel() for p in AutoModelForSequenceClassification.from_pretrained(material["student"]).parameters()
    )
    for name in ("student", "onnx", "int8"):
        assert comparison[name]["parameters"] == parameters
        assert comparison[name]["gigaflops"] == comparison["student"]["gigaflops"]
    assert 7 < comparison["teacher"]["gigaflops"] / comparison["student"]["gigaflops"] < 8  # layers, and one head each
    assert (comparison["threads"], comparison["throughput_batch"], comparison["rows"]) == (1, 4, 60)


def test_a_model_of_many_layers_shows_as_slower(compared):
    comparison = read(compared[0])
    teacher, student = comparison["teacher"], comparison["student"]
    assert teacher["latency_ms"] > student["latency_ms"]
    assert teacher["throughput"] < student["throughput"]
    for name in MODELS:
        p50, p95, p99 = (comparison[name][f"latency_{part}ms"] for part in ("", "p95_", "p99_"))
        assert 0 < p50 <= p95 <= p99
    assert comparison["speedup"] == pytest.approx(teacher["latency_ms"] / student["latency_ms"])
    assert comparison["retention"] == pytest.approx(student["accuracy"] / teacher["accuracy"])


def test_metrics_are_the_comparison_flattened(compared):
    out, metrics = compared
    comparison = read(out)
    expected = {f"{name}_{key}": value for name in MODELS for key, value in comparison[name].items()}
    expected |= {key: comparison[key] for key in ("retention", "speedup")}
    assert metrics == expected
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())


def test_rows_the_champion_was_trained_on_are_marked_and_not_compared(compared, material):
    out, _ = compared
    assert read(out)["seen_by_champion"] == 10
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    assert table["seen_by_champion"].tolist() == [True] * 10 + [False] * 50
    student, champion = (table[f"answer_{name}"] == table["label"] for name in ("student", "champion"))
    unseen = ~table["seen_by_champion"]
    flips = read(out, "flips")
    assert flips["fixed_rows"] == (student & ~champion & unseen).sum() > 0
    assert flips["broken_rows"] == (~student & champion & unseen).sum() > 0
    assert not {entry["text"] for entry in flips["fixed"] + flips["broken"]} & set(table["text"][:10])
    web = next(entry for entry in read(out, "slices") if entry["value"] == "web")
    inside = table["group"] == "web"
    assert (web["slice"], web["rows"]) == ("group", 30)
    assert web["student"] == pytest.approx(student[inside].mean())
    assert web["champion"] == pytest.approx(champion[inside & unseen].mean())


def test_everything_is_written(compared):
    out, _ = compared
    for name in MODELS:
        assert (out / f"confusion_{name}.png").stat().st_size > 3000
        assert read(out, "classes")[name].keys() == set(LABELS)
    assert (out / "comparison.png").stat().st_size > 5000
    assert (out / "reliability.png").stat().st_size > 5000
    table = (out / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")] == ["", "---", *MODELS]


def test_a_champion_of_other_labels_is_left_out(material, smoke_material, tmp_path):
    champion = write_champion(tmp_path / "champion", smoke_material, 4, labels=["bad", "fair", "good"])
    evaluated(material, tmp_path / "out", champion=champion, champion_data=material["champion_data"])
    comparison = read(tmp_path / "out")
    expected = "it answers with other labels (bad, fair, good) than the data has (bad, good)."
    assert comparison["champion_left_out"] == expected
    assert "champion" not in comparison
    assert comparison["seen_by_champion"] == 0
    assert not (tmp_path / "out" / "flips.json").exists()
    assert expected in (tmp_path / "out" / "comparison.md").read_text()


def test_a_champion_of_another_kind_is_left_out(material, tmp_path):
    champion = tmp_path / "champion"
    shutil.copytree(material["champion"], champion)
    Released.read(champion).model_copy(update={"kind": "multi_label"}).write(champion)
    evaluated(material, tmp_path / "out", champion=champion)
    expected = "it is a model for multi label, and the data is for classification."
    assert read(tmp_path / "out")["champion_left_out"] == expected
    assert "champion" not in read(tmp_path / "out")


def test_a_champion_is_measured_in_the_variant_it_serves(material, tmp_path):
    champion = tmp_path / "champion"
    shutil.copytree(material["student"], champion)
    released = Released.read(champion)
    assert released.default == "int8"
    released.model_copy(update={"max_length": 5}).write(champion)
    evaluated(material, tmp_path / "out", "student", champion=champion)
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    assert read(tmp_path / "out")["champion"]["megabytes"] == read(tmp_path / "out")["int8"]["megabytes"]
    for name in ("int8", "student"):  # it reads as much of a row as it was released with
        assert table["confidence_champion"] != table[f"confidence_{name}"]


def test_torch_that_stands_in_for_onnx_runtime_does_not_pass_for_onnx(material, tmp_path, monkeypatch):
    network = AutoModelForSequenceClassification.from_pretrained(material["student"]).eval()
    monkeypatch.setattr(contestants, "load_variant", lambda *_: network)
    evaluated(material, tmp_path / "out", "student", champion=material["student"])
    comparison = read(tmp_path / "out")
    assert [name for name in MODELS if name in comparison] == ["teacher", "student", "champion"]
    assert comparison["champion"]["megabytes"] == comparison["student"]["megabytes"]


def test_validation_rows_that_are_the_test_rows_are_asked_once(material, tmp_path, monkeypatch):
    asked = []
    plain = contestants.predict
    monkeypatch.setattr(contestants, "predict", lambda *a, **k: asked.append(1) or plain(*a, **k))
    metrics = evaluated(material, tmp_path / "out", data=write_data(tmp_path / "data", test_is_validation=True))
    assert {name.partition("_")[0] for name in metrics} == {"teacher", "student", "retention", "speedup"}
    comparison = read(tmp_path / "out")
    assert comparison["test_is_validation"]
    assert "champion_left_out" not in comparison
    assert len(asked) == 2  # teacher and student


UNTIMED = ("latency_ms", "latency_p95_ms", "latency_p99_ms", "throughput")


def test_further_tests_are_scored_apart_and_change_nothing_else(material, tmp_path):
    found = {}
    for others in ((), ("late", "odd")):
        data = write_data(tmp_path / f"data{len(others)}", others=others)
        out = tmp_path / f"out{len(others)}"
        found[others] = evaluated(material, out, "baseline", data=data), read(out)
        for name in ("classes", "calibration", "slices"):
            assert read(out, name) == read(tmp_path / "out0", name)
    (metrics, alone), (metrics_beside, beside) = found.values()
    assert {k: v for k, v in metrics.items() if not k.endswith(UNTIMED) and k != "speedup"} == {
        k: v for k, v in metrics_beside.items() if not k.endswith(UNTIMED) and k != "speedup"
    }
    assert "other_tests" not in alone
    late, rows = beside["other_tests"]["late"], TaskData(tmp_path / "data2").rows("test_late")
    assert late == beside["other_tests"]["odd"]
    assert late.keys() == {"rows", "teacher", "student", "baseline"}
    assert late["rows"] == 40
    for name, directory in (("teacher", "teacher"), ("student", "champion"), ("baseline", "baseline")):
        answers = logits_of(material[directory], tmp_path / "data2", "test_late").argmax(1).numpy()
        assert late[name]["accuracy"] == pytest.approx((answers == np.asarray(rows["label"])).mean())
        assert late[name].keys() == {f"{score}{end}" for score in METRICS for end in ("", "_low", "_high")}
    lines = (tmp_path / "out2" / "comparison.md").read_text().splitlines()
    assert [line.partition(" (")[0] for line in lines[-2:]] == ["- late", "- odd"]


def test_the_score_of_the_task_decides_and_all_are_measured(material, tmp_path):
    evaluated(material, tmp_path / "out", data=write_data(tmp_path / "data", metric="mcc"))
    comparison, rows = read(tmp_path / "out"), TaskData(tmp_path / "data").rows("test")
    assert (comparison["kind"], comparison["metric"]) == ("classification", "mcc")
    assert comparison["metrics"] == ["mcc", "accuracy", "f1_macro", "f1"]
    said = {
        name: logits_of(material[directory], tmp_path / "data", "test").argmax(1)
        for name, directory in (("teacher", "teacher"), ("student", "champion"))
    }
    labels = list(rows["label"])
    for name, answers in said.items():
        numbers = comparison[name]
        assert numbers["mcc"] == pytest.approx(matthews_corrcoef(labels, answers))
        assert numbers["f1_macro"] == pytest.approx(f1_score(labels, answers, average="macro"))
        assert numbers["f1"] == pytest.approx(f1_score(labels, answers))
        assert numbers["mcc_low"] <= numbers["mcc"] <= numbers["mcc_high"]
    assert comparison["student"]["agreement"] == pytest.approx(matthews_corrcoef(said["teacher"], said["student"]))
    assert comparison["retention"] == pytest.approx(comparison["student"]["mcc"] / comparison["teacher"]["mcc"])


def test_a_broken_variant_is_left_out_with_the_reason(material, tmp_path, monkeypatch):
    plain = contestants.predict

    def predict(*a, name, **k):
        if name == "int8":
            raise ModelError("int8: 3 of 60 logits are not finite")
        return plain(*a, name=name, **k)

    monkeypatch.setattr(contestants, "predict", predict)
    evaluated(material, tmp_path / "out", "student")
    comparison = read(tmp_path / "out")
    assert [name for name in MODELS if name in comparison] == ["teacher", "student", "onnx"]
    assert comparison["variants_left_out"] == {"int8": "int8: 3 of 60 logits are not finite"}


def test_a_teacher_of_other_labels_is_refused(material, smoke_material, tmp_path):
    teacher = write_classifier(tmp_path / "teacher", smoke_material, 6, labels=["good", "bad"])
    with pytest.raises(ModelError, match="labels stand in another order"):
        evaluated(material, tmp_path / "out", teacher=teacher)


def test_logits_that_are_not_finite_are_refused_by_name(material, tmp_path):
    broken = AutoModelForSequenceClassification.from_pretrained(material["baseline"])
    torch.nn.init.constant_(broken.classifier.bias, float("nan"))
    save(broken, load_tokenizer(material["baseline"]), tmp_path / "broken", LENGTH)
    with pytest.raises(ModelError, match="baseline: 60 of 60 logits are not finite"):
        evaluated(material, tmp_path / "out", baseline=tmp_path / "broken")
