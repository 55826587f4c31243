"""Small networks that train on a CPU, for the quick recipes, the demo and the tests."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dotkd.models.base import ImageModel
from dotkd.models.zoo.layers import GlobalPool


class MLP(ImageModel):
    """One hidden layer: ``logits = W2 relu(W1 flatten(x) + b1) + b2``."""

    stage_paths = ("relu",)
    preact_paths = ("hidden",)
    pooled_path = "relu"
    classifier_path = "fc"

    def __init__(
        self,
        width: int,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        channels, height, columns = image_shape
        self.hidden = nn.Linear(channels * height * columns, width)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        logits: Tensor = self.fc(self.relu(self.hidden(self.prepare(images).flatten(1))))
        return logits


class CNN(ImageModel):
    """Three stages of 3x3 convolution with stride 2, batch norm and ReLU, each twice as wide."""

    stage_paths = ("stages.0", "stages.1", "stages.2")
    preact_paths = ("stages.0.1", "stages.1.1", "stages.2.1")
    pooled_path = "pool"
    classifier_path = "fc"

    def __init__(
        self,
        width: int,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__(mean, std)
        widths = (image_shape[0], width, 2 * width, 4 * width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for before, after in pairwise(widths)
            )
        )
        self.pool = GlobalPool()
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, C, H, W]."""
        logits: Tensor = self.fc(self.pool(self.stages(self.prepare(images))))
        return logits
