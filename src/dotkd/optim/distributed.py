"""What the processes tell each other: the mean of all gradient sets, or of updates alone, and votes.

The message of :func:`average` is flat: every parameter's gradient in every stream (zeros where a loss did
not reach it on this process), then one presence flag for each of them, then the votes. After the sum the
flags say on every process alike which loss reached which parameter anywhere, so that all processes take
the same step or raise the same error. :func:`agree` sends flags and votes alone, :func:`mean` tensors
alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Sets

Votes = dict[str, float]
"""For each question, the share of the processes that say yes, in [0, 1]."""


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
    sets: Sets, votes: Mapping[str, bool], params: Sequence[Tensor], group: dist.ProcessGroup
) -> tuple[Sets, Votes]:
    """Average gradient sets over the processes of a group, in one all_reduce.

    Args:
        sets: Gradients by stream, as this process has them.
        votes: What this process says to some questions, the same ones on every process.
        params: The parameters, the same in the same order on every process.
        group: The processes.

    Returns:
        The averaged sets, and the share of yes for each vote. A gradient is present where any process had
        one; those that had none counted as zero.
    """
    grads = [grad for grads in sets.values() for grad in grads]
    flags = [*(grad is not None for grad in grads), *votes.values()]
    flat, sizes = _message(grads, [*params] * len(sets), flags)
    dist.all_reduce(flat, group=group)
    *sums, sent = torch.split(flat, sizes)
    counts = iter(sent.real.tolist())
    flat.div_(dist.get_world_size(group))
    means = iter(sums)
    averaged: Sets = {}
    for name in sets:
        pairs = [(next(means), next(counts)) for _ in params]
        averaged[name] = [
            _like(param, mean) if count > 0 else None
            for param, (mean, count) in zip(params, pairs, strict=True)
        ]
    return averaged, {name: next(counts) / dist.get_world_size(group) for name in votes}


def agree(
    sets: Sets, votes: Mapping[str, bool], params: Sequence[Tensor], group: dist.ProcessGroup
) -> tuple[Sets, Votes]:
    """Say on every process alike which loss reached which parameter anywhere; the gradients stay here.

    The message has four bytes for each parameter in each set and for each vote.

    Args:
        sets: Gradients by stream, as this process has them.
        votes: What this process says to some questions, the same ones on every process.
        params: The parameters, the same in the same order on every process.
        group: The processes.

    Returns:
        The sets with zeros where only other processes had a gradient, and the share of yes for each vote.
    """
    flags = [grad is not None for grads in sets.values() for grad in grads]
    message = torch.tensor([*flags, *votes.values()], dtype=torch.int32, device=params[0].device)
    dist.all_reduce(message, group=group)
    counts = iter(message.tolist())
    filled: Sets = {
        name: [
            torch.zeros_like(param) if grad is None and count > 0 else grad
            for param, grad, count in zip(params, grads, [next(counts) for _ in params], strict=True)
        ]
        for name, grads in sets.items()
    }
    return filled, {name: next(counts) / dist.get_world_size(group) for name in votes}


def mean(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Return the mean of tensors over the processes, in one all_reduce; those given stay as they are."""
    if not tensors:
        return []
    flat, sizes = _message(tensors, tensors, [])
    dist.all_reduce(flat, group=group)
    flat /= dist.get_world_size(group)
    *means, _ = torch.split(flat, sizes)
    return [_like(tensor, part) for tensor, part in zip(tensors, means, strict=True)]


def _message(
    grads: Sequence[Tensor | None], params: Sequence[Tensor], flags: Iterable[bool]
) -> tuple[Tensor, list[int]]:
    """Return the flat tensor to be summed and the sizes of its parts, the flags last."""
    # Flags and sums must survive the trip: never narrower than float32.
    dtype = torch.float32
    for param in params:
        dtype = torch.promote_types(dtype, param.dtype)
    device = params[0].device
    pieces = [
        torch.zeros(param.numel(), dtype=dtype, device=device)
        if grad is None
        else grad.reshape(-1).to(device=device, dtype=dtype)
        for param, grad in zip(params, grads, strict=True)
    ]
    pieces.append(torch.tensor([float(flag) for flag in flags], dtype=dtype, device=device))
    return torch.cat(pieces), [piece.numel() for piece in pieces]


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
