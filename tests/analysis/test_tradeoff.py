"""Points on the plane of two losses: dominance, fronts and positions, by hand and against brute force."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dotkd.analysis
from dotkd.analysis import front_position, lower_counts, pareto_front

FRONT = [(1.0, 3.0), (2.0, 2.5), (3.0, 1.0)]
# Few values, so that ties and equal points are frequent.
POINTS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12)


def dominates(one, other):
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((1.5, 2.74), "below"),  # the line is at 2.75 there
        ((1.5, 2.76), "above"),
        ((2.0, 2.4), "below"),
        ((2.0, 2.5), "above"),  # on the line is not below it
        ((2.5, 2.6), "dominated"),
        ((2.0, 2.6), "dominated"),
        ((0.9, 4.0), "beyond"),
        ((3.1, 0.9), "beyond"),
        ((3.1, 1.0), "dominated"),
        ((1.0, 2.9), "below"),
        ((3.0, 0.9), "below"),
        ((0.9, 0.9), "below"),  # of all that can be, this is not left open
        ((0.9, 3.0), "below"),
        ((0.9, 3.1), "beyond"),
    ],
)
def test_position(point, expected):
    assert front_position(point, FRONT) == expected
    assert (
        front_position(point, [*FRONT, (3.5, 3.5), (2.6, 2.6)]) == expected
    )  # what is dominated is not in it


def test_front_of_one_point():
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 1.0)]) == [(1.0, 1.0)]
    assert front_position((1.0, 1.0), [(1.0, 1.0)]) == "above"
    assert front_position((1.0, 0.5), [(1.0, 1.0)]) == "below"
    assert front_position((0.5, 0.5), [(1.0, 1.0)]) == "below"
    assert front_position((0.5, 2.0), [(1.0, 1.0)]) == "beyond"
    assert pareto_front([]) == []


@given(POINTS)
def test_front_is_what_nothing_dominates(points):
    front = pareto_front(points)
    assert set(front) == {p for p in points if not any(dominates(q, p) for q in points)}
    assert all(a < c and b > d for (a, b), (c, d) in itertools.pairwise(front))


@given(POINTS, st.tuples(st.integers(-4, 4), st.integers(-4, 4)))
def test_position_agrees_with_dominance_and_does_not_know_the_unit(points, point):
    found = front_position(point, points)
    assert (found == "dominated") == any(dominates(q, point) for q in points)
    assert (found == "beyond") <= (point in pareto_front([*points, point]))
    assert (found == "below") >= any(dominates(point, q) for q in pareto_front(points))
    assert front_position(point[::-1], [q[::-1] for q in points]) == found
    # Doubling and shifting by powers of two are exact, so that no tie is broken.
    moved = [(2.0 * x + 8, 4.0 * y - 16) for x, y in points]
    assert front_position((2.0 * point[0] + 8, 4.0 * point[1] - 16), moved) == found


def test_what_is_equal_is_not_lower():
    ours = [(1.0, 1.0), (1.0, 3.0), (2.0, 2.0)]
    assert lower_counts(ours, [(2.0, 2.0)] * 3) == (3, 2, 1, 1)
    assert lower_counts([], []) == (0, 0, 0, 0)


def test_bad_points_are_named():
    with pytest.raises(ValueError, match=r"others must hold at least one point, got none"):
        front_position((1.0, 1.0), [])
    with pytest.raises(ValueError, match=r"point must be a pair of finite numbers, got \(1.0, nan\)"):
        front_position((1.0, float("nan")), FRONT)
    with pytest.raises(ValueError, match=r"points\[1\] must be a pair of finite numbers, got \(1, 2, 3\)"):
        pareto_front([(1, 2), (1, 2, 3)])
    with pytest.raises(ValueError, match="others must hold a partner for each of the 2 points, got 3"):
        lower_counts(FRONT[:2], FRONT)


def test_public_names_load_on_first_use_and_the_tradeoff_without_torch():
    assert all(getattr(dotkd.analysis, name) is not None for name in dotkd.analysis.__all__)
    assert dir(dotkd.analysis) == sorted(set(dotkd.analysis.__all__))
    with pytest.raises(AttributeError, match=r"'dotkd\.analysis' has no attribute 'pareto'"):
        dotkd.analysis.pareto  # noqa: B018
    code = "import sys, dotkd.analysis.tradeoff; assert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_type_checker_sees_all_public_names():
    tree = ast.parse(Path(dotkd.analysis.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: sys.modules[node.module]
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.keys() == set(dotkd.analysis.__all__)
    assert all(getattr(home, name) is getattr(dotkd.analysis, name) for name, home in seen.items())
