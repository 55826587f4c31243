"""Checks of what callers pass to a loss; every message names the thing, what is right and what came.

Here belongs a check that more than one loss makes, and the dtype in which losses compute. Nothing
here reads a value on a device: only shapes, dtypes and Python numbers are looked at.
"""

import math
from collections.abc import Sequence

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
