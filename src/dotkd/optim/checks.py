"""What the optimizers accept: every test of a number or a name, with the sentence that a user reads."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# What torch's schedulers write into the groups.
_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")
# What a group cannot choose for itself.
_OF_ALL = ("process_group", "local_buffers", "task_every")


def nearest(word: str, valid: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return a hint with the valid word closest to ``word``, or an empty string if none is close.

    Args:
        word: What was given.
        valid: What could have been meant.
        cutoff: Least similarity in [0, 1] of a hint.

    Returns:
        ``"; did you mean 'x'?"`` or ``""``.

    Example:
        >>> nearest("weigth_decay", ["lr", "weight_decay"])
        "; did you mean 'weight_decay'?"
    """
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_lr(lr: float | Tensor) -> None:
    """Refuse a learning rate that is negative, not a number, or a tensor of several elements.

    Raises:
        ValueError: It is.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    check_not_negative("lr", lr)


def check_not_negative(name: str, value: float | Tensor) -> None:
    """Refuse a negative number, an infinity and a NaN.

    Raises:
        ValueError: It is one of these.
    """
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_unit(name: str, value: float, hint: str = "") -> None:
    """Refuse a number outside [0, 1), the range of every momentum and every beta.

    Raises:
        ValueError: It is outside; ``hint`` ends the sentence.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {value}{hint}")


def check_window(name: str, centre: float, delta: float, hint: str = "") -> None:
    """Refuse ``centre`` and ``delta`` unless both ``centre - delta`` and ``centre + delta`` lie in [0, 1).

    Raises:
        ValueError: One of them does not; ``hint`` ends the sentence.
    """
    low, high = centre - delta, centre + delta
    if not (0.0 <= low < 1.0 and 0.0 <= high < 1.0):
        raise ValueError(
            f"{name} - delta and {name} + delta must both lie in [0, 1), got {name}={centre:.6g} and "
            f"delta={delta:.6g}, which make {low:.6g} and {high:.6g}{hint}"
        )


def check_group_keys(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse a key of a parameter group that is one slip away from a known one.

    Other unknown keys pass: schedulers and users keep notes of their own in the groups.

    Raises:
        ValueError: A key looks misspelt, or is an option of the whole optimizer.
    """
    known = {"params", "param_names", *_SCHEDULERS, *defaults}
    for key in group:
        if key in _OF_ALL:
            raise ValueError(f"{key} is for all parameters: give it to the optimizer, not to a group")
        hint = "" if key in known else nearest(key, defaults, cutoff=0.8)
        # "no_weight_decay" is a note that somebody made, not a slip.
        if hint and not any(key.endswith(f"_{word}") or key.startswith(f"{word}_") for word in defaults):
            raise ValueError(f"unknown key {key!r} in a parameter group{hint}")


def check_loss(name: str, loss: object) -> None:
    """Refuse what cannot be differentiated, before autograd says it in its own words.

    Raises:
        TypeError: Not a tensor.
        ValueError: Not a scalar, or without a graph.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"the {name} loss must be a tensor or None, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"the {name} loss must be one number, got shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise ValueError(
            f"the {name} loss has no graph, so it has no gradient: was it detached, computed under "
            f"no_grad, or made from a constant such as a weight of 0? A step without it is {name}=None"
        )
