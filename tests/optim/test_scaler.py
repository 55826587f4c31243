"""torch.amp.GradScaler: trajectories as without it, and a skipped step whichever gradient overflows."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, ReferenceDOT

OPTIONS = {"lr": 0.05, "momentum": 0.9, "delta": 0.075, "weight_decay": 0.01}
SCALES = (1024.0, 1000.0)  # the second is no power of two


class Student(nn.Module):
    """``body``: both losses. ``head``: the task alone. ``project`` and ``tiny``: distillation alone.

    ``tiny`` is the smallest parameter of all, and the task does not reach it.
    """

    def __init__(self):
        super().__init__()
        self.body, self.head, self.project = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.tiny = nn.Parameter(torch.ones(1))

    def forward(self, images):
        hidden = torch.tanh(self.body(images))
        return self.head(hidden), self.tiny * self.project(hidden)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student()


def scaler_of(scale=1024.0, **options):
    return torch.amp.GradScaler("cpu", init_scale=scale, **options)


def batches(count, size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 5, generator=generator),
            torch.randint(3, (size,), generator=generator),
            torch.randn(size, 2, generator=generator),
        )
        for _ in range(count)
    ]


def losses(student, batch):
    images, labels, target = batch
    logits, features = student(images)
    return functional.cross_entropy(logits, labels), functional.mse_loss(features, target)


def reference(student, steps):
    """Return a copy of the student after the paper's update, which knows no scaler."""
    student = copy.deepcopy(student)
    params = list(student.parameters())
    dot = ReferenceDOT(params, **OPTIONS)
    for batch in steps:
        task, distill = losses(student, batch)
        dot.step(
            torch.autograd.grad(task, params, retain_graph=True, allow_unused=True),
            torch.autograd.grad(distill, params, allow_unused=True),
        )
    return student


def same(left, right):
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def bits(student):
    return [param.detach().clone() for param in student.parameters()]


def feed(opt, path, micro_losses, scaler):
    for i, (task, distill) in enumerate(micro_losses):
        if path == "backward":
            opt.backward(task=task, distill=distill, scaler=scaler)
            continue
        if i:
            opt.capture_task()
        scaler.scale(distill).backward(retain_graph=True)
        opt.capture_distill(scaler=scaler)
        scaler.scale(task).backward()


def micro(student, batch, parts):
    for part in zip(*(tensor.chunk(parts) for tensor in batch), strict=True):
        yield [loss / parts for loss in losses(student, part)]


def reach(opt, student):
    names = [name for name, _ in student.named_parameters()]
    return {
        name: (task is not None, distill is not None)
        for name, (_, task, distill) in zip(names, opt.gradients(), strict=True)
    }


# -------------------------------------------------------------------- as without a scaler


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_trajectory_is_the_unscaled_one(student, path, scale, parts):
    steps = batches(4)
    want = reference(student, steps)
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(scale)
    for batch in steps:
        feed(opt, path, micro(student, batch, parts), scaler)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
    same(student, want)
    assert scaler.get_scale() == scale


@pytest.mark.parametrize("scale", SCALES)
def test_both_sets_are_unscaled_alike(student, scale):
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(scale)
    loss = losses(student, batches(1)[0])[1]
    opt.backward(task=loss, distill=loss, scaler=scaler)
    scaler.unscale_(opt)
    for name, (_, task, distill) in zip(dict(student.named_parameters()), opt.gradients(), strict=True):
        assert (task is None) == (distill is None) == name.startswith("head")
        assert task is None or torch.equal(task, distill)


def test_the_signal_is_no_gradient(student):
    """The scaler looks into .grad, so a -0.0 is put there, into the smallest parameter: tiny."""
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(1000.0)
    task, distill = losses(student, batches(1)[0])
    scaler.scale(distill).backward(retain_graph=True)
    opt.capture_distill(scaler=scaler)
    assert student.tiny.grad is not None
    assert student.tiny.grad.signbit().all()
    assert not student.tiny.grad.any()
    assert reach(opt, student)["tiny"] == (False, True)
    scaler.scale(task).backward()
    scaler.unscale_(opt)
    opt.clip_grad_norm_(1e3)
    assert reach(opt, student)["tiny"] == (False, True)
    assert reach(opt, student)["head.bias"] == (True, False)
    before = student.tiny.item()
    (grad,) = [d.item() for p, _, d in opt.gradients() if p is student.tiny]
    scaler.step(opt)
    assert student.tiny.item() == pytest.approx(before - 0.05 * (grad + 0.01 * before), rel=1e-6)
    assert not opt.state[student.tiny]["task_momentum_buffer"].any()


def test_the_signal_leaves_a_task_gradient_its_bits():
    """A task gradient lands on the signal in the smallest parameter."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    opt, scaler = DOT([weight], lr=0.1), scaler_of()
    scaler.scale((3 * weight).sum()).backward()
    opt.capture_distill(scaler=scaler)
    assert weight.grad.signbit().all()
    grad = torch.tensor([0.0, -0.0, 1e-30])
    scaler.scale((weight * grad).sum()).backward()
    scaler.unscale_(opt)
    ((_, task, _),) = opt.gradients()
    assert torch.equal(task, grad)
    assert torch.equal(task.signbit(), grad.signbit())


@pytest.mark.parametrize("stream", ["task", "distill"])
def test_one_loss_with_consent(student, stream):
    twin = copy.deepcopy(student)
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(1000.0)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    index = ("task", "distill").index(stream)
    for batch in batches(3):
        given = {"task": None, "distill": None, stream: losses(student, batch)[index]}
        opt.backward(**given, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        losses(twin, batch)[index].backward()
        sgd.step()
        sgd.zero_grad()
    same(student, twin)
    assert not equal(bits(student), bits(Student()))


@pytest.mark.parametrize("kind", [DOTAdamW, MultiMomentumSGD])
def test_other_optimizers(student, kind):
    twin = copy.deepcopy(student)
    extra = {"momenta": {"task": 0.8, "distill": 0.95}} if kind is MultiMomentumSGD else {}
    opt, plain = kind(student.parameters(), 0.05, **extra), kind(twin.parameters(), 0.05, **extra)
    scaler = scaler_of(1000.0)
    for batch in batches(3):
        task, distill = losses(student, batch)
        opt.backward(task=task, distill=distill, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        task, distill = losses(twin, batch)
        plain.backward(task=task, distill=distill)
        plain.step()
        plain.zero_grad()
    for a, b in zip(student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["backward", "capture"])
def test_a_disabled_scaler_is_none(student, path):
    twin = copy.deepcopy(student)
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(enabled=False)
    plain = DOT(twin.parameters(), **OPTIONS)
    for batch in batches(3):
        feed(opt, path, micro(student, batch, 2), scaler)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        for task, distill in micro(twin, batch, 2):
            plain.backward(task=task, distill=distill)
        plain.step()
        plain.zero_grad()
    assert equal(bits(student), bits(twin))


@pytest.mark.parametrize("mode", ["joint", "each"])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_unscale_and_clip(student, path, mode):
    twin = copy.deepcopy(student)
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(1000.0)
    plain = DOT(twin.parameters(), **OPTIONS)
    for batch in batches(3):
        feed(opt, path, micro(student, batch, 2), scaler)
        scaler.unscale_(opt)
        norms = opt.clip_grad_norm_(0.1, mode)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        for task, distill in micro(twin, batch, 2):
            plain.backward(task=task, distill=distill)
        want = plain.clip_grad_norm_(0.1, mode)
        plain.step()
        plain.zero_grad()
        for name, norm in norms.items():
            assert norm > 0.1
            assert torch.allclose(norm, want[name], rtol=1e-4)
    same(student, twin)


# -------------------------------------------------------------------- overflow


def spoiled(student, batch, where, value):
    """Return both losses, some gradients of which are ``value``."""
    task, distill = losses(student, batch)
    bad = torch.tensor(value)
    if where in ("task", "both"):
        task = task + (student.body.weight * bad).sum()
    if where in ("distill", "both"):
        distill = distill + (student.body.weight * bad).sum()
    if where == "projector":
        distill = distill + (student.project.weight * bad).sum()
    if where == "tiny":
        distill = distill + (student.tiny * bad).sum()
    if where == "head":
        task = task + (student.head.weight * bad).sum()
    return task, distill


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["task", "distill", "both", "projector", "tiny", "head"])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_an_overflow_anywhere_skips_the_step(student, path, where, value):
    first, second, third = batches(3)
    want = reference(student, [first, third])
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    for batch in (first, second, third):
        both = spoiled(student, batch, where, value) if batch is second else losses(student, batch)
        before = bits(student)
        feed(opt, path, [both], scaler)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        assert equal(bits(student), before) == (batch is second)
        assert scaler.get_scale() == (1024.0 if batch is first else 512.0)
    same(student, want)


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize("where", ["task", "distill", "tiny"])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_an_overflow_in_any_micro_batch_skips_the_step(student, path, where, when):
    first, second = batches(2)
    want = reference(student, [second])
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    before = bits(student)
    rows = [
        spoiled(student, first, where, float("inf")) if i == when else losses(student, first)
        for i in range(3)
    ]
    feed(opt, path, rows, scaler)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
    assert equal(bits(student), before)
    assert scaler.get_scale() == 512.0
    feed(opt, path, [losses(student, second)], scaler)
    scaler.step(opt)
    same(student, want)


def test_an_overflow_by_the_scale_itself_is_found(student):
    """Finite losses whose scaled gradients are not: the ordinary case in half precision."""
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of(2.0**127)
    task, distill = losses(student, batches(1)[0])
    before = bits(student)
    opt.backward(task=task * 1e-10, distill=distill * 1e3, scaler=scaler)
    scaler.step(opt)
    scaler.update()
    assert equal(bits(student), before)
    assert scaler.get_scale() == 2.0**126


@pytest.mark.parametrize("where", ["distill", "tiny"])
def test_an_overflow_without_a_task_loss(student, where):
    first, second = batches(2)
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    before = bits(student)
    opt.backward(task=None, distill=spoiled(student, first, where, float("nan"))[1], scaler=scaler)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
    assert equal(bits(student), before)
    assert scaler.get_scale() == 512.0
    opt.backward(task=None, distill=losses(student, second)[1], scaler=scaler)
    scaler.step(opt)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert not equal(bits(student), before)
    assert all(param.isfinite().all() for param in student.parameters())


def test_unscale_and_clip_and_an_overflow(student):
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    before = bits(student)
    feed(opt, "backward", [spoiled(student, batches(1)[0], "projector", float("inf"))], scaler)
    scaler.unscale_(opt)
    opt.clip_grad_norm_(1.0)
    scaler.step(opt)
    scaler.update()
    assert equal(bits(student), before)
    assert scaler.get_scale() == 512.0


def test_a_parameter_without_elements_hides_no_overflow():
    empty, weight = nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(2))
    opt, scaler = DOT([empty, weight], lr=0.1), scaler_of()
    opt.backward(task=weight.sum() + empty.sum(), distill=weight.sum() * float("inf"), scaler=scaler)
    scaler.step(opt)
    scaler.update()
    assert weight.tolist() == [1.0, 1.0]
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("path", ["backward", "capture", "distill only"])
def test_model_zero_grad_after_a_skipped_step(student, path):
    """A skipped step never reaches the optimizer, and model.zero_grad() does not tell it either."""
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    for i, batch in enumerate(batches(3)):
        task, distill = spoiled(student, batch, "distill", float("inf")) if i == 0 else losses(student, batch)
        before = bits(student)
        if path == "distill only":
            opt.backward(task=None, distill=distill, scaler=scaler)
        else:
            feed(opt, path, [(task, distill)], scaler)
        scaler.step(opt)
        scaler.update()
        student.zero_grad()
        assert equal(bits(student), before) == (i == 0)
        assert scaler.get_scale() == 512.0


# -------------------------------------------------------------------- refused


def test_capture_task_after_the_last_micro_batch_raises(student):
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    feed(opt, "capture", [losses(student, batches(1)[0])], scaler)
    opt.capture_task()
    before = bits(student)
    with pytest.raises(
        RuntimeError,
        match=r"capture_task\(\) after the last micro-batch hides the task gradient from the GradScaler",
    ):
        opt.step()
    assert equal(bits(student), before)


def test_a_scaler_for_all_or_for_none(student):
    text = "pass the same GradScaler to every backward and capture of a step, or to none of them"
    first, second = batches(2)
    for scalers in ((None, scaler_of()), (scaler_of(), None)):
        opt = DOT(student.parameters(), **OPTIONS)
        for batch, scaler in zip((first, second), scalers, strict=True):
            task, distill = losses(student, batch)
            if batch is first:
                opt.backward(task=task, distill=distill, scaler=scaler)
                continue
            with pytest.raises(ValueError, match=text):
                opt.backward(task=task, distill=distill, scaler=scaler)
        opt.zero_grad()  # and the next step may choose anew
        task, distill = losses(student, second)
        opt.backward(task=task, distill=distill)
        opt.step()
        opt.zero_grad()


def test_a_scaler_for_all_captures_or_for_none(student):
    opt, scaler = DOT(student.parameters(), **OPTIONS), scaler_of()
    first, second = batches(2)
    feed(opt, "capture", [losses(student, first)], scaler)
    opt.capture_task()
    losses(student, second)[1].backward()
    with pytest.raises(ValueError, match="pass the same GradScaler"):
        opt.capture_distill()


def test_gradients_of_parameters_without_elements_alone_are_finite() -> None:
    empty, weight = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(2))
    opt = DOT([empty, weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    opt.backward(task=weight.sum(), distill=empty.sum(), scaler=scaler)
    scaler.step(opt)
    assert torch.allclose(weight, torch.full((2,), 0.9))


def test_an_infinite_largest_norm_only_measures() -> None:
    weight = nn.Parameter(torch.ones(2))
    opt = DOT([weight], lr=0.1)
    opt.backward(task=3 * weight[0], distill=4 * weight[1])
    assert opt.clip_grad_norm_(torch.inf)["joint"].item() == 5.0
    ((_, task, distill),) = opt.gradients()
    assert task.tolist() == [3.0, 0.0]
    assert distill.tolist() == [0.0, 4.0]
