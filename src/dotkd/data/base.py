"""What every data set of images offers to those who train on it, wherever its pixels are.

Here belongs the interface and what its kinds share: facts, labels and names that fit together,
positions, and the order of an epoch.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from dotkd.data._checks import check_int64_vector, check_integer, check_range
from dotkd.data.batch import Batch

# From pixels [B, C, H, W], whole numbers, to changed ones and the numbers of their views.
Augment = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class DataFacts(NamedTuple):
    """What is known of a data set before it is loaded; 0 for what is not.

    Args:
        channels: of an image.
        height: of an image, in pixels.
        width: of an image, in pixels.
        num_classes: how many classes there are.
        train_images: how many images there are to train and to validate on.
        test_images: how many images there are in the test split.

    Example:
        >>> facts = DataFacts(1, 8, 8, 10, 1400, 397)
        >>> facts.num_classes
        10
    """

    channels: int
    height: int
    width: int
    num_classes: int
    train_images: int
    test_images: int


class Images(ABC):
    """Images with labels: in memory (:class:`dotkd.data.ImageData`) or streamed from files.

    *Positions* count from 0 in this data set. *Sample numbers* (``index``) are given once, by the
    source, and stay with an image through every :meth:`subset`; they are what a batch carries.

    Attributes:
        labels: [N], int64, in [0, len(classes)).
        classes: the names of the classes, all different, in the order of their numbers.
        index: [N], int64, sample numbers, at least 0.

    Example:
        >>> from dotkd.data import load_digits
        >>> test = load_digits().test
        >>> isinstance(test, Images), len(test), test.device
        (True, 397, device(type='cpu'))
        >>> test.subset([5, 3]).with_labels(torch.tensor([1, 2])).batch([0]).labels
        tensor([1])
    """

    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where labels are and batches appear."""
        return self.labels.device

    @abstractmethod
    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Collect the images at some positions.

        Args:
            positions: [B], int64 or whole numbers in [0, len(self)), in any order, repeats
                allowed; B at least 1.

        Returns:
            A batch with float32 images [B, C, H, W] in [0, 1], on the device of the data set, and
            without a view.

        Raises:
            ValueError: if a position lies outside the data set, or there is none.
        """

    @abstractmethod
    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers.

        Args:
            positions: as in :meth:`batch`.

        Returns:
            A new data set of B images in the order of ``positions``.
        """

    @abstractmethod
    def with_labels(self, labels: Tensor) -> Self:
        """Give the same images other labels.

        Args:
            labels: [N], int64, in [0, len(classes)), on the device of the data set.

        Returns:
            A new data set; the images are shared.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Have batches on another device.

        Args:
            device: where to.

        Returns:
            A new data set; tensors that lie there already are shared.
        """

    @abstractmethod
    def checksum(self) -> str:
        """Tell this data set from others, by its images, labels and sample numbers.

        Returns:
            16 hexadecimal digits, the same on every device.
        """

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Any = None,
    ) -> Iterator[Batch]:
        """Go through the data set once.

        The order is drawn when the method is called, not at the first batch: what a generator
        has given away never depends on how far an epoch was read.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and moves on; None goes in order and draws nothing.
            drop_last: whether to leave out a last batch that is not full.
            augment: makes, from the pixels [B, C, H, W] of a batch, still whole numbers, as many
                changed images and the numbers [B], int64, of their views, which become
                ``Batch.view``, or None for views without numbers. Called for each batch when it is
                read; a generator of its own keeps its draws apart from the order. See
                :func:`dotkd.data.crop_flip`.

        Returns:
            An iterator over the batches of one epoch.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, or if ``drop_last``
                would leave no batch at all.
        """

    def _order(
        self,
        batch_size: int,
        generator: torch.Generator | None,
        drop_last: bool,
        device: torch.device | str,
    ) -> tuple[Tensor, ...]:
        """Draw an epoch: the positions of each batch, on a device."""
        size, count = check_integer("batch_size", batch_size, low=1), len(self)
        if drop_last and size > count:
            raise ValueError(
                f"batch_size {size} with drop_last leaves no batch of {count} images; "
                f"at most {count} would be right"
            )
        if generator is None:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=generator, device=generator.device)
        return torch.split(order[: count - count % size if drop_last else count].to(device), size)

    def _positions(self, positions: Tensor | Sequence[int]) -> Tensor:
        chosen = torch.as_tensor(positions, device=self.device)
        if chosen.numel() == 0:
            raise ValueError("positions must name at least one image, got none")
        check_int64_vector("positions", chosen)
        check_range("positions", chosen, len(self) - 1, f"{len(self)} images")
        return chosen


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Accept names that are all different, at least one.

    Args:
        classes: what the caller passed in.

    Returns:
        The names.

    Raises:
        ValueError: for anything else.
    """
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if isinstance(classes, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be a sequence of at least one name, got {classes!r}")
    repeated = sorted(name for name, uses in Counter(names).items() if uses > 1)
    if repeated:
        raise ValueError(f"classes must be all different, got {', '.join(repeated)} more than once")
    return names


def check_labels(labels: Any, index: Any, classes: Sequence[str], *, count: int) -> None:
    """Accept labels and sample numbers that fit a number of images and of classes.

    Args:
        labels: what the caller passed in.
        index: likewise.
        classes: the names.
        count: how many images there are.

    Raises:
        ValueError: for anything else.
    """
    check_int64_vector("labels", labels, length=count)
    check_int64_vector("index", index, length=count)
    check_range("labels", labels, len(classes) - 1, f"{len(classes)} classes")
    check_range("index", index)


def to_unit(pixels: Tensor, max_value: int) -> Tensor:
    """Turn whole numbers in [0, max_value] into float32 in [0, 1]."""
    return torch.div(pixels, max_value).to(torch.float32)  # one pass from uint8 to float32
