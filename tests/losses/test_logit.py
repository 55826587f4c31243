"""Losses on logits: recorded numbers, identities, extremes, and what wrong input is told."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import dkd_loss, kd_loss

GOLDEN = Path(__file__).parents[1] / "golden"
HYPER = json.loads((GOLDEN / "losses.json").read_text())
VECTORS = np.load(GOLDEN / "losses.npz")

LOSSES = {
    "kd": lambda s, t, _, **o: kd_loss(s, t, **o),
    "kd standardized": lambda s, t, _, **o: kd_loss(s, t, standardize=True, **o),
    "dkd": dkd_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(rows=5, classes=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype) * 3
    teacher = torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype) * 3
    target = torch.randint(classes, (rows,), generator=generator)
    return student.requires_grad_(), teacher, target


def hand_worked(temperature):
    """Logits whose softmax at this temperature is a table of simple fractions."""
    student = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    teacher = torch.tensor([[1 / 4, 1 / 4, 1 / 2], [1 / 2, 1 / 4, 1 / 4]], dtype=torch.float64)
    return (student.log() * temperature).requires_grad_(), teacher.log() * temperature


# Recorded numbers ------------------------------------------------------------


@pytest.mark.parametrize("case", ["kd_T1", "kd_T4", "kd_logit_standardization_T2", "dkd"])
def test_value_and_gradient_equal_the_published_ones(case):
    tensors = {name: torch.from_numpy(VECTORS[f"{case}/in/{name}"]) for name in HYPER[case]["inputs"]}
    student = tensors["logits_student"].requires_grad_()
    options = dict(HYPER[case]["hyper"])
    if case == "dkd":
        loss = dkd_loss(student, tensors["logits_teacher"], tensors["target"], **options)
    else:
        standardize = "standardization" in case
        loss = kd_loss(student, tensors["logits_teacher"], standardize=standardize, **options)
    loss.backward()
    expected = torch.from_numpy(VECTORS[f"{case}/grad/logits_student"])
    torch.testing.assert_close(loss.item(), VECTORS[f"{case}/loss"].item(), rtol=1e-5, atol=0)
    assert (student.grad - expected).norm() <= 1e-5 * expected.norm()
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


# Numbers by hand -------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kd_by_hand(temperature):
    student, teacher = hand_worked(temperature)
    loss = kd_loss(student, teacher, temperature=temperature)
    loss.backward()
    first = 1 / 4 * math.log(1 / 2) + 1 / 2 * math.log(2)
    second = 1 / 2 * math.log(3 / 2) + 1 / 2 * math.log(3 / 4)
    assert loss.item() == pytest.approx(temperature**2 * (first + second) / 2, rel=1e-12)
    difference = torch.tensor([[1 / 4, 0, -1 / 4], [-1 / 6, 1 / 12, 1 / 12]], dtype=torch.float64)
    torch.testing.assert_close(student.grad, temperature * difference / 2)  # T^2 / T, mean of 2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.5, 8.0)])
def test_dkd_by_hand(temperature, alpha, beta):
    student, teacher = hand_worked(temperature)
    loss = dkd_loss(student, teacher, torch.tensor([0, 1]), alpha=alpha, beta=beta, temperature=temperature)
    sure = [
        1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 2),  # 1/4 against 1/2
        1 / 4 * math.log(3 / 4) + 3 / 4 * math.log(9 / 8),  # 1/4 against 1/3
    ]
    rest = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)  # (2/3, 1/3) against (1/2, 1/2), twice
    expected = temperature**2 * (alpha * sum(sure) / 2 + beta * rest)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_standardized_rows_forget_shift_and_scale():
    student, teacher, _ = batch()
    loss = kd_loss(student, teacher, standardize=True)
    rescaled = kd_loss(3 * student + 7, 0.5 * teacher - 2, standardize=True)
    torch.testing.assert_close(loss, rescaled, rtol=1e-6, atol=0)  # up to the published 1e-7
    by_hand = [(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in (student, teacher)]
    torch.testing.assert_close(loss, kd_loss(*by_hand), rtol=1e-12, atol=0)


# Identities ------------------------------------------------------------------


@every_loss
def test_gradients_by_finite_differences_for_both_models(loss):
    student, teacher, target = batch()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, target), (student, teacher))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_nothing_to_learn_from_oneself(loss, dtype):
    student, _, target = batch(dtype=dtype)
    value = loss(student, student.detach().clone(), target)
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() <= 100 * torch.finfo(value.dtype).eps


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


def test_kd_at_high_temperature_is_mse_of_centred_logits():
    student, teacher, _ = batch()
    gap = student - teacher
    gap = gap - gap.mean(1, keepdim=True)
    limit = gap.square().sum() / (2 * gap.shape[1] * gap.shape[0])
    torch.testing.assert_close(kd_loss(student, teacher, temperature=1e5), limit, rtol=1e-3, atol=0)


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


# Extremes, dtypes, devices ---------------------------------------------------


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


@pytest.mark.parametrize("level", [0.0, 0.1, 1e3, -6e4])
def test_constant_rows_standardize_to_zero(level):
    student = torch.full((2, 100), level, requires_grad=True)
    teacher = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    loss = kd_loss(student, teacher, standardize=True)
    loss.backward()
    torch.testing.assert_close(loss, kd_loss(torch.zeros(2, 100), teacher, standardize=True))
    assert student.grad.abs().max() == 0


@every_loss
def test_dtypes_meet_in_the_wider_one(loss):
    student, teacher, target = batch()
    for ours, theirs, result in [
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ]:
        assert loss(student.to(ours), teacher.to(theirs), target).dtype == result


@every_loss
def test_the_callers_logits_are_not_changed(loss):
    student, teacher, target = batch()
    before = student.detach().clone(), teacher.clone()
    loss(student, teacher, target).backward()
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


@every_loss
def test_nothing_waits_for_the_device(loss):
    student, teacher, target = batch()
    with NoHostRead():
        loss(student, teacher, target).backward()
    on_meta = [tensor.detach().to("meta") for tensor in (student, teacher, target)]
    assert loss(*on_meta).shape == ()  # a device without values: any look at one is an error


@every_loss
def test_compiles_in_one_piece(loss):
    student, teacher, target = batch()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(student, teacher, target), loss(student, teacher, target))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_loss
def test_gpu_equals_cpu_without_a_wait(loss):
    student, teacher, target = batch(dtype=torch.float32)
    on_gpu = [student.detach().cuda().requires_grad_(), teacher.cuda(), target.cuda()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(*on_gpu)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = loss(student, teacher, target)
    expected.backward()
    torch.testing.assert_close(value.cpu(), expected)
    torch.testing.assert_close(on_gpu[0].grad.cpu(), student.grad)


# Wrong input -----------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_is_checked(loss, temperature):
    with pytest.raises(ValueError, match=r"temperature must be a finite number > 0, got (0|-1|inf|nan)"):
        loss(*batch(), temperature=temperature)


@every_loss
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4), (3, 1)])
def test_shape_is_checked(loss, shape):
    message = "student_logits must be [B, C] with at least 1 sample and 2 classes, got shape " + str(
        list(shape)
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


@every_loss
def test_both_need_the_same_shape(loss):
    with pytest.raises(ValueError, match=r"the same shape \[B, C\], got \[2, 3\] and \[2, 5\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))


@every_loss
def test_logits_are_floating_point(loss):
    with pytest.raises(ValueError, match=r"teacher_logits must be floating point, got torch\.int64"):
        loss(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(2), r"target must hold int64 class numbers, got torch\.float32"),
        (torch.zeros(2, dtype=torch.int32), r"target must hold int64 class numbers, got torch\.int32"),
        (torch.zeros(3, dtype=torch.int64), r"target must be \[B\] = \[2\], .* got shape \[3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), r"target must be \[B\] = \[2\], .* got shape \[2, 3\]"),
    ],
)
def test_target_is_checked(target, message):
    with pytest.raises(ValueError, match=message):
        dkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), target)


@pytest.mark.parametrize("option", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_are_checked(option, value):
    with pytest.raises(ValueError, match=rf"{option} must be a finite number >= 0, got {value}"):
        dkd_loss(*batch(), **{option: value})


@pytest.mark.parametrize("label", [-1, 4])
def test_a_class_out_of_range_is_an_error_of_torch(label):
    student, teacher, _ = batch(rows=1)
    with pytest.raises(RuntimeError, match="out of bounds"):
        dkd_loss(student, teacher, torch.tensor([label]))
