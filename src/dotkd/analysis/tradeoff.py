"""Trade-off of two losses: dominance, Pareto front, and positions relative to the front.

Functions of pairs of numbers, lower being better in both. Nothing here imports torch, so that reports stay
quick to load.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Point = tuple[float, float]
Position = Literal["dominated", "below", "above", "beyond"]


class LowerCounts(NamedTuple):
    """Counts of pairwise comparisons; the result of :func:`lower_counts`.

    Attributes:
        pairs: Number of compared pairs.
        first: Pairs in which the first coordinate is lower.
        second: Pairs in which the second coordinate is lower.
        both: Pairs in which both coordinates are lower.

    Example:
        >>> LowerCounts(pairs=3, first=3, second=1, both=1).both
        1
    """

    pairs: int
    first: int
    second: int
    both: int


def dominates(point: Point, other: Point) -> bool:
    r"""Pareto dominance: as low as another point in both coordinates, and lower in one.

    .. math::
        q \prec p \iff q_1 \le p_1, \; q_2 \le p_2, \; q \ne p

    with q the ``point`` and p the ``other``.

    Args:
        point: (distillation loss, task loss), or any two finite numbers of which lower is better.
        other: The point to compare with, likewise.

    Returns:
        True if ``point`` dominates ``other``; equal points do not dominate each other.

    Raises:
        ValueError: An argument is not a pair of finite numbers.

    Example:
        >>> dominates((1.0, 2.0), (1.0, 3.0)), dominates((1.0, 2.0), (1.0, 2.0))
        (True, False)
    """
    (one,), (two,) = _checked("point", [point]), _checked("other", [other])
    return one[0] <= two[0] and one[1] <= two[1] and one != two


def pareto_front(points: Iterable[Point]) -> list[Point]:
    r"""Pareto front: the points that no other point dominates.

    .. math::
        F(P) = \{ p \in P : \text{no } q \in P \text{ has } q \prec p \}

    with P the ``points`` and :math:`q \prec p` for q dominates p (:func:`dominates`).

    Args:
        points: (distillation loss, task loss) each, or any two finite numbers of which lower is better.

    Returns:
        The points of the front, each once, first coordinate rising, second falling; empty without points.

    Raises:
        ValueError: A point is not a pair of finite numbers.

    Example:
        >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (2.5, 2.5), (3.0, 1.0)])
        [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    """
    kept: list[Point] = []
    for point in sorted(_checked("points", points)):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def front_position(point: Point, others: Sequence[Point]) -> Position:
    """Position of a point relative to the Pareto front of others.

    The front is drawn as straight lines between neighbouring points. A convex combination of the losses of
    two networks need not be reachable by a third, so an ``"above"`` point is not dominated: it only shows no
    more than a mixture of its neighbours would.

    Args:
        point: (distillation loss, task loss), or any two finite numbers of which lower is better.
        others: Points whose front is taken, at least one; dominated ones do not matter.

    Returns:
        ``"dominated"`` if another point is as low in both coordinates and lower in one; else ``"below"`` or
        ``"above"`` the line through the front (on the line is above); ``"beyond"`` past either end of it. A
        point that dominates a point of the front is always below. Exchanging the coordinates of all points
        changes nothing.

    Raises:
        ValueError: ``others`` is empty, or a point is not a pair of finite numbers.

    Example:
        >>> front = [(1.0, 3.0), (3.0, 1.0)]
        >>> [front_position(at, front) for at in ((2.0, 1.9), (2.0, 2.1), (0.5, 9.0), (3.0, 2.0), (0.5, 0.5))]
        ['below', 'above', 'beyond', 'dominated', 'below']
    """
    (checked,), rest = _checked("point", [point]), _checked("others", others)
    if not rest:
        raise ValueError("others must hold at least one point, got none: there is no front to lie beside")
    x, y = checked
    if any(dominates(at, checked) for at in rest):
        return "dominated"
    line = pareto_front(rest)
    if any(dominates(checked, at) for at in line):
        return "below"
    if not line[0][0] <= x <= line[-1][0]:
        return "beyond"
    for (a, b), (c, d) in itertools.pairwise(line):
        if a <= x <= c:
            # No quotient: integer points on the line are found on it.
            return "below" if (y - b) * (c - a) < (d - b) * (x - a) else "above"
    return "above"  # it is the only point of the front


def lower_counts(points: Sequence[Point], others: Sequence[Point]) -> LowerCounts:
    """Pairwise counts of lower coordinates: in the first, in the second, in both.

    Args:
        points: (distillation loss, task loss) each, for example one arm, seed by seed.
        others: Their partners, as many and in the same order.

    Returns:
        The counts; equal is not lower.

    Raises:
        ValueError: The numbers of points differ, or a point is not a pair of finite numbers.

    Example:
        >>> lower_counts([(1.0, 1.0), (1.0, 3.0)], [(2.0, 2.0), (2.0, 2.0)])
        LowerCounts(pairs=2, first=2, second=1, both=1)
    """
    ours, theirs = _checked("points", points), _checked("others", others)
    if len(ours) != len(theirs):
        raise ValueError(
            f"others must hold a partner for each of the {len(ours)} points, got {len(theirs)} of them"
        )
    lower = [(a < c, b < d) for (a, b), (c, d) in zip(ours, theirs, strict=True)]
    first, second = (sum(pair[place] for pair in lower) for place in (0, 1))
    return LowerCounts(len(lower), first, second, sum(map(all, lower)))


def _checked(name: str, points: Iterable[Point]) -> list[Point]:
    found = []
    for place, point in enumerate(points):
        if len(point) != 2 or not all(map(math.isfinite, point)):
            which = name if name in ("point", "other") else f"{name}[{place}]"
            raise ValueError(f"{which} must be a pair of finite numbers, got {tuple(point)}")
        found.append((float(point[0]), float(point[1])))
    return found
