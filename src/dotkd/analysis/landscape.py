"""Loss landscapes: a loss along random directions, on planes, and on the line between two students."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import overload

import torch
from torch import Tensor

from dotkd.analysis._loss import (
    Term,
    check_alike,
    check_apart,
    check_params,
    check_same,
    checked_scalar,
    place,
    restored,
)

Scalar = Tensor | float


def filter_norms(params: Sequence[Tensor]) -> list[Tensor]:
    r"""Norm of the filter that each weight belongs to.

    .. math::
        s_{ijk} = \| w_{ij} \|

    with :math:`w_{ij}` the j-th filter of the i-th of ``params``, as in :func:`filter_normalized_direction`,
    which moves weights in this unit. As the ``scale`` of :func:`~dotkd.analysis.top_eigenvalues` and
    :func:`~dotkd.analysis.hessian_trace` it gives filter-normalized curvature: a factor on a filter before
    a batch norm changes neither the network nor this curvature.

    Args:
        params: The weights, floating point, of any shapes, dtypes and devices.

    Returns:
        One tensor for each parameter, of its shape, dtype and device: equal within a filter, zeros for
        tensors with fewer than 2 dimensions (biases, parameters of norm layers).

    Raises:
        ValueError: ``params`` is not a list of distinct floating-point tensors.

    Example:
        >>> filter_norms([torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.ones(2)])
        [tensor([[5., 5.],
                [2., 2.]]), tensor([0., 0.])]

    Reference:
        Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
        arXiv 1712.09913, section 4.
    """
    check_params("params", params)
    return [
        _filter_norms(param.detach()).to(param.dtype).expand_as(param).clone()
        if param.ndim > 1
        else torch.zeros_like(param, requires_grad=False)
        for param in params
    ]


def _filter_norms(tensor: Tensor) -> Tensor:
    """Norms over all dimensions but the first, which broadcast, in float64."""
    inner = tuple(range(1, tensor.ndim))
    norms: Tensor = torch.linalg.vector_norm(tensor.double(), dim=inner, keepdim=True)
    return norms


def filter_normalized_direction(params: Sequence[Tensor], *, generator: torch.Generator) -> list[Tensor]:
    r"""Filter-normalized random direction: each filter moves in proportion to its own norm.

    .. math::
        d_{ij} \leftarrow \frac{d_{ij}}{\| d_{ij} \|} \, \| w_{ij} \|, \qquad d_{ij} \sim \mathcal{N}(0, I)

    with :math:`w_{ij}` the j-th filter of the i-th of ``params``: one index of the first dimension, which is
    all weights into one channel or neuron (in a transposed convolution: out of one). Without normalization
    a network with larger weights looks flatter for no other reason. Tensors with fewer than 2 dimensions
    (biases, parameters of norm layers) and filters of zeros stay zero.

    Args:
        params: The weights, floating point, of any shapes, dtypes and devices; not changed.
        generator: Source of the random numbers; it advances. Draws are float64 on its device, so that the
            direction is the same for each dtype and device of the parameters, up to rounding.

    Returns:
        One tensor for each parameter, of its shape, dtype and device.

    Raises:
        ValueError: ``params`` is not a list of distinct floating-point tensors.

    Example:
        >>> weight, bias = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.ones(2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> direction = filter_normalized_direction([weight, bias], generator=generator)
        >>> direction[0].norm(dim=1), direction[1]
        (tensor([5.0000, 2.0000]), tensor([0., 0.]))

    Reference:
        Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
        arXiv 1712.09913, section 4. Biases and norm layers are left out as in the figures of the paper (an
        option of the published code, which adds 1e-10 to the denominator).
    """
    check_params("params", params)
    direction = []
    for param in params:
        weight = param.detach()
        if weight.ndim < 2:
            direction.append(torch.zeros_like(weight))
            continue
        noise = torch.randn(weight.shape, generator=generator, device=generator.device, dtype=torch.float64)
        noise = noise.to(weight.device)
        direction.append((noise * (_filter_norms(weight) / _filter_norms(noise))).to(weight.dtype))
    return direction


@overload
def loss_surface(
    loss: Callable[[], Scalar],
    params: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    steps: Iterable[float],
) -> Tensor: ...


@overload
def loss_surface(
    loss: Callable[[], Mapping[str, Scalar]],
    params: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    steps: Iterable[float],
) -> dict[str, Tensor]: ...


def loss_surface(
    loss: Callable[[], Scalar] | Callable[[], Mapping[str, Scalar]],
    params: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    steps: Iterable[float],
) -> Tensor | dict[str, Tensor]:
    r"""Loss surface: a loss along one direction, or on the plane of two.

    .. math::
        f_i = L(w + s_i d_1) \qquad \text{or} \qquad f_{ij} = L(w + s_i d_1 + s_j d_2)

    with L the ``loss``, w the ``params``, :math:`d_1, d_2` the ``directions`` and s the ``steps``. Where both
    steps are 0 the parameters are untouched, and the value is that of the loss to the last bit. Points are
    computed in float64 and rounded once to the dtype of each parameter.

    The parameters are overwritten in place and come back bit for bit, also when the loss raises. Nothing
    else moves: the running statistics of batch norm stay those of w, as in the published code.

    Args:
        loss: Returns a number, or a mapping of names to numbers where one forward pass gives several (task,
            distillation and total). The same at each call; evaluated without gradients, once at each point
            and twice before.
        params: Tensors to move, floating point, of any shapes, dtypes and devices.
        directions: One or two directions, each a list of one tensor for each parameter.
        steps: Finite numbers, in any order, shared by both directions.

    Returns:
        ``[len(steps)]`` for one direction, ``[len(steps), len(steps)]`` for two, the first direction first;
        float64, on the CPU. For a mapping, a dict of such tensors. Far out, values may be infinite or NaN.

    Raises:
        ValueError: The lists do not match or share memory with the parameters, or the loss is not finite or
            differs between two passes at w.

    Example:
        >>> weight = torch.tensor([1.0, 2.0])
        >>> along, across = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]
        >>> loss_surface(lambda: weight.square().sum(), [weight], [along], [-1, 0, 1])
        tensor([4., 5., 8.], dtype=torch.float64)
        >>> loss_surface(lambda: {"product": weight.prod()}, [weight], [along, across], [0, 1])
        {'product': tensor([[2., 3.],
                [4., 6.]], dtype=torch.float64)}

    Reference:
        Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
        arXiv 1712.09913, equation 1 and section 3.
    """
    check_params("params", params)
    amounts = _checked_steps(steps)
    _check_directions(directions, params)
    with restored(params) as saved:
        points: list[list[Term]] = [[(1.0, saved)]]
        for direction in directions:
            points = [[*point, (amount, direction)] for point in points for amount in amounts]
        return _scan(loss, params, points, [len(amounts)] * len(directions))


@overload
def interpolation(
    loss: Callable[[], Scalar],
    params_a: Sequence[Tensor],
    params_b: Sequence[Tensor],
    steps: Iterable[float],
    *,
    buffers_a: Sequence[Tensor] = (),
    buffers_b: Sequence[Tensor] | None = None,
) -> Tensor: ...


@overload
def interpolation(
    loss: Callable[[], Mapping[str, Scalar]],
    params_a: Sequence[Tensor],
    params_b: Sequence[Tensor],
    steps: Iterable[float],
    *,
    buffers_a: Sequence[Tensor] = (),
    buffers_b: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]: ...


def interpolation(
    loss: Callable[[], Scalar] | Callable[[], Mapping[str, Scalar]],
    params_a: Sequence[Tensor],
    params_b: Sequence[Tensor],
    steps: Iterable[float],
    *,
    buffers_a: Sequence[Tensor] = (),
    buffers_b: Sequence[Tensor] | None = None,
) -> Tensor | dict[str, Tensor]:
    r"""Linear interpolation: a loss on the straight line from one student to another.

    .. math::
        f_i = L\big( (1 - s_i) \, a + s_i \, b \big)

    with L the ``loss``, a the ``params_a``, b the ``params_b`` and s the ``steps``: at 0 the parameters have
    the bits of a, at 1 those of b. The loss must read the tensors ``params_a``, which are overwritten in
    place and come back bit for bit, also when the loss raises.

    Batch norm in evaluation mode keeps the running statistics of a along the line, so that at 1 the loss is
    not that of b, unless one of these is used:

    - ``buffers_a`` and ``buffers_b``: the statistics are interpolated like the parameters, as in the
      published code. Exact at both ends; in between they are not the statistics of the network there, and
      beyond the ends a variance may turn negative. Integer buffers (counters) are those of the nearer end.
    - ``buffers_a`` alone: the loss re-estimates the statistics itself, from the same images at each call;
      the buffers only come back bit for bit. Right everywhere, at the price of these passes.

    Args:
        loss: Returns a number, or a mapping of names to numbers. The same at each call; evaluated without
            gradients, once at each step and twice before.
        params_a: Tensors that the loss reads, floating point, of any shapes, dtypes and devices.
        params_b: The same tensors of the other student, in memory of their own.
        steps: Finite numbers, in any order; outside [0, 1] they lie beyond the ends.
        buffers_a: Buffers that the loss reads.
        buffers_b: The same buffers of the other student; None leaves ``buffers_a`` to the loss.

    Returns:
        ``[len(steps)]``, float64, on the CPU; infinite and NaN are possible. For a mapping, a dict of such
        tensors.

    Raises:
        ValueError: The lists do not match or share memory, or the loss is not finite or differs between two
            passes at a.

    Example:
        >>> a, b = torch.tensor([1.0, 1.0]), torch.tensor([3.0, -1.0])
        >>> interpolation(lambda: a.square().sum(), [a], [b], [0, 0.5, 1])
        tensor([ 2.,  4., 10.], dtype=torch.float64)

    Reference:
        Goodfellow, Vinyals and Saxe, "Qualitatively characterizing neural network optimization problems",
        ICLR 2015, arXiv 1412.6544. Interpolated statistics: the code of Li et al., arXiv 1712.09913.
        Re-estimated statistics: Izmailov, Podoprikhin, Garipov, Vetrov and Wilson,
        "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, arXiv 1803.05407.
    """
    check_params("params_a", params_a)
    amounts = _checked_steps(steps)
    check_alike("params_b", params_b, "params_a", params_a)
    check_apart("params_b", params_b, "params_a", params_a)
    moved, ends = [*params_a], [*params_b]
    if buffers_b is not None:
        check_alike("buffers_b", buffers_b, "buffers_a", buffers_a)
        check_apart("buffers_b", buffers_b, "buffers_a", buffers_a)
        moved, ends = [*params_a, *buffers_a], [*params_b, *buffers_b]
    with restored([*params_a, *buffers_a]) as saved:
        starts = saved[: len(moved)]
        points: list[list[Term]] = [[(1 - amount, starts), (amount, ends)] for amount in amounts]
        return _scan(loss, moved, points, [len(amounts)])


def _scan(
    loss: Callable[[], Scalar] | Callable[[], Mapping[str, Scalar]],
    tensors: Sequence[Tensor],
    points: Iterable[Sequence[Term]],
    shape: list[int],
) -> Tensor | dict[str, Tensor]:
    """The loss at each point, in the given shape."""
    with torch.no_grad():
        first, second = _values(loss), _values(loss)
        for name, value in first.items():
            check_same(_label(name), value, second[name])
        rows = []
        for terms in points:
            place(tensors, terms)
            rows.append(_values(loss))
    surfaces = {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64).reshape(shape) for name in first
    }
    named = {name: surface for name, surface in surfaces.items() if name is not None}
    return named or surfaces[None]


def _values(loss: Callable[[], Scalar] | Callable[[], Mapping[str, Scalar]]) -> dict[str | None, float]:
    """The numbers of one pass by name; a single number is named None."""
    found = loss()
    parts: Mapping[str, Scalar] | dict[None, Scalar] = found if isinstance(found, Mapping) else {None: found}
    if not parts:
        raise ValueError("loss must return at least one number, got an empty mapping")
    return {name: checked_scalar(_label(name), value) for name, value in parts.items()}


def _label(name: str | None) -> str:
    return "loss" if name is None else f"loss {name!r}"


def _checked_steps(steps: Iterable[float]) -> list[float]:
    amounts = [float(step) for step in steps]
    if not amounts or not all(math.isfinite(amount) for amount in amounts):
        raise ValueError(f"steps must be at least one finite number, got {amounts}")
    return amounts


def _check_directions(directions: Sequence[Sequence[Tensor]], params: Sequence[Tensor]) -> None:
    given = directions if isinstance(directions, list | tuple) else []
    if len(given) not in (1, 2) or any(isinstance(direction, Tensor) for direction in given):
        what = f"a list of {len(given)} {type(given[0]).__name__}" if given else type(directions).__name__
        raise ValueError(
            f"directions must be [direction] or [first, second], each a list of tensors, got {what}"
        )
    for number, direction in enumerate(directions):
        check_alike(f"directions[{number}]", direction, "params", params)
        check_apart(f"directions[{number}]", direction, "params", params)
