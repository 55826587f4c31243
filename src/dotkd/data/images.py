"""Batch, Images (the interface of all data sets) and ImageData (a data set in memory)."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from dotkd._validate import check_int64_vector, check_integer, check_range, describe


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images with their labels, their numbers in the data set and the view that was drawn.

    Images are not normalised: a student and its teacher may have been trained with different
    means and standard deviations, so each model owns its own. The two integers let others find
    what they keep about a sample again: ``index`` for a memory with one place for each image,
    ``index`` and ``view`` together for a cache of teacher outputs, which depend on the
    augmentation as well.

    Args:
        images: [B, C, H, W], floating point, in [0, 1].
        labels: [B], int64, class numbers.
        index: [B], int64, sample numbers; they survive every split and shuffle.
        view: [B], int64, which augmentation was drawn for each image; None where none was, or where
            there are too many to number.

    Raises:
        ValueError: if a dtype or a shape is another; the range of the images is not looked at,
            since that would make the device wait in every step.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([3, 5]), torch.tensor([40, 7]))
        >>> len(batch), batch.view is None
        (2, True)
        >>> batch.to("cpu", dtype=torch.float64).images.dtype
        torch.float64
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
            raise ValueError(f"images must be a floating-point tensor [B, C, H, W], got {describe(images)}")
        check_int64_vector("labels", self.labels, length=len(images))
        check_int64_vector("index", self.index, length=len(images))
        if self.view is not None:
            check_int64_vector("view", self.view, length=len(images))

    def __len__(self) -> int:
        return len(self.images)

    def to(
        self,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Move the batch to a device.

        Args:
            device: where to.
            dtype: floating-point type of the images there; None keeps theirs. The integers
                always stay int64.
            non_blocking: whether to copy from pinned memory without waiting.

        Returns:
            A new batch; tensors that are already right are shared, not copied.
        """
        view = self.view
        return type(self)(
            self.images.to(device, dtype, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.index.to(device, non_blocking=non_blocking),
            None if view is None else view.to(device, non_blocking=non_blocking),
        )


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


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ImageData(Images):
    """Images, labels and class names, held as they were stored.

    Pixels stay whole numbers, a quarter of the memory of float32; a batch divides them by
    ``max_value`` and so lies in [0, 1]. *Positions* count from 0 in this data set. *Sample
    numbers* (``index``) are given once, by the source, and stay with an image through every
    :meth:`subset`; they are what a batch carries.

    Args:
        pixels: [N, C, H, W], uint8, in [0, max_value]; N at least 1.
        labels: [N], int64, in [0, len(classes)).
        classes: the names of the classes, all different, in the order of their numbers.
        max_value: the pixel value that becomes 1.0, from 1 to 255.
        index: [N], int64, sample numbers, at least 0; None numbers them 0, 1, ..., N - 1.

    Raises:
        ValueError: if a dtype, a shape or a range is another, if the tensors do not lie on one
            device, or if class names are missing or repeated.

    Example:
        >>> pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).reshape(4, 1, 1, 1)
        >>> data = ImageData(pixels, torch.tensor([0, 0, 1, 1]), ("dark", "light"))
        >>> data
        ImageData(4 images of [1, 1, 1], 2 classes)
        >>> data.batch([1, 3]).images.flatten().tolist()
        [0.20000000298023224, 1.0]
        >>> data.subset([1, 3]).batch([0]).index.tolist()
        [1]
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    max_value: int
    index: Tensor

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        max_value: int = 255,
        index: Tensor | None = None,
    ) -> None:
        classes = check_classes(classes)
        max_value = check_integer("max_value", max_value, low=1, high=255)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels must be a tensor of uint8 [N, C, H, W], got {describe(pixels)}")
        if pixels.numel() == 0:
            raise ValueError(f"pixels must hold at least one image, got {describe(pixels)}")
        if index is None:
            index = torch.arange(len(pixels), device=pixels.device)
        for name, numbers in (("labels", labels), ("index", index)):
            if isinstance(numbers, Tensor) and numbers.device != pixels.device:
                raise ValueError(
                    f"{name} must lie where the pixels do ({pixels.device}), got {numbers.device}"
                )
        check_range("pixels", pixels, max_value, f"max_value={max_value}")
        check_labels(labels, index, classes, count=len(pixels))
        # The class is frozen: this is the one place that writes.
        for name, value in (
            ("pixels", pixels),
            ("labels", labels),
            ("classes", classes),
            ("max_value", max_value),
            ("index", index),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shape = list(self.pixels.shape[1:])
        return f"ImageData({len(self)} images of {shape}, {len(self.classes)} classes)"

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Collect the images at some positions, as float32 = pixels / max_value; see the base class."""
        return self._collect(self._positions(positions))

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers; see the base class."""
        chosen = self._positions(positions)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen], index=self.index[chosen])

    def with_labels(self, labels: Tensor) -> Self:
        """Give the same images other labels; see the base class."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> Self:
        """Move the whole data set to a device, so that batches are made there; see the base class."""
        return replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device), index=self.index.to(device)
        )

    def checksum(self) -> str:
        """Tell this data set from others, by its pixels, labels and sample numbers; see the base class."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels, self.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """Go through the data set once; see the base class.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and moves on; None goes in order and draws nothing.
            drop_last: whether to leave out a last batch that is not full.
            augment: a function of the pixels of a batch.

        Returns:
            An iterator over the batches of one epoch.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, if ``drop_last``
                would leave no batch at all, or if ``augment`` is no function.
        """
        if augment is not None and not callable(augment):
            raise ValueError(
                f"augment must be a function of pixels for images in memory, got {describe(augment)}; "
                "that is for images that are streamed"
            )
        order = self._order(batch_size, generator, drop_last, self.device)
        return (self._collect(positions, augment) for positions in order)

    def _collect(self, positions: Tensor, augment: Augment | None = None) -> Batch:
        pixels, view = self.pixels[positions], None
        if augment is not None:
            pixels, view = augment(pixels)
        images = to_unit(pixels, self.max_value)
        return Batch(images, self.labels[positions], self.index[positions], view)
