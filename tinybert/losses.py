"""The distillation losses of TinyBERT (arXiv:1909.10351) and MiniLMv2 (arXiv:2012.15828), pure functions of tensors.

Every loss is a mean over examples of a mean inside the example, so it changes neither with padding nor with
the company an example has in its batch, and the mean over equal slices of a batch is the loss of the batch. Only
`token_soft_cross_entropy` is a mean over the tokens of a batch: every word counts the same, as in training on labels.

Shapes: B batch, L length, H heads, D width, C classes; in relations P parts (query, key, value), E the teacher's
width, R relation heads, d width of one. Masks are 1 for real tokens, 0 for padding.
"""

import math

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
    square_BLL = F.mse_loss(student_BHLL.float(), teacher_BHLL.float(), reduction="none").mean(dim=1)
    return (_masked_sum(square_BLL, pairs_BLL) / pairs_BLL.sum(dim=(1, 2)).clamp(min=1)).mean()


def relation_loss(student_BPLD: Tensor, teacher_BPLE: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    """Divergence of the relations between tokens, which compares models of different heads (MiniLMv2).

        L_rel = sum_p 1/(R |x|) sum_r sum_t KL(R_prt^T || R_prt^S),    R_pr = softmax(A_pr A_pr^T / sqrt(d))

    A_pr is relation head r of p, the queries, keys or values: their heads side by side, cut anew into R heads of
    width d. So widths and heads of the two models may differ. Softmax and divergence are computed in fp32, the
    products under autocast in its precision.

    Args:
        student_BPLD: Queries, keys and values of one student layer, heads side by side.
        teacher_BPLE: The same of the teacher layer it is mapped to.
        mask_BL: 1 for real tokens, 0 for padding, which relates to nothing.
        heads: R, a divisor of both widths.

    Returns:
        A scalar: mean over relation heads and real tokens of an example, sum over p, mean over examples.

    Raises:
        ShapeError: The two differ in more than width, a width is no multiple of `heads`, or the mask differs in size.
    """
    _check(
        student_BPLD[..., 0], teacher_BPLE[..., 0], "queries, keys, values without their width (batch, part, length)"
    )
    _check_mask(mask_BL, student_BPLD.shape[0], student_BPLD.shape[2])
    log_student_BPRLL = _log_relations(student_BPLD, heads, mask_BL)
    log_teacher_BPRLL = _log_relations(teacher_BPLE, heads, mask_BL)
    divergence_BPRLL = F.kl_div(log_student_BPRLL, log_teacher_BPRLL, reduction="none", log_target=True)
    divergence_BL = divergence_BPRLL.sum(dim=-1).mean(dim=2).sum(dim=1)
    return (_masked_sum(divergence_BL, mask_BL) / mask_BL.sum(dim=1).clamp(min=1)).mean()


def _log_relations(states_BPLD: Tensor, heads: int, mask_BL: Tensor) -> Tensor:
    """log R of one model; what stands in padding reaches neither values nor gradients."""
    width = states_BPLD.shape[-1]
    if width % heads:
        raise ShapeError(f"relation heads: found {heads}, which does not divide the width {width}")
    real_BL = mask_BL > 0
    states_BPLD = torch.where(real_BL[:, None, :, None], states_BPLD.float(), 0.0)
    states_BPRLd = states_BPLD.unflatten(-1, (heads, -1)).transpose(2, 3)
    scores_BPRLL = (states_BPRLd / math.sqrt(width // heads)) @ states_BPRLd.transpose(-1, -2)
    lowest = torch.finfo(torch.float32).min  # not -inf, which a divergence would turn into nan
    masked_BPRLL: Tensor = scores_BPRLL.float().masked_fill(~real_BL[:, None, None, None, :], lowest)
    return masked_BPRLL.log_softmax(dim=-1)


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
    square_BL = F.mse_loss(student_BLD.float(), teacher_BLD.float(), reduction="none").mean(dim=2)
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
    return _soft(student_BC, teacher_BC, temperature).mean()


def binary_soft_cross_entropy(student_BC: Tensor, teacher_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy of yes-or-no predictions, one for each class, under the teacher's, both softened.

        L_pred = t^2 * mean_b -sum_c (p_c log q_c + (1 - p_c) log(1 - q_c)),
        p = sigmoid(z^T / t), q = sigmoid(z^S / t)

    Each class is a distribution of two outcomes, to which eq. 10 is applied. Like there, classes are summed, so that
    what a class weighs does not depend on how many others there are.

    Args:
        student_BC: Student logits of classes of which a row may have any number.
        teacher_BC: Teacher logits.
        temperature: t, above 0.

    Returns:
        A scalar.

    Raises:
        ShapeError: The logits differ in shape.
    """
    _check(student_BC, teacher_BC, "logits (batch, classes)")
    target_BC = torch.sigmoid(teacher_BC.float() / temperature)
    entropy_BC = F.binary_cross_entropy_with_logits(student_BC.float() / temperature, target_BC, reduction="none")
    return entropy_BC.sum(dim=1).mean() * temperature**2


def token_soft_cross_entropy(
    student_BLC: Tensor, teacher_BLC: Tensor, scored_BL: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross entropy of the predictions for tokens under the teacher's, both softened, averaged over scored tokens.

        L_pred = t^2 / |S| * sum_{(b, l) in S} -sum_c softmax(z^T_bl / t)_c * log_softmax(z^S_bl / t)_c

    Args:
        student_BLC: Student logits of each token.
        teacher_BLC: Teacher logits.
        scored_BL: 1 for the tokens of S, the first of each word; 0 for the others and for padding.
        temperature: t, above 0.

    Returns:
        A scalar, a mean over the tokens of the batch; 0 where none is scored.

    Raises:
        ShapeError: The logits differ in shape, or `scored_BL` in size.
    """
    _check(student_BLC, teacher_BLC, "logits (batch, length, classes)")
    _check_mask(scored_BL, *student_BLC.shape[:2])
    scored_BL1 = scored_BL[..., None] > 0
    student_BLC, teacher_BLC = (torch.where(scored_BL1, logits, 0.0) for logits in (student_BLC, teacher_BLC))
    entropy_BL = torch.where(scored_BL > 0, _soft(student_BLC, teacher_BLC, temperature), 0.0)
    return entropy_BL.sum() / scored_BL1.sum().clamp(min=1)


def span_soft_cross_entropy(
    student_BLC: Tensor, teacher_BLC: Tensor, mask_BL: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross entropy of where an answer starts and ends under the teacher's distributions, all softened.

        L_pred = t^2 * mean_b mean_c -sum_l softmax_l(z^T_c / t) * log_softmax_l(z^S_c / t),    c: start, end

    The softmax is over the real tokens of an example, padding has probability 0.

    Args:
        student_BLC: Student logits; the classes are start and end.
        teacher_BLC: Teacher logits.
        mask_BL: 1 for real tokens, 0 for padding.
        temperature: t, above 0.

    Returns:
        A scalar.

    Raises:
        ShapeError: The logits differ in shape, or the mask in size.
    """
    _check(student_BLC, teacher_BLC, "logits (batch, length, start and end)")
    _check_mask(mask_BL, *student_BLC.shape[:2])
    lowest = torch.finfo(torch.float32).min / max(1.0, 1 / temperature)  # finite after the division by t
    student_BCL, teacher_BCL = (
        logits_BLC.float().masked_fill(mask_BL[..., None] <= 0, lowest).transpose(1, 2)
        for logits_BLC in (student_BLC, teacher_BLC)
    )
    return _soft(student_BCL, teacher_BCL, temperature).mean()


def regression_loss(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Squared distance between the outputs of a regression task, which have no softmax to soften.

        L_pred = mean_b mean_c (z^S - z^T)^2

    The teacher is the target, as in every other task; for STS-B the reference code takes the gold labels instead.

    Args:
        student_BC: Student outputs, C of them (1 in STS-B).
        teacher_BC: Teacher outputs.

    Returns:
        A scalar.

    Raises:
        ShapeError: The outputs differ in shape.
    """
    _check(student_BC, teacher_BC, "outputs (batch, numbers)")
    return F.mse_loss(student_BC.float(), teacher_BC.float())


def _soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """t^2 times the cross entropy over the last dimension, for whatever stands in front."""
    target = F.softmax(teacher.float() / temperature, dim=-1)
    log = F.log_softmax(student.float() / temperature, dim=-1)
    return -(target * log).sum(dim=-1) * temperature**2


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of each example's unmasked values; what is masked may be anything, infinities included."""
    return torch.where(mask > 0, values, 0.0).flatten(1).sum(dim=1)


def _check(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(f"{what}: student has {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def _check_mask(mask_BL: Tensor, batch: int, length: int) -> None:
    if mask_BL.shape != (batch, length):
        raise ShapeError(f"mask (batch, length): expected {(batch, length)}, found {tuple(mask_BL.shape)}")
