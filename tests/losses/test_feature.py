"""Losses on feature maps: numbers by hand, invariances, singular vectors, wrong input."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dotkd.losses import (
    attention_transfer_loss,
    hierarchical_context_loss,
    hint_loss,
    kdsvd_loss,
    nst_loss,
)
from dotkd.losses.feature import _singular

from .common import normal


def maps(*shape, seed=0):
    return normal(shape, seed=seed)[0]


seeds = st.integers(0, 999)
sizes = st.floats(1e-3, 1e3)
few_examples = settings(max_examples=25, deadline=None)


# Hints -----------------------------------------------------------------------


def test_hint_by_hand():
    student = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = hint_loss(student, torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    loss.backward()
    assert loss.item() == (4 + 9) / 4
    assert student.grad.tolist() == [[0, 1], [1.5, 0]]


# Attention transfer ----------------------------------------------------------


def test_attention_by_hand():
    # Q = (3^2 + 1, 4^2 + 4) / 2 = (5, 10), of direction (1, 2) / sqrt(5); the teacher looks left.
    student = torch.tensor([[[[3.0, 4.0]], [[1.0, -2.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[-7.0, 0.0]]]], dtype=torch.float64)
    one = (1 - 1 / math.sqrt(5)) ** 2 / 2 + (2 / math.sqrt(5)) ** 2 / 2
    assert attention_transfer_loss([student], [teacher]).item() == pytest.approx(one, rel=1e-12)
    two = attention_transfer_loss([student, teacher], [teacher, student])  # a sum over the maps
    assert two.item() == pytest.approx(2 * one, rel=1e-12)


def test_the_exponent_of_attention():
    # Q = (|2|^p, |-1|^p) / 2: for p = 3 of direction (8, 1), whatever the signs.
    student = torch.tensor([[[[2.0, 0.0]], [[0.0, -1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    for p in (1, 2, 3, 1.5):
        long, short = 2**p / math.hypot(2**p, 1), 1 / math.hypot(2**p, 1)
        expected = ((1 - long) ** 2 + short**2) / 2
        loss = attention_transfer_loss([student], [teacher], p=p)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


@few_examples
@given(seed=seeds, scale=sizes, p=st.sampled_from([1, 2, 3, 4.5]))
def test_attention_forgets_scales_signs_and_the_order_of_channels(seed, scale, p):
    student, teacher = maps(3, 4, 3, 2, seed=seed), maps(3, 2, 3, 2, seed=seed + 1)
    expected = attention_transfer_loss([student], [teacher], p=p)
    scales = torch.tensor([scale, 1.0, 1 / scale], dtype=torch.float64).reshape(3, 1, 1, 1)
    for changed in (student * scales, student * maps(3, 4, 3, 2, seed=9).sign(), student.flip(1)):
        loss = attention_transfer_loss([changed], [teacher], p=p)
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    rescaled = attention_transfer_loss([student], [teacher * scales], p=p)
    torch.testing.assert_close(rescaled, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [attention_transfer_loss, nst_loss])
@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [((4, 4), (2, 2), (2, 2)), ((3, 3), (6, 6), (3, 3)), ((4, 3), (2, 5), (2, 3)), ((5, 5), (3, 3), (3, 3))],
)
def test_the_larger_map_is_averaged_to_the_smaller(loss, ours, theirs, common):
    student, teacher = maps(2, 3, *ours), maps(2, 4, *theirs, seed=1)
    pooled = [[functional.adaptive_avg_pool2d(tensor, common)] for tensor in (student, teacher)]
    torch.testing.assert_close(loss([student], [teacher]), loss(*pooled), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_map_of_zeros_has_no_attention(dtype):
    student = torch.zeros(1, 2, 2, 2, dtype=dtype, requires_grad=True)
    loss = attention_transfer_loss([student], [torch.ones(1, 2, 2, 2, dtype=dtype)])
    loss.backward()
    assert loss.item() == 1 / 4  # the squared norm of the teacher's attention over four places
    assert student.grad.abs().max() == 0


# Neuron selectivity transfer -------------------------------------------------


def test_nst_by_hand():
    # Directions (1, 0), (0, 1) against (3, 4) / 5: k is 1, 0, 0, 1; 1; 9/25 and 16/25.
    student = torch.tensor([[[[2.0, 0.0]], [[0.0, -1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[3.0, 4.0]]]], dtype=torch.float64)
    expected = 1 + 2 / 4 - 2 * (9 / 25 + 16 / 25) / 2
    assert nst_loss([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)


@few_examples
@given(seed=seeds, scale=sizes)
def test_nst_compares_sets_of_channels(seed, scale):
    student, teacher = maps(2, 3, 2, 2, seed=seed), maps(2, 4, 2, 2, seed=seed + 1)
    expected = nst_loss([student], [teacher])
    assert expected >= 0  # a squared distance of mean embeddings
    scales = torch.tensor([scale, -1.0, 1 / scale], dtype=torch.float64).reshape(1, 3, 1, 1)
    twice = torch.cat([student, student], dim=1)
    for changed in (student * scales, student.flip(1), twice):
        torch.testing.assert_close(nst_loss([changed], [teacher]), expected, rtol=1e-9, atol=1e-12)
    assert nst_loss([twice.flip(1)], [student]).abs() < 1e-12


# Hierarchical context --------------------------------------------------------


def test_context_by_hand():
    # A checkerboard of 2 and 0 against zeros: MSE 2 as it is, 1 at every pooled size.
    board = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 2
    for size, expected in {
        8: (2 + 1 / 2 + 1 / 4 + 1 / 8) / (1 + 7 / 8),
        4: (2 + 1 / 2 + 1 / 4) / (1 + 3 / 4),  # 2 x 2 and 1 x 1: 4 is the map itself
        2: (2 + 1 / 2) / (1 + 1 / 2),
    }.items():
        part = board[..., :size, :size]
        loss = hierarchical_context_loss([part], [torch.zeros_like(part)])
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    both = hierarchical_context_loss([board, board], [torch.zeros_like(board)] * 2)
    assert both.item() == pytest.approx(2 * (2 + 7 / 8) / (1 + 7 / 8), rel=1e-12)


def test_context_of_a_single_place_is_the_mean_square():
    student, teacher = maps(3, 4, 1, 1), maps(3, 4, 1, 1, seed=1)
    assert torch.equal(hierarchical_context_loss([student], [teacher]), hint_loss(student, teacher))


def test_context_of_an_oblong_map_takes_the_sizes_below_its_shorter_side():
    student, teacher = maps(2, 3, 8, 3), maps(2, 3, 8, 3, seed=1)
    terms = [hint_loss(student, teacher)]
    for size in (2, 1):
        pooled = (functional.adaptive_avg_pool2d(tensor, size) for tensor in (student, teacher))
        terms.append(hint_loss(*pooled))
    expected = (terms[0] + terms[1] / 2 + terms[2] / 4) / (1 + 3 / 4)
    torch.testing.assert_close(hierarchical_context_loss([student], [teacher]), expected)


@few_examples
@given(seed=seeds, shift=st.floats(-5, 5), size=st.integers(1, 9))
def test_context_is_a_weighted_mean_and_looks_at_differences_only(seed, shift, size):
    student = maps(2, 3, size, size, seed=seed)
    loss = hierarchical_context_loss([student + shift], [student])
    assert loss.item() == pytest.approx(shift**2, rel=1e-9, abs=1e-12)


# Singular vectors ------------------------------------------------------------


def plain_kdsvd(student_features, teacher_features, k):
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
def test_kdsvd_equals_the_plain_formula(k):
    shapes = [((3, 2, 4, 6), (3, 4, 4, 6)), ((3, 5, 4, 4), (3, 3, 2, 4)), ((3, 2, 4, 4), (3, 2, 4, 4))]
    student = [maps(*shape, seed=i).requires_grad_() for i, (shape, _) in enumerate(shapes)]
    teacher = [maps(*shape, seed=9 + i).requires_grad_() for i, (_, shape) in enumerate(shapes)]
    loss, expected = kdsvd_loss(student, teacher, k=k), plain_kdsvd(student, teacher, k)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(loss, student + teacher),
        torch.autograd.grad(expected, student + teacher),
        strict=True,
    ):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()


def test_singular_vectors_by_hand():
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
def test_kdsvd_forgets_scale_sign_and_the_order_of_rows(seed, scale):
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


# Wrong input -----------------------------------------------------------------

LISTS = [attention_transfer_loss, nst_loss, hierarchical_context_loss]
every_list_loss = pytest.mark.parametrize("loss", LISTS)
ONE = torch.zeros(2, 3, 4, 4)


@every_list_loss
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (ONE, [ONE], "student_features must be a list of at least one tensor, got a tensor of float32 [2, 3"),
        ([ONE], [], "teacher_features must be a list of at least one tensor, got []"),
        ([ONE], None, "teacher_features must be a list of at least one tensor, got None"),
        ([ONE, ONE], [ONE], "must hold equally many features, got 2 and 1"),
        ([ONE[0]], [ONE], "student_features[0] must be a floating-point tensor [B, C, H, W]"),
        ([ONE], [ONE[:, :0]], "[B, C, H, W], not empty, got a tensor of float32 [2, 0, 4, 4]"),
        ([ONE, ONE.long()], [ONE, ONE], "student_features[1] must be a floating-point tensor [B, C, H, W]"),
    ],
)
def test_features_are_checked(loss, student, teacher, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, teacher)


@pytest.mark.parametrize("loss", [attention_transfer_loss, nst_loss])
def test_both_models_need_the_same_samples(loss):
    message = (
        r"student_features\[1\] and teacher_features\[1\] must hold the same samples, got 2 and 1 of them"
    )
    with pytest.raises(ValueError, match=message):
        loss([ONE, ONE], [ONE, ONE[:1]])


def test_where_shapes_must_agree():
    message = (
        r"student_features\[0\] and teacher_features\[0\] must have the same shape, got \[2, 3, 4, 4\] and"
    )
    with pytest.raises(ValueError, match=message):
        hierarchical_context_loss([ONE], [ONE[..., :3]])
    with pytest.raises(
        ValueError, match=r"student and teacher must have the same shape, got .* and \[3, 4, 4\]"
    ):
        hint_loss(ONE, ONE[0])


def test_a_hint_is_a_filled_tensor_of_floats():
    with pytest.raises(ValueError, match=r"student must be .*, not empty, got a tensor of float32 \[0, 3\]"):
        hint_loss(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(
        ValueError, match=r"teacher must be a floating-point tensor .*, got a tensor of int64"
    ):
        hint_loss(torch.zeros(3), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("p", [0, 0.5, -1, math.inf, math.nan])
def test_the_exponent_is_checked(p):
    with pytest.raises(ValueError, match=rf"p must be a finite number >= 1, got {p}"):
        attention_transfer_loss([ONE], [ONE], p=p)


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
            "k must be an integer from 1 to 2, got 3",
        ),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, 0, "k must be an integer from 1 to 4, got 0"),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, 1.0, "k must be an integer from 1 to 4, got 1.0"),
        ([(2, 1, 2, 4)] * 2, [(2, 1, 2, 4)] * 2, True, "k must be an integer from 1 to 4, got True"),
        (
            [(2, 4)] * 2,
            [(2, 4)] * 2,
            1,
            "student_features[0] must be a floating-point tensor [B, C, H, W], not empty, got a tensor of",
        ),
    ],
)
def test_wrong_input_of_kdsvd_is_refused(student, teacher, k, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kdsvd_loss([maps(*shape) for shape in student], [maps(*shape) for shape in teacher], k=k)
