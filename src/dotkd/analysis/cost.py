"""Cost of a forward pass: parameters, floating-point operations, latency. The network is not changed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dotkd._validate import check_count


class Latency(NamedTuple):
    """Seconds of a forward pass of one batch, over repetitions.

    Attributes:
        median: Median, in seconds.
        first_quartile: First quartile, in seconds.
        third_quartile: Third quartile, in seconds.

    Example:
        >>> median, first_quartile, third_quartile = Latency(0.002, 0.0019, 0.0022)
        >>> median
        0.002
    """

    median: float
    first_quartile: float
    third_quartile: float


def parameter_count(model: nn.Module) -> int:
    """Number of elements of all parameters.

    A shared parameter counts once. Frozen parameters count; buffers (the running statistics of batch norm)
    do not.

    Args:
        model: The network.

    Returns:
        The number of elements, >= 0.

    Example:
        >>> parameter_count(nn.Linear(10, 5))
        55
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: Callable[[Tensor], object], images: Tensor) -> int:
    r"""Floating-point operations of one forward pass.

    A multiply-add counts as two operations. A convolution from I to O channels with kernel K x K and output
    H x W costs, for each image,

    .. math::
        2 \, I \, O \, K^2 \, H \, W

    Papers often report multiply-adds (MACs) as FLOPs: half of this number. Counted by
    ``torch.utils.flop_counter``: matrix products, convolutions and attention; not biases, activations,
    normalisation and pooling.

    Args:
        model: Maps images to anything; a module must be in evaluation mode.
        images: The batch, on the device of the model.

    Returns:
        Operations for the whole batch.

    Raises:
        ValueError: A submodule is in training mode.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3, padding=1).eval()
        >>> flops(conv, torch.zeros(1, 3, 32, 32)) == 2 * 3 * 8 * 3 * 3 * 32 * 32
        True
    """
    _check_evaluates(model)
    with torch.no_grad(), _countable_attention(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops())


@contextmanager
def _countable_attention() -> Iterator[None]:
    # The counter does not know fused attention on every device; unfused, it is matrix products.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def latency(
    model: Callable[[Tensor], object], images: Tensor, *, repeats: int = 50, warmup: int = 10
) -> Latency:
    """Latency of one forward pass: median and quartiles over repetitions.

    Each repetition is timed alone, without gradients; on a GPU the clock stops when the device has finished.
    Timings include other load on the machine, which only makes repetitions slower: hence the quartiles.

    Args:
        model: Maps images to anything; a module must be in evaluation mode.
        images: The batch, on the device of the model; latency depends on its size.
        repeats: Timed forward passes, >= 1.
        warmup: Forward passes before them, >= 1: the first may compile, allocate and choose kernels.

    Returns:
        Median and quartiles in seconds for the whole batch.

    Raises:
        ValueError: A submodule is in training mode, or a number is not an integer >= 1.

    Example:
        >>> found = latency(nn.Linear(4, 2).eval(), torch.zeros(8, 4), repeats=5)
        >>> 0 < found.first_quartile <= found.median <= found.third_quartile
        True
    """
    _check_evaluates(model)
    check_count("repeats", repeats)
    check_count("warmup", warmup)
    seconds = []
    with torch.no_grad():
        for _ in range(warmup + repeats):
            _finish(images.device)
            start = time.perf_counter()
            model(images)
            _finish(images.device)
            seconds.append(time.perf_counter() - start)
    counted = torch.tensor(seconds[warmup:], dtype=torch.float64)
    low, middle, high = counted.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median=middle, first_quartile=low, third_quartile=high)


def _finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _check_evaluates(model: Callable[[Tensor], object]) -> None:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if any(module.training for module in modules):
        raise ValueError(
            "model must be in evaluation mode, got one in training mode: call model.eval(); a forward "
            "pass in training mode would change running statistics"
        )
