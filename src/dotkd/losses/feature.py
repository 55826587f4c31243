"""Losses between feature maps, without learned parts."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import check_integer, checked_alike, checked_features
from dotkd.losses._numerics import in_full_precision, pooled_to_the_smaller, rescaled, unit

# Sizes to which hierarchical_context_loss pools a map, beside the map as it is.
_CONTEXT_SIZES = (4, 2, 1)
# kdsvd_loss, as published, looks among this many more of the student's vectors than of the teacher's.
_EXTRA_CANDIDATES = 3
# Squared singular values closer than this many rounding units of the largest count as equal.
_EQUAL = 100


@in_full_precision
def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Hints: the mean squared error between the student's feature and the teacher's.

    .. math::
        L = \frac{1}{n} \sum_{i=1}^{n} (F^S_i - F^T_i)^2

    with :math:`F^S` = ``student``, :math:`F^T` = ``teacher`` and n the number of their elements. Where the
    two models differ in width, the student's feature goes through a learned projection first, as in
    FitNets.

    Gradients flow to both arguments: detach the teacher when only the student learns.

    Args:
        student: Floating point, of any shape that is not empty.
        teacher: Floating point, of the same shape.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If the shapes differ, or a tensor is empty or not floating point.

    Example:
        >>> hint_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])).item()  # 9 / 2
        4.5

    Reference:
        Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, equation 3.
    """
    return functional.mse_loss(*checked_alike(student, teacher))


@in_full_precision
def attention_transfer_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, p: float = 2
) -> Tensor:
    r"""Attention transfer: the student attends to the same positions as the teacher.

    .. math::
        L = \sum_l \frac{1}{B h w} \sum_{b=1}^{B}
            \left\| \frac{Q^S_{lb}}{\|Q^S_{lb}\|_2} - \frac{Q^T_{lb}}{\|Q^T_{lb}\|_2} \right\|_2^2,
        \qquad Q = \frac{1}{C} \sum_{c=1}^{C} |F_c|^p

    with F one sample of the l-th map in ``student_features`` (S) or ``teacher_features`` (T), C its
    channels and p = ``p``. Where two maps differ in height or width, the larger one is first averaged down
    to the smaller, :math:`h \times w`. The channels may differ: they are averaged.

    The norms make the loss independent of the scale of a sample's map. A map of zeros counts as Q = 0 and
    passes no gradient. Otherwise gradients flow to both arguments.

    Args:
        student_features: Maps ``[B, C, H, W]``, floating point, from shallow to deep.
        teacher_features: One map ``[B, C', H', W']`` for each map of the student.
        p: Exponent, >= 1; higher values attend to the strongest activations only.

    Returns:
        A scalar, at least float32: summed over the maps, averaged over samples and positions.

    Raises:
        ValueError: If the lists, shapes or dtypes do not fit, or p is below 1.

    Example:
        >>> student = torch.tensor([[[[3.0, 0.0]]]])  # attends to the left
        >>> teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, -2.0]]]])  # attends to the right
        >>> attention_transfer_loss([student], [teacher]).item()
        1.0

    Reference:
        Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928, section
        3.1; averaged over positions as in the widely used reimplementations, where the paper's norm is a
        sum.
    """
    if not (math.isfinite(p) and p >= 1):
        raise ValueError(f"p must be a finite number >= 1, got {p}")
    losses = []
    for student, teacher in checked_features(student_features, teacher_features):
        student, teacher = pooled_to_the_smaller(student, teacher)
        losses.append(functional.mse_loss(_attention(student, p), _attention(teacher, p)))
    return torch.stack(losses).sum()


def _attention(maps: Tensor, p: float) -> Tensor:
    """Attention over positions, ``[B, H * W]``, each row of norm 1."""
    return unit(rescaled(maps, dim=(1, 2, 3)).abs().pow(p).mean(dim=1).flatten(1), dim=1)


@in_full_precision
def nst_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    r"""Neuron selectivity transfer: the channels of both models respond to the same positions.

    .. math::
        L = \sum_l \frac{1}{B} \sum_{b=1}^{B} \left[
            \frac{1}{C_T^2} \sum_{i, j} k(t_i, t_j) + \frac{1}{C_S^2} \sum_{i, j} k(s_i, s_j)
            - \frac{2}{C_S C_T} \sum_{i, j} k(s_i, t_j) \right],
        \qquad k(x, y) = \Big( \frac{x \cdot y}{\|x\|_2 \, \|y\|_2} \Big)^2

    with :math:`s_i` (:math:`t_j`) the pixels of channel i (j) of one sample of the l-th map in
    ``student_features`` (``teacher_features``), the larger of two maps first averaged down to the smaller.
    This is the squared maximum mean discrepancy between the two sets of channels under a polynomial kernel:
    it does not depend on the order, the number or the scale of the channels.

    A channel of zeros counts with k = 0 and passes no gradient. Otherwise gradients flow to both arguments.

    Args:
        student_features: Maps ``[B, C, H, W]``, floating point.
        teacher_features: One map ``[B, C', H', W']`` for each map of the student.

    Returns:
        A scalar, at least float32: summed over the maps, averaged over the samples.

    Raises:
        ValueError: If the lists, shapes or dtypes do not fit.

    Example:
        >>> student = torch.tensor([[[[1.0, 0.0]]]])
        >>> teacher = torch.tensor([[[[0.0, 5.0]]]])
        >>> nst_loss([student], [teacher]).item()  # 1 + 1 - 2 * 0
        2.0

    Reference:
        Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
        arXiv 1707.01219, section 4, with the polynomial kernel of degree 2.
    """
    losses = []
    for student, teacher in checked_features(student_features, teacher_features):
        student, teacher = pooled_to_the_smaller(student, teacher)
        ours, theirs = unit(student.flatten(2), dim=2), unit(teacher.flatten(2), dim=2)
        within = _mean_kernel(theirs, theirs) + _mean_kernel(ours, ours)
        losses.append(within - 2 * _mean_kernel(ours, theirs))
    return torch.stack(losses).sum()


def _mean_kernel(channels: Tensor, others: Tensor) -> Tensor:
    """The mean of k(x, y) over samples and pairs of channels ``[B, C, H * W]`` of norm 1."""
    return (channels @ others.mT).square().mean()


@in_full_precision
def hierarchical_context_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Tensor:
    r"""Hierarchical context: the mean squared error of the maps and of coarser and coarser averages of them.

    .. math::
        L = \sum_l \frac{\mathrm{MSE}(F^S_l, F^T_l)
            + \sum_{i} 2^{-i} \, \mathrm{MSE}(\mathrm{pool}_{n_i} F^S_l, \mathrm{pool}_{n_i} F^T_l)}
            {1 + \sum_i 2^{-i}}

    with :math:`F_l` the l-th map in ``student_features`` (S) or ``teacher_features`` (T),
    :math:`\mathrm{pool}_n` the average pooling to n x n, and :math:`n_1, n_2, \dots` those of the sizes 4,
    2, 1 that are smaller than the shorter side of the map. Gradients flow to both arguments.

    Args:
        student_features: Maps ``[B, C, H, W]``, floating point.
        teacher_features: One map of the same shape for each map of the student.

    Returns:
        A scalar, at least float32: summed over the maps.

    Raises:
        ValueError: If the lists, shapes or dtypes do not fit.

    Example:
        >>> student = torch.tensor([[[[2.0, 0.0], [0.0, 2.0]]]])
        >>> teacher = torch.zeros(1, 1, 2, 2)
        >>> round(hierarchical_context_loss([student], [teacher]).item(), 4)  # (2 + 1 / 2) / (3 / 2)
        1.6667

    Reference:
        Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044,
        section 3.3; the weights are those of the published code.
    """
    losses = []
    for student, teacher in checked_features(student_features, teacher_features, same_shape=True):
        loss, weight, total = functional.mse_loss(student, teacher), 1.0, 1.0
        for size in _CONTEXT_SIZES:
            if size < min(student.shape[2:]):
                weight /= 2
                total += weight
                ours, theirs = (functional.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
                loss = loss + weight * functional.mse_loss(ours, theirs)
        losses.append(loss / total)
    return torch.stack(losses).sum()


# ---------------------------------------------------------------- singular vectors


@in_full_precision
def kdsvd_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, k: int = 1
) -> Tensor:
    r"""Singular vectors: the leading directions change from map to map as in the teacher.

    .. math::
        L = \frac{1}{B} \sum_{l \geq 2} \sum_{b, i, j, m}
            \big( R^S_{lbijm} - R^T_{lbijm} \big)^2, \qquad
        R_{lbijm} = \exp\Big( -\tfrac18 \big( v_{lbim} - v_{(l-1)bjm} \big)^2 \Big)

    A sample of the l-th map, ``[C, H, W]``, is read as a matrix of C H rows and W columns. In :math:`R^T`,
    the :math:`v_{lb \cdot m}` with m = 1 ... ``k`` are the leading right singular vectors of the teacher's
    matrix, each scaled by its share of the leading singular values, :math:`\sigma_m / \|(\sigma_1 \dots
    \sigma_k)\|_2`. In :math:`R^S` they are the student's: of its leading k + 3 vectors the one with the
    largest absolute cosine to the teacher's m-th, with the teacher's sign and scale. Choice and sign count
    as constants. The scale of a map does not matter.

    Singular values so close that rounding decides which vector is which (:math:`|\sigma_i^2 - \sigma_j^2|`
    within about 1e-5 of the largest square in float32, 2e-14 in float64) pass no gradient between their
    vectors, so that gradients are finite for maps of zeros and of low rank. Otherwise gradients flow to
    both arguments.

    The sign of a singular vector is the choice of the linear-algebra library, and the loss between
    neighbouring maps depends on the teacher's: another device or library can give another value. On a GPU
    the decomposition waits for the device, and is slow.

    Args:
        student_features: At least two maps ``[B, C, H, W]``, floating point, from shallow to deep.
        teacher_features: One map ``[B, C', H', W]`` of the same width for each map of the student.
        k: Number of the teacher's singular vectors to follow, from 1 to the smallest width.

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
        Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV
        2018, arXiv 1807.06819. The paper decomposes matrices of H W rows and C columns. The published
        CIFAR-100 numbers were made with C H rows and W columns, as here, where the channels of the two
        models may differ.
    """
    pairs = checked_features(student_features, teacher_features)
    check_integer("k", k, low=1, high=min(student.shape[3] for student, _ in pairs))
    _check_widths(pairs)
    before: tuple[Tensor, Tensor] | None = None
    losses = []
    for student, teacher in pairs:
        our_vectors = _singular(student)[1][..., : k + _EXTRA_CANDIDATES]
        values, their_vectors = (part[..., :k] for part in _singular(teacher))
        shares = unit(values, dim=1).unsqueeze(1)
        now = _aligned(our_vectors, their_vectors) * shares, their_vectors * shares
        if before is not None:
            ours, theirs = (_kernel(*vectors) for vectors in zip(now, before, strict=True))
            losses.append((ours - theirs).square().sum() / student.shape[0])
        before = now
    return torch.stack(losses).sum()


def _check_widths(pairs: list[tuple[Tensor, Tensor]]) -> None:
    if len(pairs) < 2:
        raise ValueError("student_features must hold at least 2 maps, because neighbours are compared, got 1")
    for number, (student, teacher) in enumerate(pairs):
        if student.shape[3] != teacher.shape[3]:
            raise ValueError(
                f"student_features[{number}] and teacher_features[{number}] must have the same width W, "
                f"got {student.shape[3]} and {teacher.shape[3]}"
            )


def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """For each teacher vector ``[B, W, k]`` the nearest of the student's ``[B, W, n]``, with its sign."""
    cosines = student.detach().mT @ teacher.detach()
    sizes = cosines.abs()
    nearest = sizes == sizes.amax(dim=1, keepdim=True)
    return student @ torch.where(nearest, cosines.sign(), 0.0)


def _kernel(vectors: Tensor, before: Tensor) -> Tensor:
    """``[B, W, k]`` and ``[B, W', k]`` to ``[B, W, W', k]``."""
    return (-(vectors.unsqueeze(2) - before.unsqueeze(1)).square() / 8).exp()


def _singular(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values ``[B, W]`` and right singular vectors ``[B, W, W]``, leading first, up to a scale."""
    matrices = rescaled(maps, dim=(1, 2, 3)).flatten(1, 2)
    # Rows of zeros change neither; with W rows or more, both have W entries.
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

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # With A the matrix, V the vectors and M = A'A = V diag(s^2) V':
        #   d s_j = u_j' dA v_j with u_j = A v_j / s_j,
        #   d v_j = sum over i of v_i (v_i' dM v_j) / (s_j^2 - s_i^2).
        # Written in differentiable steps, so that second derivatives are right too.
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
