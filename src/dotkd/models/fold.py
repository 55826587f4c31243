"""Folds batch norms into the convolutions in front of them, for networks that are only evaluated.

In evaluation mode a batch norm scales and shifts each channel, which the convolution can do itself. This file
decides which pairs can be folded without changing any output that is read.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dotkd.features.taps import INPUT

_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
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
    \epsilon = weight, bias and eps of the batch norm. The weights are computed in float64, so the network's
    output is the same to rounding. The batch norm becomes an ``nn.Identity``: its path stays, and a tap
    there reads the same feature.

    A pair is folded only if the convolution is of torch's own class, neither module has hooks, each runs once
    per pass, and only the batch norm reads the convolution's output. A network that ``torch.fx`` cannot trace
    stays unchanged. A batch norm behind a linear layer stays too, because it may normalise features or
    positions.

    Args:
        model: The network, in evaluation mode; it must not be trained afterwards.
        keep: Feature paths, as :class:`~dotkd.features.taps.Taps` takes them, whose features must not change.

    Returns:
        The number of folded batch norms.

    Raises:
        ValueError: A part of the model is in training mode.

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
    pairs = _foldable_pairs(model, tuple(keep))
    for convolution, norm in pairs:
        _fold(convolution, norm)
    folded = {id(norm) for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # a shared module has several names
            if id(child) in folded:
                parent._modules[name] = nn.Identity().eval()
    return len(pairs)


def _foldable_pairs(model: nn.Module, keep: tuple[str, ...]) -> list[tuple[_ConvNd, _BatchNorm]]:
    """Find each convolution with the batch norm that can be folded into it."""
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # a forward pass that is given fx proxies instead of tensors may raise anything
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    parameter_read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    found = []
    for node in nodes:
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        paths = str(source.target), str(node.target)
        once = all(calls[path] == 1 and path not in parameter_read for path in paths)
        convolution, norm = (model.get_submodule(path) for path in paths)
        if len(source.users) != 1 or not once or _NORM_OF.get(type(convolution)) is not type(norm):
            continue
        assert isinstance(convolution, _ConvNd)
        assert isinstance(norm, _BatchNorm)
        tapped = any(_tapped_between(model, path, convolution, norm) for path in keep)
        hooked = _has_hooks(convolution) or _has_hooks(norm)
        if norm.running_mean is not None and not (tapped or hooked):
            found.append((convolution, norm))
    return found


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _tapped_between(model: nn.Module, path: str, convolution: nn.Module, norm: nn.Module) -> bool:
    """Tell whether the feature at a path may be the one between the convolution and the batch norm."""
    inside = set(model.get_submodule(path.removesuffix(INPUT)).modules())
    first, second = (norm, convolution) if path.endswith(INPUT) else (convolution, norm)
    return first in inside and second not in inside


def _fold(convolution: _ConvNd, norm: _BatchNorm) -> None:
    weight = convolution.weight
    bias = torch.zeros(len(weight), device=weight.device) if convolution.bias is None else convolution.bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain, shift = (value.double() if norm.affine else None for value in (norm.weight, norm.bias))
    parts = weight.double(), bias.double(), norm.running_mean.double(), norm.running_var.double()
    folded = fuse_conv_bn_weights(*parts, norm.eps, gain, shift)
    convolution.weight, convolution.bias = (
        nn.Parameter(part.to(weight.dtype), requires_grad=weight.requires_grad) for part in folded
    )
