"""Argument checks shared by losses, methods, data and analysis.

One message for all: ``NAME must be WHAT IS RIGHT, got WHAT CAME``. ``check_*`` refuses a bad argument;
``checked_*`` also returns it in the dtype in which losses compute, at least float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNLABELLED = -100  # the label of an image without one: torch's `ignore_index`


def describe(value: object) -> str:
    """Dtype and shape of a tensor; the ``repr`` of anything else."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} {list(value.shape)}"
    return repr(value)


# ---------------------------------------------------------------- numbers


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not finite and > 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value}")


def check_non_negative(name: str, value: float) -> None:
    """Refuse a number that is not finite and >= 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_below_one(name: str, value: float) -> None:
    """Refuse a number outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def check_share(name: str, value: Any) -> float:
    """Return a number in [0, 1] as a float; refuse anything else, NaN and booleans included."""
    number = isinstance(value, float | int | np.floating) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number from 0 to 1, got {describe(value)}")
    return float(value)


def check_integer(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """Return an integer in [low, high], Python's or numpy's, as an int; refuse booleans and 3.0."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f">= {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {allowed}, got {describe(value)}")
    return int(value)


def check_count(name: str, value: Any) -> int:
    """Return an integer >= 1 as an int."""
    return check_integer(name, value, low=1)


# ---------------------------------------------------------------- integer tensors


def check_int64_vector(name: str, value: Any, *, length: int | None = None) -> None:
    """Refuse what is not an int64 tensor ``[N]``, of a given length where one is given."""
    right = isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    if not right or (length is not None and value.shape != (length,)):
        size = "N" if length is None else length
        raise ValueError(f"{name} must be a tensor of int64 [{size}], got {describe(value)}")


def check_range(name: str, values: Tensor, high: int | None = None, why: str = "") -> None:
    """Refuse integers outside [0, high]; ``why`` explains the limit. Waits for the device."""
    if values.numel() == 0:
        return
    least, most = torch.stack(values.aminmax()).tolist()
    if least < 0 or (high is not None and most > high):
        allowed = "be >= 0" if high is None else f"lie from 0 to {high} ({why})"
        raise ValueError(f"{name} must {allowed}, got {least} to {most}")


def check_target(target: Tensor, logits: Tensor) -> None:
    """Refuse labels that are not one int64 number per row of logits; ``torch.gather`` checks their range."""
    check_int64_vector("target", target, length=logits.shape[0])


def check_labels(target: Tensor, num_classes: int) -> None:
    """Refuse class numbers outside [0, num_classes). Waits for the device."""
    check_range("target", target, num_classes - 1, f"{num_classes} classes")


# ---------------------------------------------------------------- floating-point tensors


def checked_floats(name: str, value: Any, form: str, fits: bool = True) -> Tensor:
    """Return a floating-point tensor that is not empty and ``fits`` the form, in at least float32."""
    if not (fits and isinstance(value, Tensor) and value.is_floating_point() and value.numel()):
        raise ValueError(f"{name} must be a floating-point tensor {form}, not empty, got {describe(value)}")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of different shapes."""
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} must have the same shape, "
            f"got {list(tensor.shape)} and {list(other.shape)}"
        )


def _check_same_batch(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} and {other_name} must hold the same samples, "
            f"got {tensor.shape[0]} and {other.shape[0]} of them"
        )


def in_one_dtype(tensor: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in the wider of their dtypes, at least float32."""
    dtype = torch.promote_types(torch.promote_types(tensor.dtype, other.dtype), torch.float32)
    return tensor.to(dtype), other.to(dtype)


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of images ``[B, C, H, W]`` in [0, 1]. Waits for the device."""
    checked_floats("images", images, "[B, C, H, W]", isinstance(images, Tensor) and images.ndim == 4)
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not 0 <= low <= high <= 1:
        raise ValueError(f"images must lie in [0, 1], not normalised, got {low:.4g} to {high:.4g}")


# ---------------------------------------------------------------- outputs of models


def checked_logits(name: str, logits: Tensor) -> Tensor:
    """Return logits ``[B, C]``, C >= 2, in at least float32."""
    return checked_floats(name, logits, "[B, C] with C >= 2", logits.ndim == 2 and logits.shape[1] >= 2)


def checked_logit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits ``[B, C]`` of two models in one dtype."""
    student = checked_logits("student_logits", student)
    teacher = checked_logits("teacher_logits", teacher)
    check_same_shape("student_logits", student, "teacher_logits", teacher)
    return in_one_dtype(student, teacher)


def checked_predictions(logits: Tensor, target: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Return logits ``[B, C]``, detached; refuse labels outside [0, num_classes), by default C."""
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    check_labels(target, logits.shape[1] if num_classes is None else num_classes)
    return logits.detach()


def checked_embeddings(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors ``[B, D]`` and ``[B, E]`` of two models in one dtype."""
    for name, vectors in (("student", student), ("teacher", teacher)):
        checked_floats(name, vectors, "[B, D]", vectors.ndim == 2)
    _check_same_batch("student", student, "teacher", teacher)
    return in_one_dtype(student, teacher)


def checked_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors of one shape, whichever it is, in one dtype."""
    student = checked_floats("student", student, "of any shape")
    teacher = checked_floats("teacher", teacher, "of any shape")
    check_same_shape("student", student, "teacher", teacher)
    return in_one_dtype(student, teacher)


def checked_features(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    maps: bool = True,
    same_shape: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Return the features of two models in pairs of one dtype: maps ``[B, C, H, W]`` or any ``[B, ...]``."""
    for name, features in (("student_features", student_features), ("teacher_features", teacher_features)):
        # A tensor would pass for a sequence of its samples.
        if not isinstance(features, list | tuple) or not features:
            raise ValueError(f"{name} must be a list of at least one tensor, got {describe(features)}")
    if len(student_features) != len(teacher_features):
        raise ValueError(
            "student_features and teacher_features must hold equally many features, "
            f"got {len(student_features)} and {len(teacher_features)}"
        )
    form = "[B, C, H, W]" if maps else "[B, ...]"
    pairs = []
    for number, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        ours, theirs = f"student_features[{number}]", f"teacher_features[{number}]"
        for name, feature in ((ours, student), (theirs, teacher)):
            checked_floats(name, feature, form, feature.ndim == 4 if maps else feature.ndim >= 2)
        if same_shape:
            check_same_shape(ours, student, theirs, teacher)
        _check_same_batch(ours, student, theirs, teacher)
        pairs.append(in_one_dtype(student, teacher))
    return pairs
