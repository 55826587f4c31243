"""Affine maps of whole batches, and what the augmentations share.

Here belong the sampling of images at other places and small helpers around it. Random numbers are
drawn elsewhere: everything here is a function of its arguments.
"""

import math
from typing import Any

import torch
from torch import Tensor

from dotkd.data._checks import describe


def check_images(images: Any, channels: tuple[int, ...] = ()) -> None:
    """Accept tensors [B, C, H, W] of uint8 or of floating point.

    Args:
        images: what the caller passed in.
        channels: the numbers of channels that are right; none for any.

    Raises:
        ValueError: for anything else.
    """
    right = isinstance(images, Tensor) and images.ndim == 4
    right = right and (images.dtype == torch.uint8 or images.is_floating_point())
    if not right or (channels and images.shape[1] not in channels):
        allowed = " or ".join(str(number) for number in channels) or "C"
        raise ValueError(
            f"images must be a tensor of uint8 or floats [B, {allowed}, H, W], got {describe(images)}"
        )


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Accept finite numbers of a range.

    Args:
        name: what the message calls the value.
        value: what the caller passed in.
        low: the least that is right.
        high: the most that is right.
        above: whether ``low`` itself is wrong.

    Returns:
        The value as a float.

    Raises:
        ValueError: for anything else, among it NaN, True and False.
    """
    number = isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        least = f"above {low:g}" if above else f"of at least {low:g}"
        most = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be a number {least}{most}, got {describe(value)}")
    return float(value)


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw float64 numbers in [0, 1) on the device of a generator and hand them over on the CPU.

    Args:
        *shape: how many.
        generator: where they come from; it moves on by their number.

    Returns:
        A tensor of that shape.
    """
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()


def integers(high: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Draw int64 numbers in [0, high) on the device of a generator and hand them over on the CPU.

    Args:
        high: how many different numbers there are.
        *shape: how many to draw.
        generator: where they come from; it moves on by their number.

    Returns:
        A tensor of that shape.
    """
    return torch.randint(high, shape, generator=generator, device=generator.device).cpu()


def as_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert computed pixel values back to the type of the images.

    Args:
        values: floating point.
        dtype: uint8, which is rounded to and kept in [0, 255], or a floating point type.

    Returns:
        The values in that type.
    """
    return values.round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """Give the maps of rotations about the middle of the image, counter-clockwise as one sees it.

    Args:
        degrees: [B], float64.
        height: of the images.
        width: of the images.

    Returns:
        [B, 2, 3], float64, for :func:`affine`.
    """
    angles = torch.deg2rad(degrees)
    # Rounded as Pillow does: 90 degrees must not look past an edge by 1e-17.
    cos, sin = angles.cos().round(decimals=15), angles.sin().round(decimals=15)
    x, y = width / 2, height / 2
    rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def affine(images: Tensor, maps: Tensor, *, bilinear: bool = False) -> Tensor:
    """Look up each pixel of the result at another place of the image; zero where there is none.

    The middle (x + 1/2, y + 1/2) of a pixel of the result lies, in the image, at

        (u, v) = maps[:, :, :2] (x + 1/2, y + 1/2) + maps[:, :, 2],

    the convention of Pillow's ``Image.transform``. Nearest takes the pixel around (u, v); bilinear
    mixes the four whose middles are around it, those at the edge repeated.

    Args:
        images: [B, C, H, W], uint8 or floating point.
        maps: [B, 2, 3], float64.
        bilinear: which of the two.

    Returns:
        The same type and shape.
    """
    (_, channels, height, width), device = images.shape, images.device
    maps = maps.to(device)[..., None, None]
    x = torch.arange(width, device=device, dtype=torch.float64) + 0.5
    y = (torch.arange(height, device=device, dtype=torch.float64) + 0.5)[:, None]
    u = maps[:, 0, 0] * x + maps[:, 0, 1] * y + maps[:, 0, 2]
    v = maps[:, 1, 0] * x + maps[:, 1, 1] * y + maps[:, 1, 2]
    inside = ((u >= 0) & (u < width) & (v >= 0) & (v < height))[:, None]
    flat = images.flatten(2)

    def pick(rows: Tensor, columns: Tensor) -> Tensor:
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        index = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
        return flat.gather(2, index).reshape(images.shape)

    if not bilinear:
        found = pick(v.floor().long(), u.floor().long())
        return torch.where(inside, found, torch.zeros_like(found))
    u, v = u - 0.5, v - 0.5
    left, top = u.floor().long(), v.floor().long()
    across, down = (u - left)[:, None], (v - top)[:, None]
    above = pick(top, left) * (1 - across) + pick(top, left + 1) * across
    below = pick(top + 1, left) * (1 - across) + pick(top + 1, left + 1) * across
    mixed = above * (1 - down) + below * down
    return as_type(torch.where(inside, mixed, torch.zeros_like(mixed)), images.dtype)
