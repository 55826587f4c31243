"""How the caller's loss is called: with checked tensors, twice, with a graph, at other points for a while.

Here belongs what several measurements need before they measure. A loss is a function of no arguments that
is evaluated anew at each call, from tensors that the caller hands over as well.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Two passes over the same numbers may differ by the order of additions on a device, not by more.
_SAME = 1e-6
# A factor, and what it multiplies: one tensor for each that is placed.
Term = tuple[float, Sequence[Tensor]]


def check_params(name: str, params: Sequence[Tensor], *, differentiable: bool = False) -> None:
    """Refuse what is not a list of different real floating-point tensors.

    Args:
        name: What the message calls them.
        params: The tensors to check.
        differentiable: Whether each must require a gradient.

    Raises:
        ValueError: If it is no such list.
    """
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
    """Refuse a list of tensors that does not match another one shape by shape.

    Args:
        name: What the message calls the tensors.
        tensors: The tensors to check; dtypes and devices are free.
        like_name: What the message calls the others.
        like: The tensors whose number and shapes are right.

    Raises:
        ValueError: If the number or a shape differs, or one is no tensor.
    """
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
    """Refuse tensors that would change along with those that are moved.

    Args:
        name: What the message calls the tensors.
        tensors: What must stay as it is: a direction, or the other end of a line.
        moved_name: What the message calls the others.
        moved: The tensors that will be overwritten.

    Raises:
        ValueError: If one starts where one of the others does.
    """
    places = {(tensor.device, tensor.data_ptr()) for tensor in moved if tensor.numel()}
    for number, tensor in enumerate(tensors):
        if tensor.numel() and (tensor.device, tensor.data_ptr()) in places:
            raise ValueError(
                f"{name}[{number}] must not share memory with {moved_name}, which move: clone it"
            )


def check_same(name: str, first: float, second: float) -> None:
    """Refuse a loss that two passes at the same parameters give two values, or a value that is not finite.

    What is right about a loss that changes from call to call is not defined: its curvature and its rise
    along a step would be noise.

    Args:
        name: What the message calls the loss.
        first: Its value on the first pass.
        second: Its value on the second pass.

    Raises:
        ValueError: If the values are not finite or differ by more than 1e-6 of the larger.
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"{name} must be finite at the given parameters, got {first} and {second}")
    if abs(first - second) > _SAME * max(abs(first), abs(second)):
        raise ValueError(
            f"{name} must have the same value on each pass, got {first:.9g} and {second:.9g}: put the "
            "networks into evaluation mode (dropout draws anew at each pass, batch norm in training mode "
            "follows the batch), and fix the batch and its random augmentation"
        )


def checked_scalar(name: str, value: object) -> float:
    """Read one number that a loss has returned.

    Args:
        name: What the message calls it.
        value: A tensor of one element, or a number.

    Returns:
        Its value; reading it waits for the device.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    if isinstance(value, int | float):
        return float(value)
    given = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(f"{name} must return one real number, got {given}")


@contextmanager
def with_graph() -> Iterator[None]:
    """Record graphs that can be differentiated twice, whatever mode the caller is in.

    The fused kernels of scaled dot product attention have no second derivative, so the plain one is used.

    Yields:
        Nothing; the modes end with the block.
    """
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def gradient(
    loss: Callable[[], Tensor], params: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[float, list[Tensor]]:
    """Evaluate a loss twice, compare the values, and differentiate the second pass.

    Must run :func:`with_graph`.

    Args:
        loss: Returns a scalar that depends on the parameters.
        params: The tensors to differentiate by.
        create_graph: Whether the gradients have a graph of their own.

    Returns:
        The value and the gradients, zeros where the loss does not reach.

    Raises:
        ValueError: If the two values differ or the loss has no graph.
    """
    first = checked_scalar("loss", loss())
    value = loss()
    second = checked_scalar("loss", value)
    check_same("loss", first, second)
    return second, first_derivative(value, params, create_graph=create_graph)


def first_derivative(value: Tensor, params: Sequence[Tensor], *, create_graph: bool) -> list[Tensor]:
    """Differentiate one pass; a parameter that it does not reach counts as zero.

    Args:
        value: What the loss returned.
        params: The tensors to differentiate by.
        create_graph: Whether the gradients have a graph of their own.

    Returns:
        One gradient for each parameter.

    Raises:
        ValueError: If the value has no graph.
    """
    checked_scalar("loss", value)
    if not (isinstance(value, Tensor) and value.requires_grad):
        raise ValueError(
            "loss must return a tensor with a graph: it was detached, computed under no_grad, or does not "
            "depend on anything that requires a gradient"
        )
    # One element may come as shape [1].
    return list(torch.autograd.grad(value.sum(), params, create_graph=create_graph, materialize_grads=True))


@contextmanager
def restored(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Put the present values back at the end of a block, bit for bit, however it ends.

    Args:
        tensors: What the block may overwrite in place.

    Yields:
        Copies of the present values.
    """
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield saved
    finally:
        place(tensors, [(1.0, saved)])


def place(tensors: Sequence[Tensor], terms: Sequence[Term]) -> None:
    """Write a sum of terms into tensors in place, so that whatever shares their memory sees it too.

    Summed in float64 and rounded once. A single term with the factor 1 is copied bit for bit; terms with the
    factor 0 are left out, since 0 * inf is NaN and -0.0 + 0.0 has another sign. Tensors of integers get the
    values of the term with the largest factor.

    Args:
        tensors: What to write to.
        terms: At least one with a factor other than 0.
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
    # Inside the caller's autocast the loss would go on with the casts of the values before.
    torch.clear_autocast_cache()
