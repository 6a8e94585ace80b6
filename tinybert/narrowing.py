"""Cutting a narrower student out of a teacher: its states' main directions, and truncated SVD of its attention.

A student state stands for a teacher state: h_S = h_T P, and h_T is about h_S P^T, where the columns of P (D, S) are
the orthonormal directions in which most of the teacher's states lie. Every matrix that reads or writes states is
expressed in these directions. docs/decisions/0006-narrower-students-by-svd.md tells why it is done so.

Shapes: B batch, L length, D and E widths of the teacher's states and embeddings, S width of the student's,
V rows of a table, N neurons of the feed-forward part, H heads, d width of a teacher's head, r of a student's, A and C
any; an affine map (out, in + 1) carries its bias in the last column.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tinybert.families import LAYER_MODULES, LayerModules
from tinybert.states import transformer_layers

M = TypeVar("M", bound=nn.Module)


def main_directions(teacher: PreTrainedModel, layers: list[int], width: int, ids_BL: Tensor) -> Tensor:
    """P (D, S): the first right singular vectors of the teacher's states, one state a row.

    Args:
        teacher: Encoder, in eval mode.
        layers: Whose states count; 0 is the embedding.
        width: S, how many directions.
        ids_BL: What the teacher reads, without padding.

    Returns:
        Orthonormal columns in fp64.
    """
    with torch.no_grad():
        states = teacher(input_ids=ids_BL, output_hidden_states=True).hidden_states
    gram_DD = sum(states[layer].double().flatten(0, 1).T @ states[layer].double().flatten(0, 1) for layer in layers)
    directions_DD: Tensor = torch.linalg.eigh(gram_DD).eigenvectors  # the SVD's, without decomposing all the states
    return directions_DD.flip(-1)[:, :width]


def truncated_product(left_HAd: Tensor, right_HdC: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (H, A, r) and (H, r, C) of the best approximation of rank r to `left @ right`, of equal size.

    The truncated SVD of the products, by way of QR: a product of rank d is decomposed as a (d, d) matrix.
    """
    left_q, left_r = torch.linalg.qr(left_HAd)
    right_q, right_r = torch.linalg.qr(right_HdC.mT)
    u, sizes_Hd, vh = torch.linalg.svd(left_r @ right_r.mT)
    root_Hr = sizes_Hd[:, :rank].sqrt()
    return (left_q @ u[:, :, :rank]) * root_Hr[:, None, :], root_Hr[:, :, None] * (vh[:, :rank] @ right_q.mT)


@torch.no_grad()
def narrow(student: PreTrainedModel, teacher: PreTrainedModel, mapped: list[int], basis_DS: Tensor) -> None:
    """Give a student narrower than its teacher the teacher's weights in the directions P.

    Student layer m is cut out of teacher layer g(m). Outside of layers and embeddings, what has the teacher's shape
    (MPNet's position bias) is copied; what has not (the pooler, whose tanh turns with no directions) is left.

    Args:
        student: Encoder of the teacher's family and heads; written to.
        teacher: Encoder of a family in `LAYER_MODULES`.
        mapped: g(1..M), teacher layers from 1.
        basis_DS: P, in fp64.
    """
    modules, heads = LAYER_MODULES[teacher.config.model_type], teacher.config.num_attention_heads
    copy_outside(student, teacher)
    _narrow_embeddings(student, teacher, basis_DS)
    stack = transformer_layers(teacher)
    for own, number in zip(transformer_layers(student), mapped, strict=True):
        taught = stack[number - 1]
        _narrow_scores(own, taught, modules, heads, basis_DS)
        _narrow_values(own, taught, modules, heads, basis_DS)
        narrow_ffn(own, taught, modules, basis_DS)
        for name in (modules.attention_norm, modules.ffn_norm):
            _narrow_norm(own, taught, name, basis_DS)


@torch.no_grad()
def copy_outside(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Copy all that lies outside the layers and has one shape in both."""
    inside = {id(parameter) for layer in transformer_layers(student) for parameter in layer.parameters()}
    source = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if id(parameter) not in inside and name in source and source[name].shape == parameter.shape:
            parameter.copy_(source[name])


@torch.no_grad()
def narrow_ffn(student: nn.Module, teacher: nn.Module, modules: LayerModules, basis_DS: Tensor) -> None:
    """Keep a layer's strongest neurons, in their order: those with the largest product of norms, in and out."""
    into_NS = _reading(teacher, modules.ffn_in, basis_DS)
    from_SN = _writing(teacher, modules.ffn_out, basis_DS)
    strength_N = into_NS.norm(dim=1) * from_SN[:, :-1].norm(dim=0)
    kept = strength_N.topk(_part(student, modules.ffn_in, nn.Linear).out_features).indices.sort().values
    _put(student, modules.ffn_in, into_NS[kept])
    _put(student, modules.ffn_out, torch.cat([from_SN[:, kept], from_SN[:, -1:]], dim=1))


def _narrow_embeddings(student: PreTrainedModel, teacher: PreTrainedModel, basis_DS: Tensor) -> None:
    """Every table (V, E) -> (table - row mean) diag(gamma) P; ELECTRA's projection to the states' width is cut.

    Gamma is exact in front of the norm's division, so the tables take it in. The norm's own weight is then one
    number, which keeps the mean square of the word embeddings.
    """
    if hasattr(student, "embeddings_project"):
        _put(student, "embeddings_project", _writing(teacher, "embeddings_project", basis_DS))
        return
    states_ES, shift_S = basis_DS, torch.zeros_like(basis_DS[0])
    if hasattr(teacher, "embeddings_project"):
        written_SE = _writing(teacher, "embeddings_project", basis_DS)
        states_ES, shift_S = written_SE[:, :-1].T, written_SE[:, -1]
    norm, own_norm = teacher.embeddings.LayerNorm, student.embeddings.LayerNorm
    scaled_ES = norm.weight.double()[:, None] * states_ES
    for name, table in teacher.embeddings.named_children():
        if isinstance(table, nn.Embedding):
            rows_VE = table.weight.double()
            centred_VE = rows_VE - rows_VE.mean(dim=1, keepdim=True)
            _part(student.embeddings, name, nn.Embedding).weight.copy_(centred_VE @ scaled_ES)
    words_VE = teacher.embeddings.word_embeddings.weight.double()
    own_norm.weight.fill_((F.layer_norm(words_VE, words_VE.shape[1:], eps=norm.eps) @ scaled_ES).square().mean().sqrt())
    own_norm.bias.copy_(norm.bias.double() @ states_ES + shift_S)


def _narrow_scores(student: nn.Module, teacher: nn.Module, modules: LayerModules, heads: int, basis_DS: Tensor) -> None:
    """Queries and keys whose scores q k / sqrt(r) are the best approximation of the teacher's q k / sqrt(d)."""
    query_HdS, key_HdS = (
        _reading(teacher, name, basis_DS).unflatten(0, (heads, -1)) for name in (modules.query, modules.key)
    )
    rank = basis_DS.shape[1] // heads
    query_HSr, key_HrS = truncated_product(query_HdS.mT * (rank / query_HdS.shape[1]) ** 0.5, key_HdS, rank)
    _put(student, modules.query, query_HSr.mT.flatten(0, 1))
    _put(student, modules.key, key_HrS.flatten(0, 1))


def _narrow_values(student: nn.Module, teacher: nn.Module, modules: LayerModules, heads: int, basis_DS: Tensor) -> None:
    """Values and output whose product is the best approximation of each head's.

    A head's weights sum to 1, so the value's bias arrives at the output as it is, and moves into the output's.
    """
    value_DS = _reading(teacher, modules.value, basis_DS)
    out_SD = _writing(teacher, modules.attention_out, basis_DS)
    out_HSd = out_SD[:, :-1].unflatten(1, (heads, -1)).movedim(1, 0)
    value_HdS = value_DS[:, :-1].unflatten(0, (heads, -1))
    out_HSr, value_HrS = truncated_product(out_HSd, value_HdS, basis_DS.shape[1] // heads)
    bias_S = out_SD[:, -1] + out_SD[:, :-1] @ value_DS[:, -1]
    _put(student, modules.value, F.pad(value_HrS.flatten(0, 1), (0, 1)))
    _put(student, modules.attention_out, torch.cat([out_HSr.movedim(0, 1).flatten(1), bias_S[:, None]], dim=1))


def _narrow_norm(student: nn.Module, teacher: nn.Module, name: str, basis_DS: Tensor) -> None:
    """beta P, and the diagonal of P^T diag(gamma) P, the nearest that a norm can hold."""
    own, taught = _part(student, name, nn.LayerNorm), _part(teacher, name, nn.LayerNorm)
    own.weight.copy_(taught.weight.double() @ basis_DS.square())
    own.bias.copy_(taught.bias.double() @ basis_DS)


def _part(module: nn.Module, name: str, kind: type[M]) -> M:
    part = module.get_submodule(name)
    assert isinstance(part, kind), f"{name}: {type(part).__name__}"
    return part


def _reading(layer: nn.Module, name: str, basis_DS: Tensor) -> Tensor:
    """An affine map (A, S + 1) that reads student states as the named one reads the teacher's."""
    linear = _part(layer, name, nn.Linear)
    return torch.cat([linear.weight.double() @ basis_DS, linear.bias.double()[:, None]], dim=1)


def _writing(layer: nn.Module, name: str, basis_DS: Tensor) -> Tensor:
    """An affine map (S, A + 1) that writes student states where the named one writes the teacher's."""
    linear = _part(layer, name, nn.Linear)
    return basis_DS.T @ torch.cat([linear.weight, linear.bias[:, None]], dim=1).double()


def _put(layer: nn.Module, name: str, affine: Tensor) -> None:
    linear = _part(layer, name, nn.Linear)
    linear.weight.copy_(affine[:, :-1])
    linear.bias.copy_(affine[:, -1])
