"""Cosine, ratio and disagreement of two gradients, against numpy and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dotkd.analysis import gradient_conflict


def linear(weights, directions):
    """A loss whose gradient is the directions."""
    return lambda: sum(
        (w * torch.as_tensor(d, dtype=w.dtype)).sum() for w, d in zip(weights, directions, strict=True)
    )


def leaf(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(
    ("task", "distill", "expected"),
    [
        ([3, 4], [3, 4], (1, 1, 0)),
        ([3, 4], [-6, -8], (-1, 0.5, 1)),
        ([1, 0], [0, 2], (0, 0.5, 0)),
        ([1, 1], [1, -1], (0, 1, 0.5)),
        ([1, -1, 0, 2], [1, 1, 5, 0], (0, math.sqrt(6 / 27), 0.5)),
    ],
)
def test_by_hand(task, distill, expected) -> None:
    weight = leaf(len(task))
    assert gradient_conflict(
        linear([weight], [task]), linear([weight], [distill]), [weight]
    ) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_random_vectors_against_numpy(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    weights = [leaf(size, 2) for size in sizes]
    sets = [
        [rng.standard_normal((size, 2)) * (rng.random((size, 2)) < 0.8) for size in sizes] for _ in range(2)
    ]
    a, b = (np.concatenate([part.ravel() for part in each]) for each in sets)
    if not (a.any() and b.any()):
        return
    found = gradient_conflict(*(linear(weights, each) for each in sets), weights)
    assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)
    assert found.norm_ratio == pytest.approx(np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    both = (a != 0) & (b != 0)
    share = (np.sign(a) != np.sign(b))[both].mean() if both.any() else 0
    assert found.sign_disagreement == pytest.approx(share, abs=1e-12)
    swapped = gradient_conflict(linear(weights, sets[1]), linear(weights, sets[0]), weights)
    assert swapped.cosine == pytest.approx(found.cosine, abs=1e-12)
    assert swapped.norm_ratio == pytest.approx(1 / found.norm_ratio, rel=1e-12)


def test_a_parameter_that_one_loss_does_not_reach_counts_as_zero_there() -> None:
    shared, head = leaf(2), leaf(1)
    found = gradient_conflict(
        linear([shared, head], [[3, 0], [4]]), linear([shared], [[2, 0]]), [shared, head]
    )
    assert found == pytest.approx((3 / 5, 5 / 2, 0))


@pytest.mark.parametrize(
    ("task", "distill", "ratio"),
    [([0, 0], [1, 2], 0), ([1, 2], [0, 0], math.inf), ([0, 0], [0, 0], math.nan)],
)
def test_a_gradient_of_zero_has_no_direction(task, distill, ratio) -> None:
    weight = leaf(2)
    found = gradient_conflict(linear([weight], [task]), linear([weight], [distill]), [weight])
    assert math.isnan(found.cosine)
    assert found.norm_ratio == pytest.approx(ratio, nan_ok=True)
    assert found.sign_disagreement == 0


def test_sums_do_not_overflow_in_float32() -> None:
    weight = leaf(3, dtype=torch.float32)
    found = gradient_conflict(linear([weight], [[1e30] * 3]), linear([weight], [[1e-30] * 3]), [weight])
    assert found == pytest.approx((1, 1e60, 0), rel=1e-6)


def test_gradients_and_graphs_are_left_alone() -> None:
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([7.0, 7.0])
    calls = []

    def loss():
        assert torch.is_grad_enabled()
        calls.append(1)
        return (weight * other).square().sum()

    with torch.no_grad():
        gradient_conflict(loss, loss, [weight])
    assert len(calls) == 2
    assert weight.grad.tolist() == [7, 7]
    assert other.grad is None
    assert weight.tolist() == [1, 1]
