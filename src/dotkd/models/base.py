"""ImageModel, the base of the zoo, and the layers that its families share."""

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

    A model also says where its features are, as dotted paths for :class:`dotkd.features.taps.Taps`:
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


class GlobalPool(nn.Module):
    """The mean of each channel: [B, C, H, W] to [B, C], at any height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over height and width."""
        return x.mean(dim=(2, 3))


class ChannelShuffle(nn.Module):
    """Deal the channels of each group out over all groups, so that the next grouped layer mixes them.

    Args:
        groups: Number of groups; it divides the channels.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of [B, C, H, W]."""
        batch, channels, height, width = x.shape
        dealt = x.reshape(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(batch, channels, height, width)


def conv_bn(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """List a convolution that keeps the size (at stride 1) and its batch norm."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after)]


def init_fan_out(model: nn.Module, linear_std: float | None = None) -> None:
    """Draw the convolutions from a normal distribution with variance ``2 / (kernel² * channels out)``.

    Args:
        model: The model, changed in place. Biases of convolutions become 0.
        linear_std: Standard deviation of the linear layers' weights, their biases become 0; none
            leaves them as torch drew them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0, linear_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
