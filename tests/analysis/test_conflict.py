"""Cosine, ratio and disagreement of two gradients, against numpy and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.analysis import conflict, conflict_of, gradient_conflict
from dotkd.optim import DOT


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


@settings(deadline=None)
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


# ---------------------------------------------------------------- gradients that are there already


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def expected_of(task: np.ndarray, distill: np.ndarray, update: np.ndarray) -> list[float]:
    both = (task != 0) & (distill != 0)
    return [
        cosine(task, distill),
        np.linalg.norm(task) / np.linalg.norm(distill),
        (np.sign(task) != np.sign(distill))[both].mean() if both.any() else 0,
        np.linalg.norm(task),
        np.linalg.norm(distill),
        cosine(task, task + distill),
        cosine(distill, task + distill),
        cosine(task, -update),
        cosine(distill, -update),
    ]


def vectors(seed: int, sizes: list[int], dtype=torch.float64) -> list[list[torch.Tensor]]:
    """Task gradients, distillation gradients and updates, of matrices with some zeros."""
    generator = torch.Generator().manual_seed(seed)

    def one(size: int) -> torch.Tensor:
        values = torch.randn(size, 3, generator=generator)
        values *= torch.rand(size, 3, generator=generator) < 0.8
        values[:1, 0] = values[:1, 0].abs() + 0.1
        return values.to(dtype)

    return [[one(size) for size in sizes] for _ in range(3)]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_all_numbers_against_numpy(dtype, seed: int, sizes: list[int]) -> None:
    task, distill, updates = vectors(seed, sizes, dtype)
    names = [f"layer{number}.weight" for number in range(len(sizes))]
    found = conflict_of(task, distill, updates=updates, names=names)
    flat = [[part.double().flatten().numpy() for part in each] for each in (task, distill, updates)]
    assert list(found.overall) == pytest.approx(expected_of(*map(np.concatenate, flat)), rel=1e-9, abs=1e-12)
    assert list(found.by_parameter) == names
    for name, *one in zip(names, *flat, strict=True):
        assert list(found.by_parameter[name]) == pytest.approx(expected_of(*one), rel=1e-9, abs=1e-12)
    assert found.skipped == ()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_it_agrees_with_the_gradients_of_two_losses(seed: int, sizes: list[int]) -> None:
    task, distill, _ = vectors(seed, sizes)
    weights = [leaf(size, 3) for size in sizes]
    expected = gradient_conflict(linear(weights, task), linear(weights, distill), weights)
    assert conflict_of(task, distill).overall[:3] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_by_hand_with_total_and_update() -> None:
    task, distill, update = (torch.tensor(values) for values in ([3.0, 0.0], [0.0, 4.0], [0.0, 2.0]))
    found = conflict_of([task], [distill], updates=[update]).overall
    assert found == pytest.approx((0, 0.75, 0, 3, 4, 0.6, 0.8, 0, -1))
    assert conflict_of([task], [distill]).overall == (*found[:7], None, None)


def test_a_parameter_with_only_one_gradient_is_skipped() -> None:
    task = [torch.tensor([3.0]), torch.tensor([1.0]), None, None]
    distill = [torch.tensor([5.0]), None, torch.tensor([1.0]), None]
    found = conflict_of(task, distill, names=["trunk", "head", "projector", "frozen"])
    assert found.skipped == ("head", "projector", "frozen")
    assert list(found.by_parameter) == ["trunk"]
    assert found.overall == found.by_parameter["trunk"]
    assert (found.overall.task_norm, found.overall.distill_norm) == (3, 5)
    assert conflict_of(task, distill).skipped == ("1", "2", "3")


@pytest.mark.parametrize("gradients", [[], [None, None]])
def test_no_gradients_at_all(gradients) -> None:
    found = conflict_of(gradients, gradients)
    assert found.by_parameter == {}
    assert found.overall == pytest.approx(
        (math.nan, math.nan, 0, 0, 0, math.nan, math.nan, None, None), nan_ok=True
    )


def test_zeros_have_no_direction_and_opposites_no_total() -> None:
    some, none = torch.tensor([1.0, -2.0]), torch.zeros(2)
    found = conflict_of([some], [none], updates=[none]).overall
    assert (found.norm_ratio, found.sign_disagreement) == (math.inf, 0)
    assert found.task_with_total == pytest.approx(1)
    assert all(
        math.isnan(value) for value in (found.cosine, found.distill_with_total, found.task_with_update)
    )
    opposite = conflict_of([some], [-some]).overall
    assert opposite[:3] == pytest.approx((-1, 1, 1))
    assert math.isnan(opposite.task_with_total)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    task = [torch.tensor([1.0, 2.0]), torch.tensor([bad]), torch.tensor([-bad])]
    found = conflict_of(task, [torch.ones_like(part) for part in task])
    assert math.isnan(found.overall.cosine)
    assert math.isnan(found.by_parameter["1"].cosine)
    assert math.isfinite(found.by_parameter["0"].cosine)


def test_cosines_stay_in_range_and_extreme_gradients_do_not_overflow() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        gradient = [torch.rand(7, generator=generator)]
        found = conflict_of(gradient, gradient).overall
        assert found.cosine <= 1
        assert found.cosine == pytest.approx(1)
    huge, tiny = [torch.full((3,), 1e30)], [torch.full((3,), 1e-30)]
    assert conflict_of(huge, tiny).overall[:3] == pytest.approx((1, 1e60, 0), rel=1e-6)


def test_long_gradients_are_summed_in_pieces(monkeypatch) -> None:
    sets = vectors(1, [50, 0, 7])
    whole = conflict_of(*sets[:2], updates=sets[2]).overall
    monkeypatch.setattr(conflict, "_CHUNK", 16)
    assert conflict_of(*sets[:2], updates=sets[2]).overall == pytest.approx(whole, rel=1e-12)


def test_read_from_the_optimizer_around_a_step() -> None:
    trunk, head = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    opt = DOT([trunk, head], lr=0.1, momentum=0.9, delta=0.05)
    a, b = (torch.tensor(values, dtype=torch.float64) for values in ([1, 2, 3], [3, -1, 1]))
    update = None
    for _ in range(2):
        opt.zero_grad()
        opt.backward(task=(trunk * a).sum() + head.sum(), distill=(trunk * b).sum())
        _, task, distill = zip(*opt.gradients(), strict=True)
        before = [trunk.detach().clone(), head.detach().clone()]
        opt.step()
        updates = [trunk.detach() - before[0], head.detach() - before[1]]
        found = conflict_of(task, distill, updates=updates, names=["trunk", "head"])
        update = updates[0]
    assert found.skipped == ("head",)
    assert list(found.overall) == pytest.approx(expected_of(a.numpy(), b.numpy(), update.numpy()))
    # The second step of DOT remembers the distillation gradient for longer.
    assert cosine((-update).numpy(), (1.85 * a + 1.95 * b).numpy()) == pytest.approx(1)


class Reads(TorchDispatchMode):
    """Counts where the host asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
        return func(*args, **(kwargs or {}))


def test_the_device_is_waited_for_once(monkeypatch) -> None:
    lists = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor.shape) or tolist(tensor))
    sets = vectors(0, [4, 5, 6])
    with Reads() as reads:
        conflict_of(*sets[:2], updates=sets[2])
    assert (len(lists), reads.count) == (1, 0)
    with Reads() as reads:
        float(sets[0][0].sum())
    assert reads.count == 1


def test_gradients_are_only_read() -> None:
    sets = vectors(0, [4, 5])
    copies = [[part.clone() for part in each] for each in sets]
    conflict_of([part.requires_grad_() for part in sets[0]], sets[1], updates=sets[2])
    for each, copy in zip(sets, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(each, copy, strict=True))


def test_lists_that_do_not_fit_are_refused() -> None:
    one, two = torch.ones(2), torch.ones(3)
    with pytest.raises(
        ValueError, match=r"distill_gradients must have one entry for each of the 2 .*, got 1"
    ):
        conflict_of([one, one], [one])
    with pytest.raises(ValueError, match=r"updates must have one entry for each of the 1 .*, got 0"):
        conflict_of([one], [one], updates=[])
    with pytest.raises(ValueError, match=r"names must have one entry for each of the 1 .*, got 2"):
        conflict_of([one], [one], names=["a", "b"])
    with pytest.raises(ValueError, match=r"names must all be different, got \['a'\] more than once"):
        conflict_of([one, one], [one, one], names=["a", "a"])
    with pytest.raises(ValueError, match=r"update of a must have one shape, got \[\[2\], \[3\]\]"):
        conflict_of([one], [two], names=["a"])
    with pytest.raises(ValueError, match=r"update of 0 must have one shape, got \[\[2\], \[2\], \[3\]\]"):
        conflict_of([one], [one], updates=[two])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_finds_the_same() -> None:
    sets = vectors(0, [400, 5], torch.float32)
    on_gpu = [[part.cuda() for part in each] for each in sets]
    expected = conflict_of(*sets[:2], updates=sets[2]).overall
    assert conflict_of(*on_gpu[:2], updates=on_gpu[2]).overall == pytest.approx(expected, rel=1e-9)
