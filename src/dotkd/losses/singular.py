"""The loss on singular vectors of feature maps, and a decomposition whose gradient stays finite.

The derivative of a singular vector divides by the gaps between squared singular values, and those
are zero for a dead map or one of low rank: what the framework's own decomposition returns there is
infinite. Here such pairs are left out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.losses._checks import check_count, checked_features
from dotkd.losses._numerics import rescaled, unit

# The published loss looks among this many more of the student's vectors than of the teacher's.
_CANDIDATES = 3
# Squared singular values closer than this many units of rounding of the largest count as equal.
_EQUAL = 100


def kdsvd_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, k: int = 1
) -> Tensor:
    r"""Singular vectors: the leading directions change from map to map as they do in the teacher.

    .. math::
        L = \frac{1}{B} \sum_{l \geq 2} \sum_{b, i, j, m}
            \big( R^S_{lbijm} - R^T_{lbijm} \big)^2, \qquad
        R_{lbijm} = \exp\Big( -\tfrac18 \big( v_{lbim} - v_{(l-1)bjm} \big)^2 \Big)

    A sample of the l-th map, ``[C, H, W]``, is read as a matrix of C H rows and W columns. In
    :math:`R^T`, the :math:`v_{lb \cdot m}` with m = 1 ... ``k`` are the leading right singular
    vectors of the teacher's matrix, each scaled by its share of the teacher's leading singular
    values, :math:`\sigma_m / \|(\sigma_1 \dots \sigma_k)\|_2`. In :math:`R^S` they are the student's:
    of its leading k + 3 the one with the largest absolute cosine to the teacher's m-th, turned to
    its side, and scaled like the teacher's. Choice and turn count as constants. The scale of a map
    plays no part.

    Singular values so near to each other that rounding decides which vector is which
    (:math:`|\sigma_i^2 - \sigma_j^2|` within about 1e-5 of the largest square in float32, 2e-14 in
    float64) pass no gradient between their vectors; so gradients are finite for maps of zeros and
    of low rank. Otherwise gradients flow to both arguments.

    The sign of a singular vector is the choice of the linear-algebra library, and the loss between
    neighbouring maps depends on the teacher's: another device or library can give another value.
    On a GPU the decomposition waits for the device, and is slow.

    Args:
        student_features: At least two maps ``[B, C, H, W]``, floating point, from shallow to deep.
        teacher_features: One map ``[B, C', H', W]`` of the same width for each map of the student.
        k: How many singular vectors of the teacher to follow, from 1 to the least width.

    Returns:
        A scalar, at least float32: summed over neighbouring maps, averaged over the samples.

    Raises:
        ValueError: If the lists, shapes or dtypes do not fit, or k is out of range.

    Example:
        >>> first = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]])
        >>> second, turned = first.flip(2, 3), torch.tensor([[[[0.0, 0.0], [3.0, 4.0]]]])
        >>> kdsvd_loss([5 * first, second], [first, second]).item()
        0.0
        >>> kdsvd_loss([first, turned], [first, second]).item() > 0.01
        True

    Reference:
        Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value
        Decomposition", ECCV 2018, arXiv 1807.06819. The paper decomposes matrices of H W rows and C
        columns; with C H and W, as here, the published CIFAR-100 numbers were made, and the widths
        C of the two models may differ.
    """
    check_count("k", k)
    pairs = checked_features(student_features, teacher_features)
    _check_widths(pairs, k)
    before: tuple[Tensor, Tensor] | None = None
    losses = []
    for student, teacher in pairs:
        our_vectors = _singular(student)[1][..., : k + _CANDIDATES]
        values, their_vectors = (part[..., :k] for part in _singular(teacher))
        shares = unit(values, dim=1).unsqueeze(1)
        now = _aligned(our_vectors, their_vectors) * shares, their_vectors * shares
        if before is not None:
            ours, theirs = (_kernel(*vectors) for vectors in zip(now, before, strict=True))
            losses.append((ours - theirs).square().sum() / len(student))
        before = now
    return torch.stack(losses).sum()


def _check_widths(pairs: list[tuple[Tensor, Tensor]], k: int) -> None:
    if len(pairs) < 2:
        raise ValueError("student_features must hold at least 2 maps, because neighbours are compared, got 1")
    for number, (student, teacher) in enumerate(pairs):
        if student.shape[3] != teacher.shape[3]:
            raise ValueError(
                f"student_features[{number}] and teacher_features[{number}] must have the same width W, "
                f"got {student.shape[3]} and {teacher.shape[3]}"
            )
    least = min(student.shape[3] for student, _ in pairs)
    if k > least:
        raise ValueError(f"k must be at most the least width of the maps, {least}, got {k}")


# For each of the teacher's vectors [B, W, k] the nearest of the student's [B, W, n], on its side.
def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    cosines = student.detach().mT @ teacher.detach()
    sizes = cosines.abs()
    nearest = sizes == sizes.amax(dim=1, keepdim=True)
    return student @ torch.where(nearest, cosines.sign(), 0.0)


# [B, W, k] and [B, W', k] -> [B, W, W', k].
def _kernel(vectors: Tensor, before: Tensor) -> Tensor:
    return (-(vectors.unsqueeze(2) - before.unsqueeze(1)).square() / 8).exp()


# Singular values [B, W] and right singular vectors [B, W, W] of maps, leading first, up to a scale.
def _singular(maps: Tensor) -> tuple[Tensor, Tensor]:
    matrices = rescaled(maps, dim=(1, 2, 3)).flatten(1, 2)
    # Rows of zeros change neither, and with W rows or more there are W of both.
    missing = max(0, matrices.shape[2] - matrices.shape[1])
    padded = functional.pad(matrices, (0, 0, 0, missing))
    values, vectors = _RightSingular.apply(padded)  # type: ignore[no-untyped-call]
    return values, vectors


class _RightSingular(torch.autograd.Function):
    """Singular values [..., n] and right singular vectors [..., n, n] of matrices [..., m, n], m >= n."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> tuple[Tensor, Tensor]:
        _, values, transposed = torch.linalg.svd(matrices, full_matrices=False)
        vectors = transposed.mT.contiguous()
        ctx.save_for_backward(matrices, values, vectors)
        return values, vectors

    # With A the matrix, V the vectors and M = A'A = V diag(s^2) V':
    #   d s_j = u_j' dA v_j with u_j = A v_j / s_j,
    #   d v_j = sum over i of v_i (v_i' dM v_j) / (s_j^2 - s_i^2).
    # Written in differentiable steps, so that second derivatives are right too.
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (matrices, values, vectors), (of_values, of_vectors) = ctx.saved_tensors, gradients
        rounding = _EQUAL * torch.finfo(values.dtype).eps
        row, column = values.unsqueeze(-1), values.unsqueeze(-2)
        gaps = (column - row) * (column + row)  # of the squares, without squaring the rounding
        equal = gaps.abs() <= rounding * values[..., :1, None].square()
        weights = torch.where(equal, 0.0, 1 / torch.where(equal, 1.0, gaps))
        of_gram = vectors @ (weights * (vectors.mT @ of_vectors)) @ vectors.mT

        zero = values <= rounding * values[..., :1]
        inverse = torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, values))
        through_values = (vectors * (of_values * inverse).unsqueeze(-2)) @ vectors.mT
        gradient: Tensor = matrices @ (of_gram + of_gram.mT + through_values)
        return gradient
