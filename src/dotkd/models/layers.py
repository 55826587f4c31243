"""Parts that several families of the zoo share: pooling, channel shuffle, the initial weights."""

from torch import Tensor, nn

from dotkd.taps import is_hooked


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


def rectify(x: Tensor, layer: nn.Module) -> Tensor:
    """Compute the ReLU of what a layer just returned and nobody else reads: in place, if no tap does.

    Where the processor has caught up with the memory, writing to memory that is not in its caches yet, or
    not even the process's own, is much of what such a layer costs.

    Args:
        x: The layer's output, of any shape.
        layer: The layer; a batch norm, a convolution or a sum, whose backward pass does not need its output.

    Returns:
        ``x`` itself, or a new tensor if the layer has a hook.
    """
    return x.relu() if is_hooked(layer) else x.relu_()


def plus(x: Tensor, layer: nn.Module, other: Tensor) -> Tensor:
    """Add to what a layer just returned and nobody else reads: in place, if no tap does.

    Args:
        x: The layer's output, of any shape.
        layer: As for :func:`rectify`.
        other: A tensor of the same shape.

    Returns:
        ``x`` itself, or a new tensor if the layer has a hook.
    """
    return x + other if is_hooked(layer) else x.add_(other)


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
