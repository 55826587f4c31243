"""Logits of -inf, as of a teacher that knows fewer classes than its head has: their probability is 0."""

import math

import pytest
import torch

from dotkd.analysis import agreement
from dotkd.losses import (
    deepkd_losses,
    dist_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_level_loss,
    nkd_loss,
    teacher_free_kd_loss,
)

from .common import normal

GONE = [4, 5]
FINITE = -1e5  # softmax gives it probability 0 in float64, at every temperature here
DIVERGENCES = {
    "kd": lambda s, t, _: kd_loss(s, t),
    "dkd": dkd_loss,
    "nkd": nkd_loss,
    "deepkd": lambda s, t, y: sum(deepkd_losses(s, t, y)),
    "deepkd, top 2": lambda s, t, y: sum(deepkd_losses(s, t, y, top_k=2)),
    "multi-level": lambda s, t, _: multi_level_loss(s, t),
}
BOUNDED = {  # what the student masks does not make them infinite
    "dist": lambda s, t, _: dist_loss(s, t),
    "multi-level without the instances": lambda s, t, _: multi_level_loss(s, t, instance_weight=0),
}


def of(losses):
    return pytest.mark.parametrize("loss", losses.values(), ids=losses)


def batch():
    student, teacher = normal((6, 6), (6, 6))
    return student, teacher, torch.arange(6)  # with labels that are masked


def masked(logits, level=-math.inf):
    logits = logits.clone()
    logits[:, GONE] = level
    return logits


def slope(loss, student, teacher, target):
    student = student.detach().requires_grad_()
    value = loss(student, teacher, target)
    return value.detach(), *torch.autograd.grad(value, student)


@of(DIVERGENCES | BOUNDED)
@pytest.mark.parametrize("both", [False, True], ids=["teacher", "both"])
def test_value_and_gradient_are_those_of_a_class_that_is_never_likely(loss, both):
    student, teacher, target = batch()
    found, expected = (
        slope(loss, masked(student, level) if both else student, masked(teacher, level), target)
        for level in (-math.inf, FINITE)
    )
    assert expected[0].isfinite()
    torch.testing.assert_close(found, expected)


@of(BOUNDED)
def test_a_student_alone_may_mask_where_nothing_is_divided(loss):
    student, teacher, target = batch()
    found, expected = (slope(loss, masked(student, level), teacher, target) for level in (-math.inf, FINITE))
    torch.testing.assert_close(found, expected)


@of(DIVERGENCES)
def test_a_student_that_masks_what_the_teacher_expects_is_infinitely_far(loss):
    student, teacher, target = batch()
    value, gradient = slope(loss, masked(student), teacher, target)
    assert value == math.inf
    assert gradient.isfinite().all()


@of(
    {name: loss for name, loss in DIVERGENCES.items() if name != "multi-level"}
    | {
        "kd standardized": lambda s, t, _: kd_loss(s, t, standardize=True),
        "multi-level, instances": lambda s, t, _: multi_level_loss(s, t, batch_weight=0, class_weight=0),
    }
)
def test_classes_that_both_mask_are_no_classes(loss):
    student, teacher, _ = batch()
    target, kept = torch.tensor([0, 1, 2, 3, 0, 1]), [0, 1, 2, 3]
    value, gradient = slope(loss, masked(student), masked(teacher), target)
    expected, of_kept = slope(loss, student[:, kept], teacher[:, kept], target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[:, kept], of_kept)
    assert (gradient[:, GONE] == 0).all()


def test_kd_by_hand():
    student, teacher = torch.tensor([[0.50, 0.25, 0.25]]).log(), torch.tensor([[0.75, 0.25, 0.0]]).log()
    value, gradient = slope(lambda *pair: kd_loss(*pair[:2], temperature=1.0), student, teacher, None)
    assert value.item() == pytest.approx(0.75 * math.log(1.5))
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, 0.0, 0.25]]))
    assert agreement(student, teacher, torch.tensor([0])).kl == pytest.approx(0.75 * math.log(1.5))


def test_standardized_logits_of_a_teacher_that_masks_are_z_scores_of_the_rest():
    student, teacher, _ = batch()
    rest = teacher[:, :4]
    scores = masked(torch.zeros(6, 6, dtype=torch.float64))
    scores[:, :4] = (rest - rest.mean(1, keepdim=True)) / (rest.std(1, keepdim=True) + 1e-7)
    ours = (student - student.mean(1, keepdim=True)) / (student.std(1, keepdim=True) + 1e-7)
    torch.testing.assert_close(kd_loss(student, masked(teacher), standardize=True), kd_loss(ours, scores))


@pytest.mark.parametrize("both", [False, True], ids=["teacher", "both"])
def test_a_label_that_is_left_alone_has_no_others(both):
    student, teacher = normal((1, 3), (1, 3))
    alone, label = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64), torch.tensor([0])
    student = student + alone if both else student
    sure = -4 * 4 * torch.log_softmax(student / 4, dim=1)[0, 0]  # all of the teacher's on the label
    for loss in (dkd_loss, lambda *given: sum(deepkd_losses(*given))):
        value, gradient = slope(loss, student, teacher + alone, label)
        torch.testing.assert_close(value, sure)
        assert gradient.isfinite().all()
    value, gradient = slope(nkd_loss, student, teacher + alone, label)
    torch.testing.assert_close(value, -torch.log_softmax(student, dim=1)[0, 0])
    assert gradient.isfinite().all()


def test_a_term_of_weight_0_is_left_out():
    student, teacher, _ = batch()
    one, other = torch.full((6,), 4), torch.zeros(6, dtype=torch.int64)  # a masked label, and another
    wanted = deepkd_losses(student, teacher, other)[0], deepkd_losses(student, teacher, one)[1]
    student[:, 4] = -math.inf
    assert dkd_loss(student, teacher, one, alpha=0, beta=1).item() == pytest.approx(wanted[1].item())
    target_term = deepkd_losses(student, teacher, other)[0]
    assert dkd_loss(student, teacher, other, alpha=1, beta=0).item() == pytest.approx(target_term.item())
    assert target_term.isfinite()
    assert nkd_loss(student, teacher, other, gamma=0).isfinite()


def test_without_a_teacher():
    student, _, _ = batch()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    student = masked(student)
    cross_entropy = torch.nn.functional.cross_entropy(student, target)
    torch.testing.assert_close(label_smoothing_loss(student, target, smoothing=0), cross_entropy)
    # Both want some probability of every class.
    assert label_smoothing_loss(student, target) == math.inf
    assert teacher_free_kd_loss(student, target) == math.inf
