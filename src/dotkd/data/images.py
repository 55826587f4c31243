"""A data set of images that fits in memory.

Here belongs the one container that every source fills (files, a hub, the embedded digits) and
every consumer reads: whole pixels as they were stored, and batches on demand. Splitting, noise
and augmentation live elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dotkd.data._checks import check_int64_vector, check_integer, check_range, describe
from dotkd.data.batch import Batch


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ImageData:
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
        classes = _check_classes(classes)
        max_value = check_integer("max_value", max_value, low=1, high=255)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels must be a tensor of uint8 [N, C, H, W], got {describe(pixels)}")
        if pixels.numel() == 0:
            raise ValueError(f"pixels must hold at least one image, got {describe(pixels)}")
        if index is None:
            index = torch.arange(len(pixels), device=pixels.device)
        for name, numbers in (("labels", labels), ("index", index)):
            check_int64_vector(name, numbers, length=len(pixels))
            if numbers.device != pixels.device:
                raise ValueError(
                    f"{name} must lie where the pixels do ({pixels.device}), got {numbers.device}"
                )
        check_range("pixels", pixels, max_value, f"max_value={max_value}")
        check_range("labels", labels, len(classes) - 1, f"{len(classes)} classes")
        check_range("index", index)
        # The class is frozen: this is the one place that writes.
        for name, value in (
            ("pixels", pixels),
            ("labels", labels),
            ("classes", classes),
            ("max_value", max_value),
            ("index", index),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = list(self.pixels.shape[1:])
        return f"ImageData({len(self)} images of {shape}, {len(self.classes)} classes)"

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Collect the images at some positions.

        Args:
            positions: [B], int64 or whole numbers in [0, len(self)), in any order, repeats
                allowed; B at least 1.

        Returns:
            A batch with float32 images [B, C, H, W] = pixels / max_value, on the device of the
            data set, and without a view.

        Raises:
            ValueError: if a position lies outside the data set, or there is none.
        """
        return self._collect(self._positions(positions))

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers.

        Args:
            positions: as in :meth:`batch`.

        Returns:
            A new data set of B images in the order of ``positions``.
        """
        chosen = self._positions(positions)
        return type(self)(
            self.pixels[chosen],
            self.labels[chosen],
            self.classes,
            self.max_value,
            self.index[chosen],
        )

    def to(self, device: torch.device | str) -> Self:
        """Move the whole data set to a device, so that batches are made there.

        Args:
            device: where to.

        Returns:
            A new data set; tensors that lie there already are shared.
        """
        return type(self)(
            self.pixels.to(device),
            self.labels.to(device),
            self.classes,
            self.max_value,
            self.index.to(device),
        )

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
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
                ``Batch.view``. Called for each batch when it is read; a generator of its own
                keeps its draws apart from the order. See :func:`dotkd.data.crop_flip`.

        Returns:
            An iterator over the batches of one epoch.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, or if ``drop_last``
                would leave no batch at all.
        """
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
        order = order[: count - count % size] if drop_last else order
        order = order.to(self.pixels.device)
        return (self._collect(order[at : at + size], augment) for at in range(0, len(order), size))

    def _collect(
        self,
        positions: Tensor,
        augment: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Batch:
        pixels, view = self.pixels[positions], None
        if augment is not None:
            pixels, view = augment(pixels)
        images = torch.div(pixels, self.max_value).to(torch.float32)  # one pass from uint8 to float32
        return Batch(images, self.labels[positions], self.index[positions], view)

    def _positions(self, positions: Tensor | Sequence[int]) -> Tensor:
        chosen = torch.as_tensor(positions, device=self.pixels.device)
        if chosen.numel() == 0:
            raise ValueError("positions must name at least one image, got none")
        check_int64_vector("positions", chosen)
        check_range("positions", chosen, len(self) - 1, f"{len(self)} images")
        return chosen


def _check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if isinstance(classes, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be a sequence of at least one name, got {classes!r}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"classes must be all different, got {', '.join(repeated)} more than once")
    return names
