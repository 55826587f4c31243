"""Losses between the logits of a student and of a teacher.

Everything here stays in log space: a probability is never rounded before its logarithm is taken,
so that values and gradients are finite wherever the logits are. Half-precision logits are computed
in float32, and nothing waits for the device: only shapes, dtypes and Python numbers are checked.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.losses._checks import check_non_negative, check_positive, check_target, checked_logit_pair
from dotkd.losses._numerics import other_classes, rounding_noise

# The published constant that keeps the z-score of a constant row from dividing by zero.
_STANDARDIZE_EPS = 1e-7


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Knowledge distillation: the student's softened distribution follows the teacher's.

    .. math::
        L = \frac{T^2}{B} \sum_{b=1}^{B} \mathrm{KL}(q_b \,\|\, p_b), \qquad
        p = \mathrm{softmax}(z^S / T), \quad q = \mathrm{softmax}(z^T / T)

    with :math:`z^S` = ``student_logits``, :math:`z^T` = ``teacher_logits``, T = ``temperature`` and
    B the batch size. The factor :math:`T^2` keeps the size of the gradient when T changes. With
    ``standardize`` each row of logits is replaced by its z-score over the classes,
    ``(z - mean) / (std + 1e-7)`` with the unbiased standard deviation, so that only the shape of
    the teacher's distribution is taught, not its sharpness. A row whose classes all agree to
    rounding has no shape: its z-score, and the gradient through it, are zero.

    Gradients flow to both arguments. Detach the teacher, or compute it under ``torch.no_grad``,
    when only the student learns; :class:`dotkd.Distiller` does the latter.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        temperature: T > 0; higher is softer.
        standardize: Use the z-scores of the logits instead of the logits.

    Returns:
        A scalar, at least float32: float16 and bfloat16 logits are computed in float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the temperature is not positive.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> round(kd_loss(student, teacher, temperature=1.0).item(), 4)  # log(2) / 4
        0.1733

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        arXiv 1503.02531, section 2. Standardization: Sun et al., "Logit Standardization in
        Knowledge Distillation", CVPR 2024, arXiv 2403.01427.
    """
    check_positive("temperature", temperature)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    if standardize:
        student, teacher = _standardized(student), _standardized(teacher)
    divergence = _divergence(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
    )
    return divergence * temperature**2


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled knowledge distillation: the target class and the other classes, apart.

    .. math::
        L = \frac{T^2}{B} \sum_{b=1}^{B}
            \alpha \, \mathrm{KL}\big((q_t, 1 - q_t) \,\|\, (p_t, 1 - p_t)\big)
            + \beta \, \mathrm{KL}(\hat q \,\|\, \hat p)

    with p and q the student's and the teacher's softmax at T = ``temperature``, t the class in
    ``target``, and :math:`\hat p, \hat q` the softmax over the C - 1 other classes alone. The first
    term (weight ``alpha``) asks how sure the teacher is of the label, the second (``beta``) how
    it ranks the rest. Plain :func:`kd_loss` is, sample by sample, ``alpha = 1`` and
    ``beta = 1 - q_t``: a sure teacher hardly teaches there, and does here.

    The pair :math:`(p_t, 1 - p_t)` is the softmax of two logits, :math:`z_t / T` and the logsumexp
    of the others, so neither its logarithms nor their gradients can overflow. Gradients flow to
    the logits of both models, as in :func:`kd_loss`.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C). The range is left to ``torch.gather`` to
            enforce: reading the values here would wait for the device.
        alpha: Weight of the target-class term, >= 0.
        beta: Weight of the other classes' term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32: float16 and bfloat16 logits are computed in float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or a weight
            is negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> label = torch.tensor([0])
        >>> round(dkd_loss(student, teacher, label, beta=0.0, temperature=1.0).item(), 4)
        0.1308

    Reference:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022,
        arXiv 2203.08679, section 3.
    """
    check_positive("temperature", temperature)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)

    others = other_classes(target, student.shape[1])
    student_pair, student_others = _decoupled(student / temperature, target, others)
    teacher_pair, teacher_others = _decoupled(teacher / temperature, target, others)
    target_term = _divergence(student_pair, teacher_pair)
    others_term = _divergence(student_others, teacher_others)
    return (alpha * target_term + beta * others_term) * temperature**2


# KL(teacher || student) of log-probabilities [B, K]: summed over classes, averaged over the batch.
def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _standardized(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = logits.std(dim=1, keepdim=True)
    # A head that starts at zero gives constant rows. There the published gradient, of order
    # 1 / 1e-7, is rounding noise made large: such rows are left out.
    return torch.where(deviation <= rounding_noise(logits, 1), 0.0, centred / (deviation + _STANDARDIZE_EPS))


# Log-probabilities of (target, all the others) [B, 2] and among the others [B, C - 1].
def _decoupled(logits: Tensor, target: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    other_logits = logits.gather(1, others)
    target_logit = logits.gather(1, target.unsqueeze(1))
    pair = torch.cat([target_logit, other_logits.logsumexp(dim=1, keepdim=True)], dim=1)
    return functional.log_softmax(pair, dim=1), functional.log_softmax(other_logits, dim=1)
