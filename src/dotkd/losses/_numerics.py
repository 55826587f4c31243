"""Small pieces of arithmetic that several losses share, written so that no gradient becomes infinite.

A norm has no slope at zero and its inverse no bound near it. What these functions return for a
vector of zeros is zero, and so is the gradient through it.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Vectors without any entry above this have no direction to speak of. (The value that
# torch.nn.functional.normalize adds for the same purpose.)
_NEGLIGIBLE = 1e-12


def rescaled(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide by the largest magnitude along some dimensions, so that no square overflows or vanishes.

    Only for what does not depend on the scale in the end: the divisor counts as a constant, which
    leaves the gradient of such a function exact.

    Args:
        tensor: Floating point.
        dim: The dimensions that share a divisor.

    Returns:
        A tensor of the same shape with entries in [-1, 1]; zeros, without a gradient, where the
        largest magnitude is negligible.
    """
    largest = tensor.detach().abs().amax(dim=dim, keepdim=True)
    negligible = largest <= _NEGLIGIBLE
    return torch.where(negligible, 0.0, tensor / torch.where(negligible, 1.0, largest))


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Divide vectors by their Euclidean norms.

    Args:
        vectors: Floating point.
        dim: The dimension along which they lie.

    Returns:
        A tensor of the same shape with norms 1 along ``dim``, or 0 for a vector that is zero.
    """
    vectors = rescaled(vectors, dim)
    squared = vectors.square().sum(dim=dim, keepdim=True)  # at least 1, or 0
    return vectors / torch.where(squared > 0, squared, 1.0).sqrt()


def pooled_to_the_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two maps to one size by averaging the larger one.

    Args:
        student: ``[B, C, H, W]``.
        teacher: ``[B, C', H', W']``.

    Returns:
        Both with the smaller of their heights and the smaller of their widths.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return functional.adaptive_avg_pool2d(student, size), functional.adaptive_avg_pool2d(teacher, size)


def other_classes(target: Tensor, num_classes: int) -> Tensor:
    """The class numbers beside each target, in order.

    Computed rather than masked: a boolean index would have to ask the device for its size.

    Args:
        target: ``[B]``, int64 class numbers in [0, C).
        num_classes: C.

    Returns:
        ``[B, C - 1]``, int64.
    """
    numbers = torch.arange(num_classes - 1, device=target.device)
    return numbers + (numbers >= target.unsqueeze(1))


def rounding_noise(tensor: Tensor, dim: int) -> Tensor:
    """How far apart numbers may be that are equal but for rounding.

    Args:
        tensor: Floating point, at least float32.
        dim: The dimension over which the largest magnitude counts.

    Returns:
        A few units in the last place of the largest magnitude, ``dim`` kept with size 1.
    """
    return 8 * torch.finfo(tensor.dtype).eps * tensor.detach().abs().amax(dim=dim, keepdim=True)
