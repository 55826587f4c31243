"""Methods that compare how the vectors of a batch lie to each other, and learn nothing of their own."""

# ruff: noqa: ARG001  (a method need not read all that it is given)

from torch import Tensor

from dotkd.align import as_vector
from dotkd.losses.relation import pkt_loss, rkd_loss
from dotkd.methods.base import Outputs
from dotkd.methods.registry import register


@register("pkt", needs=("pooled",), distill_weight=30000.0)
def probabilistic_transfer(
    student: Outputs, teacher: Outputs, target: Tensor, *, eps: float = 1e-7
) -> Tensor:
    """Probabilistic knowledge transfer of the pooled vectors, see :func:`dotkd.losses.pkt_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        eps: Keeps divisions and logarithms finite, > 0.

    Returns:
        A scalar.

    Reference:
        Passalis and Tefas, ECCV 2018, arXiv 1803.10837; the weight 30000 is that of the published code.
    """
    ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
    return pkt_loss(ours, theirs, eps=eps)


@register("rkd", needs=("pooled",))
def relational(
    student: Outputs,
    teacher: Outputs,
    target: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Distances and angles between the pooled vectors, see :func:`dotkd.losses.rkd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        distance_weight: Weight of the distances, >= 0.
        angle_weight: Weight of the angles, >= 0.

    Returns:
        A scalar.

    Reference:
        Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068.
    """
    ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
    return rkd_loss(ours, theirs, distance_weight=distance_weight, angle_weight=angle_weight)
