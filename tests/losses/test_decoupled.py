"""DeepKD's two losses and the schedule of its mask: numbers by hand, identities, extremes, wrong input."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import dkd_loss, kd_loss
from dotkd.losses.logit import deepkd_losses, top_k_schedule

MASKS = [None, 1, 2, 3, 4]
every_mask = pytest.mark.parametrize("top_k", MASKS)


def batch(rows=6, classes=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (rows,), generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), target


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


# The losses ------------------------------------------------------------------


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


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_sample_by_sample_the_target_and_a_share_of_the_others(temperature):
    student, teacher, target = batch()
    for row in range(len(target)):
        s, t, y = student[row : row + 1], teacher[row : row + 1], target[row : row + 1]
        sure = torch.softmax(t / temperature, 1)[0, y[0]]
        target_loss, others_loss = deepkd_losses(s, t, y, temperature=temperature)
        expected = kd_loss(s, t, temperature=temperature)
        torch.testing.assert_close(target_loss + (1 - sure) * others_loss, expected, rtol=1e-10, atol=0)


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


# Extremes, dtypes, devices ---------------------------------------------------


@every_mask
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), temperature=st.sampled_from([0.5, 4.0, 20.0]))
def test_extreme_logits_stay_finite(top_k, dtype, data, temperature):
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
def test_nothing_to_learn_from_oneself(top_k, dtype):
    student, _, target = batch(dtype=dtype)
    losses = deepkd_losses(student, student.detach().clone(), target, top_k=top_k)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert student.grad.abs().max() <= 100 * torch.finfo(losses[0].dtype).eps


@pytest.mark.parametrize("level", [0.0, -6e4])
def test_equal_logits_are_ranked_too(level):
    student = batch(dtype=torch.float32)[0]
    losses = deepkd_losses(student, torch.full((6, 5), level), torch.arange(6) % 5, top_k=2)
    sum(losses).backward()
    assert all(loss > 0 for loss in losses)
    assert student.grad.isfinite().all()


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


@every_mask
def test_nothing_waits_for_the_device(top_k):
    student, teacher, target = batch()
    with NoHostRead():
        sum(deepkd_losses(student, teacher, target, top_k=top_k)).backward()
    on_meta = [tensor.detach().to("meta") for tensor in (student, teacher, target)]
    assert [loss.shape for loss in deepkd_losses(*on_meta, top_k=top_k)] == [(), ()]


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


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_k", "message"),
    [
        (0, "top_k must be an integer >= 1, got 0"),
        (2.0, "top_k must be an integer >= 1, got 2.0"),
        (True, "top_k must be an integer >= 1, got True"),
        (6, "top_k must be at most the number of classes, 5, got 6"),
    ],
)
def test_top_k_is_checked(top_k, message):
    with pytest.raises(ValueError, match=message):
        deepkd_losses(*batch(classes=5), top_k=top_k)


def test_logits_and_labels_are_checked():
    student, teacher, target = batch()
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got 0"):
        deepkd_losses(student, teacher, target, temperature=0)
    with pytest.raises(ValueError, match="must have the same shape"):
        deepkd_losses(student, teacher[:, 1:], target)
    with pytest.raises(ValueError, match="target must hold int64 class numbers"):
        deepkd_losses(student, teacher, target.float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": -0.1}, r"progress must be .* in \[0, 1\], got -0.1"),
        ({"progress": math.nan}, r"progress must be .* in \[0, 1\], got nan"),
        ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
        ({"k_start": 0.0}, r"k_start must be a share of the classes in \(0, 1\], got 0.0"),
        ({"k_start": 5}, r"k_start must be a share of the classes in \(0, 1\], got 5"),
        ({"k_plateau": 1.5}, r"k_plateau must lie in \[0, 1\], got 1.5"),
        ({"k_plateau": math.nan}, r"k_plateau must lie in \[0, 1\], got nan"),
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
