"""Arithmetic that several losses share, with finite gradients everywhere.

A norm has no slope at zero and its inverse no bound near zero. Here a vector of zeros gives zeros, and so
does the gradient through it.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import UNLABELLED

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Vectors without any entry above this have no direction (the eps of torch.nn.functional.normalize).
_NEGLIGIBLE = 1e-12


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """A context without autocast on a kind of device, such as ``"cuda"``."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def in_full_precision(loss: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: compute a loss without autocast, which would take its matrix products in half precision."""

    @functools.wraps(loss)
    def compute(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = (value for one in (*args, *kwargs.values()) for value in _values(one))
        devices = [value.device.type for value in given if isinstance(value, Tensor)]
        with full_precision(devices[0] if devices else "cpu"):
            return loss(*args, **kwargs)

    return compute


def _values(argument: object) -> list[Any] | tuple[Any, ...]:
    return argument if isinstance(argument, list | tuple) else (argument,)


def rescaled(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide by the largest magnitude along ``dim``, so that no square overflows or vanishes.

    Only for functions that do not depend on the scale in the end: the divisor counts as a constant, which
    leaves the gradient of such a function exact.

    Args:
        tensor: Floating point.
        dim: Dimensions that share a divisor.

    Returns:
        A tensor of the same shape with entries in [-1, 1]; zeros, without a gradient, where the largest
        magnitude is negligible.
    """
    largest = tensor.detach().abs().amax(dim=dim, keepdim=True)
    negligible = largest <= _NEGLIGIBLE
    return torch.where(negligible, 0.0, tensor / torch.where(negligible, 1.0, largest))


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Divide vectors along ``dim`` by their Euclidean norms; a vector of zeros stays zero."""
    vectors = rescaled(vectors, dim)
    squared = vectors.square().sum(dim=dim, keepdim=True)  # at least 1, or 0
    return vectors / torch.where(squared > 0, squared, 1.0).sqrt()


def pooled_to_the_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps ``[B, C, H, W]`` to the smaller of their heights and of their widths."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return functional.adaptive_avg_pool2d(student, size), functional.adaptive_avg_pool2d(teacher, size)


def other_classes(target: Tensor, num_classes: int) -> Tensor:
    """The C - 1 class numbers beside each target, ``[B, C - 1]``, int64, ascending."""
    # Not by a boolean mask, which would ask the device for its size.
    numbers = torch.arange(num_classes - 1, device=target.device)
    return numbers + (numbers >= target.unsqueeze(1))


def rounding_noise(tensor: Tensor, dim: int) -> Tensor:
    """A few units in the last place of the largest magnitude along ``dim``, which is kept with size 1."""
    return 8 * torch.finfo(tensor.dtype).eps * tensor.detach().abs().amax(dim=dim, keepdim=True)


def of_labelled(target: Tensor, *logits: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Make a mean over the batch one over its n labelled rows, without waiting for the device.

    Args:
        target: ``[B]``, int64; -100 for no label.
        logits: Each ``[B, C]``.

    Returns:
        Weights ``[B, 1]`` of the rows: B / n, and 0 without a label. The target and the logits, with zeros in
        the rows without a label, so that their terms are finite and have no gradient.
    """
    known = target != UNLABELLED
    count = known.sum().clamp(min=1).to(logits[0].dtype)
    missing = ~known.unsqueeze(1)
    weights = known.unsqueeze(1) * (target.shape[0] / count)
    return weights, target.masked_fill(~known, 0), tuple(rows.masked_fill(missing, 0.0) for rows in logits)


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy: the mean over the labelled rows, or 0 with a graph where there is none.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]``, int64, -100 for no label; or probabilities ``[B, C]``.

    Returns:
        A scalar.
    """
    if labels.is_floating_point():
        return functional.cross_entropy(logits, labels)
    count = (labels != UNLABELLED).sum().clamp(min=1)
    return functional.cross_entropy(logits, labels, reduction="sum", ignore_index=UNLABELLED) / count
