"""Losses on logits that need the label: normalised distillation, and two that need no teacher.

Everything stays in log space, so that values and gradients are finite wherever the logits are.
Half-precision logits are computed in float32, and nothing waits for the device.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.losses._checks import (
    check_non_negative,
    check_positive,
    check_target,
    checked_logit_pair,
    checked_logits,
)
from dotkd.losses._numerics import other_classes


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    r"""Normalised knowledge distillation: the label as sure as the teacher is, the rest in its order.

    .. math::
        L = -\frac{1}{B} \sum_{b=1}^{B} \Big[ q_t \log p_t
            + \gamma \, T^2 \sum_{k \neq t} \hat q_k \log \hat p_k \Big]

    with t the class in ``target``, p and q the softmax of ``student_logits`` and ``teacher_logits``
    at temperature 1, and :math:`\hat p, \hat q` the softmax at T = ``temperature`` over the C - 1
    other classes alone, each summing to 1. It is the distilled part of the method: training adds the
    cross entropy with the label.

    Both terms are cross entropies, not divergences: equal logits do not make the loss zero. What is
    least is the second term, where :math:`\hat p = \hat q`; the first pulls towards the label
    always. Gradients flow to both arguments, also through :math:`q_t` and :math:`\hat q`, which the
    method holds constant: detach the teacher when only the student learns.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C), of which ``torch.gather`` enforces the range.
        gamma: Weight of the other classes' term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or gamma is
            negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> label = torch.tensor([0])
        >>> round(nkd_loss(student, teacher, label).item(), 4)  # (1/4 + 3/2) log(2)
        1.213

    Reference:
        Yang, Zeng, Li, Zhang, Yuan and Li, "From Knowledge Distillation to Self-Knowledge
        Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels", ICCV 2023,
        arXiv 2303.13005, section 3.1; the factor T^2 as in the published code.
    """
    check_positive("temperature", temperature)
    check_non_negative("gamma", gamma)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)

    label = target.unsqueeze(1)
    sureness = functional.softmax(teacher, dim=1).gather(1, label)
    target_term = -(sureness * functional.log_softmax(student, dim=1).gather(1, label)).mean()

    others = other_classes(target, student.shape[1])
    ours = functional.log_softmax(student.gather(1, others) / temperature, dim=1)
    theirs = functional.softmax(teacher.gather(1, others) / temperature, dim=1)
    others_term = -(theirs * ours).sum(dim=1).mean()
    return target_term + gamma * temperature**2 * others_term


def label_smoothing_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.1) -> Tensor:
    r"""Cross entropy with a label that leaves a little to every class. There is no teacher.

    .. math::
        L = -\frac{1}{B} \sum_{b=1}^{B} \Big[ (1 - \epsilon) \log p_t
            + \frac{\epsilon}{C} \sum_{k=1}^{C} \log p_k \Big]

    with p the softmax of ``logits``, t the class in ``target`` and :math:`\epsilon` =
    ``smoothing``, of which the label's class gets its share too. It is what a teacher is to be
    compared with that says nothing about the classes.

    Args:
        logits: ``[B, C]``, floating point, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C), of which ``torch.gather`` enforces the range.
        smoothing: In [0, 1); 0 is plain cross entropy.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or ``smoothing`` lies outside [0, 1).

    Example:
        >>> logits = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> loss = label_smoothing_loss(logits, torch.tensor([0]), smoothing=0.3)
        >>> round(loss.item(), 4)  # (0.8 + 0.1 * 2 + 0.1 * 2) log(2)
        0.8318

    Reference:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for
        Computer Vision", CVPR 2016, arXiv 1512.00567, section 7.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    # Not through torch's own, which passes over the label -100 in silence.
    log_probabilities = functional.log_softmax(logits, dim=1)
    of_label = log_probabilities.gather(1, target.unsqueeze(1)).mean()
    return -(1 - smoothing) * of_label - smoothing * log_probabilities.mean()


def teacher_free_kd_loss(
    logits: Tensor, target: Tensor, *, correct_probability: float = 0.99, temperature: float = 20.0
) -> Tensor:
    r"""Teacher-free distillation: a made-up teacher that is right about every label.

    .. math::
        L = \frac{1}{B} \sum_{b=1}^{B} \mathrm{KL}(q_b \,\|\, p_b), \qquad
        q = \mathrm{softmax}(u / T), \qquad
        u_k = \begin{cases} a & k = t \\ (1 - a) / (C - 1) & k \neq t \end{cases}

    with p the softmax of ``logits``, t the class in ``target``, a = ``correct_probability`` and T =
    ``temperature``. The made-up teacher's output u is softened; the student's is not.

    Args:
        logits: ``[B, C]``, floating point, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C), of which ``torch.scatter`` enforces the range.
        correct_probability: a, above 1 / C and at most 1; the paper takes 0.9 and more.
        temperature: T > 0; the paper takes 20 and more.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or an option is out of range.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5]]).log()
        >>> unit_step = dict(correct_probability=1.0, temperature=1.0)  # q = (e, 1) / (e + 1)
        >>> round(teacher_free_kd_loss(logits, torch.tensor([0]), **unit_step).item(), 4)
        0.1109

    Reference:
        Yuan, Tay, Li, Wang and Feng, "Revisiting Knowledge Distillation via Label Smoothing
        Regularization", CVPR 2020, arXiv 1909.11723, section 4, the variant Tf-KD_reg. Where the
        published code and equation 9 differ (the equation softens the student too), this is the
        code; it averages over the classes as well, so its multiplier of 100 on CIFAR-100 is 1 here.
    """
    check_positive("temperature", temperature)
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    num_classes = logits.shape[1]
    if not 1 / num_classes < correct_probability <= 1:
        raise ValueError(
            f"correct_probability must lie above 1 / C = {1 / num_classes:g} and be at most 1, "
            f"got {correct_probability}"
        )
    rest = (1 - correct_probability) / (num_classes - 1)
    taught = torch.full_like(logits, rest).scatter(1, target.unsqueeze(1), correct_probability)
    return functional.kl_div(
        functional.log_softmax(logits, dim=1),
        functional.log_softmax(taught / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
