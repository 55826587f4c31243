"""Losses on whole distributions of logits (KD, multi-level, DIST): numbers by hand, identities, extremes."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dotkd.losses import dist_loss, dkd_loss, kd_loss, multi_level_loss

from .common import normal

# DKD shares the symmetries and extremes of KD; what is its own is in test_logit_target.py.
LOSSES = {
    "kd": lambda s, t, _, **o: kd_loss(s, t, **o),
    "kd standardized": lambda s, t, _, **o: kd_loss(s, t, standardize=True, **o),
    "dkd": dkd_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
seeds = st.integers(0, 999)
shares = st.floats(0.05, 1.0)
few_examples = settings(max_examples=25, deadline=None)


def batch(rows=5, classes=4, dtype=torch.float64, seed=0):
    student, teacher = normal((rows, classes), (rows, classes), seed=seed)
    target = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return (3 * student).to(dtype).requires_grad_(), (3 * teacher).to(dtype), target


def logits(rows=5, classes=4, seed=0):
    return 2 * normal((rows, classes), seed=seed)[0]


def table(*rows):
    """Logits whose softmax at temperature 1 is this table."""
    return torch.tensor(rows, dtype=torch.float64).log()


# KD --------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kd_by_hand(temperature):
    student = (table((1 / 2, 1 / 4, 1 / 4), (1 / 3, 1 / 3, 1 / 3)) * temperature).requires_grad_()
    teacher = table((1 / 4, 1 / 4, 1 / 2), (1 / 2, 1 / 4, 1 / 4)) * temperature
    loss = kd_loss(student, teacher, temperature=temperature)
    loss.backward()
    first = 1 / 4 * math.log(1 / 2) + 1 / 2 * math.log(2)
    second = 1 / 2 * math.log(3 / 2) + 1 / 2 * math.log(3 / 4)
    assert loss.item() == pytest.approx(temperature**2 * (first + second) / 2, rel=1e-12)
    difference = torch.tensor([[1 / 4, 0, -1 / 4], [-1 / 6, 1 / 12, 1 / 12]], dtype=torch.float64)
    torch.testing.assert_close(student.grad, temperature * difference / 2)  # T^2 / T, mean of 2


def test_standardized_rows_forget_shift_and_scale():
    student, teacher, _ = batch()
    loss = kd_loss(student, teacher, standardize=True)
    rescaled = kd_loss(3 * student + 7, 0.5 * teacher - 2, standardize=True)
    torch.testing.assert_close(loss, rescaled, rtol=1e-6, atol=0)  # up to the published 1e-7
    by_hand = [(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in (student, teacher)]
    torch.testing.assert_close(loss, kd_loss(*by_hand), rtol=1e-12, atol=0)


def test_kd_at_high_temperature_is_mse_of_centred_logits():
    student, teacher, _ = batch()
    gap = student - teacher
    gap = gap - gap.mean(1, keepdim=True)
    limit = gap.square().sum() / (2 * gap.shape[1] * gap.shape[0])
    torch.testing.assert_close(kd_loss(student, teacher, temperature=1e5), limit, rtol=1e-3, atol=0)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e3, -6e4])
def test_constant_rows_standardize_to_zero(level):
    student = torch.full((2, 100), level, requires_grad=True)
    teacher = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    loss = kd_loss(student, teacher, standardize=True)
    loss.backward()
    torch.testing.assert_close(loss, kd_loss(torch.zeros(2, 100), teacher, standardize=True))
    assert student.grad.abs().max() == 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_nothing_to_learn_from_oneself(loss, dtype):
    student, _, target = batch(dtype=dtype)
    value = loss(student, student.detach().clone(), target)
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() <= 100 * torch.finfo(value.dtype).eps


@every_loss
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 6),
    classes=st.integers(2, 9),
    temperature=st.floats(0.5, 20),
    seed=st.integers(0, 99),
)
def test_symmetries(loss, rows, classes, temperature, seed):
    student, teacher, target = batch(rows, classes, seed=seed)
    value = loss(student, teacher, target, temperature=temperature)
    assert value.shape == ()
    assert value >= -1e-12

    shift = torch.arange(rows, dtype=student.dtype).unsqueeze(1) * 5
    rows_order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    class_order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = class_order.argsort()[target]
    same = [
        loss(student + shift, teacher - shift, target, temperature=temperature),
        loss(student[rows_order], teacher[rows_order], target[rows_order], temperature=temperature),
        loss(student[:, class_order], teacher[:, class_order], renamed, temperature=temperature),
    ]
    for other in same:
        torch.testing.assert_close(other, value, rtol=1e-8, atol=1e-10)


def extreme_logits(dtype):
    largest = 3e4 if dtype == torch.float16 else 1e4
    values = [-2 * largest, -largest, -20.0, -1.0, 0.0, 1e-3, 1.0, 20.0, largest, 2 * largest]
    return st.lists(st.lists(st.sampled_from(values), min_size=4, max_size=4), min_size=2, max_size=2).map(
        lambda rows: torch.tensor(rows, dtype=dtype)
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_extreme_logits_stay_finite(loss, dtype, data, temperature):
    student = data.draw(extreme_logits(dtype)).requires_grad_()
    teacher = data.draw(extreme_logits(dtype)).requires_grad_()
    value = loss(student, teacher, torch.tensor([0, 3]), temperature=temperature)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()
    if loss is not LOSSES["kd standardized"]:  # a z-score of 1e-3 has a steep slope of its own
        assert student.grad.abs().max() <= 10 * temperature


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

LOSSES_OF_TWO = {"kd": kd_loss, "dist": dist_loss, "multi-level": multi_level_loss}


@pytest.mark.parametrize("loss", LOSSES_OF_TWO.values(), ids=LOSSES_OF_TWO)
@pytest.mark.parametrize(
    ("student", "teacher", "names", "got"),
    [
        (torch.zeros(4), torch.zeros(4), "student_logits", "float32 [4]"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), "student_logits", "float32 [2, 3, 4]"),
        (torch.zeros(0, 4), torch.zeros(0, 4), "student_logits", "float32 [0, 4]"),
        (torch.zeros(3, 1), torch.zeros(3, 1), "student_logits", "float32 [3, 1]"),
        (torch.zeros(3, 2), torch.zeros(3, 1), "teacher_logits", "float32 [3, 1]"),
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64), "teacher_logits", "int64 [2, 3]"),
    ],
)
def test_logits_are_checked(loss, student, teacher, names, got):
    message = f"{names} must be a floating-point tensor [B, C] with C >= 2, not empty, got a tensor of {got}"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, teacher)


@pytest.mark.parametrize("loss", LOSSES_OF_TWO.values(), ids=LOSSES_OF_TWO)
def test_both_need_the_same_shape(loss):
    message = "student_logits and teacher_logits must have the same shape, got [2, 3] and [2, 5]"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(torch.zeros(2, 3), torch.zeros(2, 5))


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
    for loss in (kd_loss, dist_loss):
        with pytest.raises(ValueError, match=rf"temperature must be a finite number > 0, got {value}"):
            loss(logits(), logits(), temperature=value)
    with pytest.raises(ValueError, match=rf"temperatures\[1\] must be a finite number > 0, got {value}"):
        multi_level_loss(logits(), logits(), temperatures=[1.0, value])


@pytest.mark.parametrize("value", [(), 4.0, None])
def test_temperatures_are_a_list(value):
    message = f"temperatures must be a list of at least one number > 0, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        multi_level_loss(logits(), logits(), temperatures=value)
