"""Argument checks of losses, data and analysis; messages name the argument, the value and the valid range."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_positive(name: str, value: float) -> None:
    """Refuse an option that is not a finite number above zero.

    Args:
        name: What the message calls it.
        value: The number to check.

    Raises:
        ValueError: If the value is zero, negative, infinite or not a number.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value}")


def check_non_negative(name: str, value: float) -> None:
    """Refuse an option that is not a finite number of zero or above.

    Args:
        name: What the message calls it.
        value: The number to check.

    Raises:
        ValueError: If the value is negative, infinite or not a number.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_count(name: str, value: int) -> None:
    """Refuse a number of things that is not an integer of at least 1.

    Args:
        name: What the message calls it.
        value: The number to check.

    Raises:
        ValueError: If it is no integer, or below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def check_target(target: Tensor, logits: Tensor) -> None:
    """Refuse labels that are not one int64 class number per row of logits.

    The range is left to ``torch.gather`` to enforce: reading the values would wait for the device.

    Args:
        target: What should be ``[B]``, int64.
        logits: ``[B, C]``.

    Raises:
        ValueError: If the dtype or the shape is another one.
    """
    if target.dtype != torch.int64:
        raise ValueError(f"target must hold int64 class numbers, got {target.dtype}")
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"target must be [B] = {list(logits.shape[:1])}, one class number per row of logits, "
            f"got shape {list(target.shape)}"
        )


def checked_logits(name: str, logits: Tensor) -> Tensor:
    """Accept logits ``[B, C]`` of at least one sample and two classes.

    Args:
        name: What the message calls them.
        logits: The tensor to check.

    Returns:
        The logits in at least float32.

    Raises:
        ValueError: If the shape does not fit or the dtype is no floating point.
    """
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must be [B, C] with at least 1 sample and 2 classes, got shape {list(logits.shape)}"
        )
    _check_floating_point(name, logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def checked_logit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Accept the logits of two models for the same samples and classes.

    Args:
        student: What should be ``[B, C]``.
        teacher: What should be ``[B, C]``.

    Returns:
        Both in one dtype of at least float32.

    Raises:
        ValueError: If a shape does not fit, the two differ, or a dtype is no floating point.
    """
    student = checked_logits("student_logits", student)
    teacher = checked_logits("teacher_logits", teacher)
    if student.shape != teacher.shape:
        raise ValueError(
            "student_logits and teacher_logits must have the same shape [B, C], "
            f"got {list(student.shape)} and {list(teacher.shape)}"
        )
    return in_one_dtype(student, teacher)


def checked_embeddings(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Accept vectors of two models for the same samples; their lengths may differ.

    Args:
        student: What should be ``[B, D]``.
        teacher: What should be ``[B, E]``.

    Returns:
        Both in one dtype of at least float32.

    Raises:
        ValueError: If a shape does not fit, the batches differ, or a dtype is no floating point.
    """
    for name, vectors in (("student", student), ("teacher", teacher)):
        if vectors.ndim != 2 or vectors.numel() == 0:
            raise ValueError(f"{name} must be [B, D], not empty, got shape {list(vectors.shape)}")
        _check_floating_point(name, vectors)
    _check_same_batch("student", student, "teacher", teacher)
    return in_one_dtype(student, teacher)


def checked_features(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    maps: bool = True,
    same_shape: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Accept the features of two models for the same samples, one of the teacher for each student's.

    Args:
        student_features: What should be a list of tensors.
        teacher_features: What should be a list of as many tensors.
        maps: Whether they must be maps ``[B, C, H, W]``; otherwise ``[B, ...]`` of any shape.
        same_shape: Whether both features of a pair must have the same shape, not only the same B.

    Returns:
        The pairs in order, each in one dtype of at least float32.

    Raises:
        ValueError: If one is no list, the lists are empty or of different lengths, a shape does not
            fit, or a dtype is no floating point.
    """
    lists: dict[str, object] = {"student_features": student_features, "teacher_features": teacher_features}
    for name, features in lists.items():
        # A tensor would pass for a sequence of its samples.
        if not isinstance(features, list | tuple) or not features:
            given = "a single tensor" if isinstance(features, Tensor) else repr(features)
            raise ValueError(f"{name} must be a list of at least one tensor, got {given}")
    if len(student_features) != len(teacher_features):
        raise ValueError(
            "student_features and teacher_features must hold equally many features, "
            f"got {len(student_features)} and {len(teacher_features)}"
        )
    pairs = []
    for number, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        ours, theirs = f"student_features[{number}]", f"teacher_features[{number}]"
        for name, feature in ((ours, student), (theirs, teacher)):
            if feature.numel() == 0 or (feature.ndim != 4 if maps else feature.ndim < 2):
                shape = "[B, C, H, W]" if maps else "[B, ...]"
                raise ValueError(f"{name} must be {shape}, not empty, got shape {list(feature.shape)}")
            _check_floating_point(name, feature)
        if same_shape:
            check_same_shape(ours, student, theirs, teacher)
        _check_same_batch(ours, student, theirs, teacher)
        pairs.append(in_one_dtype(student, teacher))
    return pairs


def checked_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Accept two tensors of one shape, whichever it is.

    Args:
        student: What should not be empty.
        teacher: What should have the same shape.

    Returns:
        Both in one dtype of at least float32.

    Raises:
        ValueError: If one is empty, the shapes differ, or a dtype is no floating point.
    """
    for name, tensor in (("student", student), ("teacher", teacher)):
        if tensor.numel() == 0:
            raise ValueError(f"{name} must not be empty, got shape {list(tensor.shape)}")
        _check_floating_point(name, tensor)
    check_same_shape("student", student, "teacher", teacher)
    return in_one_dtype(student, teacher)


def check_same_shape(student_name: str, student: Tensor, teacher_name: str, teacher: Tensor) -> None:
    """Refuse two tensors that cannot be compared element by element.

    Args:
        student_name: What the message calls the student's tensor.
        student: A tensor.
        teacher_name: What the message calls the teacher's tensor.
        teacher: What should have the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"{student_name} and {teacher_name} must have the same shape, "
            f"got {list(student.shape)} and {list(teacher.shape)}"
        )


def in_one_dtype(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two tensors to the dtype in which a loss computes.

    Args:
        student: A floating-point tensor.
        teacher: A floating-point tensor.

    Returns:
        Both in the wider of their dtypes, at least float32.
    """
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype)


def _check_floating_point(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def _check_same_batch(student_name: str, student: Tensor, teacher_name: str, teacher: Tensor) -> None:
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{student_name} and {teacher_name} must hold the same samples, "
            f"got {student.shape[0]} and {teacher.shape[0]} of them"
        )


def describe(value: object) -> str:
    """Say what a value is.

    Args:
        value: anything.

    Returns:
        Dtype and shape of a tensor, the value itself of anything else.
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} {list(value.shape)}"
    return repr(value)


def check_integer(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """Accept whole numbers of a range, of Python or of numpy.

    Args:
        name: what the message calls the value.
        value: what the caller passed in.
        low: the least that is right.
        high: the most that is right; None for no limit.

    Returns:
        The value as an int.

    Raises:
        ValueError: for anything else, among it True, False and 3.0.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {allowed}, got {describe(value)}")
    return int(value)


def check_share(name: str, value: Any) -> float:
    """Accept numbers in [0, 1].

    Args:
        name: what the message calls the value.
        value: what the caller passed in.

    Returns:
        The value as a float.

    Raises:
        ValueError: for anything else, among it NaN, True and False.
    """
    number = isinstance(value, float | int | np.floating) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number from 0 to 1, got {describe(value)}")
    return float(value)


def check_int64_vector(name: str, value: Any, *, length: int | None = None) -> None:
    """Accept int64 tensors of one dimension.

    Args:
        name: what the message calls the value.
        value: what the caller passed in.
        length: how long it has to be; None for any length.

    Raises:
        ValueError: for anything else.
    """
    right = isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    if not right or (length is not None and value.shape != (length,)):
        size = "N" if length is None else length
        raise ValueError(f"{name} must be a tensor of int64 [{size}], got {describe(value)}")


def check_range(name: str, values: Tensor, high: int | None = None, why: str = "") -> None:
    """Accept whole numbers that all lie in [0, high].

    Args:
        name: what the message calls the values.
        values: a tensor of integers; an empty one is right.
        high: the most that is right; None for no limit.
        why: where the limit comes from, for the message.

    Raises:
        ValueError: if a value lies outside, with the least and the most that came.
    """
    if values.numel() == 0:
        return
    least, most = (int(value) for value in values.aminmax())
    if least < 0 or (high is not None and most > high):
        allowed = "be at least 0" if high is None else f"lie from 0 to {high} ({why})"
        raise ValueError(f"{name} must {allowed}, got {least} to {most}")


def checked_predictions(logits: Tensor, target: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Accept logits with the true class of each sample.

    Args:
        logits: What should be ``[B, C]``, floating point, with B >= 1 and C >= 2.
        target: What should be ``[B]``, int64 class numbers.
        num_classes: The number that the classes in ``target`` lie below; None for C.

    Returns:
        The logits in at least float32, detached.

    Raises:
        ValueError: If a shape or dtype does not fit, or a class number is out of range.
    """
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    check_labels(target, logits.shape[1] if num_classes is None else num_classes)
    return logits.detach()


def check_labels(target: Tensor, num_classes: int) -> None:
    """Refuse class numbers that do not lie in [0, num_classes).

    Args:
        target: ``[B]``, int64, B >= 1.
        num_classes: The first number that is too high.

    Raises:
        ValueError: If one is out of range.
    """
    low, high = torch.stack(target.aminmax()).tolist()
    if low < 0 or high >= num_classes:
        raise ValueError(f"target must hold class numbers from 0 to {num_classes - 1}, got {low} to {high}")


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of images in [0, 1].

    Args:
        images: What should be ``[B, C, H, W]``, floating point, not empty.

    Raises:
        ValueError: If it is not.
    """
    if images.ndim != 4 or not images.numel() or not images.is_floating_point():
        raise ValueError(
            "images must be a floating-point tensor [B, C, H, W], not empty, "
            f"got {images.dtype} {list(images.shape)}"
        )
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not 0 <= low <= high <= 1:
        raise ValueError(f"images must lie in [0, 1], not normalised, got {low:.4g} to {high:.4g}")
