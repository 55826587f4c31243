"""ShuffleNet V1 and V2 as published for CIFAR: a 1x1 stem of 24 channels, three stages, no max pool."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.zoo.layers import ChannelShuffle, GlobalPool, conv_bn

_STEM = 24
_BLOCKS = (4, 8, 4)


class GroupedBlock(nn.Module):
    """V1 block: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1 convolution, and a skip connection.

    With stride 1 the input is added; with stride 2 the averaged input is concatenated, so ``after`` counts
    its channels too.
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
        """Compute the block's output."""
        out = self.shuffle(self.bn1(self.conv1(x)).relu())
        out = self.bn3(self.conv3(self.bn2(self.conv2(out)).relu()))
        out = out + x if self.average is None else torch.cat((out, self.average(x)), dim=1)
        total: Tensor = self.preact(out)
        return total.relu()


class SplitBlock(nn.Module):
    """V2 block at stride 1: half of the channels pass, half go through 1x1, depthwise 3x3, 1x1 convolutions.

    The passing half is non-negative already, so one ReLU after the concatenation leaves it unchanged and
    ``preact`` is the whole feature map before that ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv_bn(half, half)
        self.conv2, self.bn2 = conv_bn(half, half, 3, groups=half)
        self.conv3, self.bn3 = conv_bn(half, half)
        self.preact = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        passed, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(self.bn1(self.conv1(out)).relu()))
        total: Tensor = self.preact(torch.cat((passed, self.bn3(self.conv3(out))), dim=1))
        return total.relu()


class DownBlock(nn.Module):
    """V2 block at stride 2: two branches of convolutions, each with half of the output channels."""

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
        """Compute the block's output."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x)))).relu()
        right = self.bn4(self.conv4(self.bn3(self.conv3(x)).relu()))
        right = self.bn5(self.conv5(right)).relu()
        out: Tensor = self.shuffle(torch.cat((left, right), dim=1))
        return out


class _ShuffleNet(ImageModel):
    """Stem, forward pass and feature paths of both versions."""

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

    def project(self, x: Tensor) -> Tensor:
        """Return the feature map that is pooled: the last stage's output."""
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.relu(self.bn1(self.conv1(self.prepare(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(self.project(x)))
        return logits


class ShuffleNetV1(_ShuffleNet):
    """Three stages of grouped blocks; ``widths`` are their channels, for 3 groups by default.

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
    """Three stages of split blocks and a 1x1 convolution; ``widths`` are their channels, for 1x by default.

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

    def project(self, x: Tensor) -> Tensor:
        """Widen the last stage's output by a 1x1 convolution before pooling."""
        out: Tensor = self.bn2(self.conv2(x)).relu()
        return out
