"""Checks of what callers pass to a measurement; every message names the thing, the value and what is right.

Here belongs a check that more than one measurement makes. Unlike a loss, a measurement may wait for the
device, so values are looked at too.
"""

import torch
from torch import Tensor

from dotkd.losses._checks import check_target, checked_logits


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
