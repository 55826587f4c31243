"""The mean of all gradient sets over the processes, in one all_reduce.

The message is flat: every parameter's gradient in every stream (zeros where a loss did not reach it on
this process), then one presence flag for each of them, then one flag of consent for each stream. After
the sum the flags say on every process alike which loss reached which parameter anywhere, so that all
processes take the same step or raise the same error.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Sets


def check_replicated(params: Sequence[Tensor]) -> None:
    """Refuse sharded parameters: FSDP averages their gradients itself, in each backward pass.

    Raises:
        ValueError: A parameter is a DTensor.
    """
    for param in params:
        if hasattr(param, "device_mesh"):
            raise ValueError(
                f"process_group is for plain parameters, got a {type(param).__name__} of shape "
                f"{tuple(param.shape)}: FSDP averages both gradient sets itself, leave process_group=None"
            )


def average(
    sets: Sets, consents: set[str], params: Sequence[Tensor], group: dist.ProcessGroup
) -> tuple[Sets, set[str]]:
    """Average gradient sets over the processes of a group.

    Args:
        sets: Gradients by stream, as this process has them.
        consents: The streams that this process says are absent on purpose.
        params: The parameters, the same in the same order on every process.
        group: The processes.

    Returns:
        The averaged sets and the consents of all processes together. A gradient is present where any
        process had one; those that had none counted as zero.
    """
    flat, sizes = _message(sets, consents, params)
    dist.all_reduce(flat, group=group)
    *sums, votes = torch.split(flat, sizes)
    counts = iter(votes.real.tolist())
    flat.div_(dist.get_world_size(group))
    means = iter(sums)
    averaged: Sets = {}
    for name in sets:
        pairs = [(next(means), next(counts)) for _ in params]
        averaged[name] = [
            _like(param, mean) if count > 0 else None
            for param, (mean, count) in zip(params, pairs, strict=True)
        ]
    return averaged, {name for name in sets if next(counts) > 0}


def _message(sets: Sets, consents: set[str], params: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return the flat tensor to be summed and the sizes of its parts, the flags last."""
    # Flags and sums must survive the trip: never narrower than float32.
    dtype = torch.float32
    for param in params:
        dtype = torch.promote_types(dtype, param.dtype)
    device = params[0].device
    pieces, flags = [], []
    for grads in sets.values():
        for param, grad in zip(params, grads, strict=True):
            flags.append(float(grad is not None))
            if grad is None:
                pieces.append(torch.zeros(param.numel(), dtype=dtype, device=device))
            else:
                pieces.append(grad.reshape(-1).to(device=device, dtype=dtype))
    flags += [float(name in consents) for name in sets]
    sizes = [*(piece.numel() for piece in pieces), len(flags)]
    return torch.cat([*pieces, torch.tensor(flags, dtype=dtype, device=device)]), sizes


def _like(param: Tensor, flat: Tensor) -> Tensor:
    """Return a flat gradient in the shape, dtype, device and memory layout of its parameter."""
    # .data: a version counter of its own, or a write to one gradient would mark all views as written.
    mean = flat.view(param.shape).to(device=param.device, dtype=param.dtype).data
    return mean if param.is_contiguous() else torch.empty_like(param).copy_(mean)


def any_rank(flag: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return a boolean scalar: whether ``flag`` is true on any process."""
    votes = flag.to(torch.float32)
    dist.all_reduce(votes, group=group)
    return votes > 0
