"""ShuffleNet V1 and V2 as published for CIFAR: a 1x1 stem of 24 channels, three stages, no max pool."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dotkd.models.base import ChannelShuffle, GlobalPool, ImageModel, conv_bn

_STEM = 24
_BLOCKS = (4, 8, 4)


class GroupedBlock(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to the input, or put in front of it.

    With stride 2 the input is averaged and its channels stand behind the new ones.

    Args:
        before: Channels in.
        after: Channels out, the input's among them if stride is 2.
        stride: 1 or 2.
        groups: Of the 1x1 convolutions; the very first one has a single group.
    """

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        new = after - before if stride == 2 else after
        inside = new // 4
        first = 1 if before == _STEM else groups
        self.conv1, self.bn1 = conv_bn(before, inside, groups=first)
        self.shuffle = ChannelShuffle(first)
        self.conv2, self.bn2 = conv_bn(inside, inside, 3, stride, groups=inside)
        self.conv3, self.bn3 = conv_bn(inside, new, groups=groups)
        self.average = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.preact = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute [B, after, H', W'] of [B, before, H, W]."""
        out = self.shuffle(self.bn1(self.conv1(x)).relu())
        out = self.bn3(self.conv3(self.bn2(self.conv2(out)).relu()))
        out = out + x if self.average is None else torch.cat((out, self.average(x)), dim=1)
        total: Tensor = self.preact(out)
        return total.relu()


class SplitBlock(nn.Module):
    """V2 at stride 1: half of the channels pass, the other half goes through 1x1, depthwise 3x3, 1x1.

    The half that passes is positive already, so one ReLU behind both changes nothing and leaves
    ``preact`` as the whole feature in front of it.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv_bn(half, half)
        self.conv2, self.bn2 = conv_bn(half, half, 3, groups=half)
        self.conv3, self.bn3 = conv_bn(half, half)
        self.preact = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute [B, channels, H, W] of the same shape."""
        passed, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(self.bn1(self.conv1(out)).relu()))
        total: Tensor = self.preact(torch.cat((passed, self.bn3(self.conv3(out))), dim=1))
        return total.relu()


class DownBlock(nn.Module):
    """V2 at stride 2: the input goes through two branches, each giving half of the channels.

    Args:
        before: Channels in.
        after: Channels out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half = after // 2
        self.conv1, self.bn1 = conv_bn(before, before, 3, 2, groups=before)
        self.conv2, self.bn2 = conv_bn(before, half)
        self.conv3, self.bn3 = conv_bn(before, half)
        self.conv4, self.bn4 = conv_bn(half, half, 3, 2, groups=half)
        self.conv5, self.bn5 = conv_bn(half, half)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute [B, after, H / 2, W / 2] of [B, before, H, W]."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x)))).relu()
        right = self.bn4(self.conv4(self.bn3(self.conv3(x)).relu()))
        right = self.bn5(self.conv5(right)).relu()
        out: Tensor = self.shuffle(torch.cat((left, right), dim=1))
        return out


class _ShuffleNet(ImageModel):
    """What both versions share: the stem, the order of things, the classifier."""

    stage_paths = ("relu", "layer1", "layer2", "layer3")
    preact_paths = ("relu", *(f"layer{n}.{count - 1}.preact" for n, count in enumerate(_BLOCKS, 1)))
    pooled_path = "pool"
    classifier_path = "linear"

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    linear: nn.Linear

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.conv1, self.bn1 = conv_bn(channels, _STEM)
        self.relu = nn.ReLU()
        self.pool = GlobalPool()

    def last(self, x: Tensor) -> Tensor:
        """Compute what is pooled of the last stage's output: that output itself."""
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.relu(self.bn1(self.conv1(self.normalize(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(self.last(x)))
        return logits


class ShuffleNetV1(_ShuffleNet):
    """Three stages of grouped blocks, at 3 groups 240, 480 and 960 channels wide.

    Args:
        num_classes: Logits.
        image_shape: (C, H, W) of the images; any height and width.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        widths: Channels of each stage.
        groups: Of the 1x1 convolutions.

    Reference:
        Zhang, Zhou, Lin, Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network for
        Mobile Devices. CVPR 2018, arXiv 1707.01083.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        widths: Sequence[int] = (240, 480, 960),
        groups: int = 3,
    ) -> None:
        super().__init__(image_shape[0], mean, std)
        before = _STEM
        for number, (width, count) in enumerate(zip(widths, _BLOCKS, strict=True), 1):
            rest = (GroupedBlock(width, width, 1, groups) for _ in range(count - 1))
            self.add_module(f"layer{number}", nn.Sequential(GroupedBlock(before, width, 2, groups), *rest))
            before = width
        self.linear = nn.Linear(before, num_classes)


class ShuffleNetV2(_ShuffleNet):
    """Three stages of split blocks and a 1x1 convolution, at width 1 116, 232, 464 and 1024 channels.

    Args:
        num_classes: Logits.
        image_shape: (C, H, W) of the images; any height and width.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        widths: Channels of each stage and of the last convolution.

    Reference:
        Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
        Design. ECCV 2018, arXiv 1807.11164.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        widths: Sequence[int] = (116, 232, 464, 1024),
    ) -> None:
        super().__init__(image_shape[0], mean, std)
        before = _STEM
        for number, (width, count) in enumerate(zip(widths[:3], _BLOCKS, strict=True), 1):
            rest = (SplitBlock(width) for _ in range(count - 1))
            self.add_module(f"layer{number}", nn.Sequential(DownBlock(before, width), *rest))
            before = width
        self.conv2, self.bn2 = conv_bn(before, widths[3])
        self.linear = nn.Linear(widths[3], num_classes)

    def last(self, x: Tensor) -> Tensor:
        """Compute what is pooled of the last stage's output: a wider 1x1 convolution of it."""
        out: Tensor = self.bn2(self.conv2(x)).relu()
        return out
