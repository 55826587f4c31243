"""VGG with batch norm for small images: five blocks of 3x3 convolutions and one linear layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.zoo.layers import GlobalPool, init_fan_out

_WIDTHS = (64, 128, 256, 512, 512)
# Depth -> convolutions of each block. From 11 on, depth counts three linear layers, though one is left.
_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _block(before: int, after: int, count: int) -> nn.Sequential:
    """Return ``count`` convolutions with batch norm and ReLUs between them, without a ReLU at the end."""
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [nn.ReLU()] if number else []
        layers += [nn.Conv2d(before if number == 0 else after, after, 3, padding=1), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers)


class VGG(ImageModel):
    """Five blocks, each followed by a ReLU; max pools halve the size after the first three.

    A network built for images at least 64 pixels high halves after the fourth block too.

    Reference:
        Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition.
        ICLR 2015, arXiv 1409.1556.
    """

    stage_paths = ("relu0", "relu1", "relu2", "relu3", "relu4")
    preact_paths = ("relu0", "block1", "block2", "block3", "block4")
    pooled_path = "pool4"
    classifier_path = "classifier"

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        before = image_shape[0]
        for number, (after, count) in enumerate(zip(_WIDTHS, _CONVOLUTIONS[depth], strict=True)):
            self.add_module(f"block{number}", _block(before, after, count))
            self.add_module(f"relu{number}", nn.ReLU())
            # Rounding up keeps at least one pixel of an image of any size.
            halve = number < 3 or (number == 3 and image_shape[1] >= 64)
            pool = nn.MaxPool2d(2, ceil_mode=True) if halve else nn.Identity()
            self.add_module(f"pool{number}", GlobalPool() if number == 4 else pool)
            before = after
        self.classifier = nn.Linear(before, num_classes)
        last = _CONVOLUTIONS[depth]
        self.norm_paths = tuple(f"block{number}.{3 * last[number] - 2}" for number in range(1, len(last)))
        init_fan_out(self, linear_std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        x = self.prepare(images)
        for number in range(len(_WIDTHS)):
            for part in ("block", "relu", "pool"):
                x = getattr(self, f"{part}{number}")(x)
        logits: Tensor = self.classifier(x)
        return logits
