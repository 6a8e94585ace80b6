"""The distillation losses of TinyBERT (arXiv:1909.10351), each a pure function of tensors.

Every loss is a mean over examples of a mean inside the example, so it changes neither with padding nor with
the company an example has in its batch, and the mean over equal slices of a batch is the loss of the batch.

Shapes: B batch, L length, H heads, D width, C classes. Masks are 1 for real tokens, 0 for padding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tinybert.errors import ShapeError


def attention_loss(student_BHLL: Tensor, teacher_BHLL: Tensor, mask_BL: Tensor) -> Tensor:
    """Distance between attention scores, averaged over heads and pairs of real tokens (eq. 7).

        L_attn = 1/h * sum_i MSE(A_i^S, A_i^T),    A = QK^T / sqrt(d), before softmax

    Args:
        student_BHLL: Scores of one student layer.
        teacher_BHLL: Scores of the teacher layer it is mapped to.
        mask_BL: 1 for real tokens, 0 for padding.

    Returns:
        A scalar that does not change when padding is added. The reference code divides by all
        L*L pairs instead, padding included; see docs/fidelity.md.

    Raises:
        ShapeError: The two layers differ in heads or length, or the mask in size.
    """
    _check(student_BHLL, teacher_BHLL, "attention scores (batch, heads, length, length)")
    _check_mask(mask_BL, student_BHLL.shape[0], student_BHLL.shape[-1])
    mask_BL = mask_BL.to(torch.float32)
    pairs_BLL = mask_BL[:, :, None] * mask_BL[:, None, :]
    square_BLL = (student_BHLL.float() - teacher_BHLL.float()).square().mean(dim=1)
    return (_masked_sum(square_BLL, pairs_BLL) / pairs_BLL.sum(dim=(1, 2)).clamp(min=1)).mean()


def hidden_loss(student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Distance between hidden states or embeddings, averaged over real tokens and width (eqs. 8 and 9).

        L_hidn = MSE(H^S W_h, H^T),    L_embd = MSE(E^S W_e, E^T)

    Args:
        student_BLD: Student states, already projected to the teacher's width.
        teacher_BLD: Teacher states.
        mask_BL: 1 for real tokens, 0 for padding.

    Returns:
        A scalar.

    Raises:
        ShapeError: The states differ in shape (a projection is missing), or the mask in size.
    """
    _check(student_BLD, teacher_BLD, "hidden states (batch, length, width)")
    _check_mask(mask_BL, *student_BLD.shape[:2])
    mask_BL = mask_BL.to(torch.float32)
    square_BL = (student_BLD.float() - teacher_BLD.float()).square().mean(dim=2)
    return (_masked_sum(square_BL, mask_BL) / mask_BL.sum(dim=1).clamp(min=1)).mean()


def soft_cross_entropy(student_BC: Tensor, teacher_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of the student's predictions under the teacher's, both softened (eq. 10).

        L_pred = t^2 * mean_b -sum_c softmax(z^T / t)_c * log_softmax(z^S / t)_c

    The mean is over the batch alone; the reference code also divides by the number of classes, so
    that its loss vanishes with many. t^2 keeps the gradient's size when t is raised
    (Hinton et al., arXiv:1503.02531); the paper's t = 1 makes it 1.

    Args:
        student_BC: Student logits.
        teacher_BC: Teacher logits.
        temperature: t, above 0.

    Returns:
        A scalar.

    Raises:
        ShapeError: The logits differ in shape.
    """
    _check(student_BC, teacher_BC, "logits (batch, classes)")
    target_BC = F.softmax(teacher_BC.float() / temperature, dim=-1)
    log_BC = F.log_softmax(student_BC.float() / temperature, dim=-1)
    return -(target_BC * log_BC).sum(dim=-1).mean() * temperature**2


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of each example's unmasked values; what is masked may be anything, infinities included."""
    return torch.where(mask > 0, values, 0.0).flatten(1).sum(dim=1)


def _check(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(f"{what}: student has {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def _check_mask(mask_BL: Tensor, batch: int, length: int) -> None:
    if mask_BL.shape != (batch, length):
        raise ShapeError(f"mask (batch, length): expected {(batch, length)}, found {tuple(mask_BL.shape)}")
