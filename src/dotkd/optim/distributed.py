"""What processes tell each other: the mean of all gradient sets, and votes.

The message of :func:`average` is flat: every plain parameter's gradient in every stream (zeros where a loss
did not reach it on this process), then one presence flag for each of them, then the votes. After the sum the
flags say on every process alike which loss reached which parameter anywhere, so that all processes take the
same step or raise the same error.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Sets, is_sharded


def require_group(params: Iterable[Tensor]) -> None:
    """Refuse plain parameters without a process group among several processes: replicas would drift apart.

    Raises:
        RuntimeError: There is one.
    """
    for param in params:
        if not is_sharded(param):
            raise RuntimeError(
                f"torch.distributed runs {dist.get_world_size()} processes, and with process_group=None none "
                f"averages the gradients of a plain parameter of shape {tuple(param.shape)}: pass "
                "process_group=torch.distributed.group.WORLD to average them, or process_group=False if the "
                "processes are independent"
            )


def average(
    sets: Sets, votes: Mapping[str, bool], params: Sequence[Tensor], group: "dist.ProcessGroup"
) -> tuple[Sets, dict[str, bool]]:
    """Average the gradients of plain parameters over the processes of a group, in one all_reduce.

    Args:
        sets: Gradients by stream, as this process has them.
        votes: This process's answers to some questions, the same ones on every process.
        params: The parameters, the same in the same order on every process.
        group: The processes.

    Returns:
        The averaged sets, and for each vote whether any process says yes. A gradient is present where any
        process had one; those that had none counted as zero. Gradients of DTensors are as they were: FSDP has
        averaged them.
    """
    plain = [i for i, param in enumerate(params) if not is_sharded(param)]
    grads = [of_stream[i] for of_stream in sets.values() for i in plain]
    owners = [params[i] for i in plain] * len(sets)
    flat, sizes = _message(grads, owners, [*(grad is not None for grad in grads), *votes.values()], params)
    dist.all_reduce(flat, group=group)
    *sums, sent = torch.split(flat, sizes)
    counts = iter(sent.real.tolist())
    flat.div_(dist.get_world_size(group))
    means = [
        _like(param, mean) if next(counts) > 0 else None for param, mean in zip(owners, sums, strict=True)
    ]
    averaged: Sets = {}
    for number, (name, of_stream) in enumerate(sets.items()):
        part = means[number * len(plain) : (number + 1) * len(plain)]
        mean_of = dict(zip(plain, part, strict=True))
        averaged[name] = [mean_of.get(i, grad) for i, grad in enumerate(of_stream)]
    return averaged, {name: next(counts) > 0 for name in votes}


def _message(
    grads: Sequence[Tensor | None], owners: Sequence[Tensor], flags: Iterable[bool], params: Sequence[Tensor]
) -> tuple[Tensor, list[int]]:
    """Return the flat tensor to be summed and the sizes of its parts, the flags last."""
    # Flags and sums must survive the trip: never narrower than float32.
    dtype = torch.float32
    for param in owners:
        dtype = torch.promote_types(dtype, param.dtype)
    device = params[0].device
    pieces = [
        torch.zeros(param.numel(), dtype=dtype, device=device)
        if grad is None
        else grad.reshape(-1).to(device=device, dtype=dtype)
        for param, grad in zip(owners, grads, strict=True)
    ]
    pieces.append(torch.tensor([float(flag) for flag in flags], dtype=dtype, device=device))
    return torch.cat(pieces), [piece.numel() for piece in pieces]


def _like(param: Tensor, flat: Tensor) -> Tensor:
    """Return a flat gradient in the shape, dtype, device and memory layout of its parameter."""
    # .data: a version counter of its own, or a write to one gradient would mark all views as written.
    mean = flat.view(param.shape).to(device=param.device, dtype=param.dtype).data
    return mean if param.is_contiguous() else torch.empty_like(param).copy_(mean)


def any_rank(flag: Tensor, group: "dist.ProcessGroup") -> Tensor:
    """Return a boolean scalar: whether ``flag`` is true on any process."""
    votes = flag.to(torch.float32)
    dist.all_reduce(votes, group=group)
    return votes > 0
