"""The batch: what every source of data hands to the training loop.

Here belongs the one type that travels from the data to the models, and no way of making it.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dotkd.data._checks import check_int64_vector, describe


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
