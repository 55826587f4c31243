"""A data set of images that fits in memory.

Here belongs the one container that every source fills (files, a hub, the embedded digits) and
every consumer reads: whole pixels as they were stored, and batches on demand. Splitting, noise
and augmentation live elsewhere.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dotkd.data._checks import check_integer, check_range, describe
from dotkd.data.base import Augment, Images, check_classes, check_labels, to_unit
from dotkd.data.batch import Batch


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
