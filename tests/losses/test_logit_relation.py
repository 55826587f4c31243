"""Losses on relations among logits: numbers by hand, what changes them and what does not, wrong input."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dotkd.losses import dist_loss, kd_loss, multi_level_loss


def logits(rows=5, classes=4, seed=0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def table(*rows):
    """Logits whose softmax at temperature 1 is this table."""
    return torch.tensor(rows, dtype=torch.float64).log()


seeds = st.integers(0, 999)
shares = st.floats(0.05, 1.0)
few_examples = settings(max_examples=25, deadline=None)


# DIST ------------------------------------------------------------------------

# First row: deviations (2, -1, -1) / 12 and (-1, -1, 2) / 12, correlation -1/2.
# By column: (+, -) against (-, +) is -1, (-, +) against (-, +) is 1, (-, +) against (+, -) is -1.
OURS = table((1 / 2, 1 / 4, 1 / 4), (2 / 10, 4 / 10, 4 / 10))
THEIRS = table((1 / 4, 1 / 4, 1 / 2), (3 / 10, 6 / 10, 1 / 10))


def pearson(x, y):
    x, y = ([value - sum(row) / len(row) for value in row] for row in (x, y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def test_dist_by_hand():
    assert pearson((2, -1, -1), (-1, -1, 2)) == pytest.approx(-1 / 2)
    second = pearson((2, 4, 4), (3, 6, 1))
    inter = ((1 + 1 / 2) + (1 - second)) / 2
    intra = ((1 + 1) + (1 - 1) + (1 + 1)) / 3
    for beta, gamma in [(1, 0), (0, 1), (2, 3)]:
        loss = dist_loss(OURS, THEIRS, beta=beta, gamma=gamma)
        assert loss.item() == pytest.approx(beta * inter + gamma * intra, rel=1e-5)  # the 1e-8
    assert dist_loss(OURS, THEIRS).item() == pytest.approx(inter + intra, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_of_dist(temperature):
    at_one = dist_loss(OURS, THEIRS, beta=2.0)
    loss = dist_loss(OURS * temperature, THEIRS * temperature, beta=2.0, temperature=temperature)
    torch.testing.assert_close(loss, at_one * temperature**2, rtol=1e-12, atol=0)


@few_examples
@given(seed=seeds, share=st.lists(shares, min_size=5, max_size=5), common=shares)
def test_dist_forgets_scales_and_shifts_of_probabilities(seed, share, common):
    # Probabilities mixed with the uniform ones: each row scaled by a share and shifted.
    student, teacher = logits(seed=seed), logits(seed=seed + 1)

    def mixed(rows, part):
        return (part * torch.softmax(rows, 1) + (1 - part) / rows.shape[1]).log()

    by_row = torch.tensor(share, dtype=torch.float64).unsqueeze(1)
    inter = {"gamma": 0.0}
    close = {"rtol": 1e-4, "atol": 1e-5}  # up to the published 1e-8
    torch.testing.assert_close(
        dist_loss(mixed(student, by_row), mixed(teacher, by_row.flip(0)), **inter),
        dist_loss(student, teacher, **inter),
        **close,
    )
    # The columns are scaled alike only if all rows are.
    both = dist_loss(mixed(student, common), mixed(teacher, 0.5))
    torch.testing.assert_close(both, dist_loss(student, teacher), **close)
    assert dist_loss(mixed(teacher, common), teacher).item() == pytest.approx(0, abs=1e-4)


@few_examples
@given(seed=seeds, rows=st.integers(2, 6), classes=st.integers(2, 6))
def test_dist_is_bounded_and_forgets_the_names_of_classes(seed, rows, classes):
    student, teacher = logits(rows, classes, seed), logits(rows, classes, seed + 1)
    loss = dist_loss(student, teacher, beta=2.0, gamma=0.5)
    assert -1e-9 <= loss <= 2 * (2.0 + 0.5) + 1e-9
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = dist_loss(student[:, order], teacher[:, order], beta=2.0, gamma=0.5)
    torch.testing.assert_close(renamed, loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [3, 100])
def test_a_head_that_starts_at_zero_correlates_with_nothing(classes, dtype):
    student = torch.zeros(2, classes, dtype=dtype, requires_grad=True)
    loss = dist_loss(student, logits(2, classes).to(dtype))
    loss.backward()
    assert loss.item() == 2
    assert student.grad.abs().max() == 0


def test_one_sample_has_no_relation_within_a_class():
    student = logits(1).requires_grad_()
    loss = dist_loss(student, logits(1, seed=1), beta=0.0)
    loss.backward()
    assert loss.item() == 1
    assert student.grad.abs().max() == 0


# Multi-level -----------------------------------------------------------------


def test_multi_level_by_hand():
    # P P' = (5/8, 1/2; 1/2, 1/2), Q Q' = (1, 0; 0, 1) nearly; P' P = (13/16, 7/16; 7/16, 5/16).
    student, teacher = table((3 / 4, 1 / 4), (1 / 2, 1 / 2)), table((1 - 1e-12, 1e-12), (1e-12, 1 - 1e-12))
    batch = ((5 / 8 - 1) ** 2 + 2 * (1 / 2) ** 2 + (1 / 2 - 1) ** 2) / 2
    classes = ((13 / 16 - 1) ** 2 + 2 * (7 / 16) ** 2 + (5 / 16 - 1) ** 2) / 2
    instance = (math.log(4 / 3) + math.log(2)) / 2
    for one, two, three in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5, 7)]:
        weights = {"instance_weight": one, "batch_weight": two, "class_weight": three}
        loss = multi_level_loss(student, teacher, temperatures=[1], **weights)
        assert loss.item() == pytest.approx(one * instance + two * batch + three * classes, rel=1e-9)


def test_multi_level_adds_up_its_temperatures():
    student, teacher = logits(), logits(seed=1)
    alone = [multi_level_loss(student, teacher, temperatures=[t]) for t in (2, 3, 4, 5, 6)]
    torch.testing.assert_close(multi_level_loss(student, teacher), sum(alone), rtol=1e-12, atol=0)


def test_its_instance_level_is_kd():
    student, teacher = logits(), logits(seed=1)
    instance = multi_level_loss(student, teacher, temperatures=(1.0, 4.0), batch_weight=0.0, class_weight=0.0)
    expected = kd_loss(student, teacher, temperature=1.0) + kd_loss(student, teacher, temperature=4.0)
    torch.testing.assert_close(instance, expected, rtol=1e-12, atol=0)


@few_examples
@given(seed=seeds, rows=st.integers(1, 6), classes=st.integers(2, 6))
def test_multi_level_forgets_names_and_shifts(seed, rows, classes):
    student, teacher = logits(rows, classes, seed), logits(rows, classes, seed + 1)
    loss = multi_level_loss(student, teacher)
    assert loss >= 0
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    shift = torch.arange(rows, dtype=torch.float64).unsqueeze(1)
    for changed in [(student[:, order], teacher[:, order]), (student + shift, teacher - 3 * shift)]:
        torch.testing.assert_close(multi_level_loss(*changed), loss, rtol=1e-9, atol=1e-12)


def test_the_batch_level_sees_which_samples_are_predicted_alike():
    # The teacher predicts both samples alike. So does one student, whatever it predicts.
    teacher = table((0.7, 0.2, 0.1), (0.7, 0.2, 0.1))
    renamed = teacher.flip(1)
    options = {"temperatures": [1.0], "instance_weight": 0.0, "class_weight": 0.0}
    assert multi_level_loss(renamed, teacher, **options).item() == pytest.approx(0, abs=1e-12)
    assert multi_level_loss(torch.stack([renamed[0], teacher[0]]), teacher, **options) > 0.1


# Wrong input -----------------------------------------------------------------

every_loss = pytest.mark.parametrize("loss", [dist_loss, multi_level_loss])


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            torch.zeros(4),
            torch.zeros(4),
            "student_logits must be [B, C] with at least 1 sample and 2 classes",
        ),
        (torch.zeros(3, 2), torch.zeros(3, 1), "teacher_logits must be [B, C] with at least 1 sample and 2"),
        (torch.zeros(3, 2), torch.zeros(3, 4), "the same shape [B, C], got [3, 2] and [3, 4]"),
        (
            torch.zeros(3, 2),
            torch.zeros(3, 2).long(),
            "teacher_logits must be floating point, got torch.int64",
        ),
    ],
)
def test_logits_are_checked(loss, student, teacher, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, teacher)


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        (dist_loss, "beta"),
        (dist_loss, "gamma"),
        (multi_level_loss, "instance_weight"),
        (multi_level_loss, "batch_weight"),
        (multi_level_loss, "class_weight"),
    ],
)
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_are_checked(loss, option, value):
    with pytest.raises(ValueError, match=rf"{option} must be a finite number >= 0, got {value}"):
        loss(logits(), logits(), **{option: value})


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_are_checked(value):
    with pytest.raises(ValueError, match=rf"temperature must be a finite number > 0, got {value}"):
        dist_loss(logits(), logits(), temperature=value)
    with pytest.raises(ValueError, match=rf"temperatures\[1\] must be a finite number > 0, got {value}"):
        multi_level_loss(logits(), logits(), temperatures=[1.0, value])


@pytest.mark.parametrize("value", [(), 4.0, None])
def test_temperatures_are_a_list(value):
    message = f"temperatures must be a list of at least one number > 0, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        multi_level_loss(logits(), logits(), temperatures=value)
