"""Random changes of place: flips, rotations, crops and holes, a whole batch at a time.

Here belong functions that move or remove pixels. Each draws its numbers for all images at once from
the generator it is given, as many whatever the images hold, and works where the images lie.
"""

import math

import torch
from torch import Tensor

from dotkd.data._checks import check_integer, check_share
from dotkd.data.augment_affine import (
    affine,
    as_type,
    check_images,
    check_number,
    integers,
    rotation,
    uniform,
)

_TRIES = 10


def flip(images: Tensor, *, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror each image left to right with a probability.

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        generator: where the random numbers come from; it moves on by one number for each image.
        probability: of a flip, in [0, 1].

    Returns:
        The same type, shape and device.

    Example:
        >>> images = torch.arange(3, dtype=torch.uint8).reshape(1, 1, 1, 3)
        >>> flip(images, generator=torch.Generator().manual_seed(0), probability=1).flatten().tolist()
        [2, 1, 0]
    """
    check_images(images)
    share = check_share("probability", probability)
    flipped = (uniform(len(images), generator=generator) < share).to(images.device)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def rotate(images: Tensor, *, generator: torch.Generator, degrees: float, bilinear: bool = False) -> Tensor:
    """Rotate each image about its middle by an angle uniform in [-degrees, degrees).

    The size stays, and what comes from outside is zero. Angles are counter-clockwise, as for
    Pillow's ``Image.rotate``.

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        generator: where the random numbers come from; it moves on by one number for each image.
        degrees: the largest angle, from 0 to 180.
        bilinear: whether to mix the four pixels around a place (uint8: rounded) instead of taking
            the nearest one, which is what torchvision's ``RandomRotation`` does by default.

    Returns:
        The same type, shape and device.

    Example:
        >>> images = torch.ones(8, 3, 32, 32)
        >>> turned = rotate(images, generator=torch.Generator().manual_seed(0), degrees=15)
        >>> turned.shape, float(turned[0, 0, 16, 16])
        (torch.Size([8, 3, 32, 32]), 1.0)
    """
    check_images(images)
    largest = check_number("degrees", degrees, 0, 180)
    angles = (2 * uniform(len(images), generator=generator) - 1) * largest
    return affine(images, rotation(angles, *images.shape[2:]), bilinear=bilinear)


def random_resized_crop(
    images: Tensor,
    size: int | tuple[int, int],
    *,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Cut a box out of each image and resize it: the augmentation of ImageNet.

    As torchvision's ``RandomResizedCrop``: with a share of the area s uniform in ``scale`` and
    log r uniform in log ``ratio``, the box has

        width = round(sqrt(s H W r)),   height = round(sqrt(s H W / r)),

    the first of ten draws that fits into the image, or else the largest box in the middle with a
    ratio in the range; its place is uniform. Resizing is bilinear without antialiasing and sees
    nothing outside the box. From Szegedy et al., Going deeper with convolutions (CVPR 2015).

    Args:
        images: [B, C, H, W], uint8 (the result is rounded) or floating point; not changed.
        size: side, or height and width, of the result.
        generator: where the random numbers come from; it moves on by 22 numbers for each image.
        scale: least and largest share of the area, in (0, 1].
        ratio: least and largest width / height, above 0.

    Returns:
        [B, C, *size], of the same type and device.

    Example:
        >>> images = torch.zeros(8, 3, 40, 60, dtype=torch.uint8)
        >>> random_resized_crop(images, 32, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """
    check_images(images)
    sides = size if isinstance(size, tuple) else (size, size)
    out_height, out_width = (check_integer("size", side, low=1) for side in sides)
    scale = _check_range("scale", scale, 1.0)
    ratio = _check_range("ratio", ratio, math.inf)
    boxes = _boxes(images.shape, scale, ratio, generator).to(images.device)
    top, left, height, width = boxes
    upper, lower, down = _line(top, height, out_height)
    first, second, across = _line(left, width, out_width)
    precision = torch.float64 if images.dtype == torch.float64 else torch.float32
    down, across = down.to(precision)[:, None, :, None], across.to(precision)[:, None, None, :]

    def lines(index: Tensor) -> Tensor:
        index = index[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3])
        return images.gather(2, index).to(precision)

    tall = lines(upper) * (1 - down) + lines(lower) * down
    shape = (-1, *tall.shape[1:3], -1)
    start = tall.gather(3, first[:, None, None, :].expand(shape))
    end = tall.gather(3, second[:, None, None, :].expand(shape))
    return as_type(start * (1 - across) + end * across, images.dtype)


def cutout(images: Tensor, *, generator: torch.Generator, size: int) -> Tensor:
    """Set a square of each image to zero.

    Its middle is uniform over the pixels, so that a part of it may lie outside: it covers the rows
    y - size // 2 to y - size // 2 + size - 1, and the columns likewise. From DeVries and Taylor,
    Improved regularization of convolutional neural networks with cutout (2017).

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        generator: where the random numbers come from; it moves on by two numbers for each image.
        size: side of the square in pixels, at least 0.

    Returns:
        The same type, shape and device.

    Example:
        >>> images = torch.ones(1, 1, 5, 5)
        >>> int(cutout(images, generator=torch.Generator().manual_seed(0), size=1).sum())
        24
    """
    check_images(images)
    size, (count, _, height, width) = check_integer("size", size, low=0), images.shape
    y = integers(height, count, generator=generator) - size // 2
    x = integers(width, count, generator=generator) - size // 2
    hole = box_mask(y, x, y + size, x + size, height, width).to(images.device)
    return torch.where(hole, torch.zeros_like(images), images)


def box_mask(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Mark boxes in images; what lies outside the image is left out.

    Args:
        top: [B], the first row.
        left: [B], the first column.
        bottom: [B], the row behind the last.
        right: [B], the column behind the last.
        height: of the images.
        width: of the images.

    Returns:
        [B, 1, H, W], bool.
    """
    y, x = torch.arange(height)[:, None], torch.arange(width)
    top, left, bottom, right = (edge[:, None, None] for edge in (top, left, bottom, right))
    return ((y >= top) & (y < bottom) & (x >= left) & (x < right))[:, None]


def _check_range(name: str, pair: tuple[float, float], high: float) -> tuple[float, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{name} must be two numbers, the least first, got {pair!r}")
    low, most = (check_number(name, value, 0, high, above=True) for value in pair)
    if low > most:
        raise ValueError(f"{name} must be two numbers, the least first, got {pair!r}")
    return low, most


def _boxes(
    shape: torch.Size, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draw top, left, height and width of a box for each image: [4, B], int64."""
    count, _, high, wide = shape
    shares, ratios = uniform(2, _TRIES, count, generator=generator)
    down, across = uniform(2, count, generator=generator)
    area = high * wide * (scale[0] + (scale[1] - scale[0]) * shares)
    low, most = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (most - low) * ratios)
    widths, heights = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= wide) & (heights > 0) & (heights <= high)
    first, some = fits.int().argmax(0, keepdim=True), fits.any(0)
    width, height = widths.gather(0, first)[0], heights.gather(0, first)[0]
    # None fits: as large as can be with a ratio in the range.
    nearest = min(max(wide / high, ratio[0]), ratio[1])
    width = torch.where(some, width, max(1, min(wide, round(high * nearest))))
    height = torch.where(some, height, max(1, min(high, round(wide / nearest))))
    top = torch.where(some, (down * (high - height + 1)).long(), (high - height) // 2)
    left = torch.where(some, (across * (wide - width + 1)).long(), (wide - width) // 2)
    return torch.stack([top, left, height, width])


def _line(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two lines of its box each line of the result lies, [B, size], and how far."""
    middle = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    at = (middle * (length / size)[:, None] - 0.5).clamp(min=0)
    low = at.floor().long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    return start[:, None] + low, start[:, None] + high, at - low
