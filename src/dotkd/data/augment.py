"""Random views of images, a whole batch at a time.

Here belong functions from images and a generator to changed images and the number of the view
that each image got. The number says which view it was, so that what depends on it can be kept.
"""

import torch
from torch import Tensor
from torch.nn import functional

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
    (count, channels, height, width), device = images.shape, images.device
    places = 2 * pad + 1
    view = torch.randint(2 * places**2, (count,), generator=generator, device=generator.device).to(device)
    top, left, flip = view // (2 * places), view // 2 % places, view % 2

    # Which row and column of the padded image each pixel of the view comes from.
    across = torch.arange(width, device=device)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.where(flip[:, None] == 1, across.flip(0), across)
    padded = functional.pad(images, (pad, pad, pad, pad))
    views = padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    return views, view
