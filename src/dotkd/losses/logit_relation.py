"""Losses on logits that look beyond the single sample: at relations among classes and in the batch.

Half-precision logits are computed in float32, and nothing waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.losses._checks import check_non_negative, check_positive, checked_logit_pair
from dotkd.losses._numerics import rounding_noise
from dotkd.losses.logit import kd_loss

# The published constant that keeps a correlation with a constant vector from dividing by zero.
_CORRELATION_EPS = 1e-8


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    r"""DIST: the student's predictions correlate with the teacher's, by sample and by class.

    .. math::
        L = T^2 \left[ \frac{\beta}{B} \sum_{b=1}^{B} \big(1 - \rho(p_{b \cdot}, q_{b \cdot})\big)
            + \frac{\gamma}{C} \sum_{c=1}^{C} \big(1 - \rho(p_{\cdot c}, q_{\cdot c})\big) \right],
        \qquad \rho(x, y) = \frac{\tilde x \cdot \tilde y}{\|\tilde x\|_2 \, \|\tilde y\|_2 + 10^{-8}}

    with p and q the softmax of ``student_logits`` and of ``teacher_logits`` at T = ``temperature``,
    B samples, C classes, :math:`\tilde x` = x less its mean, so that :math:`\rho` is Pearson's
    correlation. The first term (``beta``) is the inter-class relation: how a sample's probabilities
    rank the classes; the second (``gamma``) the intra-class relation: how a class's probabilities
    rank the samples of the batch. Scaling or shifting the probabilities of a model, by row in the
    first and by column in the second, changes nothing (but for the 1e-8): the student need not be
    as sure as the teacher.

    A vector that is constant to rounding correlates with nothing, :math:`\rho = 0`, without a
    gradient: a row of a head that starts at zero, or any column in a batch of one sample. Gradients
    flow to both arguments: detach the teacher when only the student learns.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        beta: Weight of the inter-class term, >= 0.
        gamma: Weight of the intra-class term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or a weight is
            negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> round(dist_loss(student, teacher, gamma=0.0).item(), 4)  # correlation -1/2
        1.5

    Reference:
        Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS
        2022, arXiv 2205.10536, section 3; the factor T^2 and the constant as in the published code.
    """
    check_positive("temperature", temperature)
    check_non_negative("beta", beta)
    check_non_negative("gamma", gamma)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    ours, theirs = (functional.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    inter = 1 - _correlations(ours, theirs).mean()
    intra = 1 - _correlations(ours.T, theirs.T).mean()
    return (beta * inter + gamma * intra) * temperature**2


def multi_level_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:
    r"""Multi-level logit distillation: predictions agree by sample, across samples, across classes.

    .. math::
        L = \sum_{T} \left[ w_i \, L_{\mathrm{KD}}(T)
            + \frac{w_b}{B} \big\| P_T P_T^{\mathsf T} - Q_T Q_T^{\mathsf T} \big\|_F^2
            + \frac{w_c}{C} \big\| P_T^{\mathsf T} P_T - Q_T^{\mathsf T} Q_T \big\|_F^2 \right]

    with T running over ``temperatures`` (the paper's prediction augmentation), :math:`P_T` and
    :math:`Q_T` the ``[B, C]`` softmax of ``student_logits`` and ``teacher_logits`` at T, and
    :math:`L_{\mathrm{KD}}` the loss of :func:`dotkd.losses.kd_loss` with its :math:`T^2`. The three
    levels are the instance (``instance_weight``), the batch (``batch_weight``: which samples are
    predicted alike) and the class (``class_weight``: which classes are predicted together).

    This is all of the paper's loss for one view of the images. Not in it: the views. The published
    training draws a weakly and a strongly augmented view, and takes all three levels on the weak
    and the instance level on the strong one (``batch_weight=0, class_weight=0``). The masks of
    unsure samples and classes in the published code are left out too: they multiply a loss that is
    a single number already, and so only scale it by the share they keep, about one half.

    Gradients flow to both arguments.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        temperatures: At least one number > 0; the terms are summed.
        instance_weight: Weight of the instance level, >= 0.
        batch_weight: Weight of the batch level, >= 0.
        class_weight: Weight of the class level, >= 0.

    Returns:
        A scalar, at least float32. Computing it takes memory for B^2 and C^2 numbers per temperature.

    Raises:
        ValueError: If shapes or dtypes do not fit, there is no temperature or one that is not
            positive, or a weight is negative.

    Example:
        >>> student = torch.tensor([[0.5, 0.5]]).log()
        >>> teacher = torch.tensor([[1.0, 0.0]]).log().clamp(min=-1e4)
        >>> loss = multi_level_loss(student, teacher, temperatures=[1.0], instance_weight=0.0)
        >>> round(loss.item(), 4)  # (1/2 - 1)^2 + (9/16 + 3/16) / 2
        0.625

    Reference:
        Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023, section 3.
    """
    if not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures must be a list of at least one number > 0, got {temperatures!r}")
    for number, temperature in enumerate(temperatures):
        check_positive(f"temperatures[{number}]", temperature)
    weights = {
        "instance_weight": instance_weight,
        "batch_weight": batch_weight,
        "class_weight": class_weight,
    }
    for name, weight in weights.items():
        check_non_negative(name, weight)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    losses = []
    for temperature in temperatures:
        instance = kd_loss(student, teacher, temperature=temperature)
        ours, theirs = (functional.softmax(logits / temperature, dim=1) for logits in (student, teacher))
        batch = (ours @ ours.T - theirs @ theirs.T).square().sum() / student.shape[0]
        classes = (ours.T @ ours - theirs.T @ theirs).square().sum() / student.shape[1]
        losses.append(instance_weight * instance + batch_weight * batch + class_weight * classes)
    return torch.stack(losses).sum()


# Pearson's correlation of each row of one with the same row of the other: [rows].
def _correlations(ours: Tensor, theirs: Tensor) -> Tensor:
    (x, x_constant), (y, y_constant) = _centred(ours), _centred(theirs)
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    correlations = (x * y).sum(dim=1) / (norms + _CORRELATION_EPS)
    # The published gradient of a constant row, of order 1e8, is rounding noise made large.
    return torch.where(x_constant | y_constant, 0.0, correlations)


# Rows less their means, and which of them are constant to rounding.
def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    centred = rows - rows.mean(dim=1, keepdim=True)
    largest = centred.detach().abs().amax(dim=1)
    return centred, largest <= rounding_noise(rows, 1).squeeze(1)
