"""Validates the numbers and names that users give to the optimizers."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

CYCLED = "; a scheduler that cycles the momentum, such as OneCycleLR, needs cycle_momentum=False"
"""Advice that ends the message about a value found wrong at ``step()``: a scheduler may have written it."""

# Keys that torch's schedulers write into parameter groups.
_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")


def nearest(word: str, valid: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``"; did you mean 'x'?"`` for the valid word closest to ``word``, or ``""`` if none is close."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_lr(lr: float | Tensor) -> None:
    """Refuse a learning rate that is negative, not finite, or a tensor of several elements."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    check_not_negative("lr", lr)


def check_not_negative(name: str, value: float | Tensor) -> None:
    """Refuse a negative number, an infinity and a NaN."""
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_unit(name: str, value: float | Tensor, hint: str = "") -> None:
    """Refuse a number outside [0, 1), the range of momenta and betas; ``hint`` ends the message."""
    if not 0.0 <= float(value) < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {float(value)}{hint}")


def check_window(name: str, centre: float | Tensor, delta: float | Tensor, hint: str = "") -> None:
    """Refuse ``centre`` and ``delta`` unless ``centre - delta`` and ``centre + delta`` lie in [0, 1)."""
    centre, delta = float(centre), float(delta)
    low, high = centre - delta, centre + delta
    if not (0.0 <= low < 1.0 and 0.0 <= high < 1.0):
        raise ValueError(
            f"{name} - delta and {name} + delta must both lie in [0, 1), got {name}={centre:.6g} and "
            f"delta={delta:.6g}, which make {low:.6g} and {high:.6g}{hint}"
        )


def check_group_keys(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse a key of a parameter group that looks misspelt, or that is an option of the whole optimizer.

    Other unknown keys pass: schedulers and users keep notes of their own in the groups.

    Raises:
        ValueError: There is one.
    """
    known = {"params", "param_names", *_SCHEDULERS, *defaults}
    for key in group:
        if key == "process_group":
            raise ValueError(f"{key} is for all parameters: give it to the optimizer, not to a group")
        hint = "" if key in known else nearest(key, defaults, cutoff=0.8)
        # "no_weight_decay" is somebody's note, not a slip.
        if hint and not any(key.endswith(f"_{word}") or key.startswith(f"{word}_") for word in defaults):
            raise ValueError(f"unknown key {key!r} in a parameter group{hint}")


def check_losses(losses: Mapping[str, Any], streams: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the losses that are not None, in the order of the streams; refuse what has no gradient."""
    for name in losses:
        if name not in streams:
            raise ValueError(f"unknown loss {name!r}{nearest(name, streams)}: one of {streams}")
    if missing := [name for name in streams if name not in losses]:
        raise ValueError(f"no loss given for {missing}: pass None for a stream that is absent on purpose")
    given = {name: losses[name] for name in streams if losses[name] is not None}
    if not given:
        raise ValueError(f"all losses are None: give at least one of {streams}")
    for name, loss in given.items():
        if not isinstance(loss, Tensor):
            raise TypeError(f"the {name} loss must be a tensor or None, got {type(loss).__name__}")
        if loss.numel() != 1:
            raise ValueError(f"the {name} loss must be one number, got shape {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise ValueError(
                f"the {name} loss has no graph, so it has no gradient: was it detached, computed under "
                f"no_grad, or made from a constant such as a weight of 0? A step without it is {name}=None"
            )
    return given


def check_state_dict(
    state_dict: Mapping[str, Any],
    name: str,
    params: Iterable[Tensor],
    *,
    streams: tuple[str, ...],
    group_keys: Iterable[str],
    state_keys: Iterable[str],
) -> None:
    """Refuse the state of another optimizer, of other streams, or of parameters of other shapes.

    Args:
        state_dict: As :meth:`torch.optim.Optimizer.state_dict` returns it.
        name: Class of the optimizer that is to load it.
        params: Parameters of that optimizer, in order.
        streams: Names of its streams.
        group_keys: Group keys by which a state of this class is known.
        state_keys: Keys that a parameter with any state of this class has; further ones are a wrapper's.

    Raises:
        ValueError: It is one of these.
    """
    for group in state_dict["param_groups"]:
        if missing := [key for key in group_keys if key not in group]:
            raise ValueError(
                f"not a state of {name}: its parameter groups lack {missing}, they have "
                f"{sorted(key for key in group if key != 'params')}"
            )
    expected = set(state_keys)
    order = [index for group in state_dict["param_groups"] for index in group["params"]]
    param_of = dict(zip(order, params, strict=False))  # other numbers of parameters are refused by torch
    for index, state in state_dict["state"].items():
        if not isinstance(state, Mapping):  # of no parameter: a wrapper's
            continue
        ours = expected & set(state)
        if ours and ours != expected:
            raise ValueError(
                f"not a state of {name}: parameter {index} has {sorted(state)} where "
                f"{sorted(expected)} belong"
            )
        param = param_of.get(index)
        for key in sorted(ours):
            value = state[key]
            if param is not None and isinstance(value, Tensor) and value.shape != param.shape:
                raise ValueError(
                    f"{key} of parameter {index} has shape {tuple(value.shape)} where the parameter has "
                    f"{tuple(param.shape)}: is this the state of another model?"
                )
    for group in state_dict["param_groups"]:
        if tuple(group.get("momenta", streams)) != streams:
            raise ValueError(
                f"not a state of this {name}: its streams are {list(group['momenta'])}, not {list(streams)}"
            )
