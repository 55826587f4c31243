"""Layers and initialisation shared by the network families."""

from torch import Tensor, nn


class GlobalPool(nn.Module):
    """Averages over height and width: [B, C, H, W] to [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map."""
        return x.mean(dim=(2, 3))


class ChannelShuffle(nn.Module):
    """Interleaves the channels of ``groups`` groups, so that the next grouped convolution mixes them."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of a feature map."""
        batch, channels, height, width = x.shape
        grouped = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(batch, channels, height, width)


def conv_bn(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, padded to keep the size at stride 1, and its batch norm."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after)]


def init_fan_out(model: nn.Module, linear_std: float | None = None) -> None:
    """Draw convolutions from a normal distribution with variance 2 / (kernel^2 * output channels).

    Linear layers get the standard deviation ``linear_std``; without it they stay as torch initialised them.
    Biases of the initialised layers become 0.
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
