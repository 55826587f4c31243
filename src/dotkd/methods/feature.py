"""Methods that compare feature maps and learn nothing of their own.

Features of any layout are looked at as maps ``[B, C, H, W]``; see :func:`dotkd.align.as_map`.
"""

# ruff: noqa: ARG001  (a method need not read all that it is given)

from torch import Tensor

from dotkd.align import as_map
from dotkd.losses.feature import attention_transfer_loss, nst_loss
from dotkd.losses.relation import similarity_loss
from dotkd.losses.singular import kdsvd_loss
from dotkd.methods.base import Outputs
from dotkd.methods.registry import register


def maps(outputs: Outputs, kind: str) -> list[Tensor]:
    """Return the features of a kind as maps, from the images to the logits."""
    return [as_map(feature) for feature in outputs.group(kind)]


@register("at", needs=("stages",), distill_weight=1000.0)
def attention_transfer(student: Outputs, teacher: Outputs, target: Tensor, *, p: float = 2.0) -> Tensor:
    """Attention transfer between all stages, see :func:`dotkd.losses.attention_transfer_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        p: Power of the activations, > 0.

    Returns:
        A scalar.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; the weight 1000 is that of the published code.
    """
    return attention_transfer_loss(maps(student, "stages"), maps(teacher, "stages"), p=p)


@register("nst", needs=("stages",), distill_weight=50.0)
def neuron_selectivity(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """Neuron selectivity transfer between all stages, see :func:`dotkd.losses.nst_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.

    Returns:
        A scalar.

    Reference:
        Huang and Wang, 2017, arXiv 1707.01219; the weight 50 is that of the published code.
    """
    return nst_loss(maps(student, "stages"), maps(teacher, "stages"))


@register("kdsvd", needs=("stages",))
def singular_vectors(student: Outputs, teacher: Outputs, target: Tensor, *, k: int = 1) -> Tensor:
    """Singular vectors of neighbouring stages, see :func:`dotkd.losses.kdsvd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        k: How many singular vectors, >= 1.

    Returns:
        A scalar.

    Reference:
        Lee, Kim and Song, ECCV 2018, arXiv 1807.06819.
    """
    return kdsvd_loss(maps(student, "stages"), maps(teacher, "stages"), k=k)


@register("sp", needs=("last",), distill_weight=3000.0)
def similarity_preserving(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """Which images of the batch are alike, by the last stage, see :func:`dotkd.losses.similarity_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.

    Returns:
        A scalar.

    Reference:
        Tung and Mori, ICCV 2019, arXiv 1907.09682; the weight 3000 is that of the published code.
    """
    return similarity_loss([student.features["last"]], [teacher.features["last"]])
