"""Parts that several families of the zoo share: pooling, channel shuffle, the initial weights."""

from torch import Tensor, nn


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
