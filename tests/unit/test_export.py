"""What the export stage writes, who can load it, and what it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    pipeline,
)

from tests.unit.exported import LABELS, exported, write_data, write_student
from tests.unit.teachers import DISTIL
from tinybert import samples
from tinybert.config import ExportConfig
from tinybert.data import TaskData
from tinybert.digest import list_files
from tinybert.errors import ModelError
from tinybert.models import label_options, save
from tinybert.released import Released, Variant
from tinybert.serving import Classifier
from tinybert.stages import export

TORCH_ONLY = ExportConfig(onnx=False, int8=False)


def test_the_directory_is_a_plain_hugging_face_model():
    model = AutoModelForSequenceClassification.from_pretrained(exported().out)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert AutoTokenizer.from_pretrained(exported().out).model_max_length == 16
    classify = pipeline("text-classification", model=str(exported().out), truncation=True)
    rows = TaskData(exported().data).rows("test")[:8]
    texts = [{"text": text, "text_pair": pair} for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]
    answers = Classifier.load(exported().out, "torch").answer(rows["text"], rows["text_pair"])
    for plain, own in zip(classify(texts), answers, strict=True):
        assert plain["label"] == own.label
        assert plain["score"] == pytest.approx(own.score, abs=1e-5)


def test_what_stands_in_the_directory():
    released = Released.read(exported().out)
    assert released == Released(
        labels=LABELS,
        max_length=16,
        pair=True,
        default="int8",
        variants={
            "torch": Variant(file="model.safetensors"),
            "onnx": Variant(file="onnx/model.onnx"),
            "int8": Variant(file="onnx/model_int8.onnx"),
        },
    )
    files = {"README.md", "config.json", "data.json", "serving.json", "tokenizer.json", "tokenizer_config.json"}
    assert list_files(exported().out).keys() == files | {variant.file for variant in released.variants.values()}
    assert json.loads((exported().out / "data.json").read_text()) == TaskData(exported().data).manifest
    assert "Classifier.load(" in (exported().out / "README.md").read_text()


def test_metrics_are_sizes_and_the_difference():
    metrics, files = exported().metrics, list_files(exported().out)
    sizes = {"": "model.safetensors", "onnx_": "onnx/model.onnx", "int8_": "onnx/model_int8.onnx"}
    for name, file in sizes.items():
        assert metrics[f"{name}megabytes"] == files[file].size / 1e6
    weights = load_file(exported().out / "model.safetensors")
    assert metrics["parameters"] == sum(values.numel() for values in weights.values())
    assert 0 < metrics["onnx_difference"] < 1e-4


def test_onnx_that_says_something_else_is_refused(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(exported().out, other)
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"] += torch.tensor([0.0, 0.25, 0.0])
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"differs by 0\.25 .*set export\.onnx and export\.int8 to false"):
        export.check_parity(TaskData(exported().data), other)


def test_onnx_that_is_not_finite_is_refused(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(exported().out, other)
    weights = load_file(other / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"differs by nan"):
        export.check_parity(TaskData(exported().data), other)


def test_onnx_can_be_left_out(tmp_path, nowhere):
    out = tmp_path / "out"
    out.mkdir()
    data = write_data(tmp_path / "data", pair=False)
    student = write_student(tmp_path / "student")
    metrics = export.run(data=data, student=student, config=TORCH_ONLY, out=out, on_metrics=nowhere)
    released = Released.read(out)
    assert (released.default, list(released.variants), released.pair) == ("torch", ["torch"], False)
    assert not (out / "onnx").exists()
    assert metrics.keys() == {"parameters", "megabytes"}


def test_a_model_gets_no_inputs_that_it_does_not_take(tmp_path, nowhere):
    tokenizer = BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64)
    assert "token_type_ids" in tokenizer.model_input_names
    config = DistilBertConfig(**{**DISTIL, "vocab_size": len(tokenizer)}, **label_options(LABELS))
    save(DistilBertForSequenceClassification(config), tokenizer, tmp_path / "student", None)
    out = tmp_path / "out"
    out.mkdir()
    data = write_data(tmp_path / "data")
    export.run(data=data, student=tmp_path / "student", config=TORCH_ONLY, out=out, on_metrics=nowhere)
    assert set(AutoTokenizer.from_pretrained(out)("the film", "a story")) == {"input_ids", "attention_mask"}
    assert Classifier.load(out).answer(["the film"], ["a story"])[0].label in LABELS
