"""What a network costs: parameters, arithmetic, time, and energy where a device can tell.

Here belong measurements on a network that somebody else runs; none of them changes it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dotkd._validate import check_count


class Latency(NamedTuple):
    """Seconds for one batch.

    Attributes:
        median: Half of the repetitions took at most this long.
        first_quartile: A quarter of them did.
        third_quartile: Three quarters of them did.

    Example:
        >>> median, first_quartile, third_quartile = Latency(0.002, 0.0019, 0.0022)
        >>> median
        0.002
    """

    median: float
    first_quartile: float
    third_quartile: float


def parameter_count(model: nn.Module) -> int:
    """Count the elements of all parameters; one that is used in several places counts once.

    Frozen parameters count too, buffers (the running statistics of a batch norm) do not.

    Args:
        model: The network.

    Returns:
        The number of elements.

    Example:
        >>> parameter_count(nn.Linear(10, 5))
        55
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: Callable[[Tensor], object], images: Tensor) -> int:
    """Count the floating-point operations of one forward pass.

    A multiply-add counts as two operations, so that a convolution from I to O channels with a kernel of
    K x K and an output of H x W costs 2 * I * O * K * K * H * W for each image. Papers that give
    multiply-adds (MACs), often under the name of FLOPs, give half of it. Matrix products, convolutions
    and attention are counted, as by ``torch.utils.flop_counter``; biases, activations, normalisation and
    pooling are not.

    Args:
        model: Maps images to anything; a module must be in evaluation mode.
        images: The batch, on the device of the model.

    Returns:
        The operations for the whole batch.

    Raises:
        ValueError: If a part of the model is in training mode.

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
    # Fused attention is one operation, and not one that the counter knows on every device; taken apart,
    # it is matrix products.
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
    """Measure how long one forward pass takes.

    Each repetition is timed by itself, without gradients; on a GPU its clock runs until the device has
    finished. Quartiles, because other work on the machine makes some repetitions late and none early.

    Args:
        model: Maps images to anything; a module must be in evaluation mode.
        images: The batch, on the device of the model: the time depends on its size.
        repeats: Forward passes that count, at least 1.
        warmup: Forward passes before them, at least 1: the first one may compile, allocate and choose
            kernels.

    Returns:
        Median and quartiles in seconds for the whole batch.

    Raises:
        ValueError: If a part of the model is in training mode, or a number is not a positive integer.

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


class energy:  # noqa: N801 (a context manager reads like a phrase)
    """Measure the energy that a GPU uses during a with-block.

    Read from the device's own counter through NVML, which needs an NVIDIA GPU (Volta or later) and the
    package ``nvidia-ml-py``. The counter is the whole board's: it includes what the board draws when
    idle and what other programs do on it. It moves every 20 to 100 ms, so that a block should take
    seconds. The energy of a CPU is not measured, and nothing is estimated.

    Args:
        device: The GPU; None for torch's current one.

    Attributes:
        joules: After the block, the energy in joules; None where it cannot be measured: the device is no
            NVIDIA GPU, is a part of one (MIG) or keeps no counter, or the package is missing. None during
            the block, and where it ended with an exception.

    Example:
        >>> with energy("cpu") as used:
        ...     _ = torch.zeros(100) + 1
        >>> used.joules is None
        True
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        if device is None:
            device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        self._device = torch.device(device)
        self._counter: _Counter | None = None
        self._start = 0
        self.joules: float | None = None

    def __enter__(self) -> Self:
        self.joules = None
        self._counter = _counter_of(self._device)
        if self._counter is not None:
            _finish(self._device)
            self._start = self._counter.millijoules()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._counter is None:
            return
        if kind is None:
            _finish(self._device)
            self.joules = (self._counter.millijoules() - self._start) / 1000
        self._counter.close()


class _Counter:
    """The energy counter of one GPU.

    Args:
        nvml: The module ``pynvml``.
        uuid: The GPU's identity. Its number would not do: CUDA_VISIBLE_DEVICES renumbers for CUDA alone.
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.millijoules()
        except nvml.NVMLError:
            nvml.nvmlShutdown()
            raise

    def millijoules(self) -> int:
        """Return the energy since the driver was loaded."""
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def close(self) -> None:
        """Let go of NVML, which counts its users."""
        self._nvml.nvmlShutdown()


def _counter_of(device: torch.device) -> _Counter | None:
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        return _Counter(nvml, f"GPU-{uuid.removeprefix('GPU-')}")
    except nvml.NVMLError:
        return None


def _finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _check_evaluates(model: Callable[[Tensor], object]) -> None:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if any(module.training for module in modules):
        raise ValueError(
            "model must be in evaluation mode, got one in training mode: call model.eval(); a forward "
            "pass in training mode would change running statistics"
        )
