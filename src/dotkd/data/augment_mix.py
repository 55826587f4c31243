"""Mixtures of two images of a batch, and of their labels.

Here belong functions from images and labels to images and class probabilities.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.data._checks import check_int64_vector, check_integer, check_range
from dotkd.data.augment_affine import as_type, check_images, check_number, integers, uniform
from dotkd.data.augment_geometry import box_mask


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
