"""Losses on relations among the samples of a batch: similarities, distances and angles.

The features of the two models are never compared with each other, so their widths may differ. A batch of one
sample has no relations: its loss is zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import check_non_negative, check_positive, checked_embeddings, checked_features
from dotkd.losses._numerics import in_full_precision, rescaled, rounding_noise, unit


@in_full_precision
def pkt_loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    r"""Probabilistic knowledge transfer: each sample has the same neighbours in both feature spaces.

    .. math::
        L = \frac{1}{B^2} \sum_{i, j} q_{ij} \log \frac{q_{ij} + \epsilon}{p_{ij} + \epsilon}, \qquad
        p_{ij} = \frac{K(s_i, s_j)}{\sum_{k=1}^{B} K(s_i, s_k)}, \qquad
        K(x, y) = \frac{1}{2} \Big( \frac{x \cdot y}{\|x\|_2 \, \|y\|_2} + 1 \Big)

    with :math:`s_i` the rows of ``student``, :math:`q_{ij}` the same as :math:`p_{ij}` from the rows of
    ``teacher``, and :math:`\epsilon` = ``eps``. The loss does not depend on lengths and rotations of the
    rows.

    The cosine of a row of zeros with any row is 0 and passes no gradient. Otherwise gradients flow to both
    arguments: detach the teacher when only the student learns.

    Args:
        student: ``[B, D]``, floating point.
        teacher: ``[B, E]``, floating point; E may differ from D.
        eps: Keeps the logarithm finite for opposite samples, > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or eps is not positive.

    Example:
        >>> student = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # p = [[1/2, 1/2], [1/2, 1/2]]
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # q = [[2/3, 1/3], [1/3, 2/3]]
        >>> round(pkt_loss(student, teacher).item(), 4)  # (2/3 log(4/3) + 1/3 log(2/3)) / 2
        0.0283

    Reference:
        Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
        arXiv 1803.10837, section 3, with the cosine kernel; averaged over all pairs, those of a sample with
        itself included, as in the published code.
    """
    check_positive("eps", eps)
    student, teacher = checked_embeddings(student, teacher)
    ours, theirs = _neighbours(student), _neighbours(teacher)
    return (theirs * ((theirs + eps) / (ours + eps)).log()).mean()


@in_full_precision
def rkd_loss(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25, angle_weight: float = 50
) -> Tensor:
    r"""Relational knowledge distillation: equal distances and angles among the samples.

    .. math::
        L = \frac{w_d}{B^2} \sum_{i, j} h(\psi^S_{ij} - \psi^T_{ij})
            + \frac{w_a}{B^3} \sum_{i, j, k} h(\cos \angle^S_{jik} - \cos \angle^T_{jik}), \qquad
        \psi_{ij} = \frac{\|x_i - x_j\|_2}{\frac{1}{B (B - 1)} \sum_{k \neq l} \|x_k - x_l\|_2}

    with :math:`x_i` the rows of ``student`` (S) or ``teacher`` (T), :math:`\angle_{jik}` the angle at
    :math:`x_i` between the directions to :math:`x_j` and :math:`x_k`, h the smooth L1 (Huber) function with
    threshold 1, :math:`w_d` = ``distance_weight`` and :math:`w_a` = ``angle_weight``. Moving, rotating or
    scaling all rows of a model together changes nothing.

    Two rows that are equal to rounding have distance 0, and the cosine of any angle along their direction
    is 0; neither passes a gradient. Otherwise gradients flow to both arguments.

    Args:
        student: ``[B, D]``, floating point.
        teacher: ``[B, E]``, floating point; E may differ from D.
        distance_weight: Weight of the distances, >= 0.
        angle_weight: Weight of the angles, >= 0.

    Returns:
        A scalar, at least float32. Takes memory for B^2 D and B^3 numbers.

    Raises:
        ValueError: If shapes or dtypes do not fit, or a weight is negative.

    Example:
        >>> right = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> rkd_loss(10 * right.flip(1) + 7, right).item() < 1e-9  # mirrored, scaled, moved
        True
        >>> straight = torch.tensor([[0.0], [3.0], [-4.0]])
        >>> round(rkd_loss(straight, right, distance_weight=0).item(), 4)  # 50/27 (1 + .16 + .04)
        2.2222

    Reference:
        Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, section 3.2;
        averaged over all pairs and triples, degenerate ones included, as in the published code.
    """
    check_non_negative("distance_weight", distance_weight)
    check_non_negative("angle_weight", angle_weight)
    student, teacher = checked_embeddings(student, teacher)
    our_distances, our_angles = _geometry(student)
    their_distances, their_angles = _geometry(teacher)
    distance_term = functional.smooth_l1_loss(our_distances, their_distances)
    angle_term = functional.smooth_l1_loss(our_angles, their_angles)
    return distance_weight * distance_term + angle_weight * angle_term


@in_full_precision
def similarity_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    r"""Similarity preserving: pairs of samples are as similar in the student as in the teacher.

    .. math::
        L = \sum_l \frac{1}{B^2} \big\| \tilde G^S_l - \tilde G^T_l \big\|_F^2, \qquad
        \tilde G_{i \cdot} = \frac{G_{i \cdot}}{\|G_{i \cdot}\|_2}, \qquad G = A A^{\mathsf T}

    with the rows of A the flattened samples of the l-th feature in ``student_features`` (S) or
    ``teacher_features`` (T): G holds the dot products among the B samples, its rows normalized. Rotating or
    scaling all samples of a feature together changes nothing.

    The row of G of a sample of zeros stays 0. Gradients flow to both arguments.

    Args:
        student_features: Tensors ``[B, ...]``, floating point: maps or vectors.
        teacher_features: One tensor ``[B, ...]`` for each of the student's, of any shape.

    Returns:
        A scalar, at least float32: summed over the features.

    Raises:
        ValueError: If the lists, shapes or dtypes do not fit.

    Example:
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # nothing in common
        >>> teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # all in common
        >>> round(similarity_loss([student], [teacher]).item(), 4)  # 1 - 1 / sqrt(2)
        0.2929

    Reference:
        Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682,
        equations 1 to 4.
    """
    losses = [
        functional.mse_loss(_similarities(student), _similarities(teacher))
        for student, teacher in checked_features(student_features, teacher_features, maps=False)
    ]
    return torch.stack(losses).sum()


def _neighbours(vectors: Tensor) -> Tensor:
    """Probability that sample j is drawn as neighbour of sample i, ``[B, B]``."""
    directions = unit(vectors, dim=1)
    # Rounding may take the cosine of opposite rows below -1, and a probability below 0.
    kernel = ((directions @ directions.T + 1) / 2).clamp(min=0)
    # The kernel of a row with itself is positive, so the sum is, too.
    return kernel / kernel.sum(dim=1, keepdim=True)


def _geometry(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean, ``[B, B]``, and cosines of the angles at i from j to k, ``[B, B, B]``."""
    vectors = rescaled(vectors, dim=(0, 1))
    noise = rounding_noise(vectors, dim=1)
    difference = vectors.unsqueeze(0) - vectors.unsqueeze(1)
    equal = difference.detach().abs().amax(dim=2) <= torch.maximum(noise, noise.T)
    difference = torch.where(equal.unsqueeze(2), 0.0, difference)

    # Not by dot products of the rows: their difference cancels for rows close to each other.
    squared = torch.where(equal, 1.0, difference.square().sum(dim=2))
    distance = torch.where(equal, 0.0, squared.sqrt())
    count = vectors.shape[0]
    mean = distance.sum() / max(1, count * (count - 1))
    directions = unit(difference, dim=2)
    return distance / torch.where(mean > 0, mean, 1.0), directions @ directions.mT


def _similarities(feature: Tensor) -> Tensor:
    """Dot products among samples, ``[B, B]``, each row of norm 1."""
    samples = rescaled(feature.flatten(1), dim=(0, 1))
    return unit(samples @ samples.T, dim=1)
