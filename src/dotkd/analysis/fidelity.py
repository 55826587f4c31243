"""Whether a student does as its teacher does, and who is right where the two differ."""

from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.analysis._checks import check_labels
from dotkd.losses import kd_loss
from dotkd.losses._checks import check_target, checked_logit_pair


class Agreement(NamedTuple):
    """What :func:`agreement` found.

    Attributes:
        top1: Share of the samples for which both predict the same class.
        kl: Mean of KL(teacher || student) over the samples, temperature 1, in nats.
        differing: Number of samples for which they predict different classes.
        student_right: Share of the differing samples where the student is right; NaN where none differ.
        teacher_right: Share of them where the teacher is right, likewise.
        neither_right: Share of them where both are wrong, likewise. The three add up to 1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> agreement(logits, -logits, torch.tensor([0])).student_right
        1.0
    """

    top1: float
    kl: float
    differing: int
    student_right: float
    teacher_right: float
    neither_right: float


def agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Agreement:
    r"""Compare the predictions of a student with those of its teacher.

    .. math::
        \mathrm{top1} = \frac{1}{B} \sum_{b=1}^{B} [\arg\max z^S_b = \arg\max z^T_b], \qquad
        \mathrm{kl} = \frac{1}{B} \sum_{b=1}^{B} \mathrm{KL}\big(\mathrm{softmax}(z^T_b) \,\|\,
        \mathrm{softmax}(z^S_b)\big)

    with :math:`z^S` = ``student_logits`` and :math:`z^T` = ``teacher_logits``. A student may be right
    where its teacher is not: agreement, also called fidelity, is not accuracy. Sums run in float64.

    Args:
        student_logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        teacher_logits: ``[B, C]``, floating point, for the same samples.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        Agreement, divergence, and who is right where the two differ.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit.

    Example:
        >>> student = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
        >>> found = agreement(student, teacher, torch.tensor([0, 0, 1, 1]))
        >>> found.top1, found.differing, round(found.student_right, 3), round(found.teacher_right, 3)
        (0.25, 3, 0.667, 0.333)

    Reference:
        Stanton, Izmailov, Kirichenko, Alemi and Wilson, "Does Knowledge Distillation Really Work?",
        NeurIPS 2021, arXiv 2106.05945, section 3.
    """
    student, teacher = checked_logit_pair(student_logits.detach(), teacher_logits.detach())
    check_target(target, student)
    check_labels(target, student.shape[1])
    kl = kd_loss(student.double(), teacher.double(), temperature=1.0)
    ours, theirs = student.argmax(dim=1), teacher.argmax(dim=1)
    differ = ours != theirs
    counts = [differ, differ & (ours == target), differ & (theirs == target)]
    divergence, *sums = torch.stack([kl, *(count.sum().double() for count in counts)]).tolist()
    differing, student_right, teacher_right = map(int, sums)
    share = 1 / differing if differing else float("nan")
    return Agreement(
        top1=1 - differing / len(target),
        kl=divergence,
        differing=differing,
        student_right=student_right * share,
        teacher_right=teacher_right * share,
        neither_right=(differing - student_right - teacher_right) * share,
    )
