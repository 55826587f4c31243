"""Augmentation of batches of images: the steps as functions, then the list of steps that a recipe writes.

Random numbers come from a generator and are drawn on its device, so that one seed gives the same views
on every device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dotkd._validate import check_int64_vector, check_integer, check_range, check_share, describe
from dotkd.data.decode import Numbers
from dotkd.data.images import Augment
from dotkd.errors import BadInput, unknown

_TRIES = 10  # boxes drawn for a resized crop

# ---------------------------------------------------------------- steps: images to images


def crop_flip(images: Tensor, *, generator: torch.Generator, pad: int = 4) -> tuple[Tensor, Tensor]:
    """Shift each image by up to ``pad`` pixels and mirror it with probability 1/2.

    Each image gets a border of ``pad`` zeros, is cut back to its size at a random place and is
    then flipped left to right with probability 1/2: the usual augmentation of CIFAR. The place
    (dy, dx), each in [0, 2 * pad], and the flip are one number,

        view = (dy * (2 * pad + 1) + dx) * 2 + flip,

    drawn uniformly for each image.

    Args:
        images: [B, C, H, W], of any numeric type; not changed.
        generator: source of the random numbers; it advances.
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
    return (_cut_views(images, view, pad) if images.numel() else images.clone()), view


def _cut_views(images: Tensor, view: Tensor, pad: int) -> Tensor:
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
    # as a padded row: the view is the upper left corner of that stretch.
    size = channels * high * wide
    start = (flip * count + torch.arange(count, device=device)) * size
    start += top * wide + torch.where(flip == 1, 2 * pad - left, left)
    stretches = padded.flatten().unfold(0, size, 1).index_select(0, start)
    return stretches.view(count, channels, high, wide)[:, :, :height, :width].contiguous()


def rotate(images: Tensor, *, generator: torch.Generator, degrees: float) -> Tensor:
    """Rotate each image about its middle by an angle uniform in [-degrees, degrees).

    The size stays; pixels from outside are zero, all others the nearest pixel of the image, as in
    torchvision's ``RandomRotation``. Angles are counter-clockwise, as in Pillow's ``Image.rotate``.

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        generator: source of the random numbers; it advances by one number for each image.
        degrees: the largest angle, from 0 to 180.

    Returns:
        The same type, shape and device.

    Example:
        >>> images = torch.ones(8, 3, 32, 32)
        >>> turned = rotate(images, generator=torch.Generator().manual_seed(0), degrees=15)
        >>> turned.shape, float(turned[0, 0, 16, 16])
        (torch.Size([8, 3, 32, 32]), 1.0)
    """
    _check_pixels(images)
    largest = _check_number("degrees", degrees, 0, 180)
    return _rotated(images, (2 * _uniform(len(images), generator=generator) - 1) * largest)


def _rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image by its angle."""
    (_, channels, height, width), device = images.shape, images.device
    angles = torch.deg2rad(degrees)
    # Rounded as in Pillow: 90 degrees must not reach past an edge by 1e-17.
    cos, sin = (
        values.round(decimals=15).to(device)[:, None, None] for values in (angles.cos(), angles.sin())
    )
    # The middle of the pixel (x, y) of the result lies at (u, v) in the image.
    x = torch.arange(width, device=device, dtype=torch.float64) + 0.5
    y = (torch.arange(height, device=device, dtype=torch.float64) + 0.5)[:, None]
    u = cos * x + -sin * y + (width / 2 - cos * (width / 2) + sin * (height / 2))
    v = sin * x + cos * y + (height / 2 - sin * (width / 2) - cos * (height / 2))
    inside = ((u >= 0) & (u < width) & (v >= 0) & (v < height))[:, None]
    rows, columns = v.floor().long().clamp(0, height - 1), u.floor().long().clamp(0, width - 1)
    index = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
    found = images.flatten(2).gather(2, index).reshape(images.shape)
    return torch.where(inside, found, torch.zeros_like(found))


def resized_crop(
    images: Tensor,
    size: int | tuple[int, int],
    *,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Cut a random box out of each image and resize it: the augmentation of ImageNet.

    As torchvision's ``RandomResizedCrop``: with a share of the area s uniform in ``scale`` and
    log r uniform in log ``ratio``, the box has

        width = round(sqrt(s H W r)),   height = round(sqrt(s H W / r)),

    the first of ten draws that fits into the image, or else the largest box in the middle with a
    ratio in the range; its place is uniform. Resizing is bilinear without antialiasing and reads
    nothing outside the box. From Szegedy et al., Going deeper with convolutions (CVPR 2015).

    Args:
        images: [B, C, H, W], uint8 (the result is rounded) or floating point; not changed.
        size: side, or height and width, of the result.
        generator: source of the random numbers; it advances by 22 numbers for each image.
        scale: least and largest share of the area, in (0, 1].
        ratio: least and largest width / height, above 0.

    Returns:
        [B, C, *size], of the same type and device.

    Example:
        >>> images = torch.zeros(8, 3, 40, 60, dtype=torch.uint8)
        >>> resized_crop(images, 32, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """
    _check_pixels(images)
    sides = size if isinstance(size, tuple) else (size, size)
    out_height, out_width = (check_integer("size", side, low=1) for side in sides)
    _check_interval("scale", scale, 1.0)
    _check_interval("ratio", ratio)
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
    return _as_type(start * (1 - across) + end * across, images.dtype)


def _boxes(
    shape: torch.Size, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draw top, left, height and width of a box for each image: [4, B], int64."""
    count, _, high, wide = shape
    shares, ratios = _uniform(2, _TRIES, count, generator=generator)
    down, across = _uniform(2, count, generator=generator)
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
    """Return the two lines of the box around each line of the result, [B, size], and the second's weight."""
    middle = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    at = (middle * (length / size)[:, None] - 0.5).clamp(min=0)
    low = at.floor().long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    return start[:, None] + low, start[:, None] + high, at - low


def cutout(images: Tensor, *, generator: torch.Generator, size: int) -> Tensor:
    """Set a square of each image to zero.

    Its middle is uniform over the pixels, so a part of it may lie outside: it covers the rows
    y - size // 2 to y - size // 2 + size - 1, and the columns likewise. From DeVries and Taylor,
    Improved regularization of convolutional neural networks with cutout (2017).

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        generator: source of the random numbers; it advances by two numbers for each image.
        size: side of the square in pixels, at least 0.

    Returns:
        The same type, shape and device.

    Example:
        >>> images = torch.ones(1, 1, 5, 5)
        >>> int(cutout(images, generator=torch.Generator().manual_seed(0), size=1).sum())
        24
    """
    _check_pixels(images)
    size, (count, _, height, width) = check_integer("size", size, low=0), images.shape
    y = _integers(height, count, generator=generator) - size // 2
    x = _integers(width, count, generator=generator) - size // 2
    hole = _box_mask(y, x, y + size, x + size, height, width).to(images.device)
    return torch.where(hole, torch.zeros_like(images), images)


def _box_mask(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Mark boxes, first row and column included, last ones excluded: [B, 1, H, W], bool."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    top, left, bottom, right = (edge[:, None, None] for edge in (top, left, bottom, right))
    return ((y >= top) & (y < bottom) & (x >= left) & (x < right))[:, None]


# ---------------------------------------------------------------- steps that mix labels


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image, and its label, with another one of the batch.

        x~_i = l_i x_i + (1 - l_i) x_j,   p_i = l_i onehot(y_i) + (1 - l_i) onehot(y_j)

    with l_i from Beta(alpha, alpha), one for each image, and j = pi(i) of a random permutation pi.
    From Zhang et al., mixup: beyond empirical risk minimization (ICLR 2018).

    Args:
        images: [B, C, H, W], uint8 (the result is rounded) or floating point; not changed.
        labels: [B], int64, in [0, num_classes).
        num_classes: K, at least 1.
        alpha: of the distribution, above 0; 1 is uniform, small numbers hardly mix.
        generator: source of the random numbers; it advances.

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
    return _as_type(mixed, images.dtype), _blend(labels, partner, share, num_classes)


def cutmix(
    images: Tensor, labels: Tensor, num_classes: int, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image, and mix the labels by area.

    With l_i from Beta(alpha, alpha) the box has the sides H sqrt(1 - l_i) and W sqrt(1 - l_i),
    rounded down; its middle is uniform over the pixels, and the part outside is lost. Then

        p_i = (1 - a_i) onehot(y_i) + a_i onehot(y_j),   a_i = pixels of the box / (H W),

    for the remaining box. The partner j = pi(i) gives the same box.
    From Yun et al., CutMix (ICCV 2019), with a box for each image instead of one for the batch.

    Args:
        images: [B, C, H, W], uint8 or floating point; not changed.
        labels: [B], int64, in [0, num_classes).
        num_classes: K, at least 1.
        alpha: of the distribution, above 0; 1 is uniform.
        generator: source of the random numbers; it advances.

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
    top = _integers(height, count, generator=generator) - high // 2
    left = _integers(width, count, generator=generator) - wide // 2
    box = _box_mask(top, left, top + high, left + wide, height, width)
    own = 1 - box.flatten(1).to(torch.float64).mean(1)
    mixed = torch.where(box.to(images.device), images[partner], images)
    return mixed, _blend(labels, partner, own, num_classes)


def _pairs(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Check the arguments; draw a partner, int64, and the own share, float64, for each image."""
    from scipy import special  # type: ignore[import-untyped]  # slow to load

    _check_pixels(images)
    check_int64_vector("labels", labels, length=len(images))
    classes = check_integer("num_classes", num_classes, low=1)
    check_range("labels", labels, classes - 1, f"{classes} classes")
    alpha = _check_number("alpha", alpha, 0, above=True)
    partner = torch.randperm(len(images), generator=generator, device=generator.device).cpu()
    # By its quantiles: one number for each image, unlike rejection sampling.
    quantiles = _uniform(len(images), generator=generator).numpy()
    return partner, torch.from_numpy(special.betaincinv(alpha, alpha, quantiles)).clamp(0, 1)


def _blend(labels: Tensor, partner: Tensor, share: Tensor, num_classes: int) -> Tensor:
    own = share.to(labels.device, torch.float32)[:, None]
    one_hot = functional.one_hot(labels, int(num_classes)).to(torch.float32)
    return own * one_hot + (1 - own) * one_hot[partner.to(labels.device)]


# ---------------------------------------------------------------- helpers of the steps


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw float64 numbers in [0, 1) on the device of the generator; return them on the CPU."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()


def _integers(high: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Draw int64 numbers in [0, high) on the device of the generator; return them on the CPU."""
    return torch.randint(high, shape, generator=generator, device=generator.device).cpu()


def _as_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert floating-point pixels to the type of the images, rounded and clamped for uint8."""
    return values.round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)


def _check_pixels(images: Any) -> None:
    right = isinstance(images, Tensor) and images.ndim == 4
    if not right or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(f"images must be a tensor of uint8 or floats [B, C, H, W], got {describe(images)}")


def _check_number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Accept finite numbers from ``low`` to ``high``; ``above`` excludes ``low`` itself."""
    number = isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        least = f"above {low:g}" if above else f"of at least {low:g}"
        most = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be a number {least}{most}, got {describe(value)}")
    return float(value)


def _check_interval(name: str, pair: Any, high: float = math.inf) -> None:
    """Accept two finite numbers in (0, high], the smaller one first."""
    if isinstance(pair, tuple) and len(pair) == 2:
        low, most = (_check_number(name, value, 0, high, above=True) for value in pair)
        if low <= most:
            return
    raise ValueError(f"{name} must be a pair of numbers, the smaller one first, got {describe(pair)}")


# ---------------------------------------------------------------- resized crops of single images

# Image, size and random numbers to view; workers import it by its name.
ViewFunction = Callable[[Image.Image, int, Numbers], Image.Image]


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a random box out of each encoded image and resize it: the usual training view of ImageNet.

    The box has the share ``a`` of the image's area and the aspect ratio ``r`` = width / height,

        width = sqrt(a * r * W * H),    height = sqrt(a / r * W * H),

    each rounded, with ``a`` uniform in ``scale``, log ``r`` uniform in log ``ratio`` and the place
    uniform among those where it fits. Of ten draws the first that fits counts; if none does, the
    largest box in the middle with a ratio inside ``ratio``. The view is the box, cut out and resized
    (bilinear, antialiased), then mirrored left to right with probability ``flip``.

    Pass it as ``augment`` to :meth:`dotkd.data.StreamedImages.batches`, in place of a function of
    pixels: the box is cut from the whole image before anything is resized. ``then`` is applied to the
    batch of views. The views are too many to number: ``Batch.view`` is None.

    Args:
        generator: source of the random numbers. It advances by one number for each epoch, when
            ``batches`` is called; that number seeds the stream of the epoch, so nothing depends on
            how far ahead the images are read.
        scale: least and largest share of the area, in (0, 1].
        ratio: least and largest aspect ratio, above 0.
        flip: probability of mirroring, in [0, 1].
        then: a function of pixels as :func:`dotkd.data.crop_flip`, on the device of the data set.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> crop = RandomResizedCrop(torch.Generator().manual_seed(0))
        >>> numbers = crop.draw(2, crop.epoch())
        >>> numbers.shape
        torch.Size([2, 23])
        >>> crop.view(Image.new("RGB", (500, 375)), 224, numbers[0].numpy()).size
        (224, 224)

    References:
        C. Szegedy et al. (2015), Going Deeper with Convolutions, arXiv 1409.4842, section 6; boxes
        and fallback as in torchvision's ``RandomResizedCrop``.
    """

    generator: torch.Generator
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    then: Augment | None = None

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, 1.0)
        _check_interval("ratio", self.ratio)
        check_share("flip", self.flip)

    @property
    def view(self) -> ViewFunction:
        """The function from image, size and numbers to view, for worker processes."""
        return partial(_crop_view, ratio=self.ratio)

    def epoch(self) -> torch.Generator:
        """Start the stream of one epoch.

        Returns:
            A generator, seeded by the next number of :attr:`generator`.
        """
        high = 2**63 - 1
        seed = torch.randint(high, (), generator=self.generator, device=self.generator.device)
        return torch.Generator().manual_seed(int(seed))

    def draw(self, count: int, stream: torch.Generator) -> Tensor:
        """Draw the random numbers of some views, independent of the size of the images.

        Args:
            count: number of images.
            stream: from :meth:`epoch`; it advances.

        Returns:
            [count, 23], float64: ten shares of the area, ten aspect ratios, vertical and horizontal
            place in [0, 1), and 1 for a mirror image, else 0.
        """
        numbers = torch.rand(count, 2 * _TRIES + 3, generator=stream, dtype=torch.float64)
        areas, ratios = numbers[:, :_TRIES], numbers[:, _TRIES : 2 * _TRIES]
        areas.mul_(self.scale[1] - self.scale[0]).add_(self.scale[0])
        low, high = map(math.log, self.ratio)
        ratios.mul_(high - low).add_(low).exp_()
        numbers[:, -1] = (numbers[:, -1] < self.flip).double()
        return numbers


def _crop_view(image: Image.Image, size: int, numbers: Numbers, *, ratio: tuple[float, float]) -> Image.Image:
    """Make one view of :class:`RandomResizedCrop` from a row of its numbers."""
    box = _box(image.width, image.height, numbers, ratio)
    # Cut first: with the box as an argument of resize, pixels from outside would be mixed into its edges.
    view = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers[-1] else view


def _box(width: int, height: int, numbers: Numbers, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    row = numbers.tolist()
    down, right = row[2 * _TRIES], row[2 * _TRIES + 1]
    for share, aspect in zip(row[:_TRIES], row[_TRIES : 2 * _TRIES], strict=True):
        area = share * width * height
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(right * (width - wide + 1)), int(down * (height - high + 1))
            return left, top, left + wide, top + high
    wide, high = width, height
    if width < ratio[0] * height:
        high = round(width / ratio[0])
    elif width > ratio[1] * height:
        wide = round(height * ratio[1])
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


# ---------------------------------------------------------------- the list of steps in a recipe


class _Kind(NamedTuple):
    """A step that a recipe may name; the number follows its name and a colon."""

    meaning: str
    number: float | None  # default; None for a step that takes none
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False
    # Pixels and number to pixels; None for a step that mixes labels.
    change: Callable[[Tensor, float, torch.Generator], Tensor] | None = None
    mix: Callable[..., tuple[Tensor, Tensor]] | None = None


STEPS = {
    "crop-flip": _Kind(
        "a border of N zeros, a crop at a random place, a flip for every other image",
        *(4, 0, 64, True),
        change=lambda pixels, pad, source: crop_flip(pixels, generator=source, pad=int(pad))[0],
    ),
    "flip": _Kind(
        "mirrored left to right, every other image",
        None,
        change=lambda pixels, _, source: crop_flip(pixels, generator=source, pad=0)[0],
    ),
    "rotate": _Kind(
        "by up to N degrees either way, nearest pixel, zeros outside",
        *(15, 0, 180),
        change=lambda pixels, degrees, source: rotate(pixels, generator=source, degrees=degrees),
    ),
    "resized-crop": _Kind(
        "a box of at least the share N of the area, resized to the image's size",
        *(0.08, 1e-4, 1),
        change=lambda pixels, share, source: resized_crop(
            pixels, (pixels.shape[2], pixels.shape[3]), generator=source, scale=(share, 1.0)
        ),
    ),
    "cutout": _Kind(
        "a square of N pixels set to zero",
        *(8, 0, 4096, True),
        change=lambda pixels, size, source: cutout(pixels, generator=source, size=int(size)),
    ),
    "mixup": _Kind(
        "blended with another image and its label, by Beta(N, N); last in the list", 0.2, 1e-4, mix=mixup
    ),
    "cutmix": _Kind(
        "a box of another image pasted in, labels by area, by Beta(N, N); last in the list",
        *(1.0, 1e-4),
        mix=cutmix,
    ),
}
_NUMBERED = ("crop-flip", "flip")  # steps that number their views, if they stand alone
_WHOLE_IMAGE = "resized-crop"


class Step(NamedTuple):
    """One step: its name and its number, None where it takes none."""

    name: str
    number: float | None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}:{self.number:g}"


class Augmentation:
    """Steps that augment a batch of training images, in the order of the list.

    Args:
        steps: names of steps, each with ``:NUMBER`` to replace its default: ``crop-flip``, ``flip``,
            ``rotate``, ``resized-crop``, ``cutout``, ``mixup`` and ``cutmix``.

    Raises:
        BadInput: if a step is unknown, its number is out of range, or a step that mixes labels is
            not the last one.

    Example:
        >>> augmentation = Augmentation(["rotate:20", "flip", "mixup"])
        >>> [str(step) for step in augmentation.steps], augmentation.mixes_labels
        (['rotate:20', 'flip', 'mixup:0.2'], True)
        >>> Augmentation(["crop-flip"]).num_views
        162
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = tuple(_parsed(step) for step in steps)
        for step in self.steps[:-1]:
            if STEPS[step.name].mix is not None:
                raise BadInput(
                    f"{step} mixes labels and must be the last step, got {list(map(str, self.steps))}"
                )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become probabilities of classes."""
        return bool(self.steps) and STEPS[self.steps[-1].name].mix is not None

    @property
    def num_views(self) -> int | None:
        """Number of views of an image; None for views that are not numbered."""
        if not self.steps:
            return 1
        return 2 * (2 * self._pad + 1) ** 2 if self._numbered else None

    @property
    def _numbered(self) -> bool:
        return len(self.steps) == 1 and self.steps[0].name in _NUMBERED

    @property
    def _pad(self) -> int:
        return int(self.steps[0].number or 0)

    def views(
        self, generator: torch.Generator, *, streamed: bool = False
    ) -> Augment | RandomResizedCrop | None:
        """Return the ``augment`` of :meth:`dotkd.data.Images.batches`.

        For streamed images, ``resized-crop`` cuts its box out of the whole image, in the worker that
        decodes it. All other steps, and all steps for images in memory, are applied to batches.

        Args:
            generator: source of the random numbers.
            streamed: whether the images are :class:`dotkd.data.StreamedImages`.

        Returns:
            None without a step that changes pixels.

        Raises:
            BadInput: if images are streamed and ``resized-crop`` is not the first step.
        """
        changes = self.steps[:-1] if self.mixes_labels else self.steps
        if streamed and any(step.name == _WHOLE_IMAGE for step in changes):
            if changes[0].name != _WHOLE_IMAGE:
                raise BadInput(
                    f"{_WHOLE_IMAGE} must be the first step for images that are streamed from files"
                )
            rest = self._applied(changes[1:], generator)
            return RandomResizedCrop(generator, scale=(changes[0].number or 0.0, 1.0), flip=0.0, then=rest)
        return self._applied(changes, generator)

    def _applied(self, changes: Sequence[Step], generator: torch.Generator) -> Augment | None:
        if not changes:
            return None
        if self._numbered:
            return partial(crop_flip, generator=generator, pad=self._pad)

        def change(pixels: Tensor) -> tuple[Tensor, None]:
            for step in changes:
                function = STEPS[step.name].change
                assert function is not None  # only the last step mixes
                pixels = function(pixels, step.number or 0.0, generator)
            return pixels, None

        return change

    def mix(
        self, images: Tensor, labels: Tensor, num_classes: int, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch with each other, if the last step does that.

        Args:
            images: [B, C, H, W].
            labels: [B], int64.
            num_classes: number of classes.
            generator: source of the random numbers.

        Returns:
            Images and probabilities [B, K]; both unchanged without such a step.
        """
        mix = STEPS[self.steps[-1].name].mix if self.steps else None
        if mix is None:
            return images, labels
        return mix(images, labels, num_classes, alpha=self.steps[-1].number, generator=generator)


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
        number = math.nan
    right = kind.number is not None and kind.low <= number <= kind.high and number < math.inf
    if not right or (kind.whole and number % 1):
        whole = "whole " if kind.whole else ""
        allowed = f"a {whole}number from {kind.low:g} to {kind.high:g}"
        raise BadInput(
            f"the number of {name!r} must be {'none' if kind.number is None else allowed}, got {text!r}"
        )
    return Step(name, number)
