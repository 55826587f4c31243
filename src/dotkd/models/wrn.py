"""Wide ResNets of CIFAR: batch norm and ReLU in front of each convolution, width as a factor."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.layers import GlobalPool, init_fan_out


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
