"""Batched augmentation of images."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import check_int64_vector, check_integer, check_range, check_share, describe
from dotkd.data.decode import RandomResizedCrop
from dotkd.data.images import Augment
from dotkd.errors import BadInput, unknown


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


def crop_flip(images: Tensor, *, generator: torch.Generator, pad: int = 4) -> tuple[Tensor, Tensor]:
    """Shift each image by up to ``pad`` pixels and mirror every second one, at random.

    Each image gets a border of ``pad`` zeros, is cut back to its size at a random place and is
    then flipped left to right with probability 1/2: the usual augmentation of CIFAR. The place
    (dy, dx), each in [0, 2 * pad], and the flip are one number,

        view = (dy * (2 * pad + 1) + dx) * 2 + flip,

    drawn uniformly for each image. Only it is drawn, on the device of the generator, so that one
    seed gives the same views on every device.

    Args:
        images: [B, C, H, W], of any type of numbers; not changed.
        generator: where the random numbers come from; it moves on.
        pad: width of the border, at least 0; 0 only flips.

    Returns:
        The views, of the same type, shape and device, and their numbers [B], int64, in
        [0, 2 * (2 * pad + 1) ** 2).

    Raises:
        ValueError: if ``images`` is not such a tensor or ``pad`` is not such a number.

    Example:
        >>> from functools import partial
        >>> from dotkd.data import load_digits
        >>> generator = torch.Generator().manual_seed(0)
        >>> views, numbers = crop_flip(torch.ones(2, 3, 32, 32), generator=generator)
        >>> views.shape, numbers.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2]))
        >>> augment = partial(crop_flip, generator=generator, pad=1)
        >>> next(load_digits().train.batches(64, augment=augment)).view.max() < 18
        tensor(True)
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise ValueError(f"images must be a tensor [B, C, H, W], got {describe(images)}")
    pad = check_integer("pad", pad, low=0)
    view = torch.randint(
        2 * (2 * pad + 1) ** 2, images.shape[:1], generator=generator, device=generator.device
    ).to(images.device)
    return (_cut(images, view, pad) if images.numel() else images.clone()), view


def _cut(images: Tensor, view: Tensor, pad: int) -> Tensor:
    """Make the views with these numbers, by copying one stretch of memory for each image."""
    (count, channels, height, width), device = images.shape, images.device
    places, high, wide = 2 * pad + 1, height + 2 * pad, width + 2 * pad
    top, left, flip = view // (2 * places), view // 2 % places, view % 2

    # Every image with its border, then every mirror image, then room behind the last one.
    padded = images.new_zeros(2 * count + 1, channels, high, wide)
    inner = padded[:, :, pad : pad + height, pad : pad + width]
    inner[:count] = images
    inner[count : 2 * count] = images.flip(3)
    # From its first pixel on, a stretch as long as a padded image has the rows of the view, each as long
    # as a padded row: the view is the upper left corner of what is copied.
    size = channels * high * wide
    start = (flip * count + torch.arange(count, device=device)) * size
    start += top * wide + torch.where(flip == 1, 2 * pad - left, left)
    stretches = padded.flatten().unfold(0, size, 1).index_select(0, start)
    return stretches.view(count, channels, high, wide)[:, :, :height, :width].contiguous()


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


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with another one of the batch, and their labels likewise.

        x~_i = l_i x_i + (1 - l_i) x_j,   p_i = l_i onehot(y_i) + (1 - l_i) onehot(y_j)

    with l_i from Beta(alpha, alpha), one for each image, and j = pi(i) of a random permutation pi.
    From Zhang et al., mixup: beyond empirical risk minimization (ICLR 2018).

    Args:
        images: [B, C, H, W], uint8 (the result is rounded) or floating point; not changed.
        labels: [B], int64, in [0, num_classes).
        num_classes: K, at least 1.
        alpha: of the distribution, above 0; 1 is uniform, small numbers hardly mix.
        generator: where the random numbers come from.

    Returns:
        The mixed images, of the same type, shape and device, and probabilities [B, K], float32.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, probabilities = mixup(images, labels, 10, alpha=1.0, generator=generator)
        >>> mixed.shape, probabilities.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """
    partner, share = _pairs(images, labels, num_classes, alpha, generator)
    partner = partner.to(images.device)
    precision = torch.float64 if images.dtype == torch.float64 else torch.float32
    own = share.to(images.device, precision)[:, None, None, None]
    mixed = images.to(precision) * own + images[partner].to(precision) * (1 - own)
    return as_type(mixed, images.dtype), _blend(labels, partner, share, num_classes)


def cutmix(
    images: Tensor, labels: Tensor, num_classes: int, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image, and mix the labels by area.

    With l_i from Beta(alpha, alpha) the box has the sides H sqrt(1 - l_i) and W sqrt(1 - l_i),
    rounded down; its middle is uniform over the pixels, and what lies outside is lost. Then

        p_i = (1 - a_i) onehot(y_i) + a_i onehot(y_j),   a_i = pixels of the box / (H W),

    for the box that is left. The box of the partner j = pi(i) is the same one.
    From Yun et al., CutMix (ICCV 2019), with a box for each image instead of one for the batch.

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        labels: [B], int64, in [0, num_classes).
        num_classes: K, at least 1.
        alpha: of the distribution, above 0; 1 is uniform.
        generator: where the random numbers come from.

    Returns:
        The mixed images, of the same type, shape and device, and probabilities [B, K], float32.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, probabilities = cutmix(images, labels, 10, alpha=1.0, generator=generator)
        >>> torch.equal((probabilities * 64).round(), probabilities * 64)
        True
    """
    partner, share = _pairs(images, labels, num_classes, alpha, generator)
    partner, (count, _, height, width) = partner.to(images.device), images.shape
    side = (1 - share).sqrt()
    high, wide = (side * height).long(), (side * width).long()
    top = integers(height, count, generator=generator) - high // 2
    left = integers(width, count, generator=generator) - wide // 2
    box = box_mask(top, left, top + high, left + wide, height, width)
    own = 1 - box.flatten(1).to(torch.float64).mean(1)
    mixed = torch.where(box.to(images.device), images[partner], images)
    return mixed, _blend(labels, partner, own, num_classes)


def _pairs(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Check the arguments; draw a partner, int64, and the own share, float64, for each image."""
    from scipy import special  # type: ignore[import-untyped]  # slow to load

    check_images(images)
    check_int64_vector("labels", labels, length=len(images))
    classes = check_integer("num_classes", num_classes, low=1)
    check_range("labels", labels, classes - 1, f"{classes} classes")
    alpha = check_number("alpha", alpha, 0, above=True)
    partner = torch.randperm(len(images), generator=generator, device=generator.device).cpu()
    # By its quantiles: one number for each image, where a rejection would take some more.
    quantiles = uniform(len(images), generator=generator).numpy()
    return partner, torch.from_numpy(special.betaincinv(alpha, alpha, quantiles)).clamp(0, 1)


def _blend(labels: Tensor, partner: Tensor, share: Tensor, num_classes: int) -> Tensor:
    own = share.to(labels.device, torch.float32)[:, None]
    one_hot = functional.one_hot(labels, int(num_classes)).to(torch.float32)
    return own * one_hot + (1 - own) * one_hot[partner.to(labels.device)]


class _Kind(NamedTuple):
    """A step that a recipe may name, and the number behind its colon."""

    meaning: str
    number: float | None  # the default; None for a step that takes none
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False


STEPS = {
    "crop-flip": _Kind(
        "a border of N zeros, a crop at a random place, a flip for every other image", 4, 0, 64, True
    ),
    "flip": _Kind("mirrored left to right, every other image", None),
    "rotate": _Kind("by up to N degrees either way, nearest pixel, zeros outside", 15, 0, 180),
    "resized-crop": _Kind(
        "a box of at least the share N of the area, resized to the image's size", 0.08, 1e-4, 1
    ),
    "cutout": _Kind("a square of N pixels set to zero", 8, 0, 4096, True),
    "mixup": _Kind("blended with another image and its label, by Beta(N, N); last in the list", 0.2, 1e-4),
    "cutmix": _Kind(
        "a box of another image pasted in, labels by area, by Beta(N, N); last in the list", 1.0, 1e-4
    ),
}
_MIXING = ("mixup", "cutmix")
_COUNTABLE = ("crop-flip", "flip")
_WHOLE = "resized-crop"


class Step(NamedTuple):
    """One step: its name and its number, None where it takes none."""

    name: str
    number: float | None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}:{self.number:g}"


class Augmentation:
    """What a batch of training images goes through, in the order of the list.

    Args:
        steps: Names of :data:`STEPS`, with ``:NUMBER`` where another than the default is wanted.

    Raises:
        BadInput: There is no such step, its number is out of range, or a mixing step is not the last.

    Example:
        >>> augmentation = Augmentation(["rotate:20", "flip", "mixup"])
        >>> [str(step) for step in augmentation.steps], augmentation.mixes_labels
        (['rotate:20', 'flip', 'mixup:0.2'], True)
        >>> Augmentation(["crop-flip"]).num_views
        162
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = tuple(_parsed(step) for step in steps)
        for place, step in enumerate(self.steps, start=1):
            if step.name in _MIXING and place < len(self.steps):
                raise BadInput(
                    f"{step} mixes labels and must be the last step, got {list(map(str, self.steps))}"
                )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become probabilities of classes."""
        return bool(self.steps) and self.steps[-1].name in _MIXING

    @property
    def num_views(self) -> int | None:
        """How many views of an image there are; None where they cannot be counted."""
        if not self.steps:
            return 1
        return 2 * (2 * self._pad + 1) ** 2 if self._countable else None

    @property
    def _countable(self) -> bool:
        return len(self.steps) == 1 and self.steps[0].name in _COUNTABLE

    @property
    def _pad(self) -> int:
        return int(self.steps[0].number or 0)

    def views(
        self, generator: torch.Generator, *, streamed: bool = False
    ) -> Augment | RandomResizedCrop | None:
        """Make what the ``augment`` of :meth:`dotkd.data.Images.batches` is to be.

        Of streamed images ``resized-crop`` cuts a box out of the whole image, in the worker that decodes it;
        all other steps, and all of images in memory, are applied to whole batches.

        Args:
            generator: Where the random numbers come from.
            streamed: Whether the images come from files, each of a size of its own.

        Returns:
            None where there is nothing to do.

        Raises:
            BadInput: Images are streamed and ``resized-crop`` is not the first step.
        """
        changes = [step for step in self.steps if step.name not in _MIXING]
        if streamed and any(step.name == _WHOLE for step in changes):
            if changes[0].name != _WHOLE:
                raise BadInput(f"{_WHOLE} must be the first step for images that are streamed from files")
            rest = self._applied(changes[1:], generator)
            return RandomResizedCrop(generator, scale=(changes[0].number or 0.0, 1.0), flip=0.0, then=rest)
        return self._applied(changes, generator)

    def _applied(self, changes: Sequence[Step], generator: torch.Generator) -> Augment | None:
        if not changes:
            return None
        if self._countable:
            return partial(crop_flip, generator=generator, pad=self._pad)

        def change(pixels: Tensor) -> tuple[Tensor, None]:
            for step in changes:
                pixels = _changed(step, pixels, generator)
            return pixels, None

        return change

    def mix(
        self, images: Tensor, labels: Tensor, num_classes: int, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch with each other, where the last step says so.

        Args:
            images: [B, C, H, W].
            labels: [B], int64.
            num_classes: How many classes there are.
            generator: Where the random numbers come from.

        Returns:
            Images and probabilities [B, K]; both as they were where nothing mixes.
        """
        if not self.mixes_labels:
            return images, labels
        name, number = self.steps[-1]
        assert number is not None
        function = {"mixup": mixup, "cutmix": cutmix}[name]
        return function(images, labels, num_classes, alpha=number, generator=generator)


def _parsed(text: str) -> Step:
    name, colon, written = text.partition(":")
    if name not in STEPS:
        raise BadInput(unknown("step", name, STEPS))
    kind = STEPS[name]
    if not colon:
        return Step(name, kind.number)
    try:
        number = float(written)
    except ValueError:
        number = float("nan")
    takes = kind.number is not None
    if (
        not takes
        or not kind.low <= number <= kind.high
        or number == float("inf")
        or (kind.whole and number % 1)
    ):
        what = (
            f"a {'whole ' if kind.whole else ''}number from {kind.low:g} to {kind.high:g}"
            if takes
            else "none"
        )
        raise BadInput(f"the number of {name!r} must be {what}, got {text!r}")
    return Step(name, number)


def _changed(step: Step, pixels: Tensor, generator: torch.Generator) -> Tensor:
    number = step.number or 0.0
    if step.name in _COUNTABLE:
        return crop_flip(pixels, generator=generator, pad=int(number))[0]
    if step.name == "rotate":
        return rotate(pixels, generator=generator, degrees=number)
    if step.name == _WHOLE:
        height, width = pixels.shape[2:]
        return random_resized_crop(pixels, (height, width), generator=generator, scale=(number, 1.0))
    return cutout(pixels, generator=generator, size=int(number))
