"""MobileNets: V1 for ImageNet, V2 at half width for CIFAR, V2 at full width for Tiny-ImageNet."""

from collections.abc import Sequence

from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.zoo.layers import GlobalPool, conv_bn, init_fan_out

# V1: output channels and stride of each pair of depthwise and pointwise convolution.
_V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
# V2: expansion, output channels, blocks and stride of each group.
_V2_CIFAR = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_V2_TINY = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)


class MobileNetV1(ImageModel):
    """A stem and thirteen pairs of depthwise 3x3 and pointwise convolution, 32 times smaller at the end.

    Reference:
        Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
        Applications. 2017, arXiv 1704.04861.
    """

    stage_paths = ("model.3", "model.5", "model.11", "model.13")
    preact_paths = ("model.3.4", "model.5.4", "model.11.4", "model.13.4")
    pooled_path = "pool"
    classifier_path = "fc"

    def __init__(
        self,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        before = 32
        self.model = nn.Sequential(nn.Sequential(*conv_bn(image_shape[0], before, 3, 2), nn.ReLU()))
        for after, stride in _V1:
            depthwise = conv_bn(before, before, 3, stride, groups=before)
            pointwise = conv_bn(before, after)
            self.model.append(nn.Sequential(*depthwise, nn.ReLU(), *pointwise, nn.ReLU()))
            before = after
        self.pool = GlobalPool()
        self.fc = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        logits: Tensor = self.fc(self.pool(self.model(self.prepare(images))))
        return logits


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise 3x3, 1x1 to fewer; plus the input if the shapes agree.

    ``tiny`` is the layout published for Tiny-ImageNet: ReLU6, biased convolutions, ``residual`` as the key.
    """

    def __init__(self, before: int, after: int, stride: int, expansion: int, tiny: bool) -> None:
        super().__init__()
        inside = before * expansion
        relu = nn.ReLU6 if tiny else nn.ReLU
        branch = nn.Sequential(
            nn.Conv2d(before, inside, 1, bias=tiny),
            nn.BatchNorm2d(inside),
            relu(),
            nn.Conv2d(inside, inside, 3, stride, padding=1, groups=inside, bias=tiny),
            nn.BatchNorm2d(inside),
            relu(),
            nn.Conv2d(inside, after, 1, bias=tiny),
            nn.BatchNorm2d(after),
        )
        self.branch = "residual" if tiny else "conv"
        self.add_module(self.branch, branch)
        self.residual_link = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        out: Tensor = getattr(self, self.branch)(x)
        return out + x if self.residual_link else out


def _groups(
    before: int, plan: Sequence[tuple[int, int, int, int]], width: float, tiny: bool
) -> list[nn.Sequential]:
    """Build the groups of inverted residual blocks that ``plan`` lists."""
    groups = []
    for expansion, channels, count, stride in plan:
        group = nn.Sequential()
        for number in range(count):
            after = int(channels * width)
            group.append(InvertedResidual(before, after, stride if number == 0 else 1, expansion, tiny))
            before = after
        groups.append(group)
    return groups


class MobileNetV2(ImageModel):
    """A stem with stride 2 and seven groups of inverted residual blocks, as published for CIFAR.

    ``width`` scales all channels except those of the last layer.

    Reference:
        Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks.
        CVPR 2018, arXiv 1801.04381.
    """

    stage_paths = ("conv1", "blocks.1", "blocks.2", "blocks.4", "blocks.6")
    pooled_path = "pool"
    classifier_path = "classifier.0"

    def __init__(
        self,
        width: float = 0.5,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        stem, last = int(32 * width), 1280
        self.conv1 = nn.Sequential(*conv_bn(image_shape[0], stem, 3, 2), nn.ReLU())
        self.blocks = nn.Sequential(*_groups(stem, _V2_CIFAR, width, tiny=False))
        self.conv2 = nn.Sequential(*conv_bn(int(_V2_CIFAR[-1][1] * width), last), nn.ReLU())
        self.pool = GlobalPool()
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        init_fan_out(self, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.conv2(self.blocks(self.conv1(self.prepare(images))))
        logits: Tensor = self.classifier(self.pool(x))
        return logits


class TinyMobileNetV2(ImageModel):
    """MobileNetV2 at full width, as published for Tiny-ImageNet.

    The stem is a 1x1 convolution with one pixel of padding, the classifier a 1x1 convolution.

    Reference:
        Sandler et al.: MobileNetV2, as above; used by Zhao et al.: DOT, ICCV 2023, arXiv 2307.08436.
    """

    stage_paths = ("pre", "stage2", "stage3", "stage4", "conv1")
    pooled_path = "pool"
    classifier_path = "conv2"

    def __init__(
        self,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        stem, last = 32, 1280
        self.pre = nn.Sequential(
            nn.Conv2d(image_shape[0], stem, 1, padding=1), nn.BatchNorm2d(stem), nn.ReLU6()
        )
        groups = _groups(stem, _V2_TINY, 1, tiny=True)
        for number, group in enumerate(groups, 1):
            # In published checkpoints, a group of one block has no index.
            self.add_module(f"stage{number}", group if len(group) > 1 else group[0])
        self.conv1 = nn.Sequential(nn.Conv2d(_V2_TINY[-1][1], last, 1), nn.BatchNorm2d(last), nn.ReLU6())
        self.pool = GlobalPool()
        self.conv2 = nn.Conv2d(last, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.pre(self.prepare(images))
        for number in range(1, len(_V2_TINY) + 1):
            x = getattr(self, f"stage{number}")(x)
        logits: Tensor = self.conv2(self.pool(self.conv1(x))[:, :, None, None])
        return logits.flatten(1)
