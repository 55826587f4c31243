"""Residual networks: ResNets for CIFAR and ImageNet, and Wide ResNets."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.zoo.layers import GlobalPool, conv_bn, init_fan_out

# Depth -> blocks of each of the four stages, and whether they are bottlenecks.
_IMAGENET_DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}


class ResidualBlock(nn.Module):
    """``relu(convolutions(x) + skip(x))`` with 3x3, 3x3 or, as a bottleneck, 1x1, 3x3, 1x1 convolutions.

    A bottleneck has ``4 * width`` output channels. The sum passes ``preact``, a tap in front of the ReLU.
    ``skip`` names the projection, which exists only if input and output differ in shape.
    """

    def __init__(self, before: int, width: int, stride: int, bottleneck: bool, skip: str) -> None:
        super().__init__()
        after = 4 * width if bottleneck else width
        convolutions = [(3, width, stride), (3, after, 1)]
        if bottleneck:
            convolutions = [(1, width, 1), (3, width, stride), (1, after, 1)]
        self.pairs = [(f"conv{number}", f"bn{number}") for number in range(1, len(convolutions) + 1)]
        channels = before
        for names, (kernel, wide, step) in zip(self.pairs, convolutions, strict=True):
            for name, layer in zip(names, conv_bn(channels, wide, kernel, step), strict=True):
                self.add_module(name, layer)
            channels = wide
        self.skip = skip if stride != 1 or before != after else ""
        if self.skip:
            self.add_module(skip, nn.Sequential(*conv_bn(before, after, 1, stride)))
        self.preact = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        out = x
        for number, (conv, norm) in enumerate(self.pairs):
            out = getattr(self, norm)(getattr(self, conv)(out.relu() if number else out))
        total: Tensor = self.preact(out + (getattr(self, self.skip)(x) if self.skip else x))
        return total.relu()


class ResNet(ImageModel):
    """A stem and stages of residual blocks; every stage but the first halves the size.

    ``widths`` are the channels of the stem and of each stage's 3x3 convolutions, ``blocks`` the number of
    blocks of each stage. ``large_stem`` is ImageNet's, a 7x7 convolution with stride 2 and a max pool,
    instead of a 3x3 convolution. ``skip`` and ``head`` are the published names of a block's projection and
    of the classifier.

    Reference:
        He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, arXiv 1512.03385.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        bottleneck: bool = False,
        large_stem: bool = False,
        skip: str = "downsample",
        head: str = "fc",
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        channels = widths[0]
        kernel, stride = (7, 2) if large_stem else (3, 1)
        self.conv1, self.bn1 = conv_bn(image_shape[0], channels, kernel, stride)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large_stem else nn.Identity()
        self.layers = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        for layer, width, count in zip(self.layers, widths[1:], blocks, strict=True):
            stage = nn.Sequential()
            for number in range(count):
                stride = 2 if number == 0 and layer != "layer1" else 1
                stage.append(ResidualBlock(channels, width, stride, bottleneck, skip))
                channels = 4 * width if bottleneck else width
            self.add_module(layer, stage)
        self.pool = GlobalPool()
        self.add_module(head, nn.Linear(channels, num_classes))
        init_fan_out(self)
        self.stage_paths = ("relu", *self.layers)
        last = [f"{layer}.{count - 1}" for layer, count in zip(self.layers, blocks, strict=True)]
        self.preact_paths = ("relu", *(f"{block}.preact" for block in last))
        self.norm_paths = tuple(f"{block}.bn{3 if bottleneck else 2}" for block in last)
        self.pooled_path, self.classifier_path = "pool", head

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.prepare(images)))))
        for layer in self.layers:
            x = getattr(self, layer)(x)
        logits: Tensor = getattr(self, self.classifier_path)(self.pool(x))
        return logits


def cifar_resnet(depth: int, width: int = 1) -> Callable[..., ResNet]:
    """Build ResNets of depth 6n + 2: three stages of 16, 32 and 64 channels, times ``width``."""
    widths = (16 if width == 1 else 8 * width, 16 * width, 32 * width, 64 * width)
    return partial(ResNet, widths, ((depth - 2) // 6,) * 3)


def imagenet_resnet(depth: int, *, large_stem: bool) -> Callable[..., ResNet]:
    """Build ResNets of depth 18, 34 or 50; with the small stem, as published for CIFAR."""
    blocks, bottleneck = _IMAGENET_DEPTHS[depth]
    skip, head = ("downsample", "fc") if large_stem else ("shortcut", "linear")
    widths = (64, 64, 128, 256, 512)
    return partial(ResNet, widths, blocks, bottleneck=bottleneck, large_stem=large_stem, skip=skip, head=head)


class WideBlock(nn.Module):
    """Pre-activation block: two 3x3 convolutions, each behind batch norm and ReLU, plus the input.

    If the number of channels changes, the skip connection projects the first activation instead.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        first = self.bn1(x).relu()
        skip = x if self.convShortcut is None else self.convShortcut(first)
        out: Tensor = self.conv2(self.bn2(self.conv1(first)).relu())
        return out + skip


class WideStage(nn.Module):
    """Wide blocks of one width, under ``layer`` as in the published checkpoints."""

    def __init__(self, blocks: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        rest = (WideBlock(after, after, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(before, after, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage's output."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(ImageModel):
    """A 3x3 stem and three stages of 16, 32 and 64 channels times ``width``; the depth is 6n + 4.

    A stage returns a plain sum. Its batch norm and ReLU are the first layers of the next stage, so
    ``preact_paths`` lead there.

    Reference:
        Zagoruyko, Komodakis: Wide Residual Networks. BMVC 2016, arXiv 1605.07146.
    """

    stage_paths = ("conv1", "block1", "block2", "block3")
    preact_paths = ("conv1", "block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
    norm_paths = preact_paths[1:]
    pooled_path = "pool"
    classifier_path = "fc"

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(image_shape[0], widths[0], 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = (
            WideStage((depth - 4) // 6, before, after, stride)
            for (before, after), stride in zip(pairwise(widths), (1, 2, 2), strict=True)
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.pool = GlobalPool()
        self.fc = nn.Linear(widths[-1], num_classes)
        init_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.block3(self.block2(self.block1(self.conv1(self.prepare(images)))))
        logits: Tensor = self.fc(self.pool(self.bn1(x).relu()))
        return logits
