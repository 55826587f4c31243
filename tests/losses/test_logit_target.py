"""Losses on the target class and the others (DKD, NKD, DeepKD), and on labels alone."""

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dotkd.losses import (
    deepkd_losses,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    nkd_loss,
    teacher_free_kd_loss,
    top_k_schedule,
)

from .common import normal

LOSSES = {
    "nkd": nkd_loss,
    "label smoothing": lambda student, _, target: label_smoothing_loss(student, target),
    "teacher-free": lambda student, _, target: teacher_free_kd_loss(student, target),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
MASKS = [None, 1, 2, 3, 4]
every_mask = pytest.mark.parametrize("top_k", MASKS)
few_examples = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 999)


def batch(rows=5, classes=4, dtype=torch.float64, seed=0):
    student, teacher = normal((rows, classes), (rows, classes), seed=seed)
    target = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return (3 * student).to(dtype).requires_grad_(), (3 * teacher).to(dtype), target


def table(*rows):
    """Logits whose softmax at temperature 1 is this table."""
    return torch.tensor(rows, dtype=torch.float64).log().requires_grad_()


# DKD -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.5, 8.0)])
def test_dkd_by_hand(temperature, alpha, beta):
    student = table((1 / 2, 1 / 4, 1 / 4), (1 / 3, 1 / 3, 1 / 3)) * temperature
    teacher = table((1 / 4, 1 / 4, 1 / 2), (1 / 2, 1 / 4, 1 / 4)) * temperature
    loss = dkd_loss(student, teacher, torch.tensor([0, 1]), alpha=alpha, beta=beta, temperature=temperature)
    sure = [
        1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 2),  # 1/4 against 1/2
        1 / 4 * math.log(3 / 4) + 3 / 4 * math.log(9 / 8),  # 1/4 against 1/3
    ]
    rest = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)  # (2/3, 1/3) against (1/2, 1/2), twice
    expected = temperature**2 * (alpha * sum(sure) / 2 + beta * rest)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_target_part_and_a_share_of_the_rest(temperature):
    student, teacher, target = batch(rows=6, classes=5)
    for row in range(6):
        s, t, y = student[row : row + 1], teacher[row : row + 1], target[row : row + 1]
        sure = torch.softmax(t / temperature, 1)[0, y].item()
        decoupled = dkd_loss(s, t, y, alpha=1.0, beta=1 - sure, temperature=temperature)
        torch.testing.assert_close(kd_loss(s, t, temperature=temperature), decoupled, rtol=1e-10, atol=0)


def test_kd_with_two_classes_has_no_rest():
    student, teacher, target = batch(classes=2)
    torch.testing.assert_close(dkd_loss(student, teacher, target, beta=8.0), kd_loss(student, teacher))


@pytest.mark.parametrize("gap", [20.0, 104.0, 6e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_sure_student_against_an_unsure_teacher_is_exact(gap, dtype):
    # KL((1/2, 1/2) || (p, 1 - p)) with logits (gap, 0) is log(1 / 2) + gap / 2 + log1p(exp(-gap)).
    student = torch.tensor([[gap, 0.0]], dtype=dtype, requires_grad=True)
    loss = dkd_loss(student, torch.zeros(1, 2, dtype=dtype), torch.tensor([0]), temperature=1.0)
    loss.backward()
    size = student[0, 0].item()
    assert loss.item() == pytest.approx(size / 2 - math.log(2), rel=1e-6)
    torch.testing.assert_close(student.grad.float(), torch.tensor([[0.5, -0.5]]), rtol=1e-3, atol=0)


# NKD -------------------------------------------------------------------------


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


# DeepKD ----------------------------------------------------------------------


def by_definition(student, teacher, target, temperature, top_k):
    """Both losses in plain Python, sample by sample."""
    sums = [0.0, 0.0]
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p, q = ([math.exp(z / temperature) for z in logits] for logits in (ours, theirs))
        sure, unsure = q[label] / sum(q), p[label] / sum(p)
        sums[0] += sure * math.log(sure / unsure) + (1 - sure) * math.log((1 - sure) / (1 - unsure))
        ranked = sorted((k for k in range(len(q)) if k != label), key=lambda k: -theirs[k])[:top_k]
        whole_p, whole_q = sum(p[k] for k in ranked), sum(q[k] for k in ranked)
        sums[1] += sum(q[k] / whole_q * math.log(q[k] / whole_q * whole_p / p[k]) for k in ranked)
    return [temperature**2 * value / len(target) for value in sums]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@every_mask
def test_both_are_what_the_definition_says(temperature, top_k):
    student, teacher, target = batch()
    losses = deepkd_losses(student, teacher, target, temperature=temperature, top_k=top_k)
    expected = by_definition(student, teacher, target, temperature, top_k)
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_values_and_gradients_by_hand(temperature):
    student = torch.tensor([[1 / 2, 1 / 8, 1 / 4, 1 / 8]], dtype=torch.float64)
    teacher = torch.tensor([[5 / 16, 1 / 2, 1 / 8, 1 / 16]], dtype=torch.float64)  # the last is cut off
    logits = (student.log() * temperature).requires_grad_()
    losses = deepkd_losses(
        logits, teacher.log() * temperature, torch.tensor([0]), temperature=temperature, top_k=2
    )
    sure = 5 / 16 * math.log(5 / 8) + 11 / 16 * math.log(11 / 8)  # 5/16 against 1/2
    rest = 4 / 5 * math.log(12 / 5) + 1 / 5 * math.log(3 / 10)  # (4/5, 1/5) against (1/3, 2/3)
    expected = [temperature**2 * sure, temperature**2 * rest]
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-12)
    slope = torch.autograd.grad(losses[1], logits)[0] / temperature
    by_hand = torch.tensor([[0, 1 / 3 - 4 / 5, 2 / 3 - 1 / 5, 0]], dtype=torch.float64)
    torch.testing.assert_close(slope, by_hand)


@pytest.mark.parametrize("top_k", [None, 4, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 0.0), (0.0, 2.0)])
def test_without_a_mask_they_add_up_to_dkd(top_k, alpha, beta):
    student, teacher, target = batch(classes=5)
    target_loss, others_loss = deepkd_losses(student, teacher, target, top_k=top_k)
    expected = dkd_loss(student, teacher, target, alpha=alpha, beta=beta)
    torch.testing.assert_close(alpha * target_loss + beta * others_loss, expected, rtol=1e-12, atol=0)


@every_mask
def test_the_target_loss_knows_no_mask(top_k):
    assert torch.equal(deepkd_losses(*batch(), top_k=top_k)[0], deepkd_losses(*batch())[0])


def test_classes_that_are_cut_off_play_no_part():
    teacher = torch.tensor([[9.0, 3.0, 2.0, 1.0, 0.0]])
    student = torch.tensor([[0.0, 1.0, 5.0, 3.0, 4.0]], requires_grad=True)
    # The target has the highest logit and is not one of the three that are kept.
    _, others = deepkd_losses(student, teacher, torch.tensor([0]), top_k=3)
    others.backward()
    assert [bool(slope) for slope in student.grad[0]] == [False, True, True, True, False]
    moved = torch.tensor([[-50.0, 1.0, 5.0, 3.0, 50.0]])
    torch.testing.assert_close(deepkd_losses(moved, teacher, torch.tensor([0]), top_k=3)[1], others)


def test_one_class_alone_teaches_nothing():
    student, teacher, target = batch()
    _, others = deepkd_losses(student, teacher, target, top_k=1)
    others.backward()
    assert others.item() == 0
    assert student.grad.abs().max() == 0


@every_mask
def test_gradients_by_finite_differences_for_both_models(top_k):
    student, teacher, target = batch()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: deepkd_losses(s, t, target, top_k=top_k), (student, teacher))


@settings(max_examples=25, deadline=None)
@given(classes=st.integers(3, 9), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_order_and_level_of_the_logits_play_no_part(classes, share, seed):
    student, teacher, target = batch(classes=classes, seed=seed)
    top_k = max(1, round(share * classes))
    values = torch.stack(deepkd_losses(student, teacher, target, top_k=top_k))
    assert (values >= -1e-12).all()
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    rows = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    for s, t, y in [
        (student + 5, teacher - 7, target),
        (student[:, order], teacher[:, order], order.argsort()[target]),
        (student[rows], teacher[rows], target[rows]),
    ]:
        same = torch.stack(deepkd_losses(s, t, y, top_k=top_k))
        torch.testing.assert_close(same, values, rtol=1e-8, atol=1e-10)


@every_mask
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), temperature=st.sampled_from([0.5, 4.0, 20.0]))
def test_extreme_logits_stay_finite_under_a_mask(top_k, dtype, data, temperature):
    values = st.sampled_from([-6e4, -3e4, -20.0, -1.0, 0.0, 1e-3, 1.0, 20.0, 3e4, 6e4])
    rows = st.lists(st.lists(values, min_size=5, max_size=5), min_size=2, max_size=2)
    student, teacher = (torch.tensor(data.draw(rows), dtype=dtype, requires_grad=True) for _ in range(2))
    losses = deepkd_losses(student, teacher, torch.tensor([0, 4]), temperature=temperature, top_k=top_k)
    sum(losses).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert min(losses) >= -1e-6 * temperature**2  # no divergence is negative, but for rounding
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()
    assert student.grad.abs().max() <= 10 * temperature


@every_mask
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_nothing_to_learn_from_oneself_under_a_mask(top_k, dtype):
    student, _, target = batch(dtype=dtype)
    losses = deepkd_losses(student, student.detach().clone(), target, top_k=top_k)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert student.grad.abs().max() <= 100 * torch.finfo(losses[0].dtype).eps


@pytest.mark.parametrize("level", [0.0, -6e4])
def test_equal_logits_are_ranked_too(level):
    student = batch(dtype=torch.float32)[0]
    losses = deepkd_losses(student, torch.full((5, 4), level), torch.arange(5) % 4, top_k=2)
    sum(losses).backward()
    assert all(loss > 0 for loss in losses)
    assert student.grad.isfinite().all()


# The schedule ----------------------------------------------------------------


@pytest.mark.parametrize(("classes", "start", "plateau"), [(100, 5, 52), (200, 10, 105), (1000, 50, 525)])
def test_the_three_phases(classes, start, plateau):
    epochs = [top_k_schedule(epoch / 240, classes) for epoch in range(241)]
    rise, hold, last = epochs[:81], epochs[80:161], epochs[160:]
    assert (rise[0], rise[40]) == (start, pytest.approx((start + plateau) / 2, abs=1))
    assert set(hold) == {plateau}
    assert (last[0], last[40], last[-1]) == (plateau, pytest.approx((plateau + classes) / 2, abs=1), classes)
    for phase in (rise, last):  # straight lines: all steps alike, to rounding
        steps = {after - before for before, after in pairwise(phase)}
        assert max(steps) - min(steps) <= 1


SHARES = st.floats(0, 1)


@settings(max_examples=200, deadline=None)
@given(
    classes=st.integers(1, 1000),
    k_start=st.floats(0, 1, exclude_min=True),
    k_plateau=SHARES,
    ends=st.lists(SHARES, min_size=3, max_size=3).map(sorted),
    times=st.lists(SHARES, min_size=2, max_size=9).map(sorted),
)
def test_it_never_falls_and_ends_with_all(classes, k_start, k_plateau, ends, times):
    options = dict(zip(("rise_end", "hold_end", "full_from"), ends, strict=True))
    options |= {"k_start": k_start, "k_plateau": k_plateau}
    near_ends = [time for end in ends for time in (math.nextafter(end, 0), end, math.nextafter(end, 1))]
    kept = [top_k_schedule(time, classes, **options) for time in sorted([0.0, *times, *near_ends, 1.0])]
    assert kept == sorted(kept)
    assert min(2, classes) <= kept[0]
    assert kept[-1] == classes
    assert top_k_schedule(ends[2], classes, **options) == classes
    if ends[0] > 0:
        assert kept[0] == max(min(2, classes), round(k_start * classes))


def test_two_classes_at_least():
    assert [top_k_schedule(0.0, classes) for classes in (1, 2, 3, 10, 40, 60)] == [1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k_start": 1.0}, [100, 100, 100, 100, 100]),  # no mask
        ({"k_plateau": 0.0}, [5, 5, 5, 29, 100]),  # one rise, in the last third
        ({"k_plateau": 1.0}, [5, 76, 100, 100, 100]),  # one rise, in the first
        ({"rise_end": 0.0, "hold_end": 0.0}, [52, 64, 76, 88, 100]),
        ({"k_plateau": 0.0, "rise_end": 0.25, "hold_end": 0.25, "full_from": 0.75}, [5, 5, 52, 100, 100]),
        ({"rise_end": 0.0, "hold_end": 0.0, "full_from": 0.0}, [100, 100, 100, 100, 100]),
    ],
)
def test_other_shapes(options, expected):
    assert [top_k_schedule(quarter / 4, 100, **options) for quarter in range(5)] == expected


# Labels without a teacher -----------------------------------------------------


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


@every_loss
@few_examples
@given(seed=seeds, rows=st.integers(1, 5), classes=st.integers(2, 7))
def test_shifts_and_names_of_classes_play_no_part(loss, seed, rows, classes):
    student, teacher, target = batch(rows, classes, seed=seed)
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

ALL = {**LOSSES, "dkd": dkd_loss, "deepkd": deepkd_losses}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("student", "target", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "[B, C] with C >= 2, not empty, got a tensor of float32 [3]"),
        (torch.zeros(3, 1), torch.zeros(3), "with C >= 2, not empty, got a tensor of float32 [3, 1]"),
        (torch.zeros(3, 2).int(), torch.zeros(3), "logits must be a floating-point tensor"),
        (torch.zeros(3, 2), torch.zeros(3), "target must be a tensor of int64 [3], got a tensor of float32"),
        (
            torch.zeros(3, 2),
            torch.zeros(3).int(),
            "target must be a tensor of int64 [3], got a tensor of int32",
        ),
        (
            torch.zeros(3, 2),
            torch.zeros(2).long(),
            "target must be a tensor of int64 [3], got a tensor of int64 [2]",
        ),
        (torch.zeros(3, 2), torch.zeros(3, 2).long(), "int64 [3], got a tensor of int64 [3, 2]"),
    ],
)
def test_logits_and_labels_are_checked(loss, student, target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(student, student, target)


@pytest.mark.parametrize("loss", [dkd_loss, nkd_loss, deepkd_losses])
def test_both_need_the_same_shape(loss):
    with pytest.raises(ValueError, match=r"must have the same shape, got \[2, 3\] and \[2, 5\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("label", [-101, -1, 4])
def test_a_class_out_of_range_is_an_error_of_torch(loss, label):
    student, teacher, _ = batch(rows=1)
    with pytest.raises(RuntimeError, match="out of bounds"):
        loss(student, teacher, torch.tensor([label]))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_a_label_do_not_count(loss, dtype):
    student, teacher, target = batch(rows=7)
    student, teacher = student.detach().to(dtype).requires_grad_(), teacher.to(dtype)
    known = torch.tensor([1, 2, 5])
    some = torch.full_like(target, -100).index_copy(0, known, target[known])
    found = loss(student, teacher, some)
    (gradient,) = torch.autograd.grad(found, student)
    wanted = loss(student[known], teacher[known], target[known])
    (alone,) = torch.autograd.grad(wanted, student)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, alone)


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_without_any_label_the_loss_is_zero_and_so_is_its_gradient(loss):
    student, teacher, target = batch(rows=4)
    student = student.detach().requires_grad_()
    found = loss(student, teacher, torch.full_like(target, -100))
    (gradient,) = torch.autograd.grad(found, student)
    assert not any(found if isinstance(found, tuple) else [found])
    assert not gradient.any()


@pytest.mark.parametrize(("loss", "option"), [(dkd_loss, "alpha"), (dkd_loss, "beta"), (nkd_loss, "gamma")])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_are_checked(loss, option, value):
    with pytest.raises(ValueError, match=rf"{option} must be a finite number >= 0, got {value}"):
        loss(*batch(), **{option: value})


@pytest.mark.parametrize(
    "loss",
    [
        dkd_loss,
        nkd_loss,
        deepkd_losses,
        lambda student, _, target, **o: teacher_free_kd_loss(student, target, **o),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_are_checked(loss, value):
    with pytest.raises(ValueError, match=rf"temperature must be a finite number > 0, got {value}"):
        loss(*batch(), temperature=value)


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


@pytest.mark.parametrize("top_k", [0, 2.0, True, 5])
def test_top_k_is_checked(top_k):
    with pytest.raises(ValueError, match=f"top_k must be an integer from 1 to 4, got {top_k}"):
        deepkd_losses(*batch(classes=4), top_k=top_k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": -0.1}, "progress must be a number from 0 to 1, got -0.1"),
        ({"progress": math.nan}, "progress must be a number from 0 to 1, got nan"),
        ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
        ({"k_start": 0.0}, r"k_start must be a share of the classes in \(0, 1\], got 0.0"),
        ({"k_start": 5}, r"k_start must be a share of the classes in \(0, 1\], got 5"),
        ({"k_plateau": 1.5}, "k_plateau must be a number from 0 to 1, got 1.5"),
        ({"k_plateau": math.nan}, "k_plateau must be a number from 0 to 1, got nan"),
        (
            {"rise_end": 0.7},
            "shares of the run .* in this order, got 0.7, 0.6666666666666666 and 1.0",
        ),
        ({"full_from": 1.1}, "must be shares of the run"),
        ({"rise_end": -0.1}, "must be shares of the run"),
        ({"hold_end": math.nan}, "must be shares of the run"),
    ],
)
def test_the_schedule_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        top_k_schedule(**({"progress": 0.5, "num_classes": 100} | options))
