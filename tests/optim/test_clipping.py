"""Clipping of all sets: by one factor from the norm of their sum, or each by its own norm."""

import copy
import math

import pytest
import torch
from torch import nn

from dotkd.optim import DOT

from .common import OPTIONS, Student, batches, bits, equal, feed, losses, pairs, same


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student().double()


# -------------------------------------------------------------------- clipping


def norm_of(grads):
    return math.sqrt(sum(float(g.square().sum()) for g in grads if g is not None))


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_joint_clipping_is_one_factor_from_the_norm_of_the_sum(student, max_norm):
    opt = DOT(student.parameters(), **OPTIONS)
    (batch,) = batches(1)
    tasks, distills = pairs(student, batch)
    total = [b if a is None else a if b is None else a + b for a, b in zip(tasks, distills, strict=True)]
    feed(opt, "backward", [losses(student, batch)])
    norms = opt.clip_grad_norm_(max_norm)
    assert set(norms) == {"joint"}
    assert norms["joint"].item() == pytest.approx(norm_of(total), rel=1e-12)
    factor = min(1.0, max_norm / (norm_of(total) + 1e-6))
    assert factor == (1.0 if max_norm > 1 else pytest.approx(max_norm / norm_of(total), rel=1e-3))
    for (_, *got), *want in zip(opt.gradients(), tasks, distills, strict=True):
        for one, other in zip(got, want, strict=True):
            assert other is None if one is None else torch.allclose(one, factor * other, rtol=1e-12)


def test_clipping_each_looks_at_each_norm(student):
    opt = DOT(student.parameters(), **OPTIONS)
    (batch,) = batches(1)
    both = dict(zip(("task", "distill"), pairs(student, batch), strict=True))
    smaller, larger = sorted(both, key=lambda name: norm_of(both[name]))
    max_norm = (norm_of(both[smaller]) + norm_of(both[larger])) / 2
    feed(opt, "backward", [losses(student, batch)])
    norms = opt.clip_grad_norm_(max_norm, "each")
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx(
        {name: norm_of(grads) for name, grads in both.items()}, rel=1e-12
    )
    columns = dict(zip(("task", "distill"), list(zip(*opt.gradients(), strict=True))[1:], strict=True))
    assert norm_of(columns[smaller]) == norm_of(both[smaller])
    assert norm_of(columns[larger]) == pytest.approx(max_norm, rel=1e-4)


def test_joint_clipping_with_delta_0_is_sgd_with_clipping(student):
    twin = copy.deepcopy(student)
    opt = DOT(student.parameters(), lr=0.05, delta=0.0)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    for batch in batches(4):
        feed(opt, "backward", [losses(student, batch)])
        norm = opt.clip_grad_norm_(0.2)["joint"]
        opt.step()
        opt.zero_grad()
        sum(losses(twin, batch)).backward()
        assert norm > 0.2
        assert torch.allclose(norm, nn.utils.clip_grad_norm_(twin.parameters(), 0.2), rtol=1e-10)
        sgd.step()
        sgd.zero_grad()
    same(student, twin, 1e-10)


def test_clipping_by_the_largest_number(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    largest = max(g.abs().max().item() for _, g, _ in opt.gradients() if g is not None)
    assert opt.clip_grad_norm_(1.0, "each", norm_type=math.inf)["task"].item() == largest


def test_clipping_nothing_is_norm_zero(student):
    opt = DOT(student.parameters(), **OPTIONS)
    assert opt.clip_grad_norm_(1.0)["joint"].item() == 0.0
    assert all(row[1:] == (None, None) for row in opt.gradients())


def test_clipping_after_captures_with_the_last_one_parked(student):
    (batch,) = batches(1)
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "capture", [losses(student, batch)])
    opt.capture_task()
    assert opt.clip_grad_norm_(1e9, "each")["task"].item() == pytest.approx(norm_of(pairs(student, batch)[0]))


def test_error_if_nonfinite(student):
    opt = DOT(student.parameters(), **OPTIONS)
    task, distill = losses(student, batches(1)[0])
    opt.backward(task=task, distill=distill * math.inf)
    held = bits(g for _, g, _ in opt.gradients() if g is not None)
    with pytest.raises(RuntimeError, match="non-finite"):
        opt.clip_grad_norm_(1.0, error_if_nonfinite=True)
    assert equal([g for _, g, _ in opt.gradients() if g is not None], held)


@pytest.mark.parametrize(
    ("max_norm", "mode", "text"),
    [
        (1.0, "joined", r"mode must be 'joint' or 'each', got 'joined'; did you mean 'joint'\?"),
        (1.0, "all", r"mode must be 'joint' or 'each', got 'all'$"),
        (-1.0, "joint", r"max_norm must be a finite number >= 0, got -1\.0"),
        (math.nan, "each", r"max_norm must be a finite number >= 0, got nan"),
    ],
)
def test_bad_clipping(student, max_norm, mode, text):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    with pytest.raises(ValueError, match=text):
        opt.clip_grad_norm_(max_norm, mode)
