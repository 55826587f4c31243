"""A student against its teacher: by hand, against numpy and scipy, and at the ends of the scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from dotkd.analysis import agreement


def test_by_hand() -> None:
    student = torch.eye(4)[[0, 1, 2, 3, 0]]
    teacher = torch.eye(4)[[0, 2, 1, 0, 3]]
    found = agreement(student, teacher, torch.tensor([1, 1, 1, 2, 0]))
    assert found.differing == 4
    assert found == pytest.approx((0.2, found.kl, 4, 0.5, 0.25, 0.25))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6))
def test_against_numpy(seed: int, samples: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (samples,), generator=generator)
    found = agreement(student, teacher, target)

    divergence = rel_entr(teacher.softmax(1).numpy(), student.softmax(1).numpy()).sum(1).mean()
    assert found.kl == pytest.approx(divergence, rel=1e-9)
    ours, theirs, truth = student.argmax(1).numpy(), teacher.argmax(1).numpy(), target.numpy()
    differ = ours != theirs
    assert found.differing == differ.sum()
    assert found.top1 == pytest.approx(1 - differ.mean())
    if differ.any():
        shares = [(ours == truth)[differ].mean(), (theirs == truth)[differ].mean()]
        assert found[3:] == pytest.approx([*shares, 1 - sum(shares)], abs=1e-12)
        assert sum(found[3:]) == pytest.approx(1)
    swapped = agreement(teacher, student, target)
    assert (swapped.top1, swapped.differing) == (found.top1, found.differing)
    assert np.array_equal(swapped[3:5], found[4:2:-1], equal_nan=True)


def test_a_perfect_copy() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = agreement(logits, logits + 5, torch.zeros(8, dtype=torch.int64))
    assert (found.top1, found.differing) == (1, 0)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert all(math.isnan(share) for share in found[3:])


def test_extreme_logits_stay_finite_and_gradients_are_not_kept() -> None:
    student = torch.tensor([[6e4, -6e4]], dtype=torch.float16, requires_grad=True)
    found = agreement(student, -student, torch.tensor([0]))
    assert found == (0, pytest.approx(120_000, rel=1e-3), 1, 1, 0, 0)


def test_shapes_must_agree() -> None:
    message = r"student_logits and teacher_logits must have the same shape, got \[2, 3\] and \[2, 4\]"
    with pytest.raises(ValueError, match=message):
        agreement(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))
