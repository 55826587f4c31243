"""Clipping of several gradient sets by their norms."""

import math
from typing import Literal, get_args

from torch import Tensor
from torch.nn.utils import get_total_norm

from .checks import check_not_negative, nearest
from .gradients import Gradients, Sets, present, scaled, sum_of

ClipMode = Literal["joint", "each"]


def clip(
    sets: Sets,
    max_norm: float,
    mode: ClipMode,
    *,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> tuple[Sets, dict[str, Tensor]]:
    """Scale gradient sets down to a largest norm.

    Args:
        sets: Gradients by stream.
        max_norm: Largest norm, >= 0; infinity only measures.
        mode: ``"joint"``: one factor for all sets, from the norm of their sum. ``"each"``: a factor of
            its own for each set, from its own norm.
        norm_type: Order of the norm.
        error_if_nonfinite: Raise instead of scaling by a norm that is not finite.

    Returns:
        The scaled sets and the norms before: ``{"joint": norm}``, or one for each stream.

    Raises:
        ValueError: Unknown mode, or ``max_norm`` is negative or not a number.
    """
    if mode not in get_args(ClipMode):
        raise ValueError(
            f"mode must be 'joint' or 'each', got {mode!r}{nearest(str(mode), get_args(ClipMode))}"
        )
    if max_norm != math.inf:  # which only measures
        check_not_negative("max_norm", max_norm)
    if mode == "joint":
        total: Gradients = []
        for grads in sets.values():
            total = sum_of(total, grads)
        groups = {"joint": total}
    else:
        groups = sets
    norms = {
        name: get_total_norm(present(grads), norm_type, error_if_nonfinite) for name, grads in groups.items()
    }
    # The 1e-6 is torch.nn.utils.clip_grad_norm_'s, so that both clip alike.
    factors = {name: (max_norm / (norm + 1e-6)).clamp(max=1.0) for name, norm in norms.items()}
    clipped = {
        name: scaled(grads, factors["joint" if mode == "joint" else name]) for name, grads in sets.items()
    }
    return clipped, {name: _whole(norm) for name, norm in norms.items()}


def _whole(norm: Tensor) -> Tensor:
    # The norm of sharded gradients is itself spread over the processes.
    full: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return full
