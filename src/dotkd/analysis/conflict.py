"""Gradient conflict: direction, length and sign of the task and the distillation gradient, compared.

:func:`gradient_conflict` differentiates two losses itself; :func:`conflict_of` compares gradients that exist
already, for each parameter and in total, with each other, with their sum and with the optimizer's update.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.analysis._loss import first_derivative, with_graph


class Conflict(NamedTuple):
    """Cosine, norm ratio and sign disagreement of two gradients.

    Attributes:
        cosine: <g_task, g_distill> / (|g_task| |g_distill|), in [-1, 1]; NaN where one of them is zero.
        norm_ratio: |g_task| / |g_distill|; infinite where the latter is zero.
        sign_disagreement: Share of the coordinates, out of those where both are non-zero, that point in
            opposite directions; 0 if there is none.
    """

    cosine: float
    norm_ratio: float
    sign_disagreement: float


class Directions(NamedTuple):
    """Two gradients, compared with each other, with their sum and with the update.

    A cosine lies in [-1, 1]; it is NaN where one of its two vectors is zero.

    Attributes:
        cosine: Cosine of the task gradient and the distillation gradient.
        norm_ratio: |g_task| / |g_distill|; infinite where the latter is zero, NaN where both are.
        sign_disagreement: Share of the coordinates, out of those where both are non-zero, that point in
            opposite directions; 0 if there is none.
        task_norm: |g_task|.
        distill_norm: |g_distill|.
        task_with_total: Cosine of g_task and the total gradient g_task + g_distill.
        distill_with_total: Cosine of g_distill and the total gradient.
        task_with_update: Cosine of g_task and the negative update: 1 if the parameters moved straight down
            the task loss, below 0 if the update raises that loss to first order. None without updates.
        distill_with_update: The same of g_distill.

    Example:
        >>> found = conflict_of([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])])
        >>> isinstance(found.overall, Directions), found.overall.cosine
        (True, 0.0)
    """

    cosine: float
    norm_ratio: float
    sign_disagreement: float
    task_norm: float
    distill_norm: float
    task_with_total: float
    distill_with_total: float
    task_with_update: float | None
    distill_with_update: float | None


class Conflicts(NamedTuple):
    """Gradient comparison over all parameters and for each one; the result of :func:`conflict_of`.

    Attributes:
        overall: All parameters that have both gradients, as one long vector.
        by_parameter: Each of these parameters, by name.
        skipped: Names of the parameters that at most one loss reaches.

    Example:
        >>> task, distill = [torch.ones(2), torch.ones(1)], [torch.ones(2), None]
        >>> found = conflict_of(task, distill, names=["weight", "head"])
        >>> list(found.by_parameter), found.skipped
        (['weight'], ('head',))
    """

    overall: Directions
    by_parameter: dict[str, Directions]
    skipped: tuple[str, ...]


def gradient_conflict(
    task_loss: Callable[[], Tensor], distill_loss: Callable[[], Tensor], params: Sequence[Tensor]
) -> Conflict:
    r"""Gradient conflict of two losses: cosine, norm ratio and sign disagreement.

    .. math::
        \cos = \frac{\langle g_t, g_d \rangle}{\|g_t\| \, \|g_d\|}, \qquad
        \mathrm{ratio} = \frac{\|g_t\|}{\|g_d\|}, \qquad
        \mathrm{disagreement} = \frac{|\{i : g_{t,i} \, g_{d,i} < 0\}|}{|\{i : g_{t,i} \, g_{d,i} \ne 0\}|}

    with :math:`g_t` and :math:`g_d` the gradients of ``task_loss`` and ``distill_loss`` by all ``params``.
    Each loss is evaluated and differentiated once; ``.grad`` is not touched. A parameter that a loss does
    not reach counts as zero in that gradient. Sums run in float64.

    Args:
        task_loss: Returns the task loss, a scalar that depends on the parameters.
        distill_loss: Returns the distillation loss, a scalar that depends on the parameters.
        params: Tensors to differentiate by, real floating point, of any shapes.

    Returns:
        Cosine, norm ratio and disagreement over all parameters together.

    Raises:
        ValueError: A loss is not a scalar with a graph.

    Example:
        >>> weight = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> direction = torch.tensor([3.0, 4.0])
        >>> gradient_conflict(lambda: weight[0], lambda: (weight * direction).sum(), [weight])
        Conflict(cosine=0.6, norm_ratio=0.2, sign_disagreement=0.0)
    """
    with with_graph():
        task, distill = (
            first_derivative(loss(), params, create_graph=False) for loss in (task_loss, distill_loss)
        )
    return Conflict(*conflict_of(task, distill).overall[:3])


def conflict_of(
    task_gradients: Sequence[Tensor | None],
    distill_gradients: Sequence[Tensor | None],
    *,
    updates: Sequence[Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> Conflicts:
    """Gradient conflict of two sets of gradients, for each parameter and over all of them.

    Nothing is differentiated: after ``opt.backward(...)`` it costs a few passes over ``opt.gradients()``. A
    parameter with fewer than two gradients is skipped. (:func:`gradient_conflict`, which gets its parameters
    from the caller, counts the missing gradient as zero.) Sums run in float64; the device is waited for once.

    Args:
        task_gradients: One for each parameter; None where the task loss does not reach it.
        distill_gradients: One for each parameter, in the same order and of the same shape; None where
            the distillation loss does not reach it.
        updates: Change of each parameter by the optimizer's step, after - before; None leaves out the two
            cosines with the update.
        names: One for each parameter, all different; None numbers them "0", "1" and so on.

    Returns:
        Totals, one entry for each parameter, and the names of the skipped ones. If all are skipped, norms
        are 0 and cosines NaN.

    Raises:
        ValueError: The lists have different lengths, the shapes of one parameter differ, or a name occurs
            twice.

    Example:
        >>> from dotkd.optim import DOT
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> opt = DOT([weight], lr=0.1)
        >>> opt.backward(task=3 * weight[0], distill=4 * weight[1])
        >>> _, task, distill = zip(*opt.gradients())
        >>> before = weight.detach().clone()
        >>> opt.step()
        >>> found = conflict_of(task, distill, updates=[weight.detach() - before], names=["weight"])
        >>> found.overall.cosine, found.overall.norm_ratio
        (0.0, 0.75)
        >>> round(found.by_parameter["weight"].task_with_update, 4)
        0.6
    """
    labels = [str(number) for number in range(len(task_gradients))] if names is None else list(names)
    _check_lists(task_gradients, distill_gradients, updates, labels)
    width = 3 if updates is None else 4
    both: dict[str, Tensor] = {}
    for position, name in enumerate(labels):
        task, distill = task_gradients[position], distill_gradients[position]
        if task is not None and distill is not None:
            update = () if updates is None else (updates[position],)
            both[name] = _sums(name, task, distill, *update)
    # Parameters may lie on several devices; the rows are small.
    rows = [row.to(next(iter(both.values())).device) for row in both.values()]
    table = torch.stack(rows).tolist() if rows else []
    together = [sum(column) for column in zip(*table, strict=True)] or [0.0] * (width**2 + 2)
    return Conflicts(
        overall=_directions(together, width),
        by_parameter={name: _directions(row, width) for name, row in zip(both, table, strict=True)},
        skipped=tuple(name for name in labels if name not in both),
    )


def _check_lists(
    task: Sequence[Tensor | None],
    distill: Sequence[Tensor | None],
    updates: Sequence[Tensor] | None,
    names: list[str],
) -> None:
    others = {"distill_gradients": distill, "names": names, "updates": task if updates is None else updates}
    for what, values in others.items():
        if len(values) != len(task):
            raise ValueError(
                f"{what} must have one entry for each of the {len(task)} task_gradients, got {len(values)}"
            )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names must all be different, got {twice} more than once")


_CHUNK = 2**18  # coordinates at a time: their copies in float64 stay in the cache of a CPU


def _sums(name: str, *vectors: Tensor) -> Tensor:
    """All inner products of g_task, g_distill, their sum and -update, then two counts of signs; no wait."""
    if len({vector.shape for vector in vectors}) > 1:
        shapes = [list(vector.shape) for vector in vectors]
        raise ValueError(f"the gradients and the update of {name} must have one shape, got {shapes}")
    total = torch.zeros((len(vectors) + 1) ** 2 + 2, dtype=torch.float64, device=vectors[0].device)
    chunks = (torch.split(vector.detach().reshape(-1), _CHUNK) for vector in vectors)
    for task, distill, *update in zip(*chunks, strict=True):
        a, b = task.double(), distill.double()
        rows = torch.stack([a, b, a + b, *(-step.double() for step in update)])
        signs = task.sign() * distill.sign()
        counts = torch.stack([(signs != 0).sum(), (signs < 0).sum()])
        total += torch.cat([(rows @ rows.T).reshape(-1), counts])
    return total


def _directions(sums: Sequence[float], width: int) -> Directions:
    """Cosines, norms and shares from the sums over ``width`` vectors."""
    task, distill, total, update = range(4)
    both, opposite = sums[width**2 :]

    def norm(one: int) -> float:
        return math.sqrt(sums[width * one + one])

    def cosine(one: int, other: int) -> float:
        norms = norm(one) * norm(other)
        # Rounding may leave [-1, 1]; in this order NaN stays NaN.
        return min(max(sums[width * one + other] / norms, -1.0), 1.0) if norms else math.nan

    without_distill = math.inf if norm(task) else math.nan
    return Directions(
        cosine=cosine(task, distill),
        norm_ratio=norm(task) / norm(distill) if norm(distill) else without_distill,
        sign_disagreement=opposite / both if both else 0.0,
        task_norm=norm(task),
        distill_norm=norm(distill),
        task_with_total=cosine(task, total),
        distill_with_total=cosine(distill, total),
        task_with_update=cosine(task, update) if width > update else None,
        distill_with_update=cosine(distill, update) if width > update else None,
    )
