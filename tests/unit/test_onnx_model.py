"""ONNX says what torch says, whatever the shape of the batch; int8 is what it is meant to be."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.unit.exported import PAIRED, exported, network
from tests.unit.teachers import DISTIL, SHAPE
from tinybert import onnx_model
from tinybert.data import TaskData
from tinybert.errors import ConfigError, ModelError
from tinybert.kinds import kind_of
from tinybert.models import load_model, load_tokenizer
from tinybert.onnx_model import OnnxModel, check_export, export_onnx
from tinybert.release_config import ExportConfig
from tinybert.scoring import predict
from tinybert.states import model_inputs

PLAIN, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
CLASSES = kind_of("classification")
PER_TOKEN = ["token_classification", "question_answering"]


def batch(rows, length, vocabulary=50):
    """Random ids; every row but the first is padded from its middle on."""
    torch.manual_seed(rows * 100 + length)
    ids, types = torch.randint(5, vocabulary, (rows, length)), torch.randint(0, 2, (rows, length))
    mask = torch.ones_like(ids)
    mask[1:, (length + 1) // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.fixture(scope="module")
def plain():
    return OnnxModel(exported().out, PLAIN, threads=1)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 9), (2, 8), (5, 2), (3, 64)])
def test_logits_are_those_of_torch_for_every_batch_and_length(plain, rows, length):
    inputs = batch(rows, length)
    with torch.no_grad():
        expected = network()(**inputs).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(plain(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PER_TOKEN)
def test_each_token_has_logits_of_its_own_whatever_the_batch_and_length(kind):
    plain, network_ = OnnxModel(exported(kind).out, PLAIN, threads=1), network(kind)
    for rows, length in ((1, 1), (3, 9)):
        inputs = batch(rows, length)
        with torch.no_grad():
            output = network_(**inputs)
        parts = (
            [output.logits] if "logits" in output else [output.start_logits[..., None], output.end_logits[..., None]]
        )
        expected = torch.cat(parts, dim=-1)
        assert expected.std() > 0.1
        torch.testing.assert_close(plain(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    assert plain.config.num_labels == expected.shape[-1]


def test_padding_and_segments_reach_the_model(plain):
    inputs = batch(3, 12)
    found = plain(**inputs).logits
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        other = {**inputs, name: torch.full_like(inputs[name], value)}
        assert (plain(**other).logits - found)[1:].abs().max() > 1e-3


def test_it_is_called_as_a_transformers_model_is(plain):
    rows = TaskData(exported().data).rows("test")
    arguments = (load_tokenizer(exported().out), rows, 16, CLASSES, 8, "fp32")
    found, expected = predict(plain, *arguments), predict(network(), *arguments)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert found.answers == expected.answers
    assert plain.device == torch.device("cpu")
    assert plain.config.id2label == {0: "bad", 1: "good", 2: "neither"}
    assert (plain.eval(), plain.train(True), plain.training) == (plain, plain, False)


def test_several_threads_get_their_own_answers(plain):
    batches = [batch(2, length) for length in range(3, 40)]
    expected = [plain(**inputs).logits for inputs in batches]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(lambda inputs: plain(**inputs).logits, batches), expected, strict=True):
            assert torch.equal(found, wanted)


def weights(file):
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(exported().out / file).graph.initializer}


def test_int8_holds_each_weight_within_half_a_step_of_seven_bits():
    whole, cut = weights(PLAIN), weights(INT8)
    products = 0
    for name, scale in cut.items():
        if not name.endswith("_scale") or scale.ndim == 0:
            continue
        steps, turned = cut[name.replace("_scale", "_quantized")], name.endswith("_Transposed_scale")
        original = whole[name.removesuffix("_scale").removesuffix("_Transposed")]
        original = original.T if turned else original
        assert steps.dtype == np.int8
        assert np.abs(steps.astype(int)).max() <= 64
        assert (np.abs(steps * scale - original) <= scale / 2 + 1e-6).all()
        assert scale.shape == (original.shape[1],)
        products += 1
    assert products >= 2 * 6  # four of the attention and two of the feed-forward part, in each layer


def test_int8_includes_the_embeddings():
    assert not [name for name, values in weights(INT8).items() if values.dtype == np.float32 and values.ndim == 2]
    assert {values.dtype for values in weights(INT8).values() if values.shape == (74, 24)} == {np.dtype(np.uint8)}
    assert network().config.vocab_size == 74


def test_int8_answers_nearly_as_torch_does():
    classifier, inputs = OnnxModel(exported().out, INT8, threads=1), batch(64, 12)
    with torch.no_grad():
        expected = network()(**inputs).logits
    found = classifier(**inputs).logits
    assert 0 < (found - expected).abs().mean() < 0.2 * expected.std()
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.85


def test_nothing_of_this_machine_stands_in_the_file():
    proto = onnx.load(exported().out / PLAIN)
    noted = [proto, proto.graph, *proto.graph.node]
    assert not [part for part in noted if part.doc_string or len(part.metadata_props)]
    shapes = [[size.dim_param for size in one.type.tensor_type.shape.dim] for one in proto.graph.input]
    assert shapes == [["batch", "length"]] * 3
    assert str(Path.cwd()).encode() not in (exported().out / PLAIN).read_bytes()


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model\.onnx: onnxruntime .* cannot read it .*export the model again"):
        OnnxModel(tmp_path, "model.onnx")


def test_a_model_too_large_for_one_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_model, "LIMIT", 1000)
    with pytest.raises(ModelError, match=r"set export.onnx and export.int8 to false"):
        export_onnx(network(), CLASSES, ["input_ids"], tmp_path / "model.onnx")


def test_a_missing_extra_is_named_before_anything_runs(monkeypatch):
    check_export(ExportConfig())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript cannot be found: pip install 'tinybert-pipeline\[export\]'"):
        check_export(ExportConfig())
    check_export(ExportConfig(onnx=False, int8=False))


@pytest.mark.parametrize("kind", ["classification", *PER_TOKEN])
def test_an_onnx_model_answers_without_torch_and_transformers(kind):
    pairs = ["a story"] if kind in PAIRED else None
    unwanted = ["torch", "transformers", *(["sklearn"] if kind != "token_classification" else [])]
    program = (
        "import json, sys; from tinybert.serving import Student; "
        f"answers = Student.load({str(exported(kind).out)!r}).answer(['the film'], {pairs}); "
        f"print(json.dumps([answers[0].error, [m for m in {unwanted} if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [None, []]


FAMILIES = {
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SHAPE, embedding_size=16)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**SHAPE)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SHAPE, type_vocab_size=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_exports(family, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    names = list(model_inputs(model, batch(1, 4)))
    export_onnx(model, CLASSES, names, tmp_path / "model.onnx")
    found = OnnxModel(tmp_path, "model.onnx", threads=1)
    assert set(found.inputs) == set(names)
    for rows, length in ((1, 1), (4, 17)):
        inputs = batch(rows, length)
        with torch.no_grad():
            expected = model(**model_inputs(model, inputs)).logits
        torch.testing.assert_close(found(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_same_weights_give_the_same_file(tmp_path):
    names = OnnxModel(exported().out, PLAIN).inputs
    export_onnx(load_model(exported().student, CLASSES), CLASSES, names, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (exported().out / PLAIN).read_bytes()
