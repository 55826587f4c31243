"""Points on the plane of two losses: which of them dominate others, and where one lies beside their front.

Here belong statements about pairs of numbers, lower being better in both; where the numbers come from is the
caller's business. Nothing here needs torch.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Point = tuple[float, float]
Position = Literal["dominated", "below", "above", "beyond"]


class LowerCounts(NamedTuple):
    """What :func:`lower_counts` found.

    Attributes:
        pairs: How many pairs of points were compared.
        first: For how many of them the first coordinate is lower.
        second: For how many of them the second one is.
        both: For how many of them both are.

    Example:
        >>> LowerCounts(pairs=3, first=3, second=1, both=1).both
        1
    """

    pairs: int
    first: int
    second: int
    both: int


def dominates(point: Point, other: Point) -> bool:
    r"""Say whether a point is as low as another one in both coordinates and lower in one.

    .. math::
        q \prec p \iff q_1 \le p_1, \; q_2 \le p_2, \; q \ne p

    with q the ``point`` and p the ``other``.

    Args:
        point: (distillation loss, task loss), or any two finite numbers of which lower is better.
        other: The same of another one.

    Returns:
        Whether it dominates; a point does not dominate its equal.

    Raises:
        ValueError: If one is not a pair of finite numbers.

    Example:
        >>> dominates((1.0, 2.0), (1.0, 3.0)), dominates((1.0, 2.0), (1.0, 2.0))
        (True, False)
    """
    (one,), (two,) = _checked("point", [point]), _checked("other", [other])
    return one[0] <= two[0] and one[1] <= two[1] and one != two


def pareto_front(points: Iterable[Point]) -> list[Point]:
    r"""Keep the points that no other one dominates.

    .. math::
        F(P) = \{ p \in P : \text{no } q \in P \text{ has } q \prec p \}

    with P the ``points`` and :math:`q \prec p` for q dominates p (:func:`dominates`).

    Args:
        points: (distillation loss, task loss) each, or any two finite numbers of which lower is better.

    Returns:
        Those of the front, each once, the first coordinate rising and the second one falling; empty
        without points.

    Raises:
        ValueError: If a point is not a pair of finite numbers.

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
    """Say where a point lies beside the front of others.

    The front is drawn as straight lines between neighbours on it. A convex combination of two networks'
    losses need not be within reach of a third network, so a point that is ``"above"`` is not dominated:
    it only does not show more than a mixture of its neighbours would.

    Args:
        point: (distillation loss, task loss), or any two finite numbers of which lower is better.
        others: The points that the front is made of, at least one; those that are dominated do not matter.

    Returns:
        ``"dominated"`` if another one is as low in both and lower in one; else ``"below"`` or ``"above"``
        the line through the front, on the line being above; ``"beyond"`` past either end of it. What
        dominates a point of the front is below it wherever it lies. Exchanging the coordinates of all
        points changes nothing.

    Raises:
        ValueError: If there are no others, or a point is not a pair of finite numbers.

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
            # Without a quotient, so that what lies on the line in whole numbers is found there.
            return "below" if (y - b) * (c - a) < (d - b) * (x - a) else "above"
    return "above"  # it is the only point of the front


def lower_counts(points: Sequence[Point], others: Sequence[Point]) -> LowerCounts:
    """Count, pair by pair, how often a point is lower than its partner: in each coordinate, and in both.

    Args:
        points: (distillation loss, task loss) each, for example of one arm seed by seed.
        others: Their partners, as many and in the same order.

    Returns:
        The counts; what is equal is not lower.

    Raises:
        ValueError: If the numbers of points differ, or a point is not a pair of finite numbers.

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
