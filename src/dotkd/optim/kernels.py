"""Which implementation of ``torch.optim.sgd.sgd`` updates a parameter: fused, foreach or loop.

torch's fused kernels walk raw memory. They trust that parameter, gradient and buffer share one dense
layout, and on the CPU that they hold float32 or float64: anything else is updated wrongly, without an
error (seen with torch 2.13: a channels_last weight with a contiguous gradient; a strided view, whose
neighbours are overwritten; bfloat16 and float16 from 16 elements on). So the choice is made here, for
each tensor and at each step.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["fused", "foreach", "loop"]

_PLAIN = (Tensor, torch.nn.Parameter)
_RUN = 2**18  # numbers: best of 2**15 to 2**19 on the CPU it was tried on
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def split_by_kernel(
    group: Mapping[str, Any], params: Sequence[Tensor], columns: Sequence[Sequence[Tensor]]
) -> list[tuple[Kernel, Sequence[int]]]:
    """Split parameters by the fastest correct implementation that the group's options allow.

    Args:
        group: A parameter group with ``foreach`` and ``fused``, each True, False or None (choose).
        params: Parameters.
        columns: Their gradients and momentum buffers, each a list in the order of ``params``.

    Returns:
        For each implementation in use, the positions of its parameters.

    Raises:
        RuntimeError: ``fused=True``, and torch has no correct fused kernel for some parameter.

    Example:
        >>> weights = [torch.ones(4), torch.ones(4).bfloat16()]
        >>> split_by_kernel({"foreach": None, "fused": None}, weights, [weights])
        [('fused', [0]), ('loop', [1])]
    """
    everything = range(len(params))
    if group["foreach"]:
        return [("foreach", everything)]
    wants_fused = group["fused"] or (group["fused"] is None and group["foreach"] is None)
    if wants_fused and _all_can_fuse(params, columns):
        return [("fused", everything)]
    rows: dict[tuple[Kernel, type], list[int]] = {}
    for i, param in enumerate(params):
        kernel = _choose(group, param, [column[i] for column in columns], wants_fused=wants_fused)
        rows.setdefault((kernel, type(param)), []).append(i)
    return [(kernel, positions) for (kernel, _), positions in rows.items()]


def runs(params: Sequence[Tensor], rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut rows of parameters into runs that one call should update, before the next call takes over.

    A step is several passes over the same parameters. On a CPU a run is short enough to stay in the cache
    from one pass to the next (a quarter less time on ResNet-8x4); on a GPU, where launching costs, there
    is one run.

    Args:
        params: The parameters.
        rows: Positions in ``params``.

    Yields:
        Parts of ``rows``, in order.

    Example:
        >>> weights = [torch.empty(2**17), torch.empty(2**17), torch.empty(1)]
        >>> list(runs(weights, [0, 1, 2]))
        [[0, 1], [2]]
    """
    run: list[int] = []
    size = 0
    for row in rows:
        numel = params[row].numel()
        if run and size + numel > _RUN and params[row].is_cpu:
            yield run
            run, size = [], 0
        run.append(row)
        size += numel
    yield run


def _all_can_fuse(params: Sequence[Tensor], columns: Sequence[Sequence[Tensor]]) -> bool:
    """Say whether all tensors are of the common kind; cheaper than asking one by one."""
    return (
        set(map(type, params)) <= set(_PLAIN)
        and all(
            _has_fused(device.type, dtype)
            for device in {param.device for param in params}
            for dtype in {param.dtype for param in params}
        )
        and all(all(map(Tensor.is_contiguous, tensors)) for tensors in (params, *columns))
    )


def _has_fused(device: str, dtype: torch.dtype) -> bool:
    if device == "cpu":
        return dtype in (torch.float32, torch.float64)
    return device == "cuda" and dtype.is_floating_point


def _choose(
    group: Mapping[str, Any], param: Tensor, others: Iterable[Tensor], *, wants_fused: bool
) -> Kernel:
    if wants_fused:
        obstacle = _obstacle(param, others)
        if not obstacle:
            return "fused"
        if group["fused"]:
            raise RuntimeError(f"fused=True cannot update a parameter {obstacle}")
    if group["foreach"] is None and param.is_cuda:
        return "foreach"
    # On a CPU a loop stays in the cache where foreach makes one pass over all tensors per operation.
    return "loop"


def _obstacle(param: Tensor, others: Iterable[Tensor]) -> str:
    """Say why no fused kernel may touch these tensors; an empty string means that one may."""
    if type(param) not in _PLAIN:
        return f"of type {type(param).__name__}: only plain tensors"
    if not _has_fused(param.device.type, param.dtype):
        return f"of dtype {param.dtype} on {param.device.type!r}"
    if not any(param.is_contiguous(memory_format=layout) for layout in _layouts(param)):
        return f"with strides {param.stride()}: only contiguous or channels_last ones"
    if any(other.stride() != param.stride() for other in others):
        return "whose gradients or buffers are laid out otherwise in memory than the parameter itself"
    return ""


def _layouts(param: Tensor) -> list[torch.memory_format]:
    return [torch.contiguous_format, *([_CHANNELS_LAST[param.ndim]] if param.ndim in _CHANNELS_LAST else [])]
