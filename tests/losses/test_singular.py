"""The loss on singular vectors: equal to the plain formula, finite where that is not."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dotkd.losses import kdsvd_loss
from dotkd.losses.feature import _singular


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(student_features, teacher_features, k):
    """The formula step by step, with the framework's decomposition and gradient."""
    loss, before = 0.0, None
    for student, teacher in zip(student_features, teacher_features, strict=True):
        _, _, ours = torch.linalg.svd(student.flatten(1, 2), full_matrices=False)
        _, values, theirs = torch.linalg.svd(teacher.flatten(1, 2), full_matrices=False)
        now = []
        for b in range(len(student)):
            shares = values[b, :k] / values[b, :k].norm()
            chosen = []
            for vector in theirs[b, :k]:
                cosines = ours[b, : k + 3] @ vector
                nearest = cosines.abs().argmax()
                chosen.append(ours[b, nearest] * cosines[nearest].sign().detach())
            now.append((torch.stack(chosen) * shares[:, None], theirs[b, :k] * shares[:, None]))
        for new, old in zip(now, before or [], strict=bool(before)):
            ours_now, theirs_now = (
                torch.exp(-((vectors[:, :, None] - previous[:, None, :]) ** 2) / 8)
                for vectors, previous in zip(new, old, strict=True)
            )
            loss = loss + ((ours_now - theirs_now) ** 2).sum() / len(student)
        before = now
    return loss


@pytest.mark.parametrize("k", [1, 2, 4])
def test_value_and_gradients_equal_the_plain_formula(k):
    shapes = [((3, 2, 4, 6), (3, 4, 4, 6)), ((3, 5, 4, 4), (3, 3, 2, 4)), ((3, 2, 4, 4), (3, 2, 4, 4))]
    student = [maps(*shape, seed=i).requires_grad_() for i, (shape, _) in enumerate(shapes)]
    teacher = [maps(*shape, seed=9 + i).requires_grad_() for i, (_, shape) in enumerate(shapes)]
    loss, expected = kdsvd_loss(student, teacher, k=k), plain(student, teacher, k)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(loss, student + teacher),
        torch.autograd.grad(expected, student + teacher),
        strict=True,
    ):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()


def test_by_hand():
    # One sample, two rows. The teacher's leading vectors are e1, then e2; the student's e1, then
    # (3, 4) / 5, its nearest to e2; each up to a sign, which the student takes from the teacher.
    first = torch.tensor([[[[5.0, 0.0], [0.0, 1.0]]]], dtype=torch.float64)
    turned = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]]], dtype=torch.float64)
    second = torch.tensor([[[[1.0, 0.0], [0.0, 5.0]]]], dtype=torch.float64)
    a, b = (_singular(tensor)[1][0, :, 0].sum().round().item() for tensor in (first, second))
    assert abs(a) == abs(b) == 1

    def kernel(now, before):
        return [math.exp(-((x - y) ** 2) / 8) for x in now for y in before]

    ours, theirs = kernel((0.6 * b, 0.8 * b), (a, 0)), kernel((0, b), (a, 0))
    expected = sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True))
    assert kdsvd_loss([first, turned], [first, second]).item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_scale_sign_and_the_order_of_rows_play_no_part(seed, scale):
    student = [maps(2, 3, 2, 4, seed=seed), maps(2, 2, 3, 4, seed=seed + 1)]
    teacher = [maps(2, 2, 2, 4, seed=seed + 2), maps(2, 1, 2, 4, seed=seed + 3)]
    expected = kdsvd_loss(student, teacher)
    rows = [tensor.flip(1, 2) * -scale for tensor in student]
    torch.testing.assert_close(kdsvd_loss(rows, teacher), expected, rtol=1e-8, atol=1e-12)
    larger = [tensor * scale for tensor in teacher]
    torch.testing.assert_close(kdsvd_loss(student, larger), expected, rtol=1e-8, atol=1e-12)


def test_decomposition_is_one_with_second_derivatives():
    tall, wide = maps(2, 1, 4, 3).requires_grad_(), maps(2, 1, 2, 3, seed=1).requires_grad_()

    def without_signs_and_scale(tensor):
        values, vectors = _singular(tensor)
        return values / values.norm(dim=1, keepdim=True), vectors.square()

    assert torch.autograd.gradcheck(without_signs_and_scale, tall)
    assert torch.autograd.gradgradcheck(without_signs_and_scale, tall)
    assert torch.autograd.gradcheck(lambda tensor: without_signs_and_scale(tensor)[1], wide)
    for tensor in (tall, wide):
        values, vectors = _singular(tensor)
        matrices = tensor.flatten(1, 2) / tensor.flatten(1).abs().amax(1).reshape(2, 1, 1)
        rebuilt = vectors @ torch.diag_embed(values**2) @ vectors.mT
        torch.testing.assert_close(rebuilt, matrices.mT @ matrices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "kind", ["zeros", "rank one", "equal values", "one dead channel", "nearly equal values"]
)
def test_repeated_singular_values_give_no_infinite_gradient(kind, dtype):
    student = {
        "zeros": torch.zeros(1, 2, 4, 4),
        "rank one": torch.ones(1, 2, 4, 4),
        "equal values": torch.eye(4).expand(1, 2, 4, 4).clone(),
        "one dead channel": torch.relu(maps(1, 2, 4, 4)) * torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1),
        "nearly equal values": torch.diag(torch.tensor([1, 1 + 1e-7, 1 - 1e-7, 1])).expand(1, 2, 4, 4),
    }[kind]
    student = student.to(dtype).clone().requires_grad_()
    others = [maps(1, 2, 4, 4, seed=seed).to(dtype) for seed in (1, 2, 3)]
    loss = kdsvd_loss([student, others[0]], others[1:], k=2)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    if kind in ("zeros", "equal values"):  # nothing says which direction leads
        assert student.grad.abs().max() == 0
    if dtype == torch.float32:
        assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize(
    ("student", "teacher", "k", "message"),
    [
        ([(2, 1, 2, 4)], [(2, 1, 2, 4)], 1, "student_features must hold at least 2 maps"),
        (
            [(2, 1, 2, 4), (2, 1, 4, 2)],
            [(2, 1, 2, 4), (2, 1, 2, 4)],
            1,
            "student_features[1] and teacher_features[1] must have the same width W, got 2 and 4",
        ),
        (
            [(2, 1, 2, 4), (2, 1, 4, 2)],
            [(2, 1, 2, 4), (2, 1, 4, 2)],
            3,
            "k must be at most the least width of the maps, 2, got 3",
        ),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, 0, "k must be an integer >= 1, got 0"),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, 1.0, "k must be an integer >= 1, got 1.0"),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, True, "k must be an integer >= 1, got True"),
        (
            [(2, 4)] * 2,
            [(2, 4)] * 2,
            1,
            "student_features[0] must be [B, C, H, W], not empty, got shape [2, 4]",
        ),
    ],
)
def test_wrong_input_is_refused(student, teacher, k, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kdsvd_loss([maps(*shape) for shape in student], [maps(*shape) for shape in teacher], k=k)
