"""ImageModel: the interface of every image classifier here, its normalisation and its feature paths."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless ``mean`` and ``std`` have the same length and every ``std`` is positive."""
    if len(mean) != len(std) or any(not value > 0 for value in std):
        raise ValueError(
            f"mean and std must have one number for each channel, std > 0, got {list(mean)} and {list(std)}"
        )


class ImageModel(nn.Module):
    """Base class of image classifiers that normalise their own input and name their feature maps.

    Student and teacher may have been trained with different normalisation. A batch therefore holds images
    in [0, 1], and each model computes ``(images - mean) / std`` per channel. ``mean`` and ``std`` are
    settings, not weights: they follow the model to a device but are not in its ``state_dict``.

    The class attributes are feature paths: dotted paths of submodules, as :class:`dotkd.features.taps.Taps`
    reads them.

    Attributes:
        stage_paths: Output of each stage, from the input to the classifier.
        preact_paths: Each stage's feature map before its last ReLU; empty if the network has none.
        norm_paths: Batch norm in front of each of ``preact_paths`` except the stem's; empty if there is none.
        pooled_path: Pooled features, the vector that the classifier receives.
        classifier_path: The last layer, which returns the logits.

    Args:
        mean: Mean of each channel; empty for 0.
        std: Standard deviation of each channel, > 0; empty for 1.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or a standard deviation is not positive.

    Example:
        >>> model = ImageModel(mean=(0.5,), std=(0.25,))
        >>> model.normalize(torch.ones(1, 1, 1, 1)).item()
        2.0
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
        """Normalise a batch of images per channel.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            The normalised images, of the same shape; the unchanged images if the model has no mean.
        """
        return (images - self.mean).div_(self.std) if self.mean.numel() else images
