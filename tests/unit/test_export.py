"""What the export stage writes, who can load it, and what it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
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
from tinybert.kinds import kind_of
from tinybert.models import save
from tinybert.released import Released, Variant
from tinybert.serving import Student
from tinybert.stages import export

TORCH_ONLY = ExportConfig(onnx=False, int8=False)


def test_the_directory_is_a_plain_hugging_face_model():
    model = AutoModelForSequenceClassification.from_pretrained(exported().out)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert AutoTokenizer.from_pretrained(exported().out).model_max_length == 16
    classify = pipeline("text-classification", model=str(exported().out), truncation=True)
    rows = TaskData(exported().data).rows("test")[:8]
    texts = [{"text": text, "text_pair": pair} for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]
    answers = Student.load(exported().out, "torch").answer(rows["text"], rows["text_pair"])
    for plain, own in zip(classify(texts), answers, strict=True):
        assert plain["label"] == own.label
        assert plain["score"] == pytest.approx(own.score, abs=1e-5)


def test_what_stands_in_the_directory():
    released = Released.read(exported().out)
    assert released == Released(
        kind="classification",
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
    assert ".load(" in (exported().out / "README.md").read_text()


@pytest.mark.parametrize("always", [True, False])
def test_whether_every_training_question_had_an_answer_is_handed_on(tmp_path, always):
    data = write_data(tmp_path / "data", kind="question_answering")
    manifest = json.loads((data / "manifest.json").read_text()) | {"always_answers": always}
    (data / "manifest.json").write_text(json.dumps(manifest))
    student = write_student(tmp_path / "student", kind="question_answering")
    (tmp_path / "out").mkdir()
    export.run(data=data, student=student, config=TORCH_ONLY, out=tmp_path / "out", on_metrics=lambda *_: None)
    assert Released.read(tmp_path / "out").always_answers is always


@pytest.fixture(scope="module")
def plain_exports(tmp_path_factory):
    """Of the kinds whose logits look like a classifier's, the directories that the stage makes with torch only."""
    made = {}
    for kind in ("multi_label", "regression"):
        made[kind] = tmp_path_factory.mktemp(kind) / "out"
        made[kind].mkdir()
        material = {
            "data": write_data(made[kind].parent / "data", pair=False, kind=kind),
            "student": write_student(made[kind].parent / "student", kind=kind),
        }
        export.run(**material, config=TORCH_ONLY, out=made[kind], on_metrics=lambda *_: None)
    return made


def test_a_multi_label_student_is_one_for_transformers(plain_exports):
    texts = ["the film is wonderful", "a truly boring script"]
    classify = pipeline("text-classification", model=str(plain_exports["multi_label"]), top_k=None)
    own = Student.load(plain_exports["multi_label"]).answer(texts)
    for plain, answer in zip(classify(texts), own, strict=True):
        scores = {one["label"]: one["score"] for one in plain}
        assert scores == pytest.approx(answer.probabilities, abs=1e-5)
        assert answer.labels == [name for name in LABELS if scores[name] > 0.5]


def test_a_regression_student_is_one_for_transformers(plain_exports):
    texts = ["the film is wonderful", "a truly boring script"]
    measure = pipeline("text-classification", model=str(plain_exports["regression"]))
    own = Student.load(plain_exports["regression"]).answer(texts)
    assert [one["label"] for one in measure(texts)] == ["stars"] * 2
    assert [answer.value for answer in own] == pytest.approx([one["score"] for one in measure(texts)], abs=1e-5)


def test_a_tagging_student_is_one_for_transformers():
    directory = exported("token_classification").out
    tag = pipeline("token-classification", model=str(directory))
    text = "the film is wonderful"
    words = tag(text, ignore_labels=[])
    assert [word["word"] for word in words] == [*text.split()[:3], "wonderful"]
    own = Student.load(directory, "torch").answer([text])[0].entities
    certain = {(word["start"], word["end"]): word for word in words}
    for entity in own:
        inside = [word for span, word in certain.items() if entity["start"] <= span[0] and span[1] <= entity["end"]]
        assert {word["entity"].removeprefix("B-").removeprefix("I-") for word in inside} == {entity["label"]}
        assert entity["score"] == pytest.approx(min(word["score"] for word in inside), abs=1e-5)
    outside = [word for word in words if word["entity"] == "O"]
    covered = sum(len(text[entity["start"] : entity["end"]].split()) for entity in own)
    assert len(outside) + covered == 4


def test_a_reading_student_is_one_for_transformers():
    directory = exported("question_answering").out
    model, tokenizer = (
        AutoModelForQuestionAnswering.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    question, context = "what film", "a charming story is the music"
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**inputs)
    start_L, end_L = output.start_logits[0], output.end_logits[0]
    inside = [place for place, sequence in enumerate(inputs.sequence_ids(0)) if sequence == 1]
    scores = {(a, b): (start_L[a] + end_L[b]).item() for a in inside for b in inside if a <= b}
    first, last = max(scores, key=scores.get)
    null = (start_L[0] + end_L[0]).item()
    expected = "" if null > scores[first, last] else context[offsets[first][0] : offsets[last][1]]
    answer = Student.load(directory, "torch").answer([question], [context])[0]
    assert answer.answer == expected
    chance = start_L.softmax(0)[0 if not expected else first] * end_L.softmax(0)[0 if not expected else last]
    assert answer.score == pytest.approx(chance.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["token_classification", "question_answering"])
def test_onnx_that_says_something_else_of_tokens_is_refused(kind, tmp_path):
    assert 0 < exported(kind).metrics["onnx_difference"] < 1e-4
    assert (Released.read(exported(kind).out).kind, Released.read(exported(kind).out).default) == (kind, "int8")
    other = tmp_path / "other"
    shutil.copytree(exported(kind).out, other)
    weights = load_file(other / "model.safetensors")
    head = next(name for name in weights if name in ("classifier.bias", "qa_outputs.bias"))
    weights[head][1] += 0.25
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"differs by 0\.25 "):
        export.check_parity(TaskData(exported(kind).data), other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_every_kind_exports_to_onnx(kind):
    assert 0 < exported(kind).metrics["onnx_difference"] < 1e-4
    variants = {name: Student.load(exported(kind).out, name) for name in ("torch", "onnx", "int8")}
    columns = variants["torch"].released.columns
    texts = ["the film is wonderful", "a truly boring script"]
    values = {name: [answer.values(columns) for answer in one.answer(texts)] for name, one in variants.items()}
    numbers = {name: [v for row in rows for v in row if isinstance(v, float)] for name, rows in values.items()}
    assert numbers["onnx"] == pytest.approx(numbers["torch"], abs=1e-4)
    assert numbers["int8"] == pytest.approx(numbers["torch"], abs=0.3)


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
    config = DistilBertConfig(**{**DISTIL, "vocab_size": len(tokenizer)}, **kind_of("classification").options(LABELS))
    save(DistilBertForSequenceClassification(config), tokenizer, tmp_path / "student", None)
    out = tmp_path / "out"
    out.mkdir()
    data = write_data(tmp_path / "data")
    export.run(data=data, student=tmp_path / "student", config=TORCH_ONLY, out=out, on_metrics=nowhere)
    assert set(AutoTokenizer.from_pretrained(out)("the film", "a story")) == {"input_ids", "attention_mask"}
    assert Student.load(out).answer(["the film"], ["a story"])[0].label in LABELS
