"""Losses on relations among samples: numbers by hand, invariances, degenerate batches, wrong input."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dotkd.losses import pkt_loss, rkd_loss, similarity_loss

from .common import normal


def rows(*shape, seed=0):
    return normal(shape, seed=seed)[0]


def rotation(size, seed=0):
    return torch.linalg.qr(rows(size, size, seed=seed))[0]


seeds = st.integers(0, 999)
sizes = st.floats(1e-3, 1e3)
few_examples = settings(max_examples=25, deadline=None)

LOSSES = {
    "pkt": pkt_loss,
    "rkd": rkd_loss,
    "similarity": lambda student, teacher: similarity_loss([student], [teacher]),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


# Probabilistic knowledge transfer --------------------------------------------


def test_pkt_by_hand():
    # Cosines 0 for the student and -1/2 for the teacher, so p = (2/3, 1/3) and q = (4/5, 1/5).
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0], [-1.0, math.sqrt(3)]], dtype=torch.float64)
    expected = (4 / 5 * math.log(6 / 5) + 1 / 5 * math.log(3 / 5)) / 2  # two rows, four pairs
    assert pkt_loss(student, teacher, eps=1e-12).item() == pytest.approx(expected, rel=1e-9)


def test_the_constant_of_pkt():
    # Opposite samples: p = (1, 0) against q = (1/2, 1/2).
    student, teacher = torch.tensor([[1.0], [-1.0]]).double(), torch.ones(2, 1).double()
    for eps in (0.5, 1e-3):
        expected = (math.log((0.5 + eps) / (1 + eps)) + math.log((0.5 + eps) / eps)) / 4
        assert pkt_loss(student, teacher, eps=eps).item() == pytest.approx(expected, rel=1e-12)


@few_examples
@given(seed=seeds, scale=sizes)
def test_pkt_forgets_lengths_and_rotations(seed, scale):
    student, teacher = rows(4, 3, seed=seed), rows(4, 5, seed=seed + 1)
    expected = pkt_loss(student, teacher)
    assert expected >= 0
    lengths = torch.tensor([scale, 1.0, 1 / scale, 2.0]).double().unsqueeze(1)
    for ours, theirs in [
        (student * lengths, teacher),
        (student, teacher * lengths),
        (student @ rotation(3, seed), teacher @ rotation(5, seed)),
    ]:
        torch.testing.assert_close(pkt_loss(ours, theirs), expected, rtol=1e-9, atol=1e-14)


def test_opposite_rows_stay_finite_in_pkt():
    # In float32 the cosine of a row and its opposite may come out below -1: here for some of 50.
    for seed in range(50):
        row = rows(1, 30, seed=seed).float()
        student = torch.cat([row, -3 * row]).requires_grad_()
        loss = pkt_loss(student, rows(2, 4, seed=seed).float(), eps=1e-12)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


# Relational knowledge distillation -------------------------------------------


def test_rkd_by_hand():
    # A triangle of sides 3, 4, 5 against three points on a line, at 0, 3 and -4.
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [3.0], [-4.0]], dtype=torch.float64)
    distances = [(3 / 4, 3 / (14 / 3)), (4 / 4, 4 / (14 / 3)), (5 / 4, 7 / (14 / 3))]
    by_distance = 2 * sum((ours - theirs) ** 2 / 2 for ours, theirs in distances) / 9
    angles = [(0, -1), (3 / 5, 1), (4 / 5, 1)]
    by_angle = 2 * sum((ours - theirs) ** 2 / 2 for ours, theirs in angles) / 27
    for one, other in [(1, 0), (0, 1), (25, 50)]:
        loss = rkd_loss(student, teacher, distance_weight=one, angle_weight=other)
        assert loss.item() == pytest.approx(one * by_distance + other * by_angle, rel=1e-12)
    default = rkd_loss(student, teacher)
    assert default.item() == pytest.approx(25 * by_distance + 50 * by_angle, rel=1e-12)


def test_rkd_is_linear_beyond_a_gap_of_one():
    # Cosines 1 against -1, in 2 of 27 triples: h = 2 - 1/2.
    student = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    # At the first point 1 against -1, at the second -1 against 1, at the third 1 against 1.
    loss = rkd_loss(student, teacher, distance_weight=0, angle_weight=1)
    assert loss.item() == pytest.approx(2 * 2 * 1.5 / 27, rel=1e-12)


@few_examples
@given(seed=seeds, scale=sizes, shift=st.floats(-100, 100))
def test_rkd_forgets_scale_rotation_and_place(seed, scale, shift):
    student, teacher = rows(4, 3, seed=seed), rows(4, 5, seed=seed + 1)
    expected = rkd_loss(student, teacher)
    moved = rkd_loss(student @ rotation(3, seed) * scale + shift, (teacher - shift) @ rotation(5, seed))
    torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-10)
    mirrored = teacher @ rotation(5, seed) * -scale
    assert rkd_loss(mirrored, teacher).item() == pytest.approx(0, abs=1e-12)


def test_rkd_of_near_rows_far_from_the_origin_keeps_its_digits():
    student, teacher = rows(6, 8) * 1e-2 + 10, rows(6, 8, seed=1)
    student = student.float()
    student.requires_grad_()
    loss = rkd_loss(student, teacher.float())
    loss.backward()
    exact = student.detach().double().requires_grad_()
    expected = rkd_loss(exact, teacher)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (student.grad - exact.grad).norm() <= 1e-4 * exact.grad.norm()


@pytest.mark.parametrize("twin", [0.0, 1e-7], ids=["equal", "equal but for rounding"])
def test_twins_in_rkd_pull_at_no_angle(twin):
    # A direction of length 1e-7 would have a slope of 1e7.
    student = rows(4, 3).float()
    student[1] = student[0] * (1 + twin)
    student.requires_grad_()
    loss = rkd_loss(student, rows(4, 3, seed=1).float())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 100


# Similarity preserving -------------------------------------------------------


def test_similarity_by_hand():
    # Gram rows (9, 12), (12, 16) of directions (3, 4) / 5; the teacher's are (1, 0), (0, 1).
    student = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    teacher = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]], dtype=torch.float64)
    expected = ((3 / 5 - 1) ** 2 + (4 / 5) ** 2 + (3 / 5) ** 2 + (4 / 5 - 1) ** 2) / 4
    assert similarity_loss([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)
    both = similarity_loss([student, teacher], [teacher, student])  # a sum over the features
    assert both.item() == pytest.approx(2 * expected, rel=1e-12)


@few_examples
@given(seed=seeds, scale=sizes)
def test_similarity_forgets_rotations_and_a_common_scale(seed, scale):
    student, teacher = rows(4, 6, seed=seed), rows(4, 5, seed=seed + 1)
    expected = similarity_loss([student], [teacher])
    turned = student @ rotation(6, seed) * scale
    as_maps = turned.reshape(4, 2, 3, 1)
    for ours in (turned, as_maps):
        loss = similarity_loss([ours], [teacher @ rotation(5, seed) / scale])
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


# Degenerate batches ----------------------------------------------------------


@every_loss
def test_one_sample_has_no_relations(loss):
    student = rows(1, 3).requires_grad_()
    value = loss(student, rows(1, 5, seed=1))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


@every_loss
@pytest.mark.parametrize("scale", [1e-11, 1e25])
def test_no_square_overflows_or_vanishes(loss, scale):
    student, teacher = rows(4, 3).float(), rows(4, 5, seed=1).float()
    scaled = (student * scale).requires_grad_()
    value = loss(scaled, teacher * scale)
    value.backward()
    torch.testing.assert_close(value, loss(student, teacher), rtol=1e-5, atol=0)
    assert scaled.grad.isfinite().all()


@every_loss
def test_a_collapsed_student_gets_no_infinite_gradient(loss):
    for collapsed in (torch.zeros(4, 3), torch.ones(4, 3), torch.full((4, 3), 1e-20)):
        student = collapsed.clone().requires_grad_()
        value = loss(student, rows(4, 5, seed=1).float())
        value.backward()
        assert value > 0
        assert student.grad.abs().max() < 100


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize("loss", [pkt_loss, rkd_loss])
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            torch.zeros(4),
            torch.zeros(4, 2),
            "student must be a floating-point tensor [B, D], not empty, got a tensor of float32 [4]",
        ),
        (torch.zeros(4, 2), torch.zeros(4, 2, 1), "[B, D], not empty, got a tensor of float32 [4, 2, 1]"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "[B, D], not empty, got a tensor of float32 [0, 2]"),
        (torch.zeros(4, 2), torch.zeros(4, 2).int(), "teacher must be a floating-point tensor [B, D]"),
        (
            torch.zeros(4, 2),
            torch.zeros(3, 2),
            "student and teacher must hold the same samples, got 4 and 3 of them",
        ),
    ],
)
def test_embeddings_are_checked(loss, student, teacher, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(4, 2), [torch.zeros(4, 2)], "student_features must be a list of at least one tensor"),
        (
            [torch.zeros(4)],
            [torch.zeros(4)],
            "student_features[0] must be a floating-point tensor [B, ...], not empty",
        ),
        ([torch.zeros(4, 2)], [torch.zeros(3, 2)], "must hold the same samples, got 4 and 3 of them"),
    ],
)
def test_features_are_checked(student, teacher, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        similarity_loss(student, teacher)


@pytest.mark.parametrize("option", ["distance_weight", "angle_weight"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_are_checked(option, value):
    with pytest.raises(ValueError, match=rf"{option} must be a finite number >= 0, got {value}"):
        rkd_loss(rows(3, 2), rows(3, 2), **{option: value})


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
def test_the_constant_is_checked(eps):
    with pytest.raises(ValueError, match=rf"eps must be a finite number > 0, got {eps}"):
        pkt_loss(rows(3, 2), rows(3, 2), eps=eps)
