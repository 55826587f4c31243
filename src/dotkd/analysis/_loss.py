"""How measurements call the caller's loss: checked tensors, two equal passes, gradients, moved parameters.

A loss is a function of no arguments that is evaluated anew at each call, from tensors that the caller hands
over as well. Nothing here is specific to one measurement.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_SAME = 1e-6  # relative: two passes may add in another order on a device
Term = tuple[float, Sequence[Tensor]]
"""A factor and what it multiplies: one tensor for each that :func:`place` writes to."""


# ---------------------------------------------------------------- checks


def check_params(name: str, params: Sequence[Tensor], *, differentiable: bool = False) -> None:
    """Refuse what is not a list of distinct real floating-point tensors."""
    # A generator would be empty the second time.
    if not isinstance(params, list | tuple) or not params:
        given = type(params).__name__ if not isinstance(params, list | tuple) else "none"
        raise ValueError(f"{name} must be a list of at least one tensor, got {given}")
    seen: dict[int, int] = {}
    for number, param in enumerate(params):
        if not isinstance(param, Tensor):
            raise ValueError(f"{name}[{number}] must be a tensor, got {type(param).__name__}")
        if not param.is_floating_point():
            raise ValueError(f"{name}[{number}] must be real floating point, got {param.dtype}")
        if differentiable and not param.requires_grad:
            raise ValueError(f"{name}[{number}] must require a gradient: it is frozen or was detached")
        first = seen.setdefault(id(param), number)
        if first != number:
            raise ValueError(
                f"{name} must be different tensors, but [{first}] and [{number}] are the same one"
            )


def check_alike(name: str, tensors: Sequence[Tensor], like_name: str, like: Sequence[Tensor]) -> None:
    """Refuse a list of tensors whose number or shapes differ from those of another; dtypes are free."""
    if not isinstance(tensors, list | tuple) or len(tensors) != len(like):
        given = f"{len(tensors)} of them" if isinstance(tensors, list | tuple) else type(tensors).__name__
        raise ValueError(
            f"{name} must be a list of {len(like)} tensors, one for each of {like_name}, got {given}"
        )
    for number, (tensor, other) in enumerate(zip(tensors, like, strict=True)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}[{number}] must be a tensor, got {type(tensor).__name__}")
        if tensor.shape != other.shape:
            raise ValueError(
                f"{name}[{number}] must have the shape of {like_name}[{number}], {list(other.shape)}, "
                f"got {list(tensor.shape)}"
            )


def check_apart(name: str, tensors: Sequence[Tensor], moved_name: str, moved: Sequence[Tensor]) -> None:
    """Refuse tensors that share memory with tensors that will be overwritten."""
    places = {(tensor.device, tensor.data_ptr()) for tensor in moved if tensor.numel()}
    for number, tensor in enumerate(tensors):
        if tensor.numel() and (tensor.device, tensor.data_ptr()) in places:
            raise ValueError(
                f"{name}[{number}] must not share memory with {moved_name}, which move: clone it"
            )


def check_same(name: str, first: float, second: float) -> None:
    """Refuse a loss that is not finite or differs between two passes at the same parameters."""
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"{name} must be finite at the given parameters, got {first} and {second}")
    if abs(first - second) > _SAME * max(abs(first), abs(second)):
        raise ValueError(
            f"{name} must have the same value on each pass, got {first:.9g} and {second:.9g}: put the "
            "networks into evaluation mode (dropout draws anew at each pass, batch norm in training mode "
            "follows the batch), and fix the batch and its random augmentation"
        )


def checked_scalar(name: str, value: object) -> float:
    """Read the one real number that a loss returned; waits for the device."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    if isinstance(value, int | float):
        return float(value)
    given = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(f"{name} must return one real number, got {given}")


# ---------------------------------------------------------------- gradients


@contextmanager
def with_graph() -> Iterator[None]:
    """Record graphs that can be differentiated twice, whatever mode the caller is in."""
    # Fused attention kernels have no second derivative.
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def gradient(
    loss: Callable[[], Tensor], params: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[float, list[Tensor]]:
    """Value and gradients of a loss, after a pass that must give the same value; inside `with_graph`."""
    first = checked_scalar("loss", loss())
    value = loss()
    second = checked_scalar("loss", value)
    check_same("loss", first, second)
    return second, first_derivative(value, params, create_graph=create_graph)


def first_derivative(value: Tensor, params: Sequence[Tensor], *, create_graph: bool) -> list[Tensor]:
    """Gradients of one pass, zeros for parameters that it does not reach."""
    checked_scalar("loss", value)
    if not (isinstance(value, Tensor) and value.requires_grad):
        raise ValueError(
            "loss must return a tensor with a graph: it was detached, computed under no_grad, or does not "
            "depend on anything that requires a gradient"
        )
    # One element may come as shape [1].
    return list(torch.autograd.grad(value.sum(), params, create_graph=create_graph, materialize_grads=True))


# ---------------------------------------------------------------- moved parameters


@contextmanager
def restored(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield copies of tensors and put their bits back at the end of the block, however it ends."""
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield saved
    finally:
        place(tensors, [(1.0, saved)])


def place(tensors: Sequence[Tensor], terms: Sequence[Term]) -> None:
    """Write a weighted sum of terms into tensors in place, summed in float64 and rounded once.

    Exact at the ends of a line: a single term with factor 1 is copied bit for bit, and terms with factor 0
    are left out (0 * inf is NaN, -0.0 + 0.0 loses the sign). Integer tensors get the values of the term with
    the largest factor.
    """
    present = [(factor, values) for factor, values in terms if factor != 0]
    factors = [factor for factor, _ in present]
    with torch.no_grad():
        for tensor, *parts in zip(tensors, *(values for _, values in present), strict=True):
            if len(parts) == 1 and factors[0] == 1:
                tensor.copy_(parts[0])
            elif tensor.is_floating_point():
                total = torch.zeros_like(tensor, dtype=torch.float64)
                for factor, part in zip(factors, parts, strict=True):
                    total.add_(part.to(total), alpha=factor)
                tensor.copy_(total)
            else:
                tensor.copy_(parts[factors.index(max(factors))])
    # The caller's autocast would keep using casts of the old values.
    torch.clear_autocast_cache()
