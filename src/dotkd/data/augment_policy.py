"""Random choices among many changes of an image, a whole batch at a time.

Here belongs RandAugment with its operations: the arithmetic of Pillow on uint8, for all images that
drew the same operation at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.data._checks import check_integer
from dotkd.data.augment_affine import affine, check_images, check_number, integers, rotation

# Images [n, C, H, W], uint8; the magnitude in [0, 1]; the signs, -1 or 1, [n], float64, on the CPU.
Operation = Callable[[Tensor, float, Tensor], Tensor]


def rand_augment(
    images: Tensor,
    *,
    generator: torch.Generator,
    count: int = 2,
    magnitude: float = 9,
    operations: Sequence[str] | None = None,
) -> Tensor:
    """Apply ``count`` operations to each image, drawn anew for each one, with one magnitude.

    With m = magnitude / 30 and a sign s of -1 or 1 drawn for each image and operation: ``rotate``
    by 30 s m degrees; ``shear_x``, ``shear_y`` by 0.3 s m; ``translate_x``, ``translate_y`` by
    150/331 s m of the side; ``brightness``, ``color``, ``contrast``, ``sharpness`` by a factor
    1 + 0.9 s m; ``posterize`` to 8 - round(4 m) bits; ``solarize`` inverts from 256 (1 - m) on;
    ``identity``, ``autocontrast``, ``equalize`` have no magnitude. From Cubuk et al., RandAugment
    (2020), with the ranges of torchvision; each as Pillow does it, nearest and zero outside.

    Args:
        images: [B, 1 or 3, H, W], uint8, or floating point in [0, 1], which is rounded to
            k / 255 first; not changed.
        generator: where the random numbers come from; it moves on by 2 * count for each image.
        count: operations for each image, at least 0.
        magnitude: from 0 to 30.
        operations: the names to draw from, all above if None; twice named is drawn twice as often.

    Returns:
        The same type, shape and device.

    Raises:
        ValueError: if there is no such operation, or another argument is wrong.

    Example:
        >>> images = torch.full((8, 3, 32, 32), 200, dtype=torch.uint8)
        >>> generator = torch.Generator().manual_seed(0)
        >>> rand_augment(images, generator=generator, count=2, magnitude=9).shape
        torch.Size([8, 3, 32, 32])
        >>> inverted = rand_augment(images, generator=generator, magnitude=30, count=1,
        ...                         operations=["solarize"])
        >>> inverted.unique().tolist()
        [55]
    """
    check_images(images, channels=(1, 3))
    count, level = check_integer("count", count, low=0), check_number("magnitude", magnitude, 0, 30) / 30
    names = list(OPERATIONS if operations is None else operations)
    if not names or any(name not in OPERATIONS for name in names):
        raise ValueError(f"operations must be some of {', '.join(OPERATIONS)}, got {operations!r}")
    chosen = integers(len(names), count, len(images), generator=generator)
    signs = 2.0 * integers(2, count, len(images), generator=generator).double() - 1
    whole = images.dtype == torch.uint8
    pixels = images.clone() if whole else (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    for choice, sign in zip(chosen, signs, strict=True):
        for number, name in enumerate(names):
            rows = (choice == number).nonzero()[:, 0]
            if name != "identity" and len(rows):
                there = rows.to(images.device)
                pixels[there] = OPERATIONS[name](pixels[there], level, sign[rows])
    return pixels if whole else (pixels.float() / 255).to(images.dtype)


# ---------------------------------------------------------------- places


def _maps(signs: Tensor, row: int, column: int, amount: float) -> Tensor:
    maps = torch.eye(2, 3, dtype=torch.float64).repeat(len(signs), 1, 1)
    maps[:, row, column] = amount * signs
    return maps


def _rotate(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return affine(images, rotation(30 * level * signs, *images.shape[2:]))


def _shear_x(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return affine(images, _maps(signs, 0, 1, 0.3 * level))


def _shear_y(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return affine(images, _maps(signs, 1, 0, 0.3 * level))


def _translate_x(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return affine(images, _maps(signs, 0, 2, 150 / 331 * level * images.shape[3]))


def _translate_y(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return affine(images, _maps(signs, 1, 2, 150 / 331 * level * images.shape[2]))


# ---------------------------------------------------------------- blends with a plainer image


def _blend(plain: Tensor, images: Tensor, level: float, signs: Tensor) -> Tensor:
    """Give plain + factor (images - plain), cut off to whole numbers as ``Image.blend`` does."""
    factor = (1 + 0.9 * level * signs).to(images.device, torch.float32)[:, None, None, None]
    start = plain.to(torch.float32)
    return (start + factor * (images.to(torch.float32) - start)).clamp(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """Brightness of each pixel, [n, 1, H, W], int64: 0.299 R + 0.587 G + 0.114 B, rounded."""
    if images.shape[1] == 1:
        return images.long()
    levels = images.long()
    red, green, blue = levels[:, 0:1], levels[:, 1:2], levels[:, 2:3]
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _brightness(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images), images, level, signs)


def _color(images: Tensor, level: float, signs: Tensor) -> Tensor:
    return _blend(_gray(images), images, level, signs)


def _contrast(images: Tensor, level: float, signs: Tensor) -> Tensor:
    gray, number = _gray(images), images[0, 0].numel()
    mean = (2 * gray.sum((1, 2, 3), keepdim=True) + number) // (2 * number)
    return _blend(mean, images, level, signs)


def _sharpness(images: Tensor, level: float, signs: Tensor) -> Tensor:
    smooth = images.to(torch.int32)
    if min(images.shape[2:]) >= 3:
        inner = functional.avg_pool2d(images.to(torch.float32), 3, 1, divisor_override=1).to(torch.int32)
        # The middle counts 5 of 13, each of its neighbours 1; the edge stays.
        middle = (2 * (inner + 4 * smooth[:, :, 1:-1, 1:-1]) + 13) // 26
        smooth = smooth.clone()
        smooth[:, :, 1:-1, 1:-1] = middle
    return _blend(smooth, images, level, signs)


# ---------------------------------------------------------------- tables of values


def _solarize(images: Tensor, level: float, _signs: Tensor) -> Tensor:
    return torch.where(images < 256 * (1 - level), images, 255 - images)


def _posterize(images: Tensor, level: float, _signs: Tensor) -> Tensor:
    return images & (256 - (1 << round(4 * level)))


def _autocontrast(images: Tensor, _level: float, _signs: Tensor) -> Tensor:
    values = images.to(torch.float64)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    # A true division (255 / tensor multiplies by the reciprocal) and two roundings, as in Pillow: the
    # last bit decides where the result is whole.
    scale = torch.full_like(high, 255) / (high - low).clamp(min=1)
    stretched = (values * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def _equalize(images: Tensor, _level: float, _signs: Tensor) -> Tensor:
    flat = images.flatten(2).flatten(0, 1).long()
    planes = torch.arange(len(flat), device=images.device)[:, None]
    counts = torch.bincount((256 * planes + flat).flatten(), minlength=256 * len(flat)).reshape(-1, 256)
    step = (flat.shape[1] - counts.gather(1, flat.amax(1, keepdim=True))) // 255
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(1, flat), flat).reshape(images.shape).to(torch.uint8)


def _identity(images: Tensor, _level: float, _signs: Tensor) -> Tensor:
    return images


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _color,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
