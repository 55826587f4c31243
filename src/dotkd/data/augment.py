"""Random views of images, a whole batch at a time.

Here belong functions from images and a generator to changed images and the number of the view
that each image got. The number says which view it was, so that what depends on it can be kept.
"""

import torch
from torch import Tensor

from dotkd.data._checks import check_integer, describe


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
