"""Batch norm folded into the convolution in front of it, for a network that will never learn again.

In evaluation mode a batch norm is a scale and a shift for each channel, and so is part of what the
convolution may compute itself. Here belongs where that is allowed, and nothing about who wants it.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dotkd.features.taps import INPUT

_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


@torch.no_grad()
def fold_batch_norm(model: nn.Module, *, keep: Iterable[str] = ()) -> int:
    r"""Fold the batch norms of a frozen network into its convolutions, in place.

    .. math::
        \gamma \, \frac{(W * x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = W' * x + b', \qquad
        W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \quad
        b' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu) + \beta

    with W, b = the convolution's weight and bias, \mu, \sigma^2 = the running statistics, and \gamma, \beta,
    \epsilon = weight, bias and eps of the batch norm. The weights are computed in float64; what the network
    returns is the same to rounding. The batch norm becomes an ``nn.Identity``, so that its path, and a
    tap on it, stay what they were.

    A batch norm is folded only where it is exactly this map: behind a convolution of exactly torch's
    class, without hooks, whose output nothing else reads, both run once in a pass. A network that
    ``torch.fx`` cannot trace stays as it is. So does a batch norm behind a linear layer, of which cannot be
    seen whether it normalises features or positions.

    Args:
        model: In evaluation mode, and for good: it must not be trained afterwards.
        keep: Paths as of :class:`~dotkd.features.taps.Taps`, ``:input`` behind them or not, that must give
            what they gave before.

    Returns:
        How many batch norms were folded.

    Raises:
        ValueError: If a part of the model is in training mode.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> images = torch.rand(2, 3, 8, 8)
        >>> before = net(images)
        >>> fold_batch_norm(net), net[1]
        (1, Identity())
        >>> torch.allclose(net(images), before, atol=1e-6)
        True
    """
    if any(module.training for module in model.modules()):
        raise ValueError("fold_batch_norm needs a model in evaluation mode: call model.eval() first")
    pairs = _pairs(model, tuple(keep))
    for convolution, norm in pairs:
        _fold(convolution, norm)
    folded = {id(norm) for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # under every name that it has
            if id(child) in folded:
                parent._modules[name] = nn.Identity().eval()
    return len(pairs)


def _pairs(model: nn.Module, keep: tuple[str, ...]) -> list[tuple[_ConvNd, _BatchNorm]]:
    """Find the convolutions with a batch norm that may be folded into them."""
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # whatever a forward pass in plain Python does with a stand-in for a tensor
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    found = []
    for node in nodes:
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        paths = str(source.target), str(node.target)
        once = len(source.users) == 1 and all(calls[path] == 1 and path not in read for path in paths)
        convolution, norm = (model.get_submodule(path) for path in paths)
        if not once or _KINDS.get(type(convolution)) is not type(norm):
            continue
        assert isinstance(convolution, _ConvNd)
        assert isinstance(norm, _BatchNorm)
        kept = not any(_loses(model, path, convolution, norm) for path in keep)
        if kept and norm.running_mean is not None and not (_hooked(convolution) or _hooked(norm)):
            found.append((convolution, norm))
    return found


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _loses(model: nn.Module, path: str, convolution: nn.Module, norm: nn.Module) -> bool:
    """Whether what is read at a path might lie between the two."""
    inside = set(model.get_submodule(path.removesuffix(INPUT)).modules())
    first, second = (norm, convolution) if path.endswith(INPUT) else (convolution, norm)
    return first in inside and second not in inside


def _fold(convolution: _ConvNd, norm: _BatchNorm) -> None:
    own = convolution.weight
    bias = torch.zeros(len(own), device=own.device) if convolution.bias is None else convolution.bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain, shift = (value.double() if norm.affine else None for value in (norm.weight, norm.bias))
    parts = own.double(), bias.double(), norm.running_mean.double(), norm.running_var.double()
    folded = fuse_conv_bn_weights(*parts, norm.eps, gain, shift)
    convolution.weight, convolution.bias = (
        nn.Parameter(part.to(own.dtype), requires_grad=own.requires_grad) for part in folded
    )
