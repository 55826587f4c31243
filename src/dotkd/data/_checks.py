"""Checks of what callers pass in; every message names the thing, what is right and what came.

Here belongs a check that more than one file of this package makes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


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
