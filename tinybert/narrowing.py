"""Cutting a narrower student out of a teacher: its states' main directions, and truncated SVD of its attention.

A student state stands for a teacher state: h_S = h_T P, and h_T is about h_S P^T, where the columns of P (D, S) are
the orthonormal directions in which most of the teacher's states lie. Every matrix that reads or writes states is
expressed in these directions. docs/decisions/0006-narrower-students-by-svd.md tells why it is done so.

Shapes: B batch, L length, D and E widths of the teacher's states and embeddings, S width of the student's,
F neurons of the feed-forward part, H heads, d width of a teacher's head, r of a student's, A and C any.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinybert.families import LAYER_MODULES, LayerModules
from tinybert.states import transformer_layers


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
    directions_DD = torch.linalg.eigh(gram_DD).eigenvectors  # the SVD's, without a decomposition of all states
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
    """Give a narrower student what the teacher's weights are in the directions P.

    Student layer m is cut out of teacher layer g(m). Outside of the layers and embeddings, what has the teacher's
    shape (MPNet's position bias) is copied, and what has not (the pooler, whose tanh has no directions) stays.
    """
    _narrow_embeddings(student, teacher, basis_DS)
    taught = {name: tensor for name, tensor in teacher.named_parameters() if not name.startswith("embeddings")}
    layers = {id(p) for layer in transformer_layers(student) for p in layer.parameters()}
    for name, parameter in student.named_parameters():
        if id(parameter) not in layers and name in taught and parameter.shape == taught[name].shape:
            parameter.copy_(taught[name])
    modules, heads = LAYER_MODULES[teacher.config.model_type], teacher.config.num_attention_heads
    stack = transformer_layers(teacher)
    for own, number in zip(transformer_layers(student), mapped, strict=True):
        _narrow_attention(own, stack[number - 1], modules, heads, basis_DS)
        narrow_ffn(own, stack[number - 1], modules, basis_DS)
        for norm in (modules.attention_norm, modules.ffn_norm):
            _narrow_norm(own.get_submodule(norm), stack[number - 1].get_submodule(norm), basis_DS)


def _narrow_embeddings(student: PreTrainedModel, teacher: PreTrainedModel, basis_DS: Tensor) -> None:
    """E (T, E) -> (E - row mean) diag(gamma) P for every table; ELECTRA's projection to the states' width is cut.

    The norm's gamma has no place of its own in the directions P, but in front of the norm's division it has: in the
    tables. The norm's weight is then one number, which keeps the mean square of the states.
    """
    projection = getattr(teacher, "embeddings_project", None)
    if hasattr(student, "embeddings_project"):
        student.embeddings.load_state_dict(teacher.embeddings.state_dict())
        _put(student.embeddings_project, basis_DS.T @ _affine(projection))
        return
    norm, own_norm = teacher.embeddings.LayerNorm, student.embeddings.LayerNorm
    written_ES, bias_S = basis_DS, norm.bias.double() @ basis_DS
    if projection is not None:
        written_ES = projection.weight.double().T @ basis_DS
        bias_S = norm.bias.double() @ written_ES + projection.bias.double() @ basis_DS
    written_ES = norm.weight.double()[:, None] * written_ES
    for name, table in teacher.embeddings.named_children():
        if isinstance(table, nn.Embedding):
            rows = table.weight.double()
            student.embeddings.get_submodule(name).weight.copy_((rows - rows.mean(dim=1, keepdim=True)) @ written_ES)
    own_norm.bias.copy_(bias_S)
