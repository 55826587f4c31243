"""Losses that need the label: numbers by hand, identities with other losses, extremes, wrong input."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dotkd.losses import dkd_loss, label_smoothing_loss, nkd_loss, teacher_free_kd_loss

LOSSES = {
    "nkd": nkd_loss,
    "label smoothing": lambda student, _, target: label_smoothing_loss(student, target),
    "teacher-free": lambda student, _, target: teacher_free_kd_loss(student, target),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
few_examples = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 999)


def batch(rows=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64) * 2
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def table(*rows):
    """Logits whose softmax at temperature 1 is this table."""
    return torch.tensor(rows, dtype=torch.float64).log().requires_grad_()


# Normalised distillation -----------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_nkd_by_hand(gamma):
    student = table((1 / 2, 1 / 4, 1 / 4), (1 / 6, 1 / 3, 1 / 2))
    teacher = table((1 / 4, 1 / 4, 1 / 2), (1 / 2, 1 / 4, 1 / 4))
    loss = nkd_loss(student, teacher, torch.tensor([0, 2]), gamma=gamma)
    loss.backward()
    of_label = (1 / 4 * math.log(2) + 1 / 4 * math.log(2)) / 2
    # Beside the label (1/2, 1/2) taught by (1/3, 2/3), and (1/3, 2/3) taught by (2/3, 1/3).
    of_others = (math.log(2) + 2 / 3 * math.log(3) + 1 / 3 * math.log(3 / 2)) / 2
    assert loss.item() == pytest.approx(of_label + gamma * of_others, rel=1e-12)
    if gamma == 1.5:
        assert torch.equal(nkd_loss(student, teacher, torch.tensor([0, 2])), loss)
    first = torch.tensor([1 / 4 * -1 / 2, 1 / 4 * 1 / 4, 1 / 4 * 1 / 4]) / 2
    first += gamma * torch.tensor([0, 1 / 2 - 1 / 3, 1 / 2 - 2 / 3]) / 2
    torch.testing.assert_close(student.grad[0].float(), first)


@few_examples
@given(seed=seeds, temperature=st.floats(0.5, 10), gamma=st.floats(0, 5))
def test_beside_the_label_nkd_and_dkd_have_one_gradient(seed, temperature, gamma):
    student, teacher, target = batch(seed=seed)
    options = {"temperature": temperature}
    others = nkd_loss(student, teacher, target, gamma=gamma, **options)
    others = others - nkd_loss(student, teacher, target, gamma=0.0, **options)
    divergence = dkd_loss(student, teacher, target, alpha=0.0, beta=gamma, **options)
    ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in (others, divergence))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_label_term_has_no_temperature():
    student, teacher, target = batch()
    terms = [nkd_loss(student, teacher, target, gamma=0.0, temperature=t) for t in (1.0, 4.0)]
    expected = -(teacher.softmax(1) * student.log_softmax(1)).gather(1, target.unsqueeze(1)).mean()
    for term in terms:
        torch.testing.assert_close(term, expected, rtol=1e-12, atol=0)


def test_with_two_classes_there_are_no_others():
    student, teacher, target = batch(classes=2)
    alone = nkd_loss(student, teacher, target, gamma=0.0)
    assert torch.equal(nkd_loss(student, teacher, target, gamma=9.0), alone)


# Label smoothing -------------------------------------------------------------


@few_examples
@given(seed=seeds, smoothing=st.floats(0, 0.99), classes=st.integers(2, 9))
def test_label_smoothing_is_that_of_torch(seed, smoothing, classes):
    student, _, target = batch(classes=classes, seed=seed)
    expected = functional.cross_entropy(student, target, label_smoothing=smoothing)
    torch.testing.assert_close(label_smoothing_loss(student, target, smoothing=smoothing), expected)


def test_label_smoothing_by_hand():
    loss = label_smoothing_loss(table((1 / 2, 1 / 4, 1 / 4)), torch.tensor([1]), smoothing=0.3)
    assert loss.item() == pytest.approx((0.1 + 2 * 0.8 + 2 * 0.1) * math.log(2), rel=1e-12)
    by_default = label_smoothing_loss(table((1 / 2, 1 / 2)), torch.tensor([1]))
    assert by_default.item() == pytest.approx(math.log(2), rel=1e-12)


# Teacher-free ----------------------------------------------------------------


def test_teacher_free_by_hand():
    # u = (0.8, 0.1, 0.1) at T = 0.7 / log(2): q = (2, 1, 1) / 4, against p = (1, 1, 2) / 4.
    loss = teacher_free_kd_loss(
        table((1 / 4, 1 / 4, 1 / 2)),
        torch.tensor([0]),
        correct_probability=0.8,
        temperature=0.7 / math.log(2),
    )
    assert loss.item() == pytest.approx(1 / 2 * math.log(2) - 1 / 4 * math.log(2), rel=1e-12)


@few_examples
@given(
    seed=seeds,
    probability=st.floats(0.6, 1),
    temperature=st.floats(0.05, 40),
    classes=st.integers(2, 9),
)
def test_teacher_free_is_smoothing_less_the_entropy_of_its_teacher(seed, probability, temperature, classes):
    student, _, target = batch(classes=classes, seed=seed)
    gap = (probability - (1 - probability) / (classes - 1)) / temperature
    rest = 1 / (math.exp(gap) + classes - 1)
    of_label = 1 - (classes - 1) * rest
    entropy = -of_label * math.log(of_label) - (classes - 1) * rest * math.log(rest)
    smoothed = label_smoothing_loss(student, target, smoothing=classes * rest)
    loss = teacher_free_kd_loss(student, target, correct_probability=probability, temperature=temperature)
    torch.testing.assert_close(loss, smoothed - entropy, rtol=1e-8, atol=1e-10)


def test_teacher_free_by_default_is_nearly_uniform():
    student, _, target = batch(classes=100)
    expected = teacher_free_kd_loss(student, target, correct_probability=0.99, temperature=20.0)
    assert torch.equal(teacher_free_kd_loss(student, target), expected)
    uniform = torch.zeros(5, 100)
    assert teacher_free_kd_loss(uniform, target).item() == pytest.approx(0, abs=1e-4)


# Shifts, names, extremes -----------------------------------------------------


@every_loss
@few_examples
@given(seed=seeds, rows=st.integers(1, 5), classes=st.integers(2, 7))
def test_shifts_and_names_of_classes_play_no_part(loss, seed, rows, classes):
    student, teacher, target = batch(rows, classes, seed)
    expected = loss(student, teacher, target)
    shift = torch.arange(rows, dtype=torch.float64).unsqueeze(1) * 5
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    for changed in [
        (student + shift, teacher - shift, target),
        (student[:, order], teacher[:, order], order.argsort()[target]),
    ]:
        torch.testing.assert_close(loss(*changed), expected, rtol=1e-9, atol=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_a_sure_student_stays_finite(loss, gap, dtype):
    student = torch.tensor([[gap, 0.0, -gap]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-gap, gap, 0.0]], dtype=dtype)
    for label in range(3):
        value = loss(student, teacher, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.abs().max() <= 3


# Wrong input -----------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(
    ("student", "target", "message"),
    [
        (
            torch.zeros(3),
            torch.zeros(3),
            "must be [B, C] with at least 1 sample and 2 classes, got shape [3]",
        ),
        (torch.zeros(3, 1), torch.zeros(3), "with at least 1 sample and 2 classes, got shape [3, 1]"),
        (torch.zeros(3, 2).int(), torch.zeros(3), "logits must be floating point, got torch.int32"),
        (torch.zeros(3, 2), torch.zeros(3), "target must hold int64 class numbers, got torch.float32"),
        (torch.zeros(3, 2), torch.zeros(2).long(), "target must be [B] = [3], one class number per row"),
    ],
)
def test_logits_and_labels_are_checked(loss, student, target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, student, target)


@every_loss
@pytest.mark.parametrize("label", [-100, -1, 4])
def test_a_class_out_of_range_is_an_error_of_torch(loss, label):
    student, teacher, _ = batch(rows=1)
    with pytest.raises(RuntimeError, match="out of bounds"):
        loss(student, teacher, torch.tensor([label]))


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_smoothing_is_checked(value):
    student, _, target = batch()
    with pytest.raises(ValueError, match=rf"smoothing must lie in \[0, 1\), got {value}"):
        label_smoothing_loss(student, target, smoothing=value)


@pytest.mark.parametrize("value", [0.25, 1.01, math.nan])
def test_the_correct_probability_is_checked(value):
    student, _, target = batch()
    message = f"correct_probability must lie above 1 / C = 0.25 and be at most 1, got {value}"
    with pytest.raises(ValueError, match=re.escape(message)):
        teacher_free_kd_loss(student, target, correct_probability=value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_options_of_nkd_and_teacher_free_are_checked(value):
    student, teacher, target = batch()
    with pytest.raises(ValueError, match=rf"temperature must be a finite number > 0, got {value}"):
        teacher_free_kd_loss(student, target, temperature=value)
    with pytest.raises(ValueError, match=rf"temperature must be a finite number > 0, got {value}"):
        nkd_loss(student, teacher, target, temperature=value)
    with pytest.raises(ValueError, match=r"gamma must be a finite number >= 0, got -1"):
        nkd_loss(student, teacher, target, gamma=-1.0)
