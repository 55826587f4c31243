"""ResNets of CIFAR and ImageNet, and Wide ResNets."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dotkd.models.base import GlobalPool, ImageModel, conv_bn, init_fan_out

# Depth -> blocks of each of the four stages, and whether they are bottlenecks.
_IMAGENET_DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}


class ResidualBlock(nn.Module):
    """``relu(convolutions(x) + skip(x))``; the sum passes ``preact``, for taps in front of the ReLU.

    Args:
        before: Channels in.
        width: Channels of the 3x3 convolutions; a bottleneck gives out four times as many.
        stride: Of the first 3x3 convolution.
        bottleneck: 1x1, 3x3, 1x1 instead of 3x3, 3x3.
        skip: Name of the projection, which is there where the shapes differ.
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
        """Compute [B, after, H', W'] of [B, before, H, W]."""
        out = x
        for number, (conv, norm) in enumerate(self.pairs):
            out = getattr(self, norm)(getattr(self, conv)(out.relu() if number else out))
        total: Tensor = self.preact(out + (getattr(self, self.skip)(x) if self.skip else x))
        return total.relu()


class ResNet(ImageModel):
    """A stem and stages of residual blocks; every stage but the first halves the size.

    Args:
        widths: Channels of the stem and of the 3x3 convolutions of each stage.
        blocks: Blocks of each stage.
        bottleneck: Whether they are bottlenecks.
        large_stem: 7x7 with stride 2 and a max pool, for ImageNet; else 3x3.
        skip: Name of a block's projection.
        head: Name of the classifier.
        num_classes: Logits.
        image_shape: (C, H, W) of the images; any height and width.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

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
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalize(images)))))
        for layer in self.layers:
            x = getattr(self, layer)(x)
        logits: Tensor = getattr(self, self.classifier_path)(self.pool(x))
        return logits


def thin_resnet(
    depth: int,
    width: int = 1,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> ResNet:
    """Make a ResNet of three stages with 16, 32 and 64 channels times ``width``; ``depth`` is 6n + 2."""
    widths = (16 if width == 1 else 8 * width, 16 * width, 32 * width, 64 * width)
    return ResNet(
        widths, ((depth - 2) // 6,) * 3, num_classes=num_classes, image_shape=image_shape, mean=mean, std=std
    )


def imagenet_resnet(
    depth: int,
    large_stem: bool,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> ResNet:
    """Make a ResNet of 18, 34 or 50 layers; with the small stem it is the one published for CIFAR."""
    blocks, bottleneck = _IMAGENET_DEPTHS[depth]
    skip, head = ("downsample", "fc") if large_stem else ("shortcut", "linear")
    return ResNet(
        (64, 64, 128, 256, 512),
        blocks,
        bottleneck=bottleneck,
        large_stem=large_stem,
        skip=skip,
        head=head,
        num_classes=num_classes,
        image_shape=image_shape,
        mean=mean,
        std=std,
    )


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, plus the input.

    Where the number of channels changes, the input is projected as the first batch norm left it.

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        # The name is that of the published files.
        self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute [B, after, H', W'] of [B, before, H, W]."""
        first = self.bn1(x).relu()
        skip = x if self.convShortcut is None else self.convShortcut(first)
        out: Tensor = self.conv2(self.bn2(self.conv1(first)).relu())
        return out + skip


class WideStage(nn.Module):
    """Blocks of one width; they sit under ``layer``, as in the published files.

    Args:
        blocks: Number of blocks.
        before: Channels in.
        after: Channels out.
        stride: Of the first block.
    """

    def __init__(self, blocks: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        rest = (WideBlock(after, after, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(before, after, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute [B, after, H', W'] of [B, before, H, W]."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(ImageModel):
    """A 3x3 stem and three stages of ``(depth - 4) / 6`` blocks with 16, 32, 64 channels times width.

    A stage's output is a plain sum: what normalises and rectifies it stands at the entry of the next.

    Args:
        depth: 6n + 4.
        width: Factor of the channels.
        num_classes: Logits.
        image_shape: (C, H, W) of the images; any height and width.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

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
        x = self.block3(self.block2(self.block1(self.conv1(self.normalize(images)))))
        logits: Tensor = self.fc(self.pool(self.bn1(x).relu()))
        return logits
