"""Negatives: for each sample some that are of other classes, drawn where the labels lie.

Nothing loops over classes and nothing waits for the device, once the samples are sorted.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ClassBlocks(NamedTuple):
    """The samples that may be drawn, sorted by class, and where each sample's class lies among them.

    Args:
        order: ``[M]``, int64 numbers of the M training samples, sorted by class.
        first: ``[N]``, int64: for each sample the place in ``order`` where its class begins.
        size: ``[N]``, int64: for each sample how many training samples are of its class; 0 for a
            sample without a class.
    """

    order: Tensor
    first: Tensor
    size: Tensor


def class_blocks(labels: Tensor) -> ClassBlocks:
    """Prepare the drawing of negatives. Waits for the device, once per data set.

    Args:
        labels: ``[N]``, int64 class by sample number; -1 for a sample that is never drawn.

    Returns:
        The blocks, on the device of the labels.

    Raises:
        ValueError: If shape or dtype does not fit, a label is below -1, or there are not two classes.

    Example:
        >>> class_blocks(torch.tensor([1, 0, -1, 1])).order.tolist()
        [1, 0, 3]
    """
    if labels.ndim != 1 or labels.dtype != torch.int64 or labels.numel() == 0:
        raise ValueError(f"labels must be [N], int64, got shape {list(labels.shape)} and {labels.dtype}")
    lowest, highest = labels.min().item(), labels.max().item()
    if lowest < -1:
        raise ValueError(f"labels must be >= -1 (-1: not a training sample), got {lowest}")
    order = labels.argsort(stable=True)[(labels < 0).sum().item() :]
    by_class = labels.index_select(0, order)
    first = torch.searchsorted(by_class, labels)
    size = torch.searchsorted(by_class, labels, right=True) - first
    if order.numel() <= size.max().item():
        raise ValueError(
            f"labels must name at least two classes, or there is no negative; got {highest} alone"
        )
    return ClassBlocks(order, first, size)


def draw_negatives(index: Tensor, blocks: ClassBlocks, count: int, generator: torch.Generator) -> Tensor:
    """Draw, for each sample, training samples of other classes: uniformly, with replacement.

    A rank among the samples outside of the class is drawn, and counted past the class's block. (The
    remainder of a 63-bit number is uniform to one part in 10 ** 12 for a million samples.)

    Args:
        index: ``[B]``, int64 sample numbers. A sample without a class gets any training sample.
        blocks: From :func:`class_blocks`.
        count: K, how many for each.
        generator: On the device of ``index``; it moves on by B * K numbers.

    Returns:
        ``[B, K]``, int64 sample numbers.

    Example:
        >>> blocks = class_blocks(torch.tensor([1, 0, -1, 1]))
        >>> draw_negatives(torch.tensor([0, 3]), blocks, 2, torch.Generator().manual_seed(0)).tolist()
        [[1, 1], [1, 1]]
    """
    first = blocks.first.index_select(0, index).unsqueeze(1)
    size = blocks.size.index_select(0, index).unsqueeze(1)
    largest = torch.iinfo(torch.int64).max
    numbers = torch.randint(largest, (index.shape[0], count), generator=generator, device=index.device)
    ranks = numbers % (blocks.order.numel() - size)
    return blocks.order.take(ranks + size * (ranks >= first))
