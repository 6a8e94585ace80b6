"""How students begin, in every family: shapes, exact copies, and cuts held against properties worked out by hand."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    ConvBertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from tinybert.config import MapConfig, StudentConfig
from tinybert.distillation import Projections, StateLearner
from tinybert.errors import ModelError
from tinybert.families import LAYER_MODULES
from tinybert.narrowing import main_directions, narrow, truncated_product
from tinybert.states import transformer_layers
from tinybert.student import build_student, student_config

BERT_SHAPE = {"num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
CONFIGS = {
    "bert": (BertConfig, BERT_SHAPE),
    "roberta": (RobertaConfig, BERT_SHAPE),
    "xlm-roberta": (XLMRobertaConfig, BERT_SHAPE),
    "electra": (ElectraConfig, {**BERT_SHAPE, "embedding_size": 16}),
    "electra, narrow embeddings": (ElectraConfig, {**BERT_SHAPE, "embedding_size": 12}),
    "distilbert": (DistilBertConfig, {"n_layers": 4, "dim": 16, "hidden_dim": 24, "n_heads": 2}),
    "mpnet": (MPNetConfig, BERT_SHAPE),
}
IDS = torch.tensor([[5, 7, 8, 30, 11, 6], [5, 9, 10, 31, 12, 6]])
FAMILIES = pytest.mark.parametrize("family", CONFIGS)


def teacher(family: str, seed: int = 0):
    """A small encoder of a family, in eval mode, whose every parameter is random: biases and norms too."""
    config, shape = CONFIGS[family]
    torch.manual_seed(seed)
    model = AutoModel.from_config(config(vocab_size=40, max_position_embeddings=32, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture
def saved(tmp_path):
    def save(family):
        model = teacher(family)
        model.save_pretrained(tmp_path / "teacher")
        return model, tmp_path / "teacher"

    return save


def shape(hidden=16, ffn=24, start="teacher", heads=2) -> StudentConfig:
    return StudentConfig(layers=2, hidden=hidden, ffn=ffn, heads=heads, start=start)


def states(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True).hidden_states


def test_every_family_with_known_parts_is_tested():
    assert {config.model_type for config, _ in CONFIGS.values()} == set(LAYER_MODULES)


@FAMILIES
def test_shapes_are_the_forms(family):
    own = AutoModel.from_config(student_config(shape(hidden=8, ffn=10), teacher(family).config))
    layers = transformer_layers(own)
    assert len(layers) == 2
    assert {tuple(p.shape) for p in layers[0].parameters()} == {(8, 8), (8,), (10, 8), (10,), (8, 10)}
    assert states(own)[0].shape == (2, 6, 8)


@FAMILIES
def test_equal_widths_are_copied_bit_for_bit(family, saved):
    model, directory = saved(family)
    student, matrix_DS = build_student(shape(), directory, [2, 4], seed=0)
    assert matrix_DS is None
    inside = {id(p) for layer in transformer_layers(student) for p in layer.parameters()}
    source = dict(model.named_parameters())
    outside = [(name, p) for name, p in student.named_parameters() if id(p) not in inside]
    assert len(outside) > 3
    assert all(torch.equal(p, source[name]) for name, p in outside)
    for own, taught in ((0, 1), (1, 3)):
        pairs = zip(
            transformer_layers(student)[own].parameters(), transformer_layers(model)[taught].parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


@FAMILIES
@pytest.mark.parametrize(("hidden", "ffn"), [(8, 10), (12, 24), (16, 10)])
def test_a_narrower_student_saves_loads_and_runs(family, hidden, ffn, saved, tmp_path):
    _, directory = saved(family)
    student, matrix_DS = build_student(shape(hidden, ffn), directory, [2, 4], seed=0)
    student.eval().save_pretrained(tmp_path / "student")
    loaded = AutoModel.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(states(loaded)[-1], states(student)[-1], rtol=0, atol=0)
    assert states(loaded)[-1].shape == (2, 6, hidden)
    assert (matrix_DS is None) == (hidden == 16)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in student.parameters())


@FAMILIES
def test_a_narrower_ffn_alone_leaves_all_else_as_it_is(family, saved):
    model, directory = saved(family)
    student, _ = build_student(shape(ffn=10), directory, [1, 3], seed=0)
    names = LAYER_MODULES[model.config.model_type]
    own, taught = transformer_layers(student)[1], transformer_layers(model)[2]
    for name, tensor in own.state_dict().items():
        if not name.startswith((f"{names.ffn_in}.", f"{names.ffn_out}.")):
            assert torch.equal(tensor, taught.state_dict()[name])
    into, out = taught.get_submodule(names.ffn_in), taught.get_submodule(names.ffn_out)
    sizes = [
        np.sqrt(sum(w * w for w in row) + bias * bias) * np.linalg.norm(column)
        for row, bias, column in zip(into.weight.tolist(), into.bias.tolist(), out.weight.T.tolist(), strict=True)
    ]
    kept = sorted(sorted(range(24), key=lambda neuron: -sizes[neuron])[:10])
    assert torch.equal(own.get_submodule(names.ffn_in).weight, into.weight[kept])
    assert torch.equal(own.get_submodule(names.ffn_in).bias, into.bias[kept])
    assert torch.equal(own.get_submodule(names.ffn_out).weight, out.weight[:, kept])
    assert torch.equal(own.get_submodule(names.ffn_out).bias, out.bias)


def turn(width: int, seed: int) -> torch.Tensor:
    """A random orthogonal matrix that keeps (1, ..., 1), so that a norm's centring does not notice the turn."""
    random = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(width, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, random[:, 1:]], dim=1)).Q
    inner = torch.linalg.qr(random[1:, 1:]).Q
    return basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), inner) @ basis.T


@FAMILIES
def test_at_full_rank_every_state_is_the_teachers_turned(family):
    model, turn_DD = teacher(family), turn(16, seed=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(0.7)
    student = AutoModel.from_config(model.config).eval()
    narrow(student, model, [1, 2, 3, 4], turn_DD)
    for own, taught in zip(states(student), states(model), strict=True):
        torch.testing.assert_close(own, taught @ turn_DD.float(), rtol=1e-4, atol=1e-4)


def test_electras_narrow_embeddings_grow_into_a_student_of_their_width():
    model = teacher("electra, narrow embeddings")
    turn_DD = turn(16, seed=2)[:, :12]
    with torch.no_grad():
        model.embeddings.LayerNorm.weight.fill_(0.7)
        # The projection writes the embeddings into 12 of the 16 directions, enlarged by 3.
        model.embeddings_project.weight.copy_(3 * turn_DD @ turn(12, seed=3))
    student = AutoModel.from_config(student_config(shape(hidden=12), model.config)).eval()
    assert not hasattr(student, "embeddings_project")
    narrow(student, model, [2, 4], turn_DD)
    torch.testing.assert_close(states(student)[0], states(model)[0] @ turn_DD.float(), rtol=1e-4, atol=1e-4)


def affine(layer, name):
    linear = layer.get_submodule(name)
    return np.concatenate([linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()[:, None]], 1)


@FAMILIES
def test_scores_are_the_best_of_their_rank(family, saved):
    model, directory = saved(family)
    student, matrix_DS = build_student(shape(hidden=8), directory, [2, 4], seed=0)
    names = LAYER_MODULES[model.config.model_type]
    own, taught = transformer_layers(student)[0], transformer_layers(model)[1]
    reading = np.zeros((17, 9))
    reading[:16, :8], reading[16, 8] = matrix_DS.double().numpy(), 1
    for head in range(2):
        wide, slim = slice(8 * head, 8 * head + 8), slice(4 * head, 4 * head + 4)
        form = affine(taught, names.query)[wide].T @ affine(taught, names.key)[wide] / np.sqrt(8)
        u, sizes, vh = np.linalg.svd(reading.T @ form @ reading)
        best = (u[:, :4] * sizes[:4]) @ vh[:4]
        found = affine(own, names.query)[slim].T @ affine(own, names.key)[slim] / np.sqrt(4)
        np.testing.assert_allclose(found, best, atol=1e-5)


@FAMILIES
def test_values_are_the_best_of_their_rank_and_their_bias_arrives(family, saved):
    model, directory = saved(family)
    student, matrix_DS = build_student(shape(hidden=8), directory, [2, 4], seed=0)
    names = LAYER_MODULES[model.config.model_type]
    own, taught = transformer_layers(student)[1], transformer_layers(model)[3]
    basis = matrix_DS.double().numpy()
    out, value = affine(taught, names.attention_out), affine(taught, names.value)
    own_out, own_value = affine(own, names.attention_out), affine(own, names.value)
    for head in range(2):
        wide, slim = slice(8 * head, 8 * head + 8), slice(4 * head, 4 * head + 4)
        u, sizes, vh = np.linalg.svd(basis.T @ out[:, wide] @ value[wide, :16] @ basis)
        best = (u[:, :4] * sizes[:4]) @ vh[:4]
        np.testing.assert_allclose(own_out[:, slim] @ own_value[slim, :8], best, atol=1e-5)
    arriving = basis.T @ (out[:, :16] @ value[:, 16] + out[:, 16])
    np.testing.assert_allclose(own_out[:, :8] @ own_value[:, 8] + own_out[:, 8], arriving, atol=1e-5)


def test_a_product_of_low_rank_is_kept_whole():
    torch.manual_seed(0)
    left, right = torch.randn(3, 7, 2).double(), torch.randn(3, 2, 5).double()
    product = left @ right
    a, b = truncated_product(torch.cat([left, left], 2), torch.cat([right, -0.5 * right], 1), rank=2)
    torch.testing.assert_close(a @ b, 0.5 * product)
    torch.testing.assert_close(a.square().sum(dim=1), b.square().sum(dim=2))  # factors of equal size


def test_directions_are_those_of_numpys_svd():
    model = teacher("bert")
    basis_DS = main_directions(model, [0, 2, 4], 5, IDS).numpy()
    rows = torch.cat([states(model)[layer].flatten(0, 1) for layer in (0, 2, 4)]).double().numpy()
    vh = np.linalg.svd(rows)[2][:5]
    np.testing.assert_allclose(basis_DS @ basis_DS.T, vh.T @ vh, atol=1e-6)
    np.testing.assert_allclose(basis_DS.T @ basis_DS, np.eye(5), atol=1e-12)


@FAMILIES
def test_a_cut_student_begins_nearer_to_its_teacher_than_a_random_one(family, saved):
    model, directory = saved(family)
    losses = {}
    for start in ("random", "teacher"):
        student, matrix_DS = build_student(shape(hidden=12, start=start), directory, [1, 2], seed=0, text_BL=IDS)
        learner = StateLearner(student.eval(), model, [1, 2], MapConfig())
        learner.projections.begin(matrix_DS)
        with torch.no_grad():
            losses[start] = learner(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    assert losses["teacher"]["embedding_loss"] < 0.2 * losses["random"]["embedding_loss"]
    assert losses["teacher"]["hidden_loss"] < 0.5 * losses["random"]["hidden_loss"]
    assert losses["teacher"]["attention_loss"] < 0.8 * losses["random"]["attention_loss"]


@pytest.mark.parametrize(("kind", "matrices"), [("per_layer", 3), ("shared", 1)])
def test_projections_begin_with_the_directions(kind, matrices):
    projections = Projections(2, 3, layers=2, kind=kind)
    before = [linear.weight.clone() for linear in projections.matrices]
    projections.begin(None)
    assert all(torch.equal(linear.weight, old) for linear, old in zip(projections.matrices, before, strict=True))
    matrix_DS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    projections.begin(matrix_DS)
    assert len(projections.matrices) == matrices
    assert projections(torch.tensor([[[1.0, 1.0]]]), 2).tolist() == [[[1.0, 2.0, 3.0]]]


@pytest.mark.parametrize("start", ["random", "teacher"])
def test_a_seed_gives_one_student(start, saved):
    _, directory = saved("bert")
    first, again, other = (build_student(shape(8, 10, start), directory, [2, 4], seed=s)[0] for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embeddings.word_embeddings.weight, other.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 18}, "student.hidden: found 18; .* at most the teacher's 16 .*set student.start to random"),
        ({"ffn": 25}, "student.ffn: found 25; .* at most the teacher's 24"),
        ({"heads": 4}, "student.heads: found 4; .* the teacher's 2"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(change, message, saved):
    _, directory = saved("distilbert")
    with pytest.raises(ModelError, match=message):
        build_student(shape(**change), directory, [2, 4], seed=0)
    student, _ = build_student(shape(**change, start="random"), directory, [2, 4], seed=0)
    assert states(student)[-1].shape == (2, 6, change.get("hidden", 16))


def test_an_unlisted_family_is_copied_but_not_cut(tmp_path):
    config = ConvBertConfig(vocab_size=40, max_position_embeddings=32, embedding_size=16, head_ratio=1, **BERT_SHAPE)
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] not in LAYER_MODULES
    student, _ = build_student(shape(), tmp_path, [2, 4], seed=0)
    pairs = zip(transformer_layers(student)[0].parameters(), transformer_layers(model)[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ModelError, match=r"student.hidden: found 8; .* a convbert it can only copy"):
        build_student(shape(hidden=8), tmp_path, [2, 4], seed=0)
