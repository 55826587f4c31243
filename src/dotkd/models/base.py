"""What every model of the zoo is: images in [0, 1] in, logits out, normalised by the model itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a mean and a standard deviation that cannot belong together.

    Raises:
        ValueError: The two differ in length, or a deviation is not positive.
    """
    if len(mean) != len(std) or any(not value > 0 for value in std):
        raise ValueError(
            f"mean and std must have one number for each channel, std > 0, got {list(mean)} and {list(std)}"
        )


class ImageModel(nn.Module):
    """A classifier that knows the mean and standard deviation it was trained with.

    Student and teacher may have been trained with different ones, so a batch carries plain images and
    each model normalises them: ``(images - mean) / std`` per channel. The two are settings, not weights:
    ``state_dict`` does not hold them.

    A model also says where its features are, as dotted paths for :class:`dotkd.taps.Taps`:
    ``stage_paths`` (the output of each stage, in order), ``preact_paths`` (the same in front of the
    stage's last ReLU; empty where there is none), ``norm_paths`` (for each of these but the stem's the batch
    norm in front of it; empty where there is not one), ``pooled_path`` (the vector that the classifier
    gets) and ``classifier_path``.

    Args:
        mean: Mean of each channel, or none for 0.
        std: Standard deviation of each channel, > 0, or none for 1.

    Example:
        >>> model = ImageModel(mean=(0.5,), std=(0.25,))
        >>> model.normalize(torch.ones(1, 1, 1, 1)).item()
        2.0

    Raises:
        ValueError: The two differ in length, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor
    stage_paths: tuple[str, ...] = ()
    preact_paths: tuple[str, ...] = ()
    norm_paths: tuple[str, ...] = ()
    pooled_path: str = ""
    classifier_path: str = ""

    def __init__(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        super().__init__()
        check_normalisation(mean, std)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            The same shape; the images as they are where no mean was given.
        """
        return (images - self.mean).div_(self.std) if self.mean.numel() else images
