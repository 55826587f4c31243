"""Splits: which images train, which choose, which judge.

Here belong the three parts as one type, and the way to draw a part in which every class keeps
its share.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.data._checks import check_int64_vector, check_integer, check_range
from dotkd.data.images import ImageData


class Splits(NamedTuple):
    """The three parts of a data set.

    Hyper-parameters and the best epoch are chosen on ``validation``; ``test`` is read once, at
    the end. Without a validation part there is nothing to choose on, and the type says so: it is
    None, not an empty data set whose accuracy would be 0 / 0.

    Args:
        train: what the student learns from.
        validation: what choices are made on, or None.
        test: what the final number comes from.
    """

    train: ImageData
    validation: ImageData | None
    test: ImageData


def stratified_sample(labels: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Choose positions so that every class keeps its share.

    Of n_c images of class c among N, the class gives n_c * count / N, rounded down; the places
    that are left go to the largest remainders, on a tie to the lower class number. Within a class
    the images are drawn without replacement, or, without a generator, taken at even distances
    along the data set, which needs no random numbers and so never changes.

    Args:
        labels: [N], int64, class numbers, at least 0.
        count: how many positions, from 0 to N.
        generator: draws within the classes and moves on; None takes even distances.

    Returns:
        [count], int64: positions in ascending order, on the CPU.

    Raises:
        ValueError: if ``labels`` is not such a tensor or ``count`` lies outside its range.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
        >>> stratified_sample(labels, 3).tolist()
        [1, 4, 7]
        >>> drawn = stratified_sample(labels, 3, generator=torch.Generator().manual_seed(0))
        >>> labels[drawn].tolist()
        [0, 0, 1]
    """
    check_int64_vector("labels", labels)
    labels = labels.cpu()
    check_range("labels", labels)
    count = check_integer("count", count, low=0, high=len(labels))
    chosen = [torch.empty(0, dtype=torch.int64)]
    for number, places in enumerate(_places(torch.bincount(labels).tolist(), count)):
        members = (labels == number).nonzero().flatten()
        if generator is None:
            # The middles of `places` equal stretches; apart by at least one, so all different.
            order = (2 * torch.arange(places) + 1) * len(members) // max(2 * places, 1)
        else:
            order = torch.randperm(len(members), generator=generator, device=generator.device)
        chosen.append(members[order[:places].cpu()])
    return torch.cat(chosen).sort().values


def _places(sizes: list[int], count: int) -> list[int]:
    # Largest remainders, in whole numbers only: no rounding error can break a tie.
    total = max(sum(sizes), 1)
    places = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (-(sizes[c] * count % total), c))
    for number in by_remainder[: count - sum(places)]:
        places[number] += 1
    return places
