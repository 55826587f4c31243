"""What the modules with learned parts share: the fit of feature maps to the channels they were built for.

Nothing here reads a value on a device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dotkd.losses._checks import check_count


def check_channel_pairs(student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
    """Refuse lists of widths that do not give one student's and one teacher's width per feature.

    Args:
        student_channels: The student's channels by feature.
        teacher_channels: The teacher's channels by feature.

    Raises:
        ValueError: If the lists are empty or differ in length, or a width is not at least 1.
    """
    if len(student_channels) != len(teacher_channels) or not student_channels:
        raise ValueError(
            "student_channels and teacher_channels must have one entry for each feature, "
            f"got {list(student_channels)} and {list(teacher_channels)}"
        )
    for name, widths in (("student_channels", student_channels), ("teacher_channels", teacher_channels)):
        for number, width in enumerate(widths):
            check_count(f"{name}[{number}]", width)


def checked_map(name: str, feature: Tensor, channels: int | None = None) -> Tensor:
    """Accept a feature map, of a given width if one is given.

    Args:
        name: What the message calls it.
        feature: What should be ``[B, C, H, W]``.
        channels: C, or None for any.

    Returns:
        The map in at least float32.

    Raises:
        ValueError: If the shape does not fit or the dtype is no floating point.
    """
    if feature.ndim != 4 or feature.numel() == 0 or channels not in (None, feature.shape[1]):
        width = "C" if channels is None else channels
        raise ValueError(f"{name} must be [B, {width}, H, W], not empty, got shape {list(feature.shape)}")
    if not feature.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {feature.dtype}")
    return feature.to(torch.promote_types(feature.dtype, torch.float32))


def checked_maps(name: str, features: Sequence[Tensor], channels: Sequence[int]) -> list[Tensor]:
    """Accept feature maps, one for each width.

    Args:
        name: What the message calls them.
        features: What should be a list of ``[B, C, H, W]``.
        channels: C of each.

    Returns:
        The maps in at least float32.

    Raises:
        ValueError: If it is no list of that many, or a map does not fit.
    """
    if not isinstance(features, list | tuple) or len(features) != len(channels):
        given = (
            f"a list of {len(features)}" if isinstance(features, list | tuple) else type(features).__name__
        )
        raise ValueError(
            f"{name} must be a list of {len(channels)} maps with {list(channels)} channels, got {given}"
        )
    pairs = zip(features, channels, strict=True)
    return [checked_map(f"{name}[{number}]", *pair) for number, pair in enumerate(pairs)]
